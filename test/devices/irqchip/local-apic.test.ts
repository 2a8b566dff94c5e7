import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { WAKE } from '../../../src/devices/irqchip/apic-mailbox.ts';
import { exportLapicState, importLapicState } from '../../../src/devices/irqchip/apic-page.ts';
import {
  APIC,
  APIC_ESR_ILLREGA,
  APIC_ESR_RECVILL,
  APIC_ESR_SENDILL,
  APIC_LVT_MASKED,
  APIC_SPIV_DIRECTED_EOI,
  DELIVERY,
  MSR_IA32_APICBASE,
  MSR_IA32_TSC_DEADLINE,
} from '../../../src/devices/irqchip/apic-registers.ts';
import { ApicMachine, SPIV_ENABLED } from './apic-bench.ts';

const EXTD = 1n << 10n;
const EN = 1n << 11n;
const SHORTHAND = { self: 1 << 18, all: 2 << 18, others: 3 << 18 };
const LOGICAL = 1 << 11;
const mode = (delivery: number) => delivery << 8;

function single(options = {}) {
  return new ApicMachine(1, options).cpus[0];
}

/** What each vCPU takes after something was sent. */
function taken(machine: ApicMachine): number[][] {
  return machine.cpus.map((cpu) => cpu.takeAll());
}

describe('after power-up', () => {
  it('is the disabled-by-software xAPIC of the manual', () => {
    const cpu = single();
    const read = (name: keyof typeof APIC) => cpu.read(APIC[name]);
    expect(cpu.rdmsr(MSR_IA32_APICBASE)).toBe(0xfee0_0900n);
    expect([read('ID'), read('LVR'), read('TASKPRI'), read('LDR'), read('DFR'), read('SPIV')]).toEqual([
      0, 0x5_0014, 0, 0, 0xffff_ffff, 0xff,
    ]);
    expect([read('LVTT'), read('LVT0'), read('LVT1'), read('LVTERR')]).toEqual([
      APIC_LVT_MASKED,
      mode(DELIVERY.EXTINT),
      APIC_LVT_MASKED,
      APIC_LVT_MASKED,
    ]);
  });

  it('of a processor that is not the first has its ID and takes nothing from the PIC', () => {
    const [, cpu] = new ApicMachine(2).cpus;
    cpu.apic.mailbox.setLint(0, true);
    expect([cpu.read(APIC.ID), cpu.rdmsr(MSR_IA32_APICBASE)]).toEqual([0x100_0000, 0xfee0_0800n]);
    expect(cpu.apic.externalInterrupt()).toBe(false);
  });

  it('keeps what was sent before its thread came up', () => {
    const machine = new ApicMachine(2);
    const early = machine.bus.sendIpi(0, 0, {
      destination: 1,
      destinationMode: 'physical',
      deliveryMode: DELIVERY.INIT,
      vector: 0,
      triggerMode: 'edge',
    });
    expect([early, machine.cpus[1].apic.mailbox.takeInit()]).toEqual([true, true]);
  });
});

describe('priorities', () => {
  it('deliver the highest vector first and hold back what is not above the one in service', () => {
    const cpu = single().enable();
    for (const vector of [0x31, 0x52, 0x55]) cpu.apic.mailbox.post(vector);
    const first = cpu.apic.acknowledge();
    expect([first, cpu.read(APIC.PROCPRI), cpu.apic.pendingVector()]).toEqual([0x55, 0x50, -1]);
    cpu.write(APIC.EOI, 0);
    expect(cpu.takeAll()).toEqual([0x52, 0x31]);
  });

  it('let a higher class interrupt a lower one, and end the highest in service', () => {
    const cpu = single().enable();
    cpu.apic.mailbox.post(0x31);
    cpu.apic.acknowledge();
    cpu.apic.mailbox.post(0x41);
    cpu.apic.acknowledge();
    expect([cpu.read(APIC.ISR + 0x10), cpu.read(APIC.ISR + 0x20)]).toEqual([1 << 17, 1 << 1]);
    cpu.write(APIC.EOI, 0);
    expect([cpu.read(APIC.ISR + 0x10), cpu.read(APIC.ISR + 0x20)]).toEqual([1 << 17, 0]);
  });

  it('obey the task priority, which is CR8', () => {
    const cpu = single().enable();
    cpu.apic.mailbox.post(0x75);
    cpu.write(APIC.TASKPRI, 0x72);
    expect([cpu.apic.cr8, cpu.apic.pendingVector(), cpu.apic.isWakeUp()]).toEqual([7, -1, false]);
    cpu.apic.cr8 = 6;
    expect([cpu.read(APIC.TASKPRI), cpu.apic.pendingVector(), cpu.apic.isWakeUp()]).toEqual([
      0x60,
      0x75,
      true,
    ]);
  });

  it('answer an acknowledge of nothing with the spurious vector, which is not in service', () => {
    const cpu = single().enable();
    expect([cpu.apic.acknowledge(), cpu.apic.inService.highest()]).toEqual([0xff, -1]);
  });
});

describe('the end of a level-triggered interrupt', () => {
  it('is broadcast, that of an edge is not', () => {
    const cpu = single().enable();
    cpu.apic.mailbox.post(0x40, true);
    cpu.apic.mailbox.post(0x50, false);
    expect(cpu.read(APIC.TMR + 0x20)).toBe(1);
    cpu.takeAll();
    expect(cpu.eois).toEqual([0x40]);
  });

  it('can be kept quiet where that is announced', () => {
    const cpu = single({ directedEoi: true });
    cpu.write(APIC.SPIV, SPIV_ENABLED | APIC_SPIV_DIRECTED_EOI);
    cpu.apic.mailbox.post(0x40, true);
    expect([cpu.takeAll(), cpu.eois]).toEqual([[0x40], []]);
  });
});

describe('inter-processor interrupts', () => {
  it.each([
    ['physical', 1 << 24, 0x40, [[], [0x40], []]],
    ['physical broadcast', 0xff << 24, 0x40, [[0x40], [0x40], [0x40]]],
    ['self', 0, SHORTHAND.self | 0x40, [[0x40], [], []]],
    ['all', 0, SHORTHAND.all | 0x40, [[0x40], [0x40], [0x40]]],
    ['all but self', 0, SHORTHAND.others | 0x40, [[], [0x40], [0x40]]],
    ['nobody', 9 << 24, 0x40, [[], [], []]],
  ])('reach %s', (_, high, low, expected) => {
    const machine = new ApicMachine(3);
    for (const cpu of machine.cpus) cpu.enable();
    machine.cpus[0].write(APIC.ICR2, high);
    machine.cpus[0].write(APIC.ICR, low);
    expect(taken(machine)).toEqual(expected);
  });

  it.each([
    ['flat', 0xf, [1, 2, 4], 6, [[], [0x40], [0x40]]],
    ['cluster', 0x0, [0x11, 0x12, 0x21], 0x13, [[0x40], [0x40], []]],
  ])('reach logical destinations in the %s model', (_, model, ids, destination, expected) => {
    const machine = new ApicMachine(3);
    machine.cpus.forEach((cpu, i) => {
      cpu.enable();
      cpu.write(APIC.DFR, (model << 28) | 0x0fff_ffff);
      cpu.write(APIC.LDR, ids[i] << 24);
    });
    machine.cpus[0].write(APIC.ICR2, destination << 24);
    machine.cpus[0].write(APIC.ICR, LOGICAL | 0x40);
    expect(taken(machine)).toEqual(expected);
  });

  it('of lowest priority reach one processor, the one with the lowest', () => {
    const machine = new ApicMachine(3);
    machine.cpus.forEach((cpu, i) => {
      cpu.enable().write(APIC.TASKPRI, [0x20, 0x10, 0x30][i]);
    });
    machine.cpus[2].write(APIC.ICR, SHORTHAND.all | mode(DELIVERY.LOWEST) | 0x80);
    expect(taken(machine)).toEqual([[], [0x80], []]);
  });

  it('start a processor with INIT and SIPI, enabled by software or not', () => {
    const machine = new ApicMachine(2);
    const [sender, target] = machine.cpus;
    const { mailbox } = target.apic;
    sender.write(APIC.ICR, SHORTHAND.others | mode(DELIVERY.INIT) | 0xc000);
    const init = [mailbox.takeWake(), mailbox.unmaskable, mailbox.takeInit(), mailbox.takeInit()];
    sender.write(APIC.ICR, SHORTHAND.others | mode(DELIVERY.INIT) | 0x8000);
    const deassert = mailbox.takeInit();
    sender.write(APIC.ICR, SHORTHAND.others | mode(DELIVERY.STARTUP) | 0x9a);
    expect([init, deassert]).toEqual([[WAKE.init, true, true, false], false]);
    expect([mailbox.takeWake(), mailbox.takeSipi(), mailbox.takeSipi()]).toEqual([WAKE.sipi, 0x9a, -1]);
  });

  it('carry NMIs', () => {
    const machine = new ApicMachine(2);
    machine.cpus[0].write(APIC.ICR, SHORTHAND.others | mode(DELIVERY.NMI));
    const { mailbox } = machine.cpus[1].apic;
    expect([machine.cpus[1].apic.isWakeUp(), mailbox.takeNmi(), mailbox.takeNmi()]).toEqual([
      true,
      true,
      false,
    ]);
  });

  it('do not reach a processor that is disabled by software', () => {
    const machine = new ApicMachine(2);
    machine.cpus[0].enable().write(APIC.ICR, SHORTHAND.all | 0x40);
    machine.cpus[1].enable();
    expect(taken(machine)).toEqual([[0x40], []]);
  });
});

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
    expect(single({ x2apic: false }).wrmsr(MSR_IA32_APICBASE, base | EXTD)).toBe(false);
  });

  it('does not answer MSRs of the other mode', () => {
    const cpu = single();
    expect([cpu.x2read(APIC.ID), cpu.x2write(APIC.EOI, 0n)]).toEqual([undefined, false]);
  });
});

describe('errors', () => {
  it('of an illegal vector are latched by a write of the register and interrupt once', () => {
    const cpu = single().enable();
    cpu.write(APIC.LVTERR, 0xfe);
    cpu.write(APIC.ICR, SHORTHAND.self | 0x0f);
    const before = cpu.read(APIC.ESR);
    const vectors = cpu.takeAll();
    cpu.write(APIC.ESR, 0);
    expect([before, vectors, cpu.read(APIC.ESR)]).toEqual([0, [0xfe], APIC_ESR_SENDILL | APIC_ESR_RECVILL]);
    cpu.write(APIC.ESR, 0);
    expect(cpu.read(APIC.ESR)).toBe(0);
  });

  it('of a vector that others send are the receiver’s', () => {
    const cpu = single().enable();
    cpu.apic.mailbox.post(3);
    expect(cpu.takeAll()).toEqual([]);
    cpu.write(APIC.ESR, 0);
    expect(cpu.read(APIC.ESR)).toBe(APIC_ESR_RECVILL);
  });

  it('of a register that is not there', () => {
    const cpu = single().enable();
    cpu.write(0x40, 1);
    cpu.write(APIC.ESR, 0);
    expect(cpu.read(APIC.ESR)).toBe(APIC_ESR_ILLREGA);
  });

  it('with an illegal error vector do not keep the processor busy', () => {
    const cpu = single().enable();
    cpu.write(APIC.LVTERR, 5);
    cpu.read(0x40);
    for (let i = 0; i < 3; i++) {
      cpu.apic.mailbox.takeWake();
      cpu.apic.poll();
    }
    expect(cpu.apic.mailbox.takeWake()).toBe(0);
  });
});

describe('interrupt pins', () => {
  it('LINT0 passes the PIC through in virtual wire mode until it is masked', () => {
    const cpu = single().enable();
    cpu.apic.mailbox.setLint(0, true);
    const open = cpu.apic.isWakeUp();
    cpu.write(APIC.LVT0, mode(DELIVERY.EXTINT) | APIC_LVT_MASKED);
    expect([open, cpu.apic.externalInterrupt()]).toEqual([true, false]);
  });

  it('LINT0 delivers a vector on its edge', () => {
    const cpu = single().enable();
    cpu.write(APIC.LVT0, 0x61);
    for (const level of [true, true, false, true]) cpu.apic.mailbox.setLint(0, level);
    expect(cpu.takeAll()).toEqual([0x61]);
  });

  it('LINT0 delivers a level again after each end while it is up', () => {
    const cpu = single().enable();
    cpu.apic.mailbox.setLint(0, true);
    cpu.write(APIC.LVT0, 0x8061);
    const first = [cpu.apic.acknowledge(), cpu.read(APIC.LVT0)];
    cpu.write(APIC.EOI, 0);
    const second = cpu.apic.acknowledge();
    cpu.apic.mailbox.setLint(0, false);
    cpu.write(APIC.EOI, 0);
    expect([first, second, cpu.takeAll(), cpu.read(APIC.LVT0)]).toEqual([[0x61, 0xc061], 0x61, [], 0x8061]);
  });

  it('LINT1 is NMI where it is programmed so, and without an APIC', () => {
    const cpu = single().enable();
    const pulse = () => {
      cpu.apic.mailbox.setLint(1, true);
      cpu.apic.mailbox.setLint(1, false);
      cpu.apic.poll();
      return cpu.apic.mailbox.takeNmi();
    };
    const masked = pulse();
    cpu.write(APIC.LVT1, mode(DELIVERY.NMI));
    const programmed = pulse();
    cpu.wrmsr(MSR_IA32_APICBASE, cpu.apic.apicBase & ~EN);
    expect([masked, programmed, pulse()]).toEqual([false, true, true]);
  });

  it('LINT0 is INTR without an APIC', () => {
    const [, cpu] = new ApicMachine(2).cpus;
    cpu.wrmsr(MSR_IA32_APICBASE, cpu.apic.apicBase & ~EN);
    cpu.apic.mailbox.setLint(0, true);
    expect([cpu.apic.externalInterrupt(), cpu.read(APIC.ID)]).toEqual([true, 0xffff_ffff]);
  });
});

describe('disabling', () => {
  it('by software masks every entry of the vector table until it is enabled again', () => {
    const cpu = single().enable();
    cpu.write(APIC.LVTT, 0x40);
    cpu.write(APIC.SPIV, 0xff);
    cpu.write(APIC.LVT1, 0x41);
    expect([cpu.read(APIC.LVTT), cpu.read(APIC.LVT1)]).toEqual([
      0x40 | APIC_LVT_MASKED,
      0x41 | APIC_LVT_MASKED,
    ]);
  });

  it('by INIT keeps ID and mode', () => {
    const cpu = new ApicMachine(3).cpus[2].enterX2apic();
    cpu.x2write(APIC.TASKPRI, 0x50n);
    cpu.apic.mailbox.post(0x90);
    cpu.apic.init();
    expect(cpu.apic.isX2apic).toBe(true);
    expect([APIC.ID, APIC.LDR, APIC.TASKPRI, APIC.SPIV, APIC.IRR + 0x40].map((r) => cpu.x2read(r))).toEqual([
      2n,
      4n,
      0n,
      0xffn,
      0n,
    ]);
  });
});

describe('state', () => {
  it('continues in another local APIC, with time left and requests pending', () => {
    const [machine, other] = [new ApicMachine(), new ApicMachine()];
    const cpu = machine.cpus[0].enable();
    cpu.write(APIC.LVTT, 0x30);
    cpu.write(APIC.TMICT, 500);
    cpu.apic.mailbox.post(0x81, true);
    cpu.apic.mailbox.post(0x91);
    cpu.apic.acknowledge();
    cpu.apic.mailbox.postNmi();
    other.now = machine.now = 100;
    const target = other.cpus[0];
    target.apic.restore(structuredClone(cpu.apic.save()));
    expect(target.apic.save()).toEqual(cpu.apic.save());
    expect([target.apic.nextDeadline(), target.apic.mailbox.takeNmi(), target.apic.pendingVector()]).toEqual([
      1000,
      true,
      -1,
    ]);
    target.write(APIC.EOI, 0);
    expect([target.takeAll(), target.eois]).toEqual([[0x81], [0x81]]);
  });

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

  it('that is refused leaves the APIC as it was', () => {
    const cpu = single().enable();
    const before = cpu.apic.save();
    for (const [key, value] of [
      ['page', [1, 2]],
      ['timer', { ...(before.timer as object), initialCount: -1 }],
      ['mailbox', {}],
      ['apicBase', 'x'],
    ] as const) {
      const bad = { ...before, [key]: value };
      expect(() => cpu.apic.restore(bad)).toThrow(expect.objectContaining({ code: 'TSV_E_STATE' }));
    }
    expect(() => importLapicState(cpu.apic, new Uint8Array(1023))).toThrow(/too short/);
    expect(cpu.apic.save()).toEqual(before);
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

  it('cannot break a local APIC by any access in any order, nor its saved state', () => {
    fc.assert(
      fc.property(fc.array(action, { maxLength: 60 }), fc.boolean(), (actions, x2apic) => {
        const machine = new ApicMachine(3, { directedEoi: x2apic });
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
        const state = cpu.apic.save();
        const copy = new ApicMachine(3, { directedEoi: x2apic });
        copy.now = machine.now;
        copy.cpus[0].apic.restore(structuredClone(state));
        expect(copy.cpus[0].apic.save()).toEqual(state);
      }),
      { numRuns: 1000 },
    );
  });
});
