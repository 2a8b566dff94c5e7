/** What a local APIC sends. */
import { describe, expect, it } from 'vitest';
import { WAKE } from '../../../src/devices/irqchip/apic-mailbox.ts';
import { APIC, DELIVERY } from '../../../src/devices/irqchip/apic-registers.ts';
import { ApicMachine } from './apic-bench.ts';

const SHORTHAND = { self: 1 << 18, all: 2 << 18, others: 3 << 18 };
const LOGICAL = 1 << 11;
const mode = (delivery: number) => delivery << 8;

/** What each vCPU takes after something was sent. */
function taken(machine: ApicMachine): number[][] {
  return machine.cpus.map((cpu) => cpu.takeAll());
}

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
    const init = [mailbox.takeWake(), mailbox.takeInit(), mailbox.takeInit()];
    sender.write(APIC.ICR, SHORTHAND.others | mode(DELIVERY.INIT) | 0x8000);
    const deassert = mailbox.takeInit();
    sender.write(APIC.ICR, SHORTHAND.others | mode(DELIVERY.STARTUP) | 0x9a);
    expect([init, deassert]).toEqual([[WAKE.init, true, false], false]);
    expect([mailbox.takeWake(), mailbox.takeSipi(), mailbox.takeSipi()]).toEqual([WAKE.sipi, 0x9a, -1]);
  });

  it('carry NMIs', () => {
    const machine = new ApicMachine(2);
    machine.cpus[0].write(APIC.ICR, SHORTHAND.others | mode(DELIVERY.NMI));
    const { mailbox } = machine.cpus[1].apic;
    expect([mailbox.takeWake(), mailbox.takeNmi(), mailbox.takeNmi()]).toEqual([WAKE.nmi, true, false]);
  });

  it('do not reach a processor that is disabled by software', () => {
    const machine = new ApicMachine(2);
    machine.cpus[0].enable().write(APIC.ICR, SHORTHAND.all | 0x40);
    machine.cpus[1].enable();
    expect(taken(machine)).toEqual([[0x40], []]);
  });
});
