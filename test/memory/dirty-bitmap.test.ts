import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DirtyBitmap } from '../../src/memory/dirty-bitmap.ts';

const PAGES = 300;
const range = fc.record({ page: fc.integer({ min: -50, max: PAGES + 50 }), count: fc.nat(150) });

/** The pages of a bitmap, by way of its runs. */
function listed(bitmap: DirtyBitmap): number[] {
  return [...bitmap.runs()].flatMap(({ page, count }) => Array.from({ length: count }, (_, i) => page + i));
}

describe('DirtyBitmap', () => {
  it('lays bits out as KVM_GET_DIRTY_LOG does', () => {
    const bitmap = new DirtyBitmap(70);

    bitmap.add(0);
    bitmap.add(9);
    bitmap.add(69);

    expect([...bitmap.bytes]).toEqual([1, 2, 0, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0]);
  });

  it('agrees with a set of pages under any sequence of range operations', () => {
    const operation = fc.record({ range, add: fc.boolean() });
    fc.assert(
      fc.property(fc.array(operation, { maxLength: 20 }), (operations) => {
        const bitmap = new DirtyBitmap(PAGES);
        const model = new Set<number>();
        for (const { range, add } of operations) {
          if (add) bitmap.addRange(range.page, range.count);
          else bitmap.deleteRange(range.page, range.count);
          for (let p = Math.max(0, range.page); p < Math.min(PAGES, range.page + range.count); p++) {
            if (add) model.add(p);
            else model.delete(p);
          }
        }

        const pages = listed(bitmap);

        expect(pages).toEqual([...model].sort((a, b) => a - b));
        expect(bitmap.count()).toBe(model.size);
        expect(pages.every((p) => bitmap.has(p))).toBe(true);
      }),
    );
  });

  it('joins neighbouring pages into one run, across words and up to the end', () => {
    const bitmap = new DirtyBitmap(128);

    bitmap.addRange(30, 70);
    bitmap.addRange(127, 1);

    expect([...bitmap.runs()]).toEqual([
      { page: 30, count: 70 },
      { page: 127, count: 1 },
    ]);
  });

  it('merges, takes and clears', () => {
    const a = new DirtyBitmap(PAGES);
    const b = new DirtyBitmap(PAGES);
    a.addRange(0, 10);
    b.addRange(5, 10);

    a.merge(b);
    const taken = a.take();

    expect(listed(taken)).toEqual(Array.from({ length: 15 }, (_, i) => i));
    expect(a.count()).toBe(0);
    taken.clear();
    expect(taken.count()).toBe(0);
    expect(() => a.merge(new DirtyBitmap(1))).toThrow(expect.objectContaining({ code: 'TSV_E_STATE' }));
  });

  it('works on shared words and ignores bits past its last page', () => {
    const shared = new Uint32Array(new SharedArrayBuffer(16)).fill(0xffffffff);

    const bitmap = new DirtyBitmap(65, shared);

    expect([...bitmap.runs()]).toEqual([{ page: 0, count: 65 }]);
    expect(bitmap.count()).toBe(65);
    bitmap.deleteRange(0, 64);
    expect([...shared]).toEqual([0, 0, 1, 0]);
  });

  it('refuses words that are too few', () => {
    expect(() => new DirtyBitmap(65, new Uint32Array(2))).toThrow(
      expect.objectContaining({ code: 'TSV_E_STATE' }),
    );
    expect(() => new DirtyBitmap(-1)).toThrow(expect.objectContaining({ code: 'TSV_E_STATE' }));
  });
});
