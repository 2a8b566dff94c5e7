/** The address map in shared memory. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { BusTable, SPACE, type TableRegion } from '../../src/devices/bus-table.ts';
import { later, machine } from './bus-machine.ts';

describe('the table in shared memory', () => {
  it('is read whole by another thread while it is replaced', async () => {
    const { bus, words, vcpu, tell } = machine();
    const table = bus.table;
    // Every number of a generation follows from the number of regions.
    const generation = (n: number): TableRegion[] =>
      Array.from({ length: n }, (_, i) => ({
        id: n * 100 + i,
        space: SPACE.mmio,
        base: n * 2 ** 33 + i,
        size: n,
        maxAccess: 4,
        modes: Array.from({ length: n % 5 }, (_, m) => ({
          offset: n + m,
          size: n,
          read: 0,
          write: 0,
          readLatch: -1,
          w1cLatch: i,
        })),
      }));
    table.publish(generation(1));
    const reader = vcpu(`
      let torn = 0, seen = new Set();
      tell(0, 1);
      while (Atomics.load(words, 1) === 0) {
        const { version, regions } = table.snapshot();
        const n = regions.length;
        seen.add(version);
        const good = version % 2 === 0 && regions.every((r, i) =>
          r.id === n * 100 + i && r.base === n * 2 ** 33 + i && r.size === n && r.modes.length === n % 5 &&
          r.modes.every((mode, m) => mode.offset === n + m && mode.size === n && mode.w1cLatch === i));
        if (!good) torn++;
      }
      return { torn, versions: seen.size };`);

    while (Atomics.load(words, 0) === 0) await later(0);
    for (let i = 0; i < 300; i++) {
      for (let n = 1; n < 60; n++) table.publish(generation(n));
      await later(0, 0);
    }
    tell(1, 1);

    const result = (await reader) as { torn: number; versions: number };
    expect(result.torn).toBe(0);
    expect(result.versions).toBeGreaterThan(10);
  });

  it('takes back exactly what was published', () => {
    const number = fc.nat(2 ** 31 - 1);
    const region = fc.record({
      id: fc.nat(0xffff),
      space: fc.constantFrom<number>(SPACE.pio, SPACE.mmio),
      base: fc.nat(2 ** 52 - 1),
      size: fc.nat(2 ** 51),
      maxAccess: fc.constantFrom(1, 2, 4),
      modes: fc.array(
        fc.record({
          offset: number,
          size: number,
          read: number,
          write: number,
          readLatch: number,
          w1cLatch: number,
        }),
        { maxLength: 5 },
      ),
    });
    const table = new BusTable();
    fc.assert(
      fc.property(fc.array(region, { maxLength: 20 }), (regions) => {
        table.publish(regions);
        expect(table.snapshot().regions).toEqual(regions);
      }),
    );
  });
});
