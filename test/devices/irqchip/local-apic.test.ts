/** What a local APIC does with the interrupts that reach it. */
import { describe, expect, it } from 'vitest';
import {
  APIC,
  APIC_ESR_ILLREGA,
  APIC_ESR_RECVILL,
  APIC_ESR_SENDILL,
  APIC_LVT_MASKED,
  DELIVERY,
  MSR_IA32_APICBASE,
} from '../../../src/devices/irqchip/apic-registers.ts';
import { type ApicBench, ApicMachine } from './apic-bench.ts';

const EN = 1n << 11n;
const SHORTHAND = { self: 1 << 18, all: 2 << 18, others: 3 << 18 };
const mode = (delivery: number) => delivery << 8;

function single(): ApicBench {
  return new ApicMachine(1).cpus[0];
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
    expect([cpu.apic.cr8, cpu.apic.pendingVector()]).toEqual([7, -1]);
    cpu.apic.cr8 = 6;
    expect([cpu.read(APIC.TASKPRI), cpu.apic.pendingVector()]).toEqual([0x60, 0x75]);
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
    const open = cpu.apic.externalInterrupt();
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
