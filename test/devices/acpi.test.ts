import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  AcpiPm,
  type AcpiPmOptions,
  PM,
  PM_TIMER_HZ,
  PWRBTN_STS,
  S5_SLEEP_TYPE,
  SCI_EN,
  SLP_EN,
  TMR_STS,
  WAK_STS,
} from '../../src/devices/acpi/pm.ts';
import { DeviceBench } from '../support/device-bench.ts';

const STATUS = PM.PM1A_EVT;
const ENABLE = PM.PM1A_EVT + 2;
const SECOND = 1e9;

function bench(options: AcpiPmOptions = {}) {
  const device = new AcpiPm(options);
  const port = new DeviceBench(device);
  return { device, port, clock: port.clock, irq: port.irq() };
}

describe('the PM timer', () => {
  it('counts 3.579545 MHz of guest time', () => {
    const { port, clock } = bench();
    clock.advance(1 * SECOND + 1);
    expect(port.in(PM.PM_TMR, 4)).toBe(PM_TIMER_HZ);
  });

  it('reads the same by bytes and words', () => {
    const { port, clock } = bench();
    clock.advance(1234567890);
    const whole = port.in(PM.PM_TMR, 4);
    const bytes = [0, 1, 2, 3].map((i) => port.in(PM.PM_TMR + i, 1) * 2 ** (8 * i));
    const words = port.in(PM.PM_TMR, 2) + port.in(PM.PM_TMR + 2, 2) * 65536;
    expect([bytes.reduce((a, b) => a + b), words]).toEqual([whole, whole]);
  });

  it.each([
    [24, 2 ** 24],
    [32, 2 ** 32],
  ] as const)('wraps at %i bits', (timerBits, range) => {
    const { port, clock } = bench({ timerBits });
    clock.advance(Math.ceil(((range + 10) * SECOND) / PM_TIMER_HZ));
    expect(port.in(PM.PM_TMR, 4)).toBe(10);
  });

  it.each([24, 32] as const)(
    'sets its status when the top bit of %i changes, and interrupts if enabled',
    (timerBits) => {
      const { port, clock, irq } = bench({ timerBits });
      const half = (2 ** (timerBits - 1) * SECOND) / PM_TIMER_HZ;
      port.out(ENABLE, TMR_STS, 2);
      clock.advance(half - 1000);
      const early = [port.in(STATUS, 2), irq.level];
      clock.advance(2000);
      expect([early, irq.level, port.in(STATUS, 2)]).toEqual([[0, false], true, TMR_STS]);
      port.out(STATUS, TMR_STS, 2);
      const cleared = irq.level;
      clock.advance(half);
      expect([cleared, irq.level, irq.edges]).toEqual([false, true, 2]);
    },
  );

  it('shows its status without an interrupt when nobody enabled it, and needs no host timer', () => {
    const { port, clock, irq } = bench({ timerBits: 24 });
    expect(clock.pending).toBe(0);
    clock.advance(3 * SECOND);
    expect([port.in(STATUS, 2), irq.edges]).toEqual([TMR_STS, 0]);
  });
});

describe('the power button', () => {
  it('raises the SCI until the guest clears its status', () => {
    const { device, port, irq } = bench();
    port.out(ENABLE, PWRBTN_STS, 2);
    device.pressPowerButton();
    expect([irq.level, port.in(STATUS, 2)]).toEqual([true, PWRBTN_STS]);
    port.out(STATUS, PWRBTN_STS, 2);
    expect([irq.level, port.in(STATUS, 2)]).toEqual([false, 0]);
  });

  it('pressed before the guest enables it interrupts then', () => {
    const { device, port, irq } = bench();
    device.pressPowerButton();
    const before = irq.level;
    port.out(ENABLE + 1, PWRBTN_STS >> 8, 1);
    expect([before, irq.level]).toEqual([false, true]);
  });
});

describe('sleep control', () => {
  it('powers off for S5', () => {
    const { port } = bench();
    port.out(PM.PM1A_CNT, (S5_SLEEP_TYPE << 10) | SLP_EN | SCI_EN, 2);
    expect(port.stops).toEqual([{ kind: 'poweroff', by: 'ACPI S5' }]);
  });

  it('powers off when type and enable are written one after the other, or by bytes', () => {
    const { port } = bench();
    port.out(PM.PM1A_CNT, S5_SLEEP_TYPE << 10, 2);
    const before = port.stops.length;
    port.out(PM.PM1A_CNT + 1, (S5_SLEEP_TYPE << 2) | (SLP_EN >> 8), 1);
    expect([before, port.stops.length]).toEqual([0, 1]);
  });

  it('goes on at once for a sleep state the machine has not, and says so', () => {
    const { port } = bench();
    port.out(PM.PM1A_CNT, (1 << 10) | SLP_EN, 2);
    expect([port.stops, port.logs.length, port.in(STATUS, 2)]).toEqual([[], 1, WAK_STS]);
  });

  it('is always in ACPI mode, and SLP_EN reads 0', () => {
    const { port } = bench();
    port.out(PM.PM1A_CNT, (2 << 10) | SLP_EN, 2);
    expect(port.in(PM.PM1A_CNT, 2)).toBe((2 << 10) | SCI_EN);
  });
});

describe('general-purpose events', () => {
  it('raise the SCI while status and enable agree', () => {
    const { device, port, irq } = bench();
    device.raiseGpe(9);
    const before = irq.level;
    port.out(PM.GPE0 + 2, 0x0200, 2);
    expect([before, irq.level, port.in(PM.GPE0, 4)]).toEqual([false, true, 0x02000200]);
    port.out(PM.GPE0 + 1, 0x02, 1);
    expect([irq.level, port.in(PM.GPE0, 2)]).toEqual([false, 0]);
  });
});

describe('life cycle', () => {
  it('reset clears events, enables and the interrupt', () => {
    const { device, port, irq, clock } = bench();
    const fresh = device.save();
    port.out(ENABLE, PWRBTN_STS | TMR_STS, 2);
    port.out(PM.GPE0 + 2, 0xffff, 2);
    device.pressPowerButton();
    device.raiseGpe(3);
    device.reset();
    expect([device.save(), irq.level, clock.pending]).toEqual([fresh, false, 0]);
  });

  it('continues a pending interrupt and the timer on another machine', () => {
    const { device, port, clock } = bench({ timerBits: 24 });
    port.out(ENABLE, PWRBTN_STS | TMR_STS, 2);
    device.pressPowerButton();
    clock.advance(2 * SECOND);
    const other = bench({ timerBits: 24 });
    other.clock.stall(clock.now());
    other.device.restore(structuredClone(device.save()));
    expect(other.irq.level).toBe(true);
    other.port.out(STATUS, PWRBTN_STS, 2);
    expect(other.irq.level).toBe(false);
    other.clock.advance(0.5 * SECOND);
    expect([other.irq.level, other.port.in(STATUS, 2)]).toEqual([true, TMR_STS]);
  });

  it.each([
    { status: -1 },
    { enable: 0x10000 },
    { control: null },
    { seenHalf: 1.5 },
    { gpeEnable: 0x10000 },
  ])('refuses a state with %j and stays as it was', (change) => {
    const { device } = bench();
    const before = device.save();
    expect(() => device.restore({ ...before, gpeStatus: 1, ...change })).toThrow(
      expect.objectContaining({ code: 'TSV_E_STATE' }),
    );
    expect(device.save()).toEqual(before);
  });

  it('takes any accesses, with values in range, the interrupt following the state, and a restorable state', () => {
    const step = fc.oneof(
      fc.record({ offset: fc.nat(31), size: fc.constantFrom(1 as const, 2 as const, 4 as const) }),
      fc.record({
        offset: fc.nat(31),
        size: fc.constantFrom(1 as const, 2 as const, 4 as const),
        value: fc.integer({ min: 0, max: 0xffffffff }),
      }),
      fc.record({ advance: fc.nat(1000) }),
      fc.record({ gpe: fc.nat(40) }),
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const { device, port, clock, irq } = bench({ timerBits: 24 });
        for (const action of steps) {
          if ('advance' in action) clock.advance(action.advance * 1e7);
          else if ('gpe' in action) device.raiseGpe(action.gpe);
          else if ('value' in action)
            port.out(action.offset, action.value % 2 ** (8 * action.size), action.size);
          else port.in(action.offset, action.size);
          const fixed = port.in(STATUS, 2) & port.in(ENABLE, 2);
          const general = port.in(PM.GPE0, 2) & port.in(PM.GPE0 + 2, 2);
          expect(irq.level).toBe(fixed !== 0 || general !== 0);
        }
        const state = structuredClone(device.save());
        const other = bench({ timerBits: 24 });
        other.clock.stall(clock.now());
        other.device.restore(state);
        expect(other.device.save()).toEqual(state);
        expect(other.irq.level).toBe(irq.level);
      }),
    );
  });
});
