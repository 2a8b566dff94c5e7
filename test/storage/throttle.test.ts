import fc from 'fast-check';
import { expect, it } from 'vitest';
import type { BlockBackend } from '../../src/storage/backend.ts';
import { type ThrottleClock, ThrottledDisk, type ThrottleLimits } from '../../src/storage/throttle.ts';

const SECOND = 1e9;

/** A clock that a test moves, and a disk that notes when it is used. */
class Bench implements ThrottleClock {
  time = 5 * SECOND;
  readonly done: { at: number; bytes: number }[] = [];
  #timers: { deadline: number; callback: () => void }[] = [];
  readonly disk: ThrottledDisk;

  constructor(limits: ThrottleLimits) {
    const note = async (buffers: readonly Uint8Array[]) => {
      this.done.push({
        at: this.time - 5 * SECOND,
        bytes: buffers.reduce((sum, each) => sum + each.length, 0),
      });
    };
    const inner: BlockBackend = {
      size: 1 << 30,
      readOnly: false,
      read: (_, into) => note(into),
      write: (_, from) => note(from),
      flush: () => note([]),
      [Symbol.asyncDispose]: async () => {},
    };
    this.disk = new ThrottledDisk(inner, limits, this);
  }

  now(): number {
    return this.time;
  }

  setTimer(deadline: number, callback: () => void) {
    const timer = { deadline, callback };
    this.#timers.push(timer);
    return { cancel: () => this.#timers.splice(this.#timers.indexOf(timer), 1) };
  }

  /** Lets time pass until nothing waits. */
  async run(): Promise<void> {
    for (;;) {
      await new Promise(setImmediate);
      this.#timers.sort((a, b) => a.deadline - b.deadline);
      const next = this.#timers.shift();
      if (next === undefined) return;
      this.time = Math.max(this.time, next.deadline);
      next.callback();
    }
  }
}

it('lets a burst pass and then so many operations a second', async () => {
  const bench = new Bench({ opsPerSecond: 10, opsBurst: 3 });
  const all = Promise.all(Array.from({ length: 8 }, () => bench.disk.read(0, [new Uint8Array(512)])));
  await bench.run();
  await all;
  const tenths = bench.done.map(({ at }) => Math.round(at / (SECOND / 10)));
  expect(tenths).toEqual([0, 0, 0, 1, 2, 3, 4, 5]);
});

it('never lets more bytes pass than rate and burst allow, and loses no time', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(
        fc.integer({ min: 1, max: 200 }).map((n) => n * 512),
        { minLength: 2, maxLength: 30 },
      ),
      fc.integer({ min: 1000, max: 1_000_000 }),
      fc.integer({ min: 512, max: 100_000 }),
      async (sizes, rate, burst) => {
        const bench = new Bench({ bytesPerSecond: rate, bytesBurst: burst });
        const all = Promise.all(sizes.map((size) => bench.disk.write(0, [new Uint8Array(size)])));
        await bench.run();
        await all;
        expect(bench.done.map(({ bytes }) => bytes)).toEqual(sizes);
        let before = 0;
        for (const { at, bytes } of bench.done) {
          // What is larger than a burst goes when a whole burst could; those after it wait.
          const passed = before + Math.min(bytes, burst);
          expect(passed).toBeLessThanOrEqual(burst + (rate * at) / SECOND + 1);
          if (at > 0) expect(passed).toBeGreaterThanOrEqual(burst + (rate * at) / SECOND - 2);
          before += bytes;
        }
      },
    ),
    { numRuns: 50 },
  );
});

it('waits for both limits, and does not save up more than a burst', async () => {
  const bench = new Bench({ opsPerSecond: 1000, bytesPerSecond: 512 });
  bench.time += 100 * SECOND;
  const all = Promise.all(Array.from({ length: 4 }, () => bench.disk.write(0, [new Uint8Array(512)])));
  await bench.run();
  await all;
  expect(bench.done.map(({ at }) => Math.round(at / SECOND))).toEqual([100, 101, 102, 103]);
});

it('lets what waits go when it is closed', async () => {
  const bench = new Bench({ opsPerSecond: 0.001, opsBurst: 1 });
  const all = Promise.all([1, 2, 3].map(() => bench.disk.flush()));
  await bench.disk[Symbol.asyncDispose]();
  await all;
  expect(bench.done).toHaveLength(3);
});

it('offers what its disk can do, and no more', () => {
  const { disk } = new Bench({});
  expect(disk).toMatchObject({ size: 1 << 30, readOnly: false });
  expect(disk.discard).toBeUndefined();
  expect(disk.writeZeroes).toBeUndefined();
});

it('refuses limits that would stop the disk', () => {
  for (const limit of [0, -1, Number.NaN, Number.POSITIVE_INFINITY]) {
    expect(() => new Bench({ opsPerSecond: limit })).toThrow(
      expect.objectContaining({ code: 'TSV_E_CONFIG' }),
    );
    expect(() => new Bench({ bytesPerSecond: 1, bytesBurst: limit })).toThrow(
      expect.objectContaining({ code: 'TSV_E_CONFIG' }),
    );
  }
});
