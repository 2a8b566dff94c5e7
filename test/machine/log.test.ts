import { describe, expect, it } from 'vitest';
import { LogLimit } from '../../src/machine/log.ts';

describe('the limit of what devices log', () => {
  it('admits a few lines a second and says how many were left out', () => {
    const limit = new LogLimit();

    const first = Array.from({ length: 25 }, () => limit.admit(0));
    const later = [limit.admit(1000), limit.admit(1001)];

    expect(first.filter((count) => count !== undefined)).toEqual(new Array(10).fill(0));
    expect(later).toEqual([15, 0]);
  });
});
