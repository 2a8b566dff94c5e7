/** Device accesses of an instruction that is executed again after each. */
import { describe, expect, it } from 'vitest';
import { ExitLog } from '../../src/tcg/exits.ts';

/** A log whose first access, a read of MMIO, is done. */
function afterRead(address: number, answer: readonly number[]): ExitLog {
  const log = new ExitLog();
  expect(log.access('mmio', address, false, new Uint8Array(answer.length))).toBe(false);
  log.pending?.data.set(answer);
  log.complete();
  log.rewind();
  return log;
}

describe('an instruction that is executed again', () => {
  it('takes the results of its accesses in their order', () => {
    const log = afterRead(0x1000, [1, 2]);
    const data = new Uint8Array(2);

    expect(log.access('mmio', 0x1000, false, data)).toBe(true);
    expect([...data]).toEqual([1, 2]);
    expect(log.access('mmio', 0x2000, true, data)).toBe(false);
    expect(log.pending).toMatchObject({ address: 0x2000, write: true });
  });

  it.each([
    ['another address', 0x3000, 5],
    ['fewer bytes', 0x1000, 3],
  ])('does an access anew that has become one of %s', (_, address, length) => {
    const log = afterRead(0x1000, [1, 2, 3, 4, 5]);
    const data = new Uint8Array(length);

    expect(log.access('mmio', address, false, data)).toBe(false);
    expect(log.pending).toMatchObject({ address, data });
  });
});
