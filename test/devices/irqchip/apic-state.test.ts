/** A local APIC's state in struct kvm_lapic_state, whatever the guest did before. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { exportLapicState, importLapicState } from '../../../src/devices/irqchip/apic-page.ts';
import {
  APIC,
  MSR_IA32_APICBASE,
  MSR_IA32_TSC_DEADLINE,
} from '../../../src/devices/irqchip/apic-registers.ts';
import { type ApicBench, ApicMachine } from './apic-bench.ts';

function single(): ApicBench {
  return new ApicMachine(1).cpus[0];
}

/** All but the current count, which passes. */
function stored(page: Uint8Array): Uint8Array {
  return page.fill(0, APIC.TMCCT, APIC.TMCCT + 4);
}

describe('state', () => {
  it('in the KVM layout carries the count that is left', () => {
    const [machine, other] = [new ApicMachine(), new ApicMachine()];
    const cpu = machine.cpus[0].enable();
    cpu.write(APIC.TDCR, 0xb);
    cpu.write(APIC.LVTT, 0x30);
    cpu.write(APIC.TMICT, 500);
    machine.now = 100;
    other.now = 7000;
    importLapicState(other.cpus[0].apic, exportLapicState(cpu.apic));
    expect(other.cpus[0].apic.nextDeadline()).toBe(7400);
  });

  it('in the KVM layout has the x2APIC’s ID and command where the xAPIC has them', () => {
    const machine = new ApicMachine(4);
    const cpu = machine.cpus[3].enterX2apic();
    cpu.x2write(APIC.ICR, (2n << 32n) | 0x40n);
    const view = new DataView(exportLapicState(cpu.apic).buffer);
    expect([APIC.ID, APIC.LDR, APIC.ICR, APIC.ICR2].map((at) => view.getUint32(at, true))).toEqual([
      3 << 24,
      8,
      0x40,
      2,
    ]);
  });

  it('that is too short is refused', () => {
    expect(() => importLapicState(single().apic, new Uint8Array(1023))).toThrow(
      expect.objectContaining({ code: 'TSV_E_STATE' }),
    );
  });
});

describe('hostile guests', () => {
  const offset = fc.oneof(
    fc.nat(0xfff),
    fc.nat(0x3f).map((n) => n * 16),
  );
  const value = fc.oneof(fc.nat(0xffff_ffff), fc.constantFrom(0, 0xffff_ffff, 0x1ff, 0xc0ff));
  const action = fc.oneof(
    fc.record({ kind: fc.constant('read'), offset, size: fc.constantFrom(1, 2, 4), value }),
    fc.record({ kind: fc.constant('write'), offset, size: fc.constantFrom(1, 2, 4), value }),
    fc.record({ kind: fc.constant('rdmsr'), offset, size: fc.constant(4), value }),
    fc.record({ kind: fc.constant('wrmsr'), offset, size: fc.constant(4), value }),
    fc.record({
      kind: fc.constantFrom('mode', 'deadline', 'time', 'load'),
      offset,
      size: fc.constant(4),
      value,
    }),
  );

  it('cannot break a local APIC by any access in any order, nor its state in the KVM layout', () => {
    fc.assert(
      fc.property(fc.array(action, { maxLength: 60 }), fc.boolean(), (actions, x2apic) => {
        const machine = new ApicMachine(3);
        const [cpu] = machine.cpus;
        for (const each of machine.cpus) each.enable();
        if (x2apic) cpu.enterX2apic();
        for (const { kind, offset, size, value } of actions) {
          if (kind === 'read') {
            const read = cpu.read(offset, size);
            expect(Number.isInteger(read) && read >= 0 && read < 2 ** (8 * size)).toBe(true);
          } else if (kind === 'write') cpu.write(offset, value, size);
          else if (kind === 'rdmsr') {
            const read = cpu.x2read(offset & ~0xf) ?? 0n;
            expect(read >= 0n && read < 1n << 64n).toBe(true);
          } else if (kind === 'wrmsr') cpu.x2write(offset & ~0xf, BigInt(value) * BigInt(offset));
          else if (kind === 'mode') cpu.wrmsr(MSR_IA32_APICBASE, 0xfee0_0100n | (BigInt(value & 3) << 10n));
          else if (kind === 'deadline') cpu.wrmsr(MSR_IA32_TSC_DEADLINE, BigInt(value) ** 2n);
          else if (kind === 'time') machine.now += value;
          else importLapicState(cpu.apic, new Uint8Array(1024).fill(value).fill(offset, 0x80, 0x300));
          for (const each of machine.cpus) {
            each.apic.poll();
            if ((value & 1) !== 0 && each.apic.pendingVector() >= 0) each.apic.acknowledge();
            expect(each.apic.pendingVector()).toBeLessThan(256);
            const deadline = each.apic.nextDeadline();
            expect(Number.isNaN(deadline)).toBe(false);
            expect(deadline).toBeGreaterThan(machine.now);
          }
        }
        const state = exportLapicState(cpu.apic);
        const copy = new ApicMachine(3).cpus[0].apic;
        copy.loadApicBase(cpu.apic.apicBase);
        importLapicState(copy, state);
        copy.timer.tscDeadline = cpu.apic.timer.tscDeadline;
        expect(stored(exportLapicState(copy))).toEqual(stored(state));
      }),
      { numRuns: 1000 },
    );
  });
});
