/** How many instructions a vCPU may execute before it looks at the time again. */
import { expect, it } from 'vitest';
import { Pace } from '../../src/tcg/pace.ts';

const NEVER = Number.POSITIVE_INFINITY;
const SLICE_NS = 500_000;

/** Lets a pace learn a rate, in instructions a nanosecond. */
function settle(pace: Pace, rate: number): void {
  for (let i = 0; i < 100; i++) {
    const budget = pace.budget(NEVER);
    pace.took(budget, budget / rate);
  }
}

it('comes to half a millisecond at any speed', () => {
  const pace = new Pace();
  settle(pace, 0.2);

  expect(pace.budget(NEVER) / 0.2 / SLICE_NS).toBeCloseTo(1, 1);
  expect(pace.budget(100_000) / 0.2).toBeCloseTo(100_000, -3);
});

it('knows from one slow run that the next would be as slow', () => {
  const pace = new Pace();
  settle(pace, 0.3);
  const first = pace.budget(NEVER);

  pace.took(first, first * 1000);

  expect(pace.budget(NEVER) * 1000).toBeLessThanOrEqual(SLICE_NS);
});
