import { Worker } from 'node:worker_threads';
import { describe, expect, it } from 'vitest';
import { Bus } from '../../../src/devices/bus.ts';
import { SPACE } from '../../../src/devices/bus-table.ts';
import { apicMailboxes, WAKE } from '../../../src/devices/irqchip/apic-mailbox.ts';
import { APIC } from '../../../src/devices/irqchip/apic-registers.ts';
import { INTERRUPT_CYCLE, InterruptRouter } from '../../../src/devices/irqchip/interrupt-router.ts';
import { IOREGSEL, IOWIN } from '../../../src/devices/irqchip/io-apic.ts';
import { PIC_MASTER } from '../../../src/devices/irqchip/pic.ts';
import { ApicMachine } from './apic-bench.ts';

function bench(count = 2) {
  const machine = new ApicMachine(count);
  const router = new InterruptRouter(machine.bus);
  for (const cpu of machine.cpus) cpu.enable();
  return {
    machine,
    router,
    cpus: machine.cpus,
    taken: () => machine.cpus.map((cpu) => cpu.takeAll()),
    route(pin: number, low: number, destination = 0) {
      router.ioApic.write(IOREGSEL, 4, 0x10 + 2 * pin);
      router.ioApic.write(IOWIN, 4, low);
      router.ioApic.write(IOREGSEL, 4, 0x11 + 2 * pin);
      router.ioApic.write(IOWIN, 4, (destination << 24) >>> 0);
    },
  };
}

describe('a global system interrupt', () => {
  it('reaches the I/O APIC’s pin of its number, the timer pin 2', () => {
    const { router, taken, route } = bench();
    for (const pin of [0, 1, 2, 16, 23]) route(pin, 0x40 + pin, 1);
    for (const gsi of [0, 1, 2, 16, 23, 24]) {
      router.setIrqLine(gsi, 1);
      router.setIrqLine(gsi, 0);
    }
    expect(taken()).toEqual([[], [0x57, 0x50, 0x42, 0x41]]);
  });

  it('below 16 reaches the PIC too, whose output the first processor takes', () => {
    const { router, cpus } = bench();
    router.pic.write(PIC_MASTER, 1, 0x11);
    for (const value of [0x30, 4, 1, 0]) router.pic.write(PIC_MASTER + 1, 1, value);
    cpus[0].write(APIC.LVT0, 0x700);
    cpus[0].apic.mailbox.takeWake();
    router.setIrqLine(4, 1);
    expect([cpus[0].apic.mailbox.takeWake(), cpus.map(({ apic }) => apic.externalInterrupt())]).toEqual([
      WAKE.lint,
      [true, false],
    ]);
    expect([router.pic.acknowledge(), cpus[0].apic.externalInterrupt()]).toEqual([0x34, false]);
  });

  it('by level comes back until the device is quiet', () => {
    const { router, cpus, route } = bench();
    route(9, 0x8049);
    router.setIrqLine(9, 1);
    const [cpu] = cpus;
    const rounds: number[] = [];
    for (let i = 0; i < 3; i++) {
      rounds.push(...cpu.takeAll());
      if (i === 1) router.setIrqLine(9, 0);
      for (const vector of cpu.eois.splice(0)) router.ioApic.endOfInterrupt(vector);
    }
    expect(rounds).toEqual([0x49, 0x49]);
  });
});

describe('a message-signalled interrupt', () => {
  it.each([
    ['a physical destination', 0xfee0_1000, 0x41, [[], [0x41], []]],
    ['everybody', 0xfeef_f000, 0x41, [[0x41], [0x41], [0x41]]],
    ['a logical destination', 0xfee0_6004, 0x41, [[], [0x41], [0x41]]],
    ['the lowest priority of a logical destination', 0xfee0_7004, 0x141, [[], [0x41], []]],
    ['one of a logical destination by the redirection hint', 0xfee0_700c, 0x41, [[], [0x41], []]],
    ['nobody, at an address that is none', 0xfed0_0000, 0x41, [[], [], []]],
    ['nobody, as a level that is not asserted', 0xfee0_0000, 0x8041, [[], [], []]],
  ])('reaches %s', (_, address, data, expected) => {
    const { machine, cpus, taken } = bench(3);
    cpus.forEach((cpu, index) => {
      cpu.write(APIC.LDR, 1 << (24 + index));
      cpu.write(APIC.TASKPRI, [0x30, 0x10, 0x20][index]);
    });
    machine.bus.signalMsi({ address, data });
    expect(taken()).toEqual(expected);
  });

  it('to 0xff reaches everybody in x2APIC mode too', () => {
    const machine = new ApicMachine(2);
    for (const cpu of machine.cpus) cpu.enterX2apic();
    machine.bus.signalMsi({ address: 0xfeef_f000, data: 0x41 });
    expect(machine.cpus.map((cpu) => cpu.takeAll())).toEqual([[0x41], [0x41]]);
  });

  it('is safe from any address and data', () => {
    const { machine } = bench();
    for (const address of [0, 2 ** 32 + 0xfee0_0000, 2 ** 52 - 1, 0xfeef_ffff]) {
      for (let data = 0; data < 0x10000; data += 0x101) machine.bus.signalMsi({ address, data });
    }
    expect(machine.bus.signalMsi({ address: 0xfee0_0000, data: 0x41 })).toBe(true);
  });
});

it('pulses NMI on every processor that takes it', () => {
  const { machine, cpus } = bench();
  cpus[1].write(APIC.LVT1, 0x400);
  machine.bus.pulseNmi();
  for (const { apic } of cpus) apic.poll();
  expect(cpus.map(({ apic }) => apic.mailbox.takeNmi())).toEqual([false, true]);
});

it('is on the bus where a PC has it, with the two cycles that guests cannot make', async () => {
  const { router, cpus, route } = bench();
  const bus = new Bus({
    onDeviceError: (error) => {
      throw error;
    },
  });
  for (const { device, mount } of router.mounts) bus.mount(device, mount);
  for (const [port, value] of [
    [0x20, 0x11],
    [0x21, 0x30],
    [0x21, 4],
    [0x21, 1],
    [0x21, 0],
  ]) {
    await bus.access('pio', port, 1, value);
  }
  router.setIrqLine(4, 1);
  expect(await bus.access('mmio', INTERRUPT_CYCLE.INTA, 1)).toBe(0x34);
  route(9, 0x8049);
  router.setIrqLine(9, 1);
  cpus[0].takeAll();
  // Posted, as a vCPU thread does it.
  bus.client(bus.addChannel()).write(SPACE.mmio, INTERRUPT_CYCLE.EOI, 4, 0x49);
  await bus.drain();
  expect(cpus[0].takeAll()).toEqual([0x49]);
});

it('wakes by the engine’s own word where there is one', () => {
  const words = new Int32Array(new SharedArrayBuffer(64));
  const [mailbox] = apicMailboxes(1, { wake: () => ({ words, index: 5 }) });
  mailbox.postNmi();
  mailbox.sleep(60_000);
  expect([words[5], mailbox.takeWake(), words[5]]).toEqual([WAKE.nmi, WAKE.nmi, 0]);
});

it('wakes a processor that sleeps in another thread, and loses no request of many', async () => {
  const shared = new SharedArrayBuffer(1024);
  const [mailbox] = apicMailboxes(1, { shared });
  mailbox.publish(3, 0, 0, 0);
  const source = `
    import { workerData, parentPort } from 'node:worker_threads';
    const { apicMailboxes } = await import(workerData.module);
    const [mailbox] = apicMailboxes(1, { shared: workerData.shared });
    const seen = new Map();
    while (seen.get(255) === undefined) {
      mailbox.sleep(60_000);
      mailbox.takeWake();
      for (let vector = mailbox.highestRequest(); vector >= 0; vector = mailbox.highestRequest()) {
        mailbox.clearRequest(vector);
        seen.set(vector, (seen.get(vector) ?? 0) + 1);
        Atomics.add(workerData.taken, vector, 1);
        Atomics.notify(workerData.taken, vector);
      }
    }
    parentPort.postMessage([...seen]);
  `;
  const module = new URL('../../../dist/devices/irqchip/apic-mailbox.js', import.meta.url).href;
  const taken = new Int32Array(new SharedArrayBuffer(1024));
  const url = new URL(`data:text/javascript,${encodeURIComponent(source)}`);
  const worker = new Worker(url, { workerData: { shared, taken, module } });
  const seen = new Promise<[number, number][]>((resolve, reject) => {
    worker.once('message', resolve);
    worker.once('error', reject);
  });
  const expected = new Map<number, number>();
  for (let i = 0; i < 2000; i++) {
    const vector = 16 + (i % 239);
    const before = Atomics.load(taken, vector);
    mailbox.post(vector);
    expected.set(vector, (expected.get(vector) ?? 0) + 1);
    if (before === Atomics.load(taken, vector)) await Atomics.waitAsync(taken, vector, before).value;
  }
  mailbox.post(255);
  expected.set(255, 1);
  expect(new Map(await seen)).toEqual(expected);
  await worker.terminate();
});
