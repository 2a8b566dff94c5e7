/**
 * A PC with one CPU of the tcg engine, enough of it for a Linux kernel: RAM, interrupt controllers, timers, clock, serial
 * console and ACPI power-off. CPU and devices share the test's thread; time is the host's.
 */
import { setTimeout as delay, setImmediate as turn } from 'node:timers/promises';
import { buildAcpiTables, DEFAULT_PM, PCI_MMIO_WINDOW } from '../../../src/boot/acpi/build.ts';
import { loadKernel } from '../../../src/boot/image.ts';
import { BOOT_LAYOUT } from '../../../src/boot/layout.ts';
import { AcpiPm, PM } from '../../../src/devices/acpi/pm.ts';
import { Bus, type Mount } from '../../../src/devices/bus.ts';
import type { AccessSize, Device, StopReason } from '../../../src/devices/device.ts';
import { GuestClock } from '../../../src/devices/guest-clock.ts';
import { IrqLines, UNCONNECTED } from '../../../src/devices/irq-lines.ts';
import {
  isApicMsr,
  readApicMsr,
  readApicPage,
  writeApicMsr,
  writeApicPage,
} from '../../../src/devices/irqchip/apic-access.ts';
import { ApicBus } from '../../../src/devices/irqchip/apic-bus.ts';
import { apicMailboxes } from '../../../src/devices/irqchip/apic-mailbox.ts';
import { InterruptRouter } from '../../../src/devices/irqchip/interrupt-router.ts';
import { LocalApic } from '../../../src/devices/irqchip/local-apic.ts';
import { CMOS_SIZE, Cmos } from '../../../src/devices/legacy/cmos.ts';
import { PIT_SIZE, Pit } from '../../../src/devices/legacy/pit.ts';
import { Port61 } from '../../../src/devices/legacy/port61.ts';
import { SERIAL_SIZE, Serial } from '../../../src/devices/legacy/serial.ts';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import {
  BIOS_AREA_END,
  BIOS_AREA_START,
  buildE820,
  EBDA_END,
  EBDA_START,
  PAGE_SIZE,
} from '../../../src/memory/layout.ts';
import { PageTableBuilder } from '../../../src/memory/page-tables.ts';
import { Cpu } from '../../../src/tcg/cpu.ts';
import type { DeviceAccess } from '../../../src/tcg/exits.ts';
import { engineSize, S } from '../../../src/tcg/layout.ts';
import { setRegs, setSregs } from '../../../src/tcg/state-transfer.ts';
import { longModeEntry, writeBootGdt } from '../../../src/vcpu/entry.ts';
import { cpuid, hasFeature } from './cpuid.ts';
import { LoopTime } from './loop-time.ts';

const WASM_PAGE = 65536;
const RAM_ALIGNMENT = 2 << 20;
const COM1 = { port: 0x3f8, irq: 4 } as const;
const IRQ = { timer: 0, rtc: 8 } as const;
/** Instructions between two looks at time and interrupts. */
const BUDGET = 20_000;
/** The event loop gets a turn at least after this many returns of the CPU. */
const TURN = 64;
/** Longest sleep of a halted CPU, ms. */
const MAX_SLEEP = 10;
const NS_PER_MS = 1e6;
/** RFLAGS.IF (SDM vol. 1, 3.4.3.3). */
const FLAG_IF = 0x200;
const TRIPLE_FAULT: StopReason = { kind: 'reset', by: 'triple fault' };

/** What {@link TcgPc.boot} loads. */
export interface TcgBoot {
  /** Path of a bzImage. */
  readonly kernel: string;
  readonly initrd: Uint8Array;
  readonly cmdline: string;
}

/** The machine. */
export class TcgPc {
  readonly memory: GuestMemory;
  readonly cpu: Cpu;
  /** Everything the guest has written to its serial port. */
  console = '';
  readonly #time = new LoopTime();
  readonly #clock = new GuestClock({ host: this.#time });
  readonly #bus = new Bus({
    onDeviceError: (error) => {
      this.#error ??= error;
    },
  });
  readonly #apic: LocalApic;
  readonly #router: InterruptRouter;
  readonly #lines: IrqLines;
  readonly #serial: Serial;
  #error: Error | undefined;
  #stopped: StopReason | undefined;

  /** @param ram bytes, below the MMIO hole */
  constructor(ram: number) {
    const offset = Math.ceil(engineSize(1) / RAM_ALIGNMENT) * RAM_ALIGNMENT;
    const pages = Math.ceil((offset + ram) / WASM_PAGE);
    const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
    const regions = [{ gpa: 0, size: ram, memory: 0, offset }];
    this.memory = new GuestMemory({ memories: [memory], regions });
    this.cpu = new Cpu({ memory, regions, index: 0, hasFeature });

    const apicBus = new ApicBus(apicMailboxes(1));
    this.#router = new InterruptRouter(apicBus);
    this.#apic = new LocalApic({
      index: 0,
      bus: apicBus,
      onEoi: (vector) => this.#router.ioApic.endOfInterrupt(vector),
      now: () => this.#clock.now(),
      tsc: { nsAt: Number },
    });
    for (const { device, mount } of this.#router.mounts) this.#bus.mount(device, mount);
    this.#lines = new IrqLines((gsi, level) => this.#router.setIrqLine(gsi, level));

    const decoder = new TextDecoder('latin1');
    this.#serial = new Serial({
      output: (bytes) => {
        this.console += decoder.decode(bytes);
      },
    });
    const pit = new Pit();
    this.#attach(this.#serial, { base: COM1.port, size: SERIAL_SIZE }, COM1.irq);
    this.#attach(pit, { base: 0x40, size: PIT_SIZE }, IRQ.timer);
    this.#attach(new Port61(pit), { base: 0x61, size: 1 });
    this.#attach(new Cmos({ ramBelow4G: ram }), { base: 0x70, size: CMOS_SIZE }, IRQ.rtc);
    this.#attach(new AcpiPm(), { base: DEFAULT_PM.port, size: PM.SIZE }, DEFAULT_PM.sci);
    this.#connectCpu();
  }

  /** Loads a kernel and sets the CPU to its 64-bit entry. */
  async boot({ kernel, initrd, cmdline }: TcgBoot): Promise<void> {
    const { memory, cpu } = this;
    const { rsdp } = buildAcpiTables(memory, {
      apicIds: [0],
      serial: [COM1],
      keyboard: false,
      pci: { mmio: PCI_MMIO_WINDOW },
    });
    const reserved = [
      { name: 'firmware tables', gpa: BIOS_AREA_START, size: BIOS_AREA_END - BIOS_AREA_START },
      { name: 'EBDA', gpa: EBDA_START, size: EBDA_END - EBDA_START },
    ];
    const e820 = buildE820(memory.regions);
    const loaded = await loadKernel({ kernel, initrd, cmdline, memory, e820, rsdp, reserved });
    if (loaded.mode !== 'long64') throw new Error(`The kernel wants to start in mode ${loaded.mode}.`);
    const { gpa, size } = BOOT_LAYOUT.pageTables;
    const map = loaded.identityMap!;
    const state = longModeEntry({
      entry: BigInt(loaded.entry),
      cr3: new PageTableBuilder(memory, { start: gpa, end: gpa + size }).identityMap(map.gpa, map.size).cr3,
      segments: writeBootGdt(memory, BOOT_LAYOUT.gdt.gpa, 64),
    });
    for (const [name, value] of Object.entries(loaded.registers)) {
      state.regs[name as keyof typeof state.regs] = BigInt(value);
    }
    setSregs(cpu, state.sregs);
    setRegs(cpu, state.regs);
  }

  /**
   * Runs the guest until a device ends the machine; a triple fault is a reset.
   * @throws what a device threw, the signal's reason, or when the guest halts for ever
   */
  async run(signal: AbortSignal): Promise<StopReason> {
    this.#clock.start();
    try {
      return await this.#loop(signal);
    } finally {
      this.#clock.close();
      this.#bus.close();
      await this.#serial.close();
    }
  }

  async #loop(signal: AbortSignal): Promise<StopReason> {
    const { cpu } = this;
    for (let returns = 1; this.#stopped === undefined; returns++) {
      if (returns % TURN === 0) await turn();
      signal.throwIfAborted();
      cpu.state.setI32(S.ATTENTION, 0);
      this.#time.fire();
      this.#apic.poll();
      if (!this.#interrupt()) return TRIPLE_FAULT;
      switch (cpu.run(BUDGET)) {
        case 'device':
          await this.#access(cpu.log.pending!);
          break;
        case 'halt':
          await this.#halt(signal);
          break;
        case 'shutdown':
          return TRIPLE_FAULT;
      }
      if (this.#error !== undefined) throw this.#error;
    }
    return this.#stopped;
  }

  #attach(device: Device, mount: Omit<Mount, 'space'>, gsi?: number): void {
    const line = gsi === undefined ? UNCONNECTED : this.#lines.line(gsi);
    this.#bus.mount(device, { space: 'pio', ...mount });
    device.attach?.({
      memory: this.memory,
      clock: this.#clock,
      irq: () => line,
      latch: (offset) => this.#bus.latch(device, offset),
      mount: (place) => this.#bus.mount(device, place),
      unmount: (place) => this.#bus.unmount(device, place),
      notifiedBy: () => {},
      signalMsi: (message) => void this.#router.signalMsi(message),
      stop: (reason) => {
        this.#stopped ??= reason;
      },
      log: () => {},
    });
  }

  #connectCpu(): void {
    const apic = this.#apic;
    const { registers } = this.cpu.system;
    registers.cpuid = cpuid();
    registers.peripherals = {
      tsc: () => BigInt(this.#clock.now()),
      // It stays guest time, which the deadline timer is compared with.
      setTsc: () => {},
      readMsr: (index) => (isApicMsr(index) ? readApicMsr(apic, index) : undefined),
      writeMsr: (index, value) => isApicMsr(index) && writeApicMsr(apic, index, value),
      get cr8() {
        return BigInt(apic.cr8);
      },
      set cr8(value) {
        apic.cr8 = Number(value);
      },
    };
  }

  /** Delivers the interrupt that waits, or has the CPU say when it can be. @returns false for a triple fault */
  #interrupt(): boolean {
    const { state, system, log } = this.cpu;
    const isLocal = this.#apic.pendingVector() >= 0;
    const waits = isLocal || this.#apic.externalInterrupt();
    state.setI32(S.IRQ_WAITING, waits ? 1 : 0);
    // An instruction whose device access is answered must complete first.
    if (!waits || log.pending !== undefined || !system.acceptsInterrupt) return true;
    const vector = isLocal ? this.#apic.acknowledge() : this.#router.pic.acknowledge();
    return system.raise(vector, 0, 'external');
  }

  /** HLT: sleeps until an interrupt wakes the CPU. */
  async #halt(signal: AbortSignal): Promise<void> {
    if ((this.cpu.state.eflags & FLAG_IF) === 0)
      throw new Error('The guest halted with interrupts disabled.');
    while (!this.#apic.isWakeUp()) {
      // The serial port's transmitter interrupt comes with the event loop's next turn.
      await turn();
      signal.throwIfAborted();
      this.#time.fire();
      if (this.#apic.isWakeUp()) return;
      const local = (this.#apic.nextDeadline() - this.#clock.now()) / NS_PER_MS;
      const sleep = Math.min(local, this.#time.due - performance.now(), MAX_SLEEP);
      if (sleep >= 1) await delay(sleep);
    }
  }

  /** Carries out a device access; the bus takes it in pieces of at most 4 bytes. */
  async #access({ kind, address, write, data }: DeviceAccess): Promise<void> {
    const page = address - this.#apic.base;
    const isApic = kind === 'mmio' && page >= 0 && page < PAGE_SIZE;
    for (let at = 0; at < data.length; ) {
      const left = data.length - at;
      const size: AccessSize = left >= 4 ? 4 : left >= 2 ? 2 : 1;
      const piece = Buffer.from(data.buffer, data.byteOffset + at, size);
      const value = write ? piece.readUIntLE(0, size) : undefined;
      if (!isApic) {
        const space = kind === 'port' ? 'pio' : 'mmio';
        const result = await this.#bus.access(space, address + at, size, value);
        if (!write) piece.writeUIntLE(result, 0, size);
      } else if (value === undefined) {
        piece.writeUIntLE(readApicPage(this.#apic, page + at, size), 0, size);
      } else {
        writeApicPage(this.#apic, page + at, size, value);
      }
      at += size;
    }
  }
}
