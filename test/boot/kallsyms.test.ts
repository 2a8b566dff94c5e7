import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { loadKernel } from '../../src/boot/image.ts';
import { findKallsyms } from '../../src/boot/kallsyms.ts';
import { fetchKernel } from '../../src/host/kernel-fetch.ts';
import { MIB, machine } from './support.ts';

const BASE = 0xffffffff81000000n;
const END = BASE + 0x1000000n;
const NAMES = Array.from({ length: 700 }, (_, i) => (i === 300 ? 'x'.repeat(200) : `symbol_${i}`));

interface Order {
  /** As up to Linux 6.3, or as from 6.4 on. */
  addresses: 'before' | 'after';
  /** Whether seqs_of_names stands between markers and tokens (6.2, and late 6.1). */
  sequences?: boolean;
  absolutePercpu?: boolean;
}

/** Writes the table as scripts/kallsyms.c does: symbol i is at BASE + 16 * i. */
function table({ addresses, sequences = false, absolutePercpu = false }: Order): Buffer {
  const tokens = Array.from({ length: 256 }, (_, i) => (i >= 0x20 && i < 0x7f ? String.fromCharCode(i) : ''));
  tokens[1] = 'symbol_';
  const encode = (name: string): number[] => {
    const rest = name.startsWith('symbol_') ? [1, ...Buffer.from(name.slice(7))] : [...Buffer.from(name)];
    const body = [0x54, ...rest];
    return body.length < 128
      ? [body.length, ...body]
      : [(body.length & 0x7f) | 0x80, body.length >> 7, ...body];
  };
  const aligned = (bytes: Buffer): Buffer =>
    Buffer.concat([bytes, Buffer.alloc((8 - (bytes.length % 8)) % 8)]);
  const words = (values: number[]): Buffer => {
    const bytes = Buffer.alloc(values.length * 4);
    values.forEach((value, i) => {
      bytes.writeUInt32LE(value >>> 0, i * 4);
    });
    return aligned(bytes);
  };
  const names = NAMES.map(encode);
  const markers: number[] = [];
  let length = 0;
  names.forEach((name, i) => {
    if (i % 256 === 0) markers.push(length);
    length += name.length;
  });
  const tokenIndex = Buffer.alloc(512);
  let offset = 0;
  tokens.forEach((token, i) => {
    tokenIndex.writeUInt16LE(offset, i * 2);
    offset += token.length + 1;
  });
  const base = Buffer.alloc(8);
  base.writeBigUInt64LE(BASE);
  const offsets = words(NAMES.map((_, i) => (absolutePercpu ? -1 - 16 * i : 16 * i)));
  return Buffer.concat([
    Buffer.alloc(4096, 0xcc),
    ...(addresses === 'before' ? [offsets, base] : []),
    words([NAMES.length]),
    aligned(Buffer.from(names.flat())),
    words(markers),
    ...(sequences ? [aligned(Buffer.alloc(NAMES.length * 3, 7))] : []),
    aligned(Buffer.from(tokens.map((token) => `${token}\0`).join(''), 'latin1')),
    tokenIndex,
    ...(addresses === 'after' ? [offsets, base] : []),
    Buffer.alloc(4096, 0xcc),
  ]);
}

describe('kallsyms', () => {
  it.each<Order>([
    { addresses: 'before', absolutePercpu: true },
    { addresses: 'before', absolutePercpu: true, sequences: true },
    { addresses: 'before' },
    { addresses: 'after', absolutePercpu: true },
    { addresses: 'after' },
  ])('is found and read in the order %j', (order) => {
    const found = findKallsyms(table(order), END)!;

    expect(found.size).toBe(NAMES.length);
    NAMES.forEach((name, i) => {
      expect(found.lookup(BASE + BigInt(16 * i))).toBe(name);
    });
    expect(found.lookup(BASE + 16n * 256n + 5n)).toBe('symbol_256+0x5');
    expect(found.lookup(BASE - 1n)).toBeUndefined();
    expect(found.lookup(END)).toBeUndefined();
  });

  it('names the entry points of a stripped distribution kernel', async () => {
    const { vmlinuz: kernel } = await fetchKernel();
    for (const [protocol, name] of [
      ['linux64', 'startup_64'],
      ['pvh', 'pvh_start_xen'],
    ] as const) {
      const { memory, e820 } = machine(256 * MIB);
      const { entry, symbols } = await loadKernel({ kernel, protocol, memory, e820 });

      expect(symbols(BigInt(entry))).toBe(name);
      expect(symbols(BASE + BigInt(entry) - 0x1000000n + 1n)).toBe(`${name}+0x1`);
      expect(symbols(0x7000n)).toBeUndefined();
    }
  }, 600_000);

  it('has no names when the guest has overwritten its table', async () => {
    const { vmlinuz: kernel } = await fetchKernel();
    const { memory, e820 } = machine(256 * MIB);
    const { entry, symbols } = await loadKernel({ kernel, memory, e820 });

    const digits = Buffer.from('0\x001\x002\x003\x004\x005\x006\x007\x008\x009\x00'.repeat(MIB / 20));
    for (let gpa = 0x1000000; gpa < 80 * MIB; gpa += MIB) memory.write(gpa, digits);

    expect(symbols(BigInt(entry))).toBeUndefined();
  }, 600_000);

  it('survives damage anywhere', () => {
    const sound = table({ addresses: 'before', absolutePercpu: true });
    const place = fc.tuple(fc.nat(sound.length - 1), fc.nat(255));
    fc.assert(
      fc.property(fc.array(place, { minLength: 1, maxLength: 20 }), fc.nat(sound.length), (changes, cut) => {
        const damaged = Buffer.from(sound);
        for (const [at, value] of changes) damaged[at] = value;

        const name = findKallsyms(damaged.subarray(cut % 2 === 0 ? 0 : cut), END)?.lookup(BASE + 100n);

        expect(['string', 'undefined']).toContain(typeof name);
      }),
      { numRuns: 300 },
    );
  });
});
