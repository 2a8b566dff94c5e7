import { describe, expect, it, vi } from 'vitest';
import { OUTPUT_HIGH_WATER, OUTPUT_LIMIT, OutputBatch } from '../../../src/devices/legacy/output-batch.ts';
import { settle } from '../../support/device-bench.ts';

/** A sink that holds every batch until it is released. */
function slowSink() {
  const batches: Uint8Array[] = [];
  const release: (() => void)[] = [];
  return {
    batches,
    release,
    sink: (bytes: Uint8Array) => {
      batches.push(bytes);
      return new Promise<void>((resolve) => release.push(resolve));
    },
  };
}

describe('batches of output', () => {
  it('hand a burst over in one call, in order', async () => {
    const batches: number[][] = [];
    const output = new OutputBatch((bytes) => void batches.push([...bytes]));
    for (let i = 0; i < 1000; i++) output.push(i & 0xff);
    const during = batches.length;
    await settle();
    expect([during, batches]).toEqual([0, [Array.from({ length: 1000 }, (_, i) => i & 0xff)]]);
  });

  it('do not hold back bytes that follow shortly after', async () => {
    const got: number[] = [];
    const output = new OutputBatch((bytes) => void got.push(...bytes));
    for (const byte of [1, 2, 3]) {
      output.push(byte);
      await settle(1);
    }
    await output.flush();
    expect(got).toEqual([1, 2, 3]);
  });

  it('wait while the sink is busy, then go in one piece', async () => {
    const { sink, batches, release } = slowSink();
    const output = new OutputBatch(sink);
    output.push(1);
    await settle();
    for (const byte of [2, 3, 4]) {
      output.push(byte);
      await settle();
    }
    const before = batches.length;
    release[0]();
    await settle();
    expect([before, batches.map((batch) => [...batch])]).toEqual([1, [[1], [2, 3, 4]]]);
  });

  it('report congestion at the high-water mark and room when the sink takes the batch', async () => {
    const { sink, release } = slowSink();
    let drained = 0;
    const output = new OutputBatch(sink, { drained: () => drained++ });
    output.push(0);
    await settle();
    for (let i = 0; i < OUTPUT_HIGH_WATER - 1; i++) output.push(1);
    const below = output.congested;
    output.push(1);
    const at = output.congested;
    release[0]();
    await settle();
    expect([below, at, output.congested, drained]).toEqual([false, true, false, 1]);
  });

  it('make whoever goes on regardless wait at the limit, and lose nothing', async () => {
    const { sink, batches, release } = slowSink();
    const output = new OutputBatch(sink);
    let waits: void | Promise<void>;
    let pushed = 0;
    do {
      waits = output.push(pushed++ & 0xff);
    } while (waits === undefined);
    let resumed = false;
    void waits.then(() => {
      resumed = true;
    });
    await Promise.resolve();
    const early = resumed;
    const done = output.flush();
    await settle();
    while (release.length > 0) {
      release.shift()!();
      await settle();
    }
    await done;
    expect([early, resumed, pushed]).toEqual([false, true, OUTPUT_LIMIT]);
    expect(batches.reduce((sum, batch) => sum + batch.length, 0)).toBe(pushed);
  });

  it('let a byte go after a second when the sink does not move at all', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    try {
      const { sink } = slowSink();
      const output = new OutputBatch(sink);
      output.push(0);
      await settle();
      for (let i = 0; i < OUTPUT_LIMIT - 1; i++) output.push(1);
      let resumed = 0;
      const next = () => void Promise.resolve(output.push(2)).then(() => resumed++);
      next();
      await vi.advanceTimersByTimeAsync(900);
      const early = resumed;
      await vi.advanceTimersByTimeAsync(100);
      next();
      await vi.advanceTimersByTimeAsync(900);
      expect([early, resumed, output.pending]).toEqual([0, 1, OUTPUT_LIMIT + 1]);
    } finally {
      vi.useRealTimers();
    }
  });

  it.each([
    [
      'throws',
      () => {
        throw new Error('EPIPE');
      },
    ],
    ['rejects', () => Promise.reject(new Error('EPIPE'))],
  ])('go on after a sink that %s', async (_how, fail) => {
    const errors: unknown[] = [];
    const got: number[] = [];
    let first = true;
    const output = new OutputBatch(
      (bytes) => {
        if (first) {
          first = false;
          return fail();
        }
        got.push(...bytes);
      },
      { failed: (error) => errors.push(error) },
    );
    output.push(1);
    await output.flush();
    output.push(2);
    await output.flush();
    expect(got).toEqual([2]);
    expect(errors).toEqual([new Error('EPIPE')]);
  });

  it('flush at once when there is nothing to flush', async () => {
    await new OutputBatch(() => {}).flush();
  });
});
