import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { GuestClock, type HostTime } from '../../src/devices/guest-clock.ts';

/** Host time that moves when told to, in the whole milliseconds an event loop counts. */
class FakeHost implements HostTime {
  ms = 1000;
  date = Date.UTC(2030, 0, 1);
  scheduled: { at: number; callback: () => void } | undefined;

  monotonic(): number {
    return this.ms;
  }
  wall(): number {
    return this.date + (this.ms - 1000);
  }
  schedule(delay: number, callback: () => void): () => void {
    const entry = { at: this.ms + delay, callback };
    if (this.scheduled !== undefined) throw new Error('more than one host timer');
    this.scheduled = entry;
    return () => {
      if (this.scheduled === entry) this.scheduled = undefined;
    };
  }
  advance(ms: number): void {
    const end = this.ms + ms;
    while (this.scheduled !== undefined && this.scheduled.at <= end) {
      const { at, callback } = this.scheduled;
      this.scheduled = undefined;
      this.ms = Math.max(this.ms, at);
      callback();
    }
    this.ms = end;
  }
}

function started(options: { timeScale?: number; wallBase?: number } = {}) {
  const host = new FakeHost();
  const clock = new GuestClock({ ...options, host });
  clock.start();
  return { host, clock };
}

describe('guest time', () => {
  it('stands still until the clock is started and while it is paused', () => {
    const host = new FakeHost();
    const clock = new GuestClock({ host });
    host.advance(50);
    const before = clock.now();
    clock.start();
    host.advance(7);
    clock.pause();
    host.advance(100);
    const paused = clock.now();
    clock.resume();
    host.advance(3);

    expect([before, paused, clock.now()]).toEqual([0, 7e6, 10e6]);
  });

  it('runs slower than the host by the time scale', () => {
    const { host, clock } = started({ timeScale: 2.5 });
    host.advance(10);
    expect(clock.now()).toBe(4e6);
  });

  it('never goes backwards, even if the host does', () => {
    const { host, clock } = started();
    host.advance(10);
    const before = clock.now();
    host.ms -= 5;
    expect(clock.now()).toBe(before);
  });

  it.each([0, 0.5, -1, Number.NaN, Number.POSITIVE_INFINITY])('refuses the time scale %s', (timeScale) => {
    expect(() => new GuestClock({ timeScale })).toThrow(expect.objectContaining({ code: 'TSV_E_CONFIG' }));
  });

  it('refuses a wall-clock base that is no date', () => {
    expect(() => new GuestClock({ wallBase: 1e300 })).toThrow(
      expect.objectContaining({ code: 'TSV_E_CONFIG' }),
    );
  });
});

describe('timers', () => {
  it('fire in the order of their deadlines, each once, never early', () => {
    const { host, clock } = started();
    const fired: [string, number][] = [];
    clock.setTimer(5e6, () => fired.push(['b', clock.now()]));
    clock.setTimer(2.5e6, () => fired.push(['a', clock.now()]));
    clock.setTimer(5e6, () => fired.push(['c', clock.now()]));
    host.advance(100);

    expect(fired.map(([name]) => name)).toEqual(['a', 'b', 'c']);
    expect(fired[0][1]).toBeGreaterThanOrEqual(2.5e6);
  });

  it('fire in guest time when it is scaled', () => {
    const { host, clock } = started({ timeScale: 20 });
    let fired = 0;
    clock.setTimer(1e6, () => fired++);
    host.advance(19);
    const early = fired;
    host.advance(1);
    expect([early, fired]).toEqual([0, 1]);
  });

  it('with a deadline in the past fire soon, not synchronously', () => {
    const { host, clock } = started();
    host.advance(10);
    let fired = 0;
    clock.setTimer(1, () => fired++);
    clock.setTimer(Number.NaN, () => fired++);
    const during = fired;
    host.advance(0);
    expect([during, fired]).toEqual([0, 2]);
  });

  it('can be cancelled before, by another timer at the same moment, and after', () => {
    const { host, clock } = started();
    const fired: string[] = [];
    const first = clock.setTimer(1e6, () => {
      fired.push('first');
      second.cancel();
    });
    const second = clock.setTimer(1e6, () => fired.push('second'));
    const third = clock.setTimer(2e6, () => fired.push('third'));
    third.cancel();
    host.advance(5);
    first.cancel();
    expect(fired).toEqual(['first']);
    expect(host.scheduled).toBeUndefined();
  });

  it('wait while the clock is paused, and no host timer is left then', () => {
    const { host, clock } = started();
    let fired = 0;
    clock.setTimer(10e6, () => fired++);
    host.advance(4);
    clock.pause();
    expect(host.scheduled).toBeUndefined();
    host.advance(100);
    clock.resume();
    host.advance(5);
    const early = fired;
    host.advance(1);
    expect([early, fired]).toEqual([0, 1]);
  });

  it('that are due when a callback pauses the clock fire after it resumes', () => {
    const { host, clock } = started();
    const fired: string[] = [];
    clock.setTimer(1e6, () => {
      fired.push('a');
      clock.pause();
    });
    clock.setTimer(1e6, () => fired.push('b'));
    host.advance(1);
    const before = [...fired];
    clock.resume();
    host.advance(0);
    expect([before, fired]).toEqual([['a'], ['a', 'b']]);
  });

  it('survive a callback that throws', () => {
    const { host, clock } = started();
    let fired = 0;
    clock.setTimer(1e6, () => {
      throw new Error('device bug');
    });
    clock.setTimer(1e6, () => fired++);
    expect(() => host.advance(1)).toThrow('device bug');
    host.advance(0);
    expect(fired).toBe(1);
  });

  it('further away than setTimeout reaches still fire, and only then', () => {
    const { host, clock } = started();
    let at = 0;
    clock.setTimer(40 * 86400e9, () => {
      at = clock.now();
    });
    host.advance(41 * 86400e3);
    expect(at).toBe(40 * 86400e9);
  });

  it('set by a timer for now do not starve the event loop', () => {
    const { host, clock } = started();
    let fired = 0;
    const again = () => {
      if (++fired < 3) clock.setTimer(0, again);
    };
    clock.setTimer(1e6, again);
    host.ms += 1;
    const { callback } = host.scheduled!;
    host.scheduled = undefined;
    callback();
    expect(fired).toBe(1);
    host.advance(0);
    expect(fired).toBe(3);
  });

  it('hold for any mixture of deadlines and cancellations', () => {
    fc.assert(
      fc.property(
        fc.array(fc.record({ at: fc.integer({ min: -5, max: 50e6 }), cancel: fc.boolean() }), {
          maxLength: 40,
        }),
        fc.double({ min: 1, max: 50, noNaN: true }),
        (entries, timeScale) => {
          const { host, clock } = started({ timeScale });
          const fired: number[] = [];
          const timers = entries.map(({ at }) =>
            clock.setTimer(at, () => {
              expect(clock.now()).toBeGreaterThanOrEqual(at);
              fired.push(at);
            }),
          );
          entries.forEach(({ cancel }, i) => {
            if (cancel) timers[i].cancel();
          });
          host.advance(51 * 50 + 2);
          const expected = entries.filter(({ cancel }) => !cancel).map(({ at }) => at);
          expect(fired).toEqual(expected.sort((a, b) => a - b));
        },
      ),
    );
  });
});

describe('the wall clock', () => {
  it('is the host date when guest time is not scaled', () => {
    const { host, clock } = started();
    host.advance(1500);
    expect(clock.wall()).toBe(Date.UTC(2030, 0, 1) + 1500);
  });

  it('follows guest time from the host date on when it is scaled', () => {
    const { host, clock } = started({ timeScale: 10 });
    host.advance(1500);
    expect(clock.wall()).toBe(Date.UTC(2030, 0, 1) + 150);
  });

  it('starts at the given base', () => {
    const { host, clock } = started({ wallBase: 12345 });
    host.advance(100);
    expect(clock.wall()).toBe(12445);
  });
});

describe('saving', () => {
  it('continues guest time and a fixed wall clock in another clock, running or not', () => {
    const { host, clock } = started({ wallBase: 1000 });
    host.advance(123);
    const state = structuredClone(clock.save());
    const other = started();
    other.host.advance(9999);
    other.clock.restore(state);
    other.host.advance(7);
    expect([other.clock.now(), other.clock.wall()]).toEqual([130e6, 1130]);
  });

  it('re-aims timers after a restore', () => {
    const { host, clock } = started();
    let fired = 0;
    clock.setTimer(50e6, () => fired++);
    clock.restore({ now: 49e6, wallBase: null });
    host.advance(1);
    expect(fired).toBe(1);
  });

  it.each([
    [null],
    [[]],
    [{}],
    [{ now: -1 }],
    [{ now: 1.5 }],
    [{ now: 'x' }],
    [{ now: 1, wallBase: Number.NaN }],
  ])('refuses the state %j and stays as it was', (state) => {
    const { host, clock } = started();
    host.advance(5);
    expect(() => clock.restore(state as never)).toThrow(expect.objectContaining({ code: 'TSV_E_STATE' }));
    expect(clock.now()).toBe(5e6);
  });
});

describe('on the real host', () => {
  it('fires timers and does not fire them early', async () => {
    const clock = new GuestClock();
    clock.start();
    const at = await new Promise<number>((resolve) => {
      clock.setTimer(3e6, () => resolve(clock.now()));
      setTimeout(() => {}, 2000).unref();
      keepAlive();
      function keepAlive() {
        if (clock.now() < 3e6) setTimeout(keepAlive, 1);
      }
    });
    clock.close();
    expect(at).toBeGreaterThanOrEqual(3e6);
  });

  it('runs a timer that is already due', async () => {
    const clock = new GuestClock();
    clock.start();
    await new Promise<void>((resolve) => clock.setTimer(0, resolve));
    clock.close();
  });
});
