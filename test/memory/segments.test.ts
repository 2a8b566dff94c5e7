import fc from 'fast-check';
import { beforeEach, describe, expect, it } from 'vitest';
import { allocateRam } from '../../src/memory/allocate.ts';
import type { GuestMemory } from '../../src/memory/guest-memory.ts';
import {
  encodeGate,
  encodeTss64,
  type Gate,
  TSS64_SIZE,
  writeIdt,
} from '../../src/memory/interrupt-tables.ts';
import {
  decodeDescriptor,
  encodeDescriptor,
  FLAT_CODE_32,
  FLAT_CODE_64,
  FLAT_DATA,
  GdtBuilder,
  realModeSegment,
  SEGMENT_TYPE,
  type SegmentFields,
  SYSTEM_TYPE,
  segment,
  unusableSegment,
} from '../../src/memory/segments.ts';

let memory: GuestMemory;
beforeEach(() => {
  memory = allocateRam({ size: 65536 });
});
const refused = expect.objectContaining({ code: 'TSV_E_CONFIG', hint: expect.stringMatching(/\w/) });
const word = (bytes: Uint8Array) => new DataView(bytes.buffer).getBigUint64(0, true);
const tss: SegmentFields = { ...FLAT_DATA, s: 0, type: SYSTEM_TYPE.TSS_BUSY, limit: 0x67, g: 0, db: 0 };
const bit = fc.integer({ min: 0, max: 1 });

describe('segment descriptors', () => {
  it('are the well-known values for flat segments', () => {
    expect(word(encodeDescriptor(FLAT_CODE_64))).toBe(0x00af9b000000ffffn);
    expect(word(encodeDescriptor(FLAT_CODE_32))).toBe(0x00cf9b000000ffffn);
    expect(word(encodeDescriptor(FLAT_DATA))).toBe(0x00cf93000000ffffn);
  });

  it('decode to what was encoded', () => {
    const fields = fc
      .record({
        base: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
        limit: fc.nat(0xfffff),
        type: fc.nat(15),
        dpl: fc.nat(3),
        present: bit,
        db: bit,
        s: bit,
        l: bit,
        g: bit,
        avl: bit,
      })
      .map((f) => ({
        ...f,
        base: f.s === 1 ? f.base & 0xffffffffn : f.base,
        limit: f.g === 1 ? f.limit * 4096 + 4095 : f.limit,
      }));
    fc.assert(
      fc.property(fields, fc.nat(0xffff), (fields, selector) => {
        expect(decodeDescriptor(encodeDescriptor(fields), selector)).toEqual(segment(fields, selector));
      }),
    );
  });

  it('decode from any bytes', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 8, maxLength: 16 }), (bytes) => {
        const { limit, base } = decodeDescriptor(bytes, 0);
        expect(limit >= 0 && limit <= 0xffffffff && base >= 0n && base < 2n ** 64n).toBe(true);
      }),
    );
    expect(() => decodeDescriptor(new Uint8Array(7), 0)).toThrow(refused);
  });

  it.each([
    [{ base: 1n << 32n }],
    [{ base: -1n }],
    [{ limit: 0x1000, g: 1 }],
    [{ limit: 0x100000, g: 0 }],
    [{ limit: -1, g: 0 }],
    [{ limit: 2 ** 33 - 1 }],
    [{ type: 16 }],
    [{ dpl: 4 }],
    [{ present: 2 }],
  ])('are refused for %o', (wrong) => {
    expect(() => encodeDescriptor({ ...FLAT_DATA, ...wrong })).toThrow(refused);
  });

  it('describe real mode and null selectors', () => {
    expect(realModeSegment(0xf000, SEGMENT_TYPE.CODE_EXECUTE_READ)).toMatchObject({
      base: 0xf0000n,
      limit: 0xffff,
      selector: 0xf000,
      type: 0xb,
      unusable: 0,
    });
    expect(unusableSegment()).toMatchObject({ unusable: 1, present: 0 });
  });
});

describe('GdtBuilder', () => {
  it('puts segments where the Linux boot protocol wants them', () => {
    const gdt = new GdtBuilder();
    const cs = gdt.add(FLAT_CODE_64, { selector: 0x10 });
    const ds = gdt.add(FLAT_DATA);
    const tr = gdt.add({ ...tss, base: 0xffff_8000_0000_1000n });

    const gdtr = gdt.write(memory, 0x500);

    expect([cs.selector, ds.selector, tr.selector]).toEqual([0x10, 0x18, 0x20]);
    expect(gdtr).toEqual({ base: 0x500n, limit: 0x2f });
    expect(memory.readU64(0x500)).toBe(0n);
    expect(memory.readU64(0x508)).toBe(0n);
    expect(memory.readU64(0x510)).toBe(0x00af9b000000ffffn);
    expect(memory.readU64(0x528)).toBe(0xffff8000n);
    expect(decodeDescriptor(memory.read(0x520, 16), 0x20)).toEqual(tr);
  });

  it('makes system descriptors 16 bytes in long mode even for low bases', () => {
    const gdt = new GdtBuilder();

    gdt.add(tss, { long: true });

    expect(gdt.size).toBe(24);
  });

  it('gives user segments selectors with their privilege level', () => {
    expect(new GdtBuilder().add({ ...FLAT_CODE_64, dpl: 3 }).selector).toBe(0xb);
  });

  it('refuses selectors that are taken, odd or too large, and tables above 64 KiB', () => {
    const gdt = new GdtBuilder();
    gdt.add(FLAT_DATA);

    for (const selector of [0, 8, 0x11, -8, 0x10000, Number.NaN]) {
      expect(() => gdt.add(FLAT_DATA, { selector })).toThrow(refused);
    }
    expect(() => gdt.add(tss, { selector: 0xfff8, long: true })).toThrow(refused);
  });
});

describe('encodeGate and writeIdt', () => {
  const gate: Gate = { offset: 0x1122334455667788n, selector: 0x10, ist: 3 };

  it('lay gates out as the SDM draws them', () => {
    expect(Buffer.from(encodeGate(gate)).toString('hex')).toBe('88771000038e66554433221100000000');
    const trap = { offset: 0x55667788n, selector: 8, type: 'trap', dpl: 3 } as const;
    expect(Buffer.from(encodeGate(trap, 32)).toString('hex')).toBe('8877080000ef6655');
  });

  it('write a table that ends with the highest vector', () => {
    memory.fill(0, 65536, 0xff);

    const idtr = writeIdt(memory, 0x1000, new Map([[14, gate]]));

    expect(idtr).toEqual({ base: 0x1000n, limit: 15 * 16 - 1 });
    expect(memory.readU64(0x1000)).toBe(0n);
    expect(memory.read(0x1000 + 14 * 16, 16)).toEqual(encodeGate(gate));
  });

  it('refuse what does not fit', () => {
    expect(() => encodeGate({ ...gate, ist: 8 })).toThrow(refused);
    expect(() => encodeGate(gate, 32)).toThrow(refused);
    expect(() => encodeGate({ ...gate, offset: 0n }, 32)).toThrow(refused);
    expect(() => encodeGate({ ...gate, offset: -1n })).toThrow(refused);
    expect(() => encodeGate({ ...gate, selector: 65536 })).toThrow(refused);
    expect(() => encodeGate({ ...gate, dpl: 4 })).toThrow(refused);
    expect(() => writeIdt(memory, 0, new Map([[256, gate]]))).toThrow(refused);
  });
});

describe('encodeTss64', () => {
  it('puts stacks and the I/O map where the processor looks for them', () => {
    const bytes = encodeTss64({
      rsp: [0x1000n],
      ist: [1n, 2n, 3n, 4n, 5n, 6n, 7n],
      iomap: new Uint8Array([0xf0, 0x0f]),
    });
    const view = new DataView(bytes.buffer);

    expect(view.getBigUint64(4, true)).toBe(0x1000n);
    expect(view.getBigUint64(36, true)).toBe(1n);
    expect(view.getBigUint64(84, true)).toBe(7n);
    expect(view.getUint16(102, true)).toBe(TSS64_SIZE);
    expect([...bytes.subarray(TSS64_SIZE)]).toEqual([0xf0, 0x0f, 0xff]);
  });

  it('denies all ports without an I/O map: its base is the segment limit plus one', () => {
    const bytes = encodeTss64({});

    expect(bytes.length).toBe(new DataView(bytes.buffer).getUint16(102, true));
  });

  it('refuses what does not fit', () => {
    expect(() => encodeTss64({ rsp: [0n, 0n, 0n, 0n] })).toThrow(refused);
    expect(() => encodeTss64({ ist: new Array(8).fill(0n) })).toThrow(refused);
    expect(() => encodeTss64({ rsp: [-1n] })).toThrow(refused);
    expect(() => encodeTss64({ ist: [1n << 64n] })).toThrow(refused);
    expect(() => encodeTss64({ iomap: new Uint8Array(8193) })).toThrow(refused);
  });
});
