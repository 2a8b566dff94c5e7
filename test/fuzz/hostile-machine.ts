/**
 * A machine for hostile guests that survives how their runs end: the engine, the bus, the devices and a vCPU thread
 * put together as `Vm` does it, without its life cycle. Creating a `Vm` takes longer than hundreds of runs.
 */
import { expect } from 'vitest';
import { Bus } from '../../src/devices/bus.ts';
import type { Device } from '../../src/devices/device.ts';
import { GuestClock } from '../../src/devices/guest-clock.ts';
import { IrqLines } from '../../src/devices/irq-lines.ts';
import { ERROR_CODES } from '../../src/errors.ts';
import { loadNative, nativeMemory } from '../../src/kvm/native.ts';
import { probeKvm } from '../../src/kvm/probe.ts';
import { KvmVm } from '../../src/kvm/vm.ts';
import { buildBoard } from '../../src/machine/board.ts';
import type { DeviceOptions } from '../../src/machine/device-set.ts';
import type { Vm } from '../../src/machine/vm.ts';
import { allocateRam } from '../../src/memory/allocate.ts';
import type { GuestMemory } from '../../src/memory/guest-memory.ts';
import { COUNTER } from '../../src/vcpu/control.ts';
import type { EntryState } from '../../src/vcpu/entry.ts';
import type { RunOutcome } from '../../src/vcpu/protocol.ts';
import type { VcpuState } from '../../src/vcpu/state.ts';
import { VcpuThread } from '../../src/vcpu/vcpu-thread.ts';
import { RAM } from './guest-image.ts';
import { type Canary, canariesAround } from './support.ts';

/** What a run leaves behind that the next must not find; the interrupt controllers are set apart from it. */
const RESET = ['xcrs', 'xsave', 'debugregs', 'events', 'mp_state'] as const;
/** MSRs that hostile code would make later runs useless with: EFER, the SYSCALL set, segment bases, SYSENTER, APIC base. */
const MSRS = [
  0xc0000080, 0xc0000081, 0xc0000082, 0xc0000083, 0xc0000084, 0xc0000100, 0xc0000101, 0xc0000102, 0x174,
  0x175, 0x176, 0x1b,
];

export class HostileMachine implements AsyncDisposable {
  readonly memory: GuestMemory;
  readonly devices: Device[] = [];
  /** Runs by how they ended; `paused` and `stopped` ones were ended from outside. */
  readonly ends = new Map<string, number>();
  readonly errors: Error[] = [];
  readonly vcpu: VcpuThread;
  readonly bus: Bus;
  readonly #engine: KvmVm;
  readonly #irqs: IrqLines;
  readonly #clock = new GuestClock();
  readonly #canaries: Canary[];
  readonly #irqchip: 'kernel' | 'none';
  #initial: Partial<VcpuState> = {};
  #engineState: Record<string, unknown> = {};
  #ended: (outcome: RunOutcome | 'stop' | 'paused') => void = () => {};

  /** @param timeScale other than 1 gives the PC board its own PIT */
  static async create(board: 'pc' | 'none', extra: readonly [Device, DeviceOptions][], timeScale = 1) {
    const machine = new HostileMachine(board, timeScale);
    for (const [device, options] of extra) machine.#add(device, options);
    await machine.#setUp();
    return machine;
  }

  private constructor(board: 'pc' | 'none', timeScale: number) {
    this.memory = allocateRam({ size: RAM, native: nativeMemory(loadNative()) });
    this.#canaries = canariesAround(this.memory);
    const irqchip = board === 'pc' ? 'kernel' : 'none';
    this.#irqchip = irqchip;
    const pit = board === 'pc' && timeScale === 1;
    this.#engine = KvmVm.create({ memory: this.memory, irqchip, pit }, { probe: probeKvm });
    this.bus = new Bus(
      { onDeviceError: (error) => this.errors.push(error) },
      { wakeups: loadNative(), notifier: (place, onWrite) => this.#engine.watchWrite(place, onWrite) },
    );
    this.#irqs = new IrqLines(
      (gsi, level) => this.#engine.setIrqLine(gsi, level),
      (gsi) => this.#engine.pulseIrqLine(gsi),
    );
    const config = { board, cpus: 1, timeScale, irqchip, disks: [], pmem: [], virtio: [], rng: false };
    const accel = { engine: 'kvm' };
    const addDevice = (device: Device, options: DeviceOptions) => this.#add(device, options);
    buildBoard({ config, accel, memory: this.memory, addDevice } as unknown as Vm, {
      onOutput: () => {},
      onPanic: () => {},
    });
    const port = this.#engine.vcpuPort(0);
    const init = {
      port,
      memory: this.memory.share(),
      busTable: this.bus.table.shared,
      channel: this.bus.addChannel().shared,
      doorbell: this.bus.bell.shared,
      assistLock: new SharedArrayBuffer(4),
      irqchip,
      trace: [],
      affinity: [],
    } as const;
    this.vcpu = new VcpuThread(this.#engine, init, this.#engine.runArea(port), {
      onOutcome: (_, outcome) => this.#ended(outcome),
      onTrace() {},
      onLog() {},
      onEoi() {},
    });
  }

  #add(device: Device, { pio = [], mmio = [], irq = [] }: DeviceOptions): void {
    for (const mount of pio) this.bus.mount(device, { space: 'pio', ...mount });
    for (const mount of mmio) this.bus.mount(device, { space: 'mmio', ...mount });
    const lines = irq.map((gsi) => this.#irqs.line(gsi));
    device.attach?.({
      memory: this.memory,
      clock: this.#clock,
      irq: (index = 0) => lines[index] ?? { raise() {}, lower() {}, pulse() {} },
      latch: (offset) => this.bus.latch(device, offset),
      mount: (place) => this.bus.mount(device, place),
      unmount: (place) => this.bus.unmount(device, place),
      notifiedBy: (register) => this.bus.notifiedBy(device, register),
      signalMsi: (message) => this.#engine.signalMsi(message),
      stop: () => this.#ended('stop'),
      log: () => {},
    });
    this.devices.push(device);
  }

  async #setUp(): Promise<void> {
    await this.vcpu.ready;
    this.#engine.prepare();
    await this.vcpu.set({ cpuid: this.#engine.supportedCpuid() });
    const keys = this.#irqchip === 'none' ? RESET : ([...RESET, 'lapic'] as const);
    this.#initial = await this.vcpu.get(...keys, 'msrs');
    this.#initial.msrs = this.#initial.msrs?.filter(({ index }) => MSRS.includes(index));
    this.#engineState = this.#engine.save();
    this.#clock.start();
    void this.bus.serve();
  }

  /**
   * Runs the guest from a state until it ends its run, for a while, or until `done`.
   * @returns how it ended: a RunOutcome's kind or its error's message, `stopped` when a device ended the machine
   */
  async run(state: EntryState, milliseconds: number, done?: () => boolean): Promise<string> {
    for (const device of this.devices) device.reset?.();
    this.#engine.restore(this.#engineState);
    await this.vcpu.set({ ...this.#initial, ...state });
    const end = new Promise<RunOutcome | 'stop' | 'paused' | undefined>((resolve) => {
      this.#ended = resolve;
      setTimeout(resolve, milliseconds, undefined);
    });
    const poll = done && setInterval(() => done() && this.#ended('paused'), 2);
    this.vcpu.run();
    const outcome = await end;
    clearInterval(poll);
    await this.vcpu.pause();
    await this.bus.drain();
    const result = typeof outcome === 'object' ? outcome : undefined;
    const error = result?.kind === 'error' ? result.error : undefined;
    const kind = result?.kind ?? (outcome === 'stop' ? 'stopped' : 'paused');
    const key = error?.code ?? kind;
    this.ends.set(key, (this.ends.get(key) ?? 0) + 1);
    if (error !== undefined) {
      expect(error.code, `${error.message}\n${error.stack}`).not.toBe('TSV_E_INTERNAL');
      expect(Object.keys(ERROR_CODES)).toContain(error.code);
      expect(error.message).not.toMatch(/undefined|NaN|\[object/);
    }
    expect(this.errors.splice(0)).toEqual([]);
    return error?.message ?? kind;
  }

  /** Instructions that the emulation assist has completed. */
  get assisted(): number {
    return this.vcpu.control.counters[COUNTER.assisted];
  }

  /** True when nothing beside guest RAM was written. */
  get intact(): boolean {
    return this.#canaries.every((canary) => canary.intact);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.vcpu.close();
    this.bus.close();
    this.#clock.close();
    for (const device of this.devices) await device.close?.();
    await this.#engine[Symbol.asyncDispose]();
  }
}
