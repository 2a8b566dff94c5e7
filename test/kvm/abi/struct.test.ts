import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { TsvError } from '../../../src/errors.ts';
import * as abi from '../../../src/kvm/abi/index.ts';
import {
  address,
  array,
  blob,
  type Codec,
  listStruct,
  pad,
  type Struct,
  s32,
  s64,
  struct,
  u8,
  u16,
  u32,
  u64,
} from '../../../src/kvm/abi/struct.ts';

function isStruct(value: unknown): value is Struct<unknown> {
  return typeof value === 'object' && value !== null && 'offsets' in value;
}
const structs = Object.values<unknown>(abi).filter(isStruct);

/** Random values of a layout, made from random bytes: every bit pattern is a value once addresses are in range. */
function randomValue(layout: Struct<unknown>): fc.Arbitrary<unknown> {
  return fc
    .uint8Array({ minLength: layout.size, maxLength: layout.size })
    .map((bytes) => clampAddresses(layout.decode(bytes)));
}

/** Guest-physical addresses are numbers, so bit patterns at and above 2^53 are not values of them. */
function clampAddresses(value: unknown): unknown {
  if (typeof value === 'number') return Math.min(value, Number.MAX_SAFE_INTEGER);
  if (Array.isArray(value)) return value.map(clampAddresses);
  if (typeof value !== 'object' || value === null || ArrayBuffer.isView(value)) return value;
  return Object.fromEntries(Object.entries(value).map(([key, field]) => [key, clampAddresses(field)]));
}

function codeOf(action: () => unknown): string {
  try {
    action();
  } catch (error) {
    if (error instanceof TsvError) return error.code;
    throw error;
  }
  return 'none';
}

describe('every struct of the ABI', () => {
  test.each(structs.map((layout) => [layout.name, layout] as const))(
    '%s survives a round trip',
    (_, layout) => {
      fc.assert(
        fc.property(randomValue(layout), (value) => {
          expect(layout.decode(layout.encode(value))).toEqual(value);
        }),
        { numRuns: 50 },
      );
    },
  );

  test.each(structs.map((layout) => [layout.name, layout] as const))(
    '%s refuses a short buffer',
    (_, layout) => {
      expect(codeOf(() => layout.decode(new Uint8Array(layout.size - 1)))).toBe('TSV_E_STATE');
    },
  );
});

describe('struct', () => {
  const sample = struct('sample', {
    a: u8,
    b: u32,
    c: u16,
    gap: pad(1),
    d: u64,
    e: blob(3),
    f: array(u16, 2),
  });

  test('places fields with natural alignment and rounds the size up', () => {
    expect(sample.offsets).toEqual({ a: 0, b: 4, c: 8, d: 16, e: 24, f: 28 });
    expect(sample.size).toBe(32);
    expect(sample.align).toBe(8);
  });

  test('zeroes padding in a given buffer and leaves what follows', () => {
    const out = new Uint8Array(33).fill(0xff);

    sample.encode({ a: 1, b: 2, c: 3, d: 4n, e: new Uint8Array(3), f: [5, 6] }, out);

    expect([...out.subarray(0, 11)]).toEqual([1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0]);
    expect(out[32]).toBe(0xff);
  });

  test('decodes from the middle of a larger buffer and copies blobs', () => {
    const whole = new Uint8Array(64).fill(7);

    const value = sample.decode(whole.subarray(8));
    whole.fill(0);

    expect(value.d).toBe(0x0707070707070707n);
    expect([...value.e]).toEqual([7, 7, 7]);
  });

  test.each([
    ['a byte above its range', u8, 256],
    ['a negative byte', u8, -1],
    ['a fraction', u32, 1.5],
    ['not a number', u32, Number.NaN],
    ['an s32 above its range', s32, 2 ** 31],
    ['a negative u64', u64, -1n],
    ['a 65-bit u64', u64, 1n << 64n],
    ['an s64 above its range', s64, 1n << 63n],
    ['an address above 2^53', address, 2 ** 53],
    ['a short blob', blob(4), new Uint8Array(3)],
    ['a long array', array(u8, 2), [1, 2, 3]],
    ['a missing value', u32, undefined],
    ['a missing nested struct', struct('inner', { x: u8 }), undefined],
  ] as const)('refuses %s and names the field', (_, codec, value) => {
    const layout = struct('outer', { field: codec as Codec<unknown> });

    expect(codeOf(() => layout.encode({ field: value }))).toBe('TSV_E_STATE');
    expect(() => layout.encode({ field: value })).toThrow(/outer\.field/);
  });
});

describe('listStruct', () => {
  const list = listStruct('list', 8, struct('entry', { x: u32 }));

  test('round trips', () => {
    const entry = fc.record({ x: fc.integer({ min: 0, max: 0xffffffff }) });
    fc.assert(
      fc.property(fc.array(entry), (items) => {
        expect(list.decode(list.encode(items))).toEqual(items);
      }),
    );
  });

  test('allocates room with the count set', () => {
    const bytes = list.allocate(3);

    expect(bytes.length).toBe(20);
    expect(list.decode(bytes)).toHaveLength(3);
  });

  test('refuses a count beyond the buffer', () => {
    const bytes = list.allocate(2);
    new DataView(bytes.buffer).setUint32(0, 0xffffffff, true);

    expect(codeOf(() => list.decode(bytes))).toBe('TSV_E_STATE');
  });
});

test('xcrs pad to the fixed array and come back as given', () => {
  const xcrs = [{ xcr: 0, value: 7n }];

  expect(abi.decodeXcrs(abi.encodeXcrs(xcrs))).toEqual(xcrs);
  expect(codeOf(() => abi.encodeXcrs(Array.from({ length: 17 }, () => ({ xcr: 0, value: 0n }))))).toBe(
    'TSV_E_STATE',
  );
});

test('routes carry their union members in place', () => {
  const bytes = abi.kvm_irq_routing.encode([
    abi.irqchipRoute(4, abi.KVM_IRQCHIP_IOAPIC, 4),
    abi.msiRoute(24, 0xfee01000, 0, 0x4021),
  ]);

  const [pin, msi] = abi.kvm_irq_routing.decode(bytes);
  const words = (route: abi.IrqRoutingEntry) => new Uint8Array(Uint32Array.from(route.u).buffer);
  expect(abi.kvm_irq_routing_irqchip.decode(words(pin))).toEqual({ irqchip: 2, pin: 4 });
  expect(abi.kvm_irq_routing_msi.decode(words(msi))).toEqual({
    address_lo: 0xfee01000,
    address_hi: 0,
    data: 0x4021,
    devid: 0,
  });
});

test('unknown exit reasons have a name too', () => {
  expect(abi.exitReasonName(abi.KVM_EXIT_MMIO)).toBe('MMIO');
  expect(abi.exitReasonName(999)).toBe('EXIT_999');
});
