import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { CMOS_DATA, CMOS_INDEX, Cmos, type CmosOptions } from '../../../src/devices/legacy/cmos.ts';
import * as rtc from '../../../src/devices/legacy/cmos-registers.ts';
import { fromRegisters, toRegisters } from '../../../src/devices/legacy/rtc-time.ts';
import { DeviceBench, ManualClock } from '../../support/device-bench.ts';

const SECOND = 1e9;
/** Wednesday, 31 December 1999, 23:59:58. */
const EVE = Date.UTC(1999, 11, 31, 23, 59, 58);

function bench(options: CmosOptions & { wall?: number } = {}) {
  const device = new Cmos(options);
  const port = new DeviceBench(device, { clock: new ManualClock(options.wall ?? EVE) });
  const get = (index: number) => {
    port.out(CMOS_INDEX, index);
    return port.in(CMOS_DATA);
  };
  const set = (index: number, value: number) => {
    port.out(CMOS_INDEX, index);
    port.out(CMOS_DATA, value);
  };
  return { device, port, get, set, clock: port.clock, irq: port.irq() };
}
type Bench = ReturnType<typeof bench>;

function date({ get }: Bench): string {
  const bcd = (index: number) => get(index).toString(16).padStart(2, '0');
  return (
    `${bcd(rtc.CENTURY)}${bcd(rtc.YEAR)}-${bcd(rtc.MONTH)}-${bcd(rtc.DAY_OF_MONTH)} ` +
    `${bcd(rtc.HOURS)}:${bcd(rtc.MINUTES)}:${bcd(rtc.SECONDS)} wd${bcd(rtc.DAY_OF_WEEK)}`
  );
}

describe('the date', () => {
  it('is the wall clock in BCD and 24 hours, and moves on with it', () => {
    const cmos = bench();
    const before = date(cmos);
    cmos.clock.advance(3 * SECOND);
    expect([before, date(cmos)]).toEqual(['1999-12-31 23:59:58 wd06', '2000-01-01 00:00:01 wd07']);
  });

  it('can be read in binary and in 12 hours', () => {
    const cmos = bench();
    cmos.set(rtc.B, rtc.B_BINARY);
    expect([rtc.YEAR, rtc.HOURS, rtc.MINUTES].map(cmos.get)).toEqual([99, 11 | 0x80, 59]);
    cmos.clock.advance(3 * SECOND);
    expect(cmos.get(rtc.HOURS)).toBe(12);
  });

  it('can be set the way Linux does: SET, divider reset, fields, back', () => {
    const cmos = bench();
    const { set, get, clock } = cmos;
    set(rtc.B, rtc.B_SET | rtc.B_24_HOUR);
    set(rtc.A, 0x70);
    const fields = [
      [rtc.YEAR, 0x24],
      [rtc.CENTURY, 0x20],
      [rtc.MONTH, 0x02],
      [rtc.DAY_OF_MONTH, 0x29],
      [rtc.HOURS, 0x12],
      [rtc.MINUTES, 0x34],
      [rtc.SECONDS, 0x56],
    ];
    for (const [index, value] of fields) set(index, value);
    clock.advance(10 * SECOND);
    const halted = date(cmos);
    set(rtc.B, rtc.B_24_HOUR);
    set(rtc.A, 0x26);
    clock.advance(0.4 * SECOND);
    const before = get(rtc.SECONDS);
    clock.advance(0.2 * SECOND);

    expect(halted).toMatch(/^2024-02-29 12:34:56/);
    expect([before, get(rtc.SECONDS)]).toEqual([0x56, 0x57]);
    expect(date(cmos)).toBe('2024-02-29 12:34:57 wd05');
  });

  it('can be set while it runs', () => {
    const cmos = bench();
    cmos.set(rtc.HOURS, 0x08);
    expect(date(cmos)).toBe('1999-12-31 08:59:58 wd06');
  });

  it('survives a reset', () => {
    const cmos = bench();
    cmos.set(rtc.YEAR, 0x50);
    cmos.device.reset();
    expect(date(cmos)).toMatch(/^1950-12-31 23:59:58/);
  });

  it('is announced by UIP before it changes', () => {
    const { get, clock } = bench();
    const idle = get(rtc.A) & rtc.A_UIP;
    clock.advance(0.998 * SECOND);
    const updating = get(rtc.A) & rtc.A_UIP;
    clock.advance(0.002 * SECOND);
    expect([idle, updating, get(rtc.A) & rtc.A_UIP, get(rtc.SECONDS)]).toEqual([0, rtc.A_UIP, 0, 0x59]);
  });

  it('comes back from its registers in any format', () => {
    fc.assert(
      fc.property(
        fc.date({ min: new Date(0), max: new Date(Date.UTC(9999, 11, 31)), noInvalidDate: true }),
        fc.boolean(),
        fc.boolean(),
        (when, binary, hours24) => {
          const seconds = Math.floor(when.getTime() / 1000);
          const format = { binary, hours24 };
          expect(fromRegisters(toRegisters(seconds * 1000, format), format)).toBe(seconds);
        },
      ),
    );
  });
});

describe('interrupts', () => {
  it('come every second while update interrupts are enabled, and wait for register C', () => {
    const { set, get, clock, irq } = bench();
    set(rtc.B, rtc.B_24_HOUR | rtc.B_UIE);
    clock.advance(1 * SECOND);
    const raised = irq.level;
    clock.advance(5 * SECOND);
    const c = get(rtc.C);
    const lowered = irq.level;
    clock.advance(1 * SECOND);
    const cause = rtc.C_IRQF | rtc.UPDATE;
    expect([raised, lowered, irq.edges, c & cause, get(rtc.C) & cause]).toEqual([
      true,
      false,
      2,
      cause,
      cause,
    ]);
    expect(get(rtc.C)).toBe(0);
  });

  it('come when the alarm matches, across midnight', () => {
    const { set, get, clock, irq } = bench();
    set(rtc.HOURS_ALARM, 0x00);
    set(rtc.MINUTES_ALARM, 0x00);
    set(rtc.SECONDS_ALARM, 0x01);
    set(rtc.B, rtc.B_24_HOUR | rtc.ALARM);
    clock.advance(2.9 * SECOND);
    const early = irq.level;
    clock.advance(0.1 * SECOND);
    expect([early, irq.level, get(rtc.C) & rtc.ALARM]).toEqual([false, true, rtc.ALARM]);
  });

  it('come every minute with an alarm that matches any hour and minute', () => {
    const { set, get, clock, irq } = bench();
    set(rtc.HOURS_ALARM, 0xff);
    set(rtc.MINUTES_ALARM, 0xc0);
    set(rtc.SECONDS_ALARM, 0x00);
    set(rtc.B, rtc.B_24_HOUR | rtc.ALARM);
    for (let minute = 0; minute < 3; minute++) {
      clock.advance(60 * SECOND);
      get(rtc.C);
    }
    expect(irq.edges).toBe(3);
  });

  it('come at the periodic rate, and missed ones are one', () => {
    const { set, get, clock, irq } = bench();
    set(rtc.A, 0x2f); // 2 Hz
    set(rtc.B, rtc.B_24_HOUR | rtc.PERIODIC);
    clock.stall(1000);
    let interrupts = 0;
    for (let i = 0; i < 100; i++) {
      clock.advance(0.1 * SECOND);
      if (irq.level) {
        interrupts++;
        get(rtc.C);
      }
    }
    clock.advance(10 * SECOND);
    expect([interrupts, irq.edges]).toEqual([20, 21]);
  });

  it.each([
    [1, 256],
    [2, 128],
    [3, 8192],
    [6, 1024],
    [15, 2],
  ])('have %i for %i Hz', (rate, hz) => {
    const { set, get, clock } = bench();
    set(rtc.A, 0x20 | rate);
    get(rtc.C);
    clock.advance(SECOND / hz - 1000);
    const early = get(rtc.C) & rtc.PERIODIC;
    clock.advance(2000);
    expect([early, get(rtc.C) & rtc.PERIODIC]).toEqual([0, rtc.PERIODIC]);
  });

  it('need no timer while none is enabled', () => {
    const { clock, get } = bench();
    get(rtc.C);
    expect(clock.pending).toBe(0);
  });

  it('show in register C when polled, enabled or not', () => {
    const { clock, get } = bench();
    get(rtc.C);
    clock.advance(1 * SECOND);
    expect([get(rtc.C) & rtc.UPDATE, get(rtc.C)]).toEqual([rtc.UPDATE, 0]);
  });

  it('are off after a reset', () => {
    const { device, set, clock, irq } = bench();
    set(rtc.B, rtc.B_24_HOUR | rtc.B_UIE);
    clock.advance(SECOND);
    device.reset();
    clock.advance(5 * SECOND);
    expect([irq.level, irq.edges, clock.pending]).toEqual([false, 1, 0]);
  });
});

describe('CMOS RAM', () => {
  it('stores bytes, behind an index port that cannot be read and masks NMI', () => {
    const { port, device, get, set } = bench();
    set(0x40, 0xa5);
    port.out(CMOS_INDEX, 0x80 | 0x40);
    expect([port.in(CMOS_INDEX), port.in(CMOS_DATA), device.nmiMasked]).toEqual([0xff, 0xa5, true]);
    get(0x0d);
    expect(device.nmiMasked).toBe(false);
  });

  it('keeps the shutdown status until a reset', () => {
    const { device, get, set } = bench();
    set(rtc.SHUTDOWN_STATUS, 0x0a);
    const before = get(rtc.SHUTDOWN_STATUS);
    device.reset();
    expect([before, get(rtc.SHUTDOWN_STATUS)]).toEqual([0x0a, 0]);
  });

  it('shows a valid battery that cannot be written', () => {
    const { get, set } = bench();
    set(rtc.D, 0);
    expect(get(rtc.D)).toBe(rtc.D_VRT);
  });

  it.each([
    [128 * 2 ** 20, 0, { base: 640, ext: 65535, above16: 112 * 16, above4: 0 }],
    [8 * 2 ** 20, 0, { base: 640, ext: 7 * 1024, above16: 0, above4: 0 }],
    [512 * 1024, 0, { base: 512, ext: 0, above16: 0, above4: 0 }],
    [3 * 2 ** 30, 5 * 2 ** 30, { base: 640, ext: 65535, above16: (3072 - 16) * 16, above4: 5 * 16384 }],
  ])('holds the sizes of %i bytes of RAM below and %i above 4 GiB', (ramBelow4G, ramAbove4G, sizes) => {
    const { get } = bench({ ramBelow4G, ramAbove4G });
    const word = (index: number) => get(index) | (get(index + 1) << 8);
    expect({
      base: word(0x15),
      ext: word(0x17),
      above16: word(0x34),
      above4: word(0x5b) | (get(0x5d) << 16),
    }).toEqual(sizes);
    expect(word(0x30)).toBe(sizes.ext);
    let sum = 0;
    for (let index = 0x10; index < 0x2e; index++) sum += get(index);
    expect((get(0x2e) << 8) | get(0x2f)).toBe(sum & 0xffff);
  });
});

describe('saving', () => {
  it('continues date, alarm and interrupt on another machine, whatever its wall clock', () => {
    const first = bench();
    first.set(rtc.YEAR, 0x30);
    first.set(0x50, 7);
    first.set(rtc.B, rtc.B_24_HOUR | rtc.B_UIE);
    first.clock.advance(1 * SECOND);
    const state = structuredClone(first.device.save());

    const other = bench({ wall: EVE + 1000 });
    other.device.restore(state);
    expect([other.irq.level, other.get(0x50), other.get(rtc.YEAR)]).toEqual([true, 7, 0x30]);
    other.get(rtc.C);
    other.clock.advance(1 * SECOND);
    expect(other.irq.edges).toBe(2);
  });

  it('keeps half-set fields', () => {
    const first = bench();
    first.set(rtc.B, rtc.B_SET | rtc.B_24_HOUR);
    first.set(rtc.MINUTES, 0x11);
    const other = bench({ wall: 0 });
    other.device.restore(first.device.save());
    other.set(rtc.HOURS, 0x10);
    other.set(rtc.B, rtc.B_24_HOUR);
    expect(date(other)).toMatch(/^1999-12-31 10:11:58/);
  });

  it.each([
    { ram: [] },
    { index: 128 },
    { offset: Number.POSITIVE_INFINITY },
    { halted: [1] },
    { seenTick: -1 },
    { a: 0x80 },
  ])('refuses a state with %j and stays as it was', (change) => {
    const { device } = bench();
    const before = device.save();
    expect(() => device.restore({ ...before, nmiMasked: true, ...change })).toThrow(
      expect.objectContaining({ code: 'TSV_E_STATE' }),
    );
    expect(device.save()).toEqual(before);
  });

  it('works after any sequence of accesses, with values in range', () => {
    const step = fc.oneof(
      fc.record({ index: fc.nat(255) }),
      fc.record({ set: fc.oneof(fc.nat(0x0f), fc.nat(127)), value: fc.nat(255) }),
      fc.record({ advance: fc.integer({ min: 0, max: 90_000 }) }),
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const cmos = bench();
        for (const action of steps) {
          if ('index' in action) cmos.get(action.index);
          else if ('set' in action) cmos.set(action.set, action.value);
          else cmos.clock.advance(action.advance * 1e6);
        }
        const state = structuredClone(cmos.device.save());
        const other = bench();
        other.clock.stall(cmos.clock.now());
        other.device.restore(state);
        expect(other.irq.level).toBe(cmos.irq.level);
        expect(other.get(rtc.SECONDS)).toBe(cmos.get(rtc.SECONDS));
        expect(other.get(rtc.C) & rtc.INTERRUPTS).toBe(cmos.get(rtc.C) & rtc.INTERRUPTS);
      }),
      { numRuns: 60 },
    );
  });
});
