import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { exportLapicState, importLapicState } from '../../../src/devices/irqchip/apic-page.ts';
import {
  APIC,
  APIC_LVT_MASKED,
  APIC_LVT_TIMER_PERIODIC,
  APIC_LVT_TIMER_TSCDEADLINE,
  MSR_IA32_TSC_DEADLINE,
} from '../../../src/devices/irqchip/apic-registers.ts';
import { timerDivisor } from '../../../src/devices/irqchip/apic-timer.ts';
import { ApicMachine } from './apic-bench.ts';

const VECTOR = 0x40;
const DIVIDE_BY_1 = 0xb;
const DIVIDE_BY_16 = 0x3;

function bench() {
  const machine = new ApicMachine();
  const cpu = machine.cpus[0].enable();
  return {
    machine,
    cpu,
    /** Moves guest time on and counts the interrupts that arrive. */
    advance(ns: number) {
      machine.now += ns;
      return cpu.takeAll().length;
    },
  };
}

describe('the count', () => {
  it('ends once in one-shot mode', () => {
    const { cpu, advance } = bench();
    cpu.write(APIC.TDCR, DIVIDE_BY_16);
    cpu.write(APIC.LVTT, VECTOR);
    cpu.write(APIC.TMICT, 100);
    expect(cpu.apic.nextDeadline()).toBe(1600);
    expect([advance(1599), cpu.read(APIC.TMCCT), advance(1), cpu.read(APIC.TMCCT), advance(9999)]).toEqual([
      0, 1, 1, 0, 0,
    ]);
    expect(cpu.apic.nextDeadline()).toBe(Number.POSITIVE_INFINITY);
  });

  it('comes again on the original schedule in periodic mode, once for all periods that were missed', () => {
    const { cpu, machine, advance } = bench();
    cpu.write(APIC.TDCR, DIVIDE_BY_1);
    cpu.write(APIC.LVTT, VECTOR | APIC_LVT_TIMER_PERIODIC);
    cpu.write(APIC.TMICT, 1000);
    expect([advance(1000), advance(999), advance(3501)]).toEqual([1, 0, 1]);
    expect(machine.now).toBe(5500);
    expect([cpu.apic.nextDeadline(), cpu.read(APIC.TMCCT)]).toEqual([6000, 500]);
  });

  it('divides the bus clock as the data sheet says', () => {
    const divisors = [0, 1, 2, 3, 8, 9, 10, 11].map(timerDivisor);
    expect(divisors).toEqual([2, 4, 8, 16, 32, 64, 128, 1]);
  });

  it('goes on from where it is when the divisor changes', () => {
    const { cpu, machine } = bench();
    cpu.write(APIC.TDCR, DIVIDE_BY_1);
    cpu.write(APIC.LVTT, VECTOR);
    cpu.write(APIC.TMICT, 1000);
    machine.now = 400;
    cpu.write(APIC.TDCR, DIVIDE_BY_16);
    expect([cpu.read(APIC.TMCCT), cpu.apic.nextDeadline()]).toEqual([600, 400 + 600 * 16]);
  });

  it('runs unseen while masked, and does not interrupt when unmasked after its end', () => {
    const { cpu, machine } = bench();
    cpu.write(APIC.TDCR, DIVIDE_BY_1);
    cpu.write(APIC.LVTT, VECTOR | APIC_LVT_MASKED);
    cpu.write(APIC.TMICT, 1000);
    expect(cpu.apic.nextDeadline()).toBe(Number.POSITIVE_INFINITY);
    machine.now = 2000;
    cpu.write(APIC.LVTT, VECTOR);
    expect([cpu.read(APIC.TMCCT), cpu.takeAll()]).toEqual([0, []]);
  });

  it('that has ended unseen is a request in the state that is taken', () => {
    const { cpu, machine } = bench();
    cpu.write(APIC.TDCR, DIVIDE_BY_1);
    cpu.write(APIC.LVTT, VECTOR);
    cpu.write(APIC.TMICT, 100);
    machine.now += 100;
    const other = bench();
    other.machine.now = machine.now;

    importLapicState(other.cpu.apic, exportLapicState(cpu.apic));

    expect(other.cpu.takeAll()).toEqual([VECTOR]);
  });

  it('stops when zero is written', () => {
    const { cpu, advance } = bench();
    cpu.write(APIC.LVTT, VECTOR | APIC_LVT_TIMER_PERIODIC);
    cpu.write(APIC.TMICT, 1000);
    cpu.write(APIC.TMICT, 0);
    expect([advance(1e9), cpu.apic.nextDeadline()]).toEqual([0, Number.POSITIVE_INFINITY]);
  });
});

describe('the TSC deadline', () => {
  it('interrupts once when the TSC gets there, and reads as zero then', () => {
    const { cpu, advance } = bench();
    cpu.write(APIC.LVTT, VECTOR | APIC_LVT_TIMER_TSCDEADLINE);
    cpu.wrmsr(MSR_IA32_TSC_DEADLINE, 2000n);
    expect([cpu.apic.nextDeadline(), cpu.rdmsr(MSR_IA32_TSC_DEADLINE)]).toEqual([1000, 2000n]);
    expect([advance(999), advance(1), advance(9999)]).toEqual([0, 1, 0]);
    expect(cpu.rdmsr(MSR_IA32_TSC_DEADLINE)).toBe(0n);
  });

  it('that is in the past interrupts at once', () => {
    const { cpu, machine } = bench();
    machine.now = 1e9;
    cpu.write(APIC.LVTT, VECTOR | APIC_LVT_TIMER_TSCDEADLINE);
    cpu.wrmsr(MSR_IA32_TSC_DEADLINE, 1n);
    expect(cpu.takeAll()).toEqual([VECTOR]);
  });

  it('is disarmed by zero, by leaving the mode, and ignored outside it', () => {
    const { cpu, advance } = bench();
    cpu.wrmsr(MSR_IA32_TSC_DEADLINE, 500n);
    const outside = cpu.rdmsr(MSR_IA32_TSC_DEADLINE);
    cpu.write(APIC.LVTT, VECTOR | APIC_LVT_TIMER_TSCDEADLINE);
    cpu.wrmsr(MSR_IA32_TSC_DEADLINE, 500n);
    cpu.wrmsr(MSR_IA32_TSC_DEADLINE, 0n);
    const afterZero = cpu.apic.nextDeadline();
    cpu.wrmsr(MSR_IA32_TSC_DEADLINE, 500n);
    cpu.write(APIC.LVTT, VECTOR);
    expect([outside, afterZero, advance(1e9)]).toEqual([0n, Number.POSITIVE_INFINITY, 0]);
  });

  it('follows a TSC that was set anew', () => {
    const { cpu, machine } = bench();
    cpu.write(APIC.LVTT, VECTOR | APIC_LVT_TIMER_TSCDEADLINE);
    cpu.wrmsr(MSR_IA32_TSC_DEADLINE, 2000n);
    machine.tscPerNs = 4;
    cpu.apic.timer.retime();
    expect(cpu.apic.nextDeadline()).toBe(500);
  });
});

it('interrupts as often as periods end, however time passes', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 0xffff_ffff }),
      fc.constantFrom(0, 1, 2, 3, 8, 9, 10, 11),
      fc.array(fc.double({ min: 0, max: 3, noNaN: true }), { maxLength: 20 }),
      (count, tdcr, steps) => {
        const { cpu, machine, advance } = bench();
        cpu.write(APIC.TDCR, tdcr);
        cpu.write(APIC.LVTT, VECTOR | APIC_LVT_TIMER_PERIODIC);
        cpu.write(APIC.TMICT, count);
        const period = count * timerDivisor(tdcr);
        for (const step of steps) {
          const before = Math.floor(machine.now / period);
          const interrupts = advance(Math.floor(step * period));
          const passed = Math.floor(machine.now / period) - before;
          expect(interrupts).toBe(Math.min(passed, 1));
          expect(cpu.apic.nextDeadline()).toBe((Math.floor(machine.now / period) + 1) * period);
        }
      },
    ),
    { numRuns: 300 },
  );
});
