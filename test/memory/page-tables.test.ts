import fc from 'fast-check';
import { beforeEach, describe, expect, it } from 'vitest';
import { allocateRam } from '../../src/memory/allocate.ts';
import type { GuestMemory } from '../../src/memory/guest-memory.ts';
import { PAGE_1G, PAGE_2M, PAGE_4K, type PageSize } from '../../src/memory/page-entry.ts';
import { PageTableBuilder } from '../../src/memory/page-tables.ts';
import { translate } from '../../src/memory/page-walk.ts';

const MIB = 2 ** 20;
const GIB = 2 ** 30;
const START = 0x1000;
const END = 0x101000;
const HALF = 1n << 47n;

let memory: GuestMemory;
beforeEach(() => {
  memory = allocateRam({ size: 2 * MIB });
});

const refused = expect.objectContaining({ code: 'TSV_E_CONFIG', hint: expect.stringMatching(/\w/) });
const builder = (pageSizes?: readonly PageSize[]) =>
  new PageTableBuilder(memory, { start: START, end: END, pageSizes });

describe('PageTableBuilder', () => {
  it('writes the entries the SDM describes', () => {
    const tables = builder();

    tables.map(0xffffffff80000000n, 0x200000, PAGE_2M, { global: true, noExecute: true, pat: true });

    expect(tables.cr3).toBe(BigInt(START));
    expect(memory.readU64(START + 511 * 8)).toBe(0x2007n);
    expect(memory.readU64(0x2000 + 510 * 8)).toBe(0x3007n);
    expect(memory.readU64(0x3000)).toBe(0x8000_0000_0020_1183n);
    expect(tables.used).toBe(0x4000);
  });

  it('maps 4 GiB with 2 MiB pages in six tables', () => {
    const tables = builder().identityMap(0, 4 * GIB);

    expect(tables.used - START).toBe(6 * 4096);
    expect(translate(memory, tables.cr3, 0xfee00020n)).toMatchObject({ ok: true, physical: 0xfee00020 });
  });

  it('uses the largest pages that fit when they are allowed', () => {
    const tables = builder([PAGE_4K, PAGE_2M, PAGE_1G]).identityMap(PAGE_2M - PAGE_4K, 2 * GIB);
    const sizeAt = (address: number) => {
      const walk = translate(memory, tables.cr3, BigInt(address));
      return walk.ok ? walk.pageSize : walk.reason;
    };

    expect(sizeAt(0)).toBe('not-present');
    expect(sizeAt(PAGE_2M - 1)).toBe(PAGE_4K);
    expect(sizeAt(PAGE_2M)).toBe(PAGE_2M);
    expect(sizeAt(GIB)).toBe(PAGE_1G);
    expect(sizeAt(2 * GIB + PAGE_2M)).toBe('not-present');
  });

  it('translates every address of any mapping to where it was mapped, with its flags', () => {
    const flag = fc.boolean();
    const flags = fc.record({
      writable: flag,
      user: flag,
      writeThrough: flag,
      cacheDisable: flag,
      accessed: flag,
      dirty: flag,
      global: flag,
      pat: flag,
      noExecute: flag,
    });
    const sizes = fc.subarray([PAGE_4K, PAGE_2M, PAGE_1G] as const, { minLength: 1 });
    fc.assert(
      fc.property(
        fc.bigInt({ min: 0n, max: 2n ** 17n - 9n }),
        fc.nat(2 ** 21),
        fc.integer({ min: 1, max: 8 }),
        fc.nat(511),
        fc.nat(511),
        flags,
        sizes,
        fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
        (high, frame, count, va4k, pa4k, flags, sizes, where) => {
          const smallest = Math.min(...sizes);
          const fine = smallest === PAGE_4K ? 1 : 0;
          const low = (high << 30n) + BigInt(fine * va4k * PAGE_4K);
          const virtual = BigInt.asUintN(64, BigInt.asIntN(48, low));
          const physical = frame * GIB + fine * pa4k * PAGE_4K;
          const size = count * smallest;

          const tables = builder(sizes).map(virtual, physical, size, flags);

          const offset = Math.floor(where * size);
          const walk = translate(memory, tables.cr3, virtual + BigInt(offset));
          expect(walk).toMatchObject({
            ok: true,
            physical: physical + offset,
            flags: { ...flags, present: true },
          });
          expect(translate(memory, tables.cr3, BigInt.asUintN(64, virtual - 1n)).ok).toBe(false);
          const behind = BigInt.asUintN(64, virtual + BigInt(size));
          expect(translate(memory, tables.cr3, behind).ok).toBe(false);
        },
      ),
      { numRuns: 200 },
    );
  });

  it('leaves pages out that are mapped as not present', () => {
    const tables = builder().map(0x5000n, 0x5000, PAGE_4K, { present: false });

    expect(translate(memory, tables.cr3, 0x5000n)).toMatchObject({
      ok: false,
      reason: 'not-present',
      level: 1,
    });
  });

  it('refuses to map a virtual page twice, in whatever page size', () => {
    const tables = builder().map(0x200000n, 0, PAGE_2M);

    expect(() => tables.map(0x3ff000n, 0, PAGE_4K)).toThrow(refused);
    expect(() => tables.map(0n, 0, 4 * PAGE_2M)).toThrow(refused);
    tables.map(0x400000n, 0, PAGE_4K);
    expect(() => tables.identityMap(0x400000, PAGE_2M)).toThrow(refused);
  });

  it.each([
    ['an unaligned virtual address', 1n, 0, PAGE_4K],
    ['an unaligned physical address', 0n, 1, PAGE_4K],
    ['an unaligned size', 0n, 0, 100],
    ['nothing', 0n, 0, 0],
    ['a negative size', 0n, 0, -PAGE_4K],
    ['an address in the canonical hole', HALF, 0, PAGE_4K],
    ['a negative address', -4096n, 0, PAGE_4K],
    ['an address above 64 bits', 1n << 64n, 0, PAGE_4K],
    ['a range that runs into the canonical hole', HALF - 4096n, 0, 2 * PAGE_4K],
    ['a range that spans the canonical hole', HALF - 4096n, 0, 2 ** 52 - PAGE_4K],
    ['a range past the end of the address space', (1n << 64n) - 4096n, 0, 2 * PAGE_4K],
    ['a physical address above 52 bits', 0n, 2 ** 52, PAGE_4K],
    ['a physical address that is no number', 0n, Number.NaN, PAGE_4K],
  ])('refuses to map %s', (_, virtual, physical, size) => {
    expect(() => builder().map(virtual, physical, size)).toThrow(refused);
  });

  it('reaches the last page of the address space', () => {
    const tables = builder().map((1n << 64n) - 4096n, 0x7000, PAGE_4K);

    expect(translate(memory, tables.cr3, (1n << 64n) - 1n)).toMatchObject({ ok: true, physical: 0x7fff });
  });

  it('says when the room for tables is full', () => {
    const small = new PageTableBuilder(memory, { start: START, end: START + 3 * 4096 });

    expect(() => small.map(0n, 0, PAGE_4K)).toThrow(refused);
  });

  it.each([
    [{ start: 1, end: 0x10000 }],
    [{ start: 0x1000, end: 0x1000 }],
    [{ start: 0x1000, end: Number.NaN }],
    [{ start: 0x1000, end: 0x9000, pageSizes: [] }],
    [{ start: 0x1000, end: 0x9000, pageSizes: [8192 as PageSize] }],
  ])('refuses to put tables by %j', (options) => {
    expect(() => new PageTableBuilder(memory, options)).toThrow(refused);
  });

  it('does not write tables outside RAM', () => {
    const outside = () => new PageTableBuilder(memory, { start: 4 * MIB, end: 8 * MIB });

    expect(outside).toThrow(expect.objectContaining({ code: 'TSV_E_GUEST_ADDRESS' }));
  });
});

describe('translate', () => {
  it('tells at which level a walk fails', () => {
    const tables = builder().map(0n, 0, PAGE_4K).map(0x40000000n, 0, PAGE_2M);
    const level = (address: bigint) => {
      const walk = translate(memory, tables.cr3, address);
      return walk.ok ? 0 : walk.level;
    };

    expect(level(0n)).toBe(0);
    expect(level(0x1000n)).toBe(1);
    expect(level(0x200000n)).toBe(2);
    expect(level(0x80000000n)).toBe(3);
    expect(level(1n << 39n)).toBe(4);
    expect(level(HALF)).toBe(5);
  });

  it('ignores PCID and cache bits of CR3', () => {
    const tables = builder().identityMap(0, PAGE_2M);

    expect(translate(memory, tables.cr3 | 0xfffn | (1n << 63n), 5n)).toMatchObject({ ok: true, physical: 5 });
  });

  it('takes the intersection of rights over the levels', () => {
    const tables = builder().map(0n, 0, PAGE_4K, { user: true });
    memory.writeU64(START, memory.readU64(START) & ~6n);

    expect(translate(memory, tables.cr3, 0n)).toMatchObject({ flags: { user: false, writable: false } });
    memory.writeU64(START, memory.readU64(START) | 6n | (1n << 63n));
    expect(translate(memory, tables.cr3, 0n)).toMatchObject({
      flags: { user: true, writable: true, noExecute: true },
    });
  });

  it.each([
    ['PS in a PML4 entry', START, 1n << 7n, {}, 4],
    ['an unaligned 1 GiB page', 0x2000, (1n << 7n) | (1n << 13n), {}, 3],
    ['a 1 GiB page without PDPE1GB', 0x2000, 1n << 7n, { pages1G: false }, 3],
    ['an unaligned 2 MiB page', 0x3000, 1n << 13n, {}, 2],
    ['NX without EFER.NXE', 0x3000, 1n << 63n, { nxe: false }, 2],
    ['an address above MAXPHYADDR', 0x3000, 1n << 40n, { physicalBits: 40 }, 2],
  ])('reports %s as a reserved bit', (_, entry, bits, options, level) => {
    const tables = builder().map(0n, 0, PAGE_2M);
    memory.writeU64(entry, memory.readU64(entry) | bits);

    expect(translate(memory, tables.cr3, 0n, options)).toEqual({
      ok: false,
      reason: 'reserved-bit',
      level,
      entry,
    });
  });

  it('never leaves RAM or throws, whatever the tables hold', () => {
    const words = new BigUint64Array(512 * 4);
    fc.assert(
      fc.property(
        fc.array(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), { minLength: 1, maxLength: 64 }),
        fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
        fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
        fc.boolean(),
        (entries, cr3, address, near) => {
          for (let i = 0; i < words.length; i++) {
            const entry = entries[i % entries.length];
            words[i] = near ? (entry & 0x8000_0000_0000_3f7fn) | 1n : entry;
          }
          memory.write(0, new Uint8Array(words.buffer));

          const walk = translate(memory, near ? cr3 & 0x3000n : cr3, address);

          if (walk.ok) expect(walk.physical >= 0 && walk.physical < 2 ** 52).toBe(true);
          else expect(walk.level).toBeGreaterThan(0);
        },
      ),
    );
  });
});
