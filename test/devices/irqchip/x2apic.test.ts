/** The mode with registers as MSRs. */
import { describe, expect, it } from 'vitest';
import { APIC, MSR_IA32_APICBASE } from '../../../src/devices/irqchip/apic-registers.ts';
import { type ApicBench, ApicMachine } from './apic-bench.ts';

const EXTD = 1n << 10n;
const EN = 1n << 11n;

function single(): ApicBench {
  return new ApicMachine(1).cpus[0];
}

/** What each vCPU takes after something was sent. */
function taken(machine: ApicMachine): number[][] {
  return machine.cpus.map((cpu) => cpu.takeAll());
}

describe('x2APIC mode', () => {
  it('has the registers as MSRs and no page', () => {
    const cpu = new ApicMachine(18).cpus[17].enterX2apic();
    expect([cpu.x2read(APIC.ID), cpu.x2read(APIC.LDR), cpu.x2read(APIC.LVR)]).toEqual([
      17n,
      0x1_0002n,
      0x5_0014n,
    ]);
    cpu.write(APIC.TASKPRI, 0x50);
    expect([cpu.read(APIC.ID), cpu.x2read(APIC.TASKPRI)]).toEqual([0xffff_ffff, 0n]);
  });

  it('sends with 32-bit destinations: physical, logical, broadcast, and to itself', () => {
    const machine = new ApicMachine(18);
    for (const cpu of machine.cpus) cpu.enterX2apic();
    const [sender] = machine.cpus;
    const receivers = (icr: bigint) => {
      sender.x2write(APIC.ICR, icr);
      return taken(machine).flatMap((vectors, index) => (vectors.length > 0 ? [index] : []));
    };
    expect(receivers((17n << 32n) | 0x40n)).toEqual([17]);
    expect(receivers((0x1_0003n << 32n) | 0x840n)).toEqual([16, 17]);
    expect(receivers((0xffff_ffffn << 32n) | 0x40n)).toHaveLength(18);
    expect(receivers((0xffn << 32n) | 0x40n)).toEqual([]);
    sender.x2write(APIC.SELF_IPI, 0x77n);
    expect(taken(machine)[0]).toEqual([0x77]);
  });

  it.each([
    ['a reserved bit of a register', APIC.TASKPRI, 0x100n],
    ['the upper half of a register', APIC.SPIV, 1n << 32n],
    ['an end of interrupt that is not zero', APIC.EOI, 1n],
    ['an error status that is not zero', APIC.ESR, 1n],
    ['a reserved bit of a command', APIC.ICR, 1n << 13n],
    ['the ID', APIC.ID, 1n],
    ['the version', APIC.LVR, 1n],
    ['the logical destination', APIC.LDR, 1n],
    ['the destination format', APIC.DFR, 0n],
    ["the command's upper half", APIC.ICR2, 0n],
    ['a register that is not there', 0x500, 0n],
  ])('refuses a write to %s', (_, register, value) => {
    expect(single().enterX2apic().x2write(register, value)).toBe(false);
  });

  it.each([APIC.EOI, APIC.SELF_IPI, APIC.DFR, APIC.ICR2, APIC.ARBPRI, 0x500])(
    'refuses a read of %i',
    (register) => {
      expect(single().enterX2apic().x2read(register)).toBeUndefined();
    },
  );

  it('is entered and left only by the transitions that exist', () => {
    const cpu = single();
    const base = cpu.apic.apicBase;
    const write = (value: bigint) => cpu.wrmsr(MSR_IA32_APICBASE, value);
    expect([write((base & ~EN) | EXTD), write(base | (1n << 9n)), write(base | (1n << 45n))]).toEqual([
      false,
      false,
      false,
    ]);
    expect([write(base | EXTD), write(base)]).toEqual([true, false]);
    expect([write(base & ~EN), write(base | EXTD), write(base)]).toEqual([true, false, true]);
    const without = single();
    without.apic.offersX2apic = false;
    expect(without.wrmsr(MSR_IA32_APICBASE, base | EXTD)).toBe(false);
  });

  it('does not answer MSRs of the other mode', () => {
    const cpu = single();
    expect([cpu.x2read(APIC.ID), cpu.x2write(APIC.EOI, 0n)]).toEqual([undefined, false]);
  });
});
