import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { PIT_CONTROL, PIT_HZ, Pit } from '../../../src/devices/legacy/pit.ts';
import { DeviceBench } from '../../support/device-bench.ts';

/** Length of `ticks` of the PIT's clock, ns. */
const ns = (ticks: number) => (ticks * 1e9) / PIT_HZ;
const LOW_HIGH = 0x30;
const BCD = 1;
const STATUS_OUT = 0x80;
const STATUS_NULL = 0x40;

function bench() {
  const device = new Pit();
  const port = new DeviceBench(device);
  const { clock } = port;
  // In the middle of a tick, so that rounding does not decide what a test sees.
  clock.stall(ns(0.5));
  return {
    device,
    port,
    clock,
    irq: port.irq(),
    advance: (ticks: number) => clock.advance(ns(ticks)),
    program(counter: number, mode: number, count: number, flags = 0) {
      port.out(PIT_CONTROL, (counter << 6) | LOW_HIGH | (mode << 1) | flags);
      port.out(counter, count & 0xff);
      port.out(counter, count >> 8);
    },
    count(counter: number) {
      port.out(PIT_CONTROL, counter << 6);
      return port.in(counter) | (port.in(counter) << 8);
    },
    status(counter: number) {
      port.out(PIT_CONTROL, 0xe0 | (2 << counter));
      return port.in(counter);
    },
  };
}

/** Levels of OUT2, one for each of the next ticks. */
function trace({ device, advance }: ReturnType<typeof bench>, ticks: number): string {
  let levels = '';
  for (let i = 0; i < ticks; i++) {
    levels += device.out2 ? '-' : '_';
    advance(1);
  }
  return levels;
}

describe('modes of a counter', () => {
  it('0: OUT is low until the count is over, then high until the next', () => {
    const pit = bench();
    pit.device.gate2 = true;
    pit.program(2, 0, 4);
    const first = trace(pit, 7);
    pit.port.out(2, 3);
    const half = trace(pit, 2);
    pit.port.out(2, 0);
    expect([first, half, trace(pit, 5)]).toEqual(['____---', '__', '___--']);
  });

  it('0: stops while the gate is low', () => {
    const pit = bench();
    pit.device.gate2 = true;
    pit.program(2, 0, 10);
    pit.advance(3);
    pit.device.gate2 = false;
    pit.advance(100);
    const held = pit.count(2);
    pit.device.gate2 = true;
    expect([held, trace(pit, 9)]).toEqual([7, '_______--']);
  });

  it('1: each rising gate gives one pulse, with the count written last', () => {
    const pit = bench();
    pit.program(2, 1, 3);
    const idle = trace(pit, 2);
    pit.device.gate2 = true;
    const pulse = trace(pit, 5);
    pit.device.gate2 = false;
    pit.port.out(2, 5);
    pit.port.out(2, 0);
    pit.device.gate2 = true;
    pit.advance(3);
    pit.device.gate2 = false;
    pit.device.gate2 = true;
    expect([idle, pulse, trace(pit, 7)]).toEqual(['--', '___--', '_____--']);
  });

  it('2: OUT is low for the last tick of each period', () => {
    const pit = bench();
    pit.device.gate2 = true;
    pit.program(2, 2, 4);
    expect(trace(pit, 10)).toBe('---_---_--');
  });

  it('2: takes a new count at the end of the period, or at once by the gate', () => {
    const pit = bench();
    pit.device.gate2 = true;
    pit.program(2, 2, 5);
    pit.advance(1);
    pit.port.out(2, 3);
    pit.port.out(2, 0);
    const waiting = pit.status(2) & STATUS_NULL;
    const levels = trace(pit, 10);
    const taken = pit.status(2) & STATUS_NULL;
    pit.port.out(2, 6);
    pit.port.out(2, 0);
    pit.device.gate2 = false;
    const off = trace(pit, 3);
    pit.device.gate2 = true;
    expect([waiting, levels, taken]).toEqual([STATUS_NULL, '---_--_--_', 0]);
    expect([off, trace(pit, 7)]).toEqual(['---', '-----_-']);
  });

  it('3: OUT is high for the longer half and low for the other', () => {
    const even = bench();
    even.device.gate2 = true;
    even.program(2, 3, 4);
    const odd = bench();
    odd.device.gate2 = true;
    odd.program(2, 3, 5);
    expect([trace(even, 9), trace(odd, 11)]).toEqual(['--__--__-', '---__---__-']);
  });

  it('3: takes a new count at the end of the half period', () => {
    const pit = bench();
    pit.device.gate2 = true;
    pit.program(2, 3, 8);
    pit.advance(1);
    pit.port.out(2, 4);
    pit.port.out(2, 0);
    expect(trace(pit, 10)).toBe('---__--__-');
  });

  it('4: OUT is low for one tick after the count', () => {
    const pit = bench();
    pit.device.gate2 = true;
    pit.program(2, 4, 3);
    expect(trace(pit, 6)).toBe('---_--');
  });

  it('5: OUT is low for one tick after a count the gate starts', () => {
    const pit = bench();
    pit.program(2, 5, 3);
    const idle = trace(pit, 3);
    pit.device.gate2 = true;
    expect([idle, trace(pit, 6)]).toEqual(['---', '---_--']);
  });

  it('6 and 7 are 2 and 3', () => {
    const pit = bench();
    pit.program(2, 6, 4);
    const six = pit.status(2);
    pit.program(2, 7, 4);
    expect([(six >> 1) & 7, (pit.status(2) >> 1) & 7]).toEqual([2, 3]);
  });
});

describe('reading a counter', () => {
  it('gives low and high byte in turn as the count runs, as quick_pit_calibrate polls it', () => {
    const { port, device, program, advance } = bench();
    device.gate2 = true;
    program(2, 0, 0xffff);
    const high: number[] = [];
    for (let i = 0; i < 4; i++) {
      port.in(2);
      high.push(port.in(2));
      advance(256);
    }
    expect(high).toEqual([0xff, 0xfe, 0xfd, 0xfc]);
  });

  it('goes on below zero after the terminal count', () => {
    const { device, program, advance, count } = bench();
    device.gate2 = true;
    program(2, 0, 10);
    advance(12);
    expect(count(2)).toBe(0xfffe);
  });

  it('of a square wave counts by twos', () => {
    const { device, program, advance, count } = bench();
    device.gate2 = true;
    program(2, 3, 8);
    const counts = [];
    for (let i = 0; i < 8; i++) {
      counts.push(count(2));
      advance(1);
    }
    expect(counts).toEqual([8, 6, 4, 2, 8, 6, 4, 2]);
  });

  it('gives a latched count until it has been read', () => {
    const { port, device, program, advance } = bench();
    device.gate2 = true;
    program(2, 2, 1000);
    advance(100);
    port.out(PIT_CONTROL, 0x80);
    advance(100);
    port.out(PIT_CONTROL, 0x80);
    const latched = port.in(2) | (port.in(2) << 8);
    expect([latched, port.in(2) | (port.in(2) << 8)]).toEqual([900, 800]);
  });

  it('gives status, then count, after a read-back of both', () => {
    const { port, device, program, advance } = bench();
    device.gate2 = true;
    program(2, 2, 0x1234, BCD);
    advance(4);
    port.out(PIT_CONTROL, 0xc8);
    const bytes = [port.in(2), port.in(2), port.in(2)];
    expect(bytes).toEqual([STATUS_OUT | LOW_HIGH | (2 << 1) | BCD, 0x30, 0x12]);
  });

  it('reads one byte where only one is accessed', () => {
    const { port, device } = bench();
    device.gate2 = true;
    port.out(PIT_CONTROL, 0x80 | 0x20 | 0x04);
    port.out(2, 0x12);
    const high = [port.in(2), port.in(2)];
    port.out(PIT_CONTROL, 0x80 | 0x10 | 0x04);
    port.out(2, 0x34);
    expect([...high, port.in(2)]).toEqual([0x12, 0x12, 0x34]);
  });

  it('counts in decimal', () => {
    const { device, program, advance, count } = bench();
    device.gate2 = true;
    program(2, 2, 0, BCD);
    const full = count(2);
    advance(1);
    expect([full, count(2)]).toEqual([0x0000, 0x9999]);
  });

  it('shows a null count until one is complete', () => {
    const { port, status } = bench();
    port.out(PIT_CONTROL, 0xb4);
    port.out(2, 1);
    const before = status(2) & STATUS_NULL;
    port.out(2, 1);
    expect([before, status(2) & STATUS_NULL]).toEqual([STATUS_NULL, 0]);
  });

  it('reads all ones at the control word register', () => {
    expect(bench().port.in(PIT_CONTROL)).toBe(0xff);
  });
});

describe('the timer interrupt', () => {
  const HZ_100 = 11932;

  it('comes once a period without drifting', () => {
    const { program, clock, irq } = bench();
    program(0, 2, HZ_100);
    const before = irq.edges;
    clock.advance(ns(HZ_100) * 1000 + 1000);
    expect(irq.edges - before).toBe(1000);
  });

  it('comes in square-wave mode too', () => {
    const { program, clock, irq } = bench();
    program(0, 3, HZ_100);
    const before = irq.edges;
    clock.advance(ns(HZ_100) * 10 + 1000);
    expect(irq.edges - before).toBe(10);
  });

  it('is one for any number of missed periods, and the next is on schedule', () => {
    const { program, clock, irq } = bench();
    program(0, 2, HZ_100);
    const before = irq.edges;
    clock.stall(ns(HZ_100 * 50.5));
    clock.advance(0);
    const late = irq.edges - before;
    clock.advance(ns(HZ_100 * 0.49));
    const early = irq.edges - before;
    clock.advance(ns(HZ_100 * 0.02));
    expect([late, early, irq.edges - before]).toEqual([1, 1, 2]);
  });

  it('comes once in mode 0 and stays up, until the next count', () => {
    const { program, port, advance, irq } = bench();
    program(0, 0, 100);
    const start = irq.level;
    advance(99);
    const before = irq.level;
    advance(2);
    const up = irq.level;
    advance(1e6);
    const edges = irq.edges;
    port.out(0, 50);
    port.out(0, 0);
    expect([start, before, up, edges, irq.level]).toEqual([false, false, true, 1, false]);
    advance(51);
    expect(irq.edges).toBe(2);
  });

  it('needs no timer after the one shot', () => {
    const { program, advance, clock } = bench();
    program(0, 0, 100);
    advance(200);
    expect(clock.pending).toBe(0);
  });

  it('cannot be made to come faster than the clock gives time for', () => {
    const { program, clock, irq } = bench();
    program(0, 2, 1);
    const before = irq.edges;
    for (let i = 0; i < 10; i++) {
      clock.stall(1e6);
      clock.advance(0);
    }
    expect(irq.edges - before).toBe(10);
  });

  it('does not depend on accesses to the other counters', () => {
    const { program, advance, irq } = bench();
    program(0, 2, 1000);
    const before = irq.edges;
    for (let i = 0; i < 10; i++) {
      advance(100);
      program(2, 0, 5);
    }
    expect(irq.edges - before).toBe(1);
  });

  it('does not come before the counter is programmed, nor after a reset', () => {
    const { device, program, advance, irq, clock } = bench();
    advance(1e6);
    const unprogrammed = irq.edges;
    program(0, 2, 1000);
    device.reset();
    const before = irq.edges;
    advance(1e6);
    expect([unprogrammed, irq.edges - before, irq.level, clock.pending]).toEqual([0, 0, false, 0]);
  });
});

describe('saving', () => {
  it('continues counts, half-written ones and the schedule on another machine', () => {
    const { device, port, program, advance, clock } = bench();
    device.gate2 = true;
    program(0, 2, 1000);
    program(2, 3, 50000);
    advance(1300);
    port.out(PIT_CONTROL, 0x80);
    port.in(2);
    port.out(1, 0x55);
    const state = structuredClone(device.save());

    const other = bench();
    other.clock.stall(clock.now() - other.clock.now());
    other.device.restore(state);
    expect(other.device.save()).toEqual(state);
    const before = other.irq.edges;
    other.advance(699);
    const early = other.irq.edges - before;
    other.advance(2);
    expect([early, other.irq.edges - before, other.port.in(2)]).toEqual([0, 1, port.in(2)]);
  });

  it('does not lose an edge that was due', () => {
    const { device, program, clock, irq } = bench();
    program(0, 2, 1000);
    const before = irq.edges;
    clock.stall(ns(1500));
    device.save();
    expect(irq.edges - before).toBe(1);
  });

  it.each([
    { mode: 6 },
    { reload: 0 },
    { reload: 1, mode: 2 },
    { start: Number.NaN },
    { access: 0 },
    { latchedCount: 70000 },
    { gate: 1 },
  ])('refuses a counter with %j and stays as it was', (change) => {
    const { device } = bench();
    const before = device.save() as { counters: Record<string, unknown>[] };
    const counters = [
      { ...before.counters[0], low: 7 },
      before.counters[1],
      { ...before.counters[2], ...change },
    ];
    expect(() => device.restore({ counters })).toThrow(expect.objectContaining({ code: 'TSV_E_STATE' }));
    expect(device.save()).toEqual(before);
  });

  it('works after any sequence of accesses, with values in range and the same future', () => {
    const step = fc.oneof(
      { weight: 3, arbitrary: fc.record({ read: fc.nat(3) }) },
      { weight: 6, arbitrary: fc.record({ write: fc.nat(3), value: fc.nat(255) }) },
      { weight: 1, arbitrary: fc.record({ gate: fc.boolean() }) },
      { weight: 2, arbitrary: fc.record({ stall: fc.nat(300_000) }) },
      { weight: 2, arbitrary: fc.record({ advance: fc.nat(2000) }) },
    );
    const act = (
      pit: ReturnType<typeof bench>,
      steps: (typeof step extends fc.Arbitrary<infer T> ? T : never)[],
    ) =>
      steps.map((action) => {
        if ('read' in action) return pit.port.in(action.read);
        if ('write' in action) pit.port.out(action.write, action.value);
        else if ('gate' in action) pit.device.gate2 = action.gate;
        else if ('stall' in action) pit.clock.stall(ns(action.stall));
        else pit.advance(action.advance);
        return Number(pit.device.out2);
      });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 80 }), fc.array(step, { maxLength: 30 }), (past, future) => {
        const pit = bench();
        act(pit, past);
        const state = structuredClone(pit.device.save());
        const other = bench();
        other.clock.stall(pit.clock.now() - other.clock.now());
        other.device.restore(state);
        expect(other.irq.level).toBe(pit.irq.level);
        expect(act(other, future)).toEqual(act(pit, future));
      }),
      { numRuns: 200 },
    );
  });
});
