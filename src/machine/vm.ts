/**
 * A virtual machine: guest memory, a bus of devices and vCPU threads, run by an engine.
 *
 *            start()              pause()
 *   created ---------> running <----------> paused
 *       \                 | stop(), guest      | stop()
 *        \  close()       v                    v
 *         `----------> stopped (exited resolves)
 */
import { channel } from 'node:diagnostics_channel';
import type { Logger } from 'pino';
import { Bus } from '../devices/bus.ts';
import type { Device, StopReason } from '../devices/device.ts';
import { GuestClock } from '../devices/guest-clock.ts';
import { type InterruptRouter, TICK_CYCLE } from '../devices/irqchip/interrupt-router.ts';
import { TsvError } from '../errors.ts';
import { loadNative, nativeMemory, nativeProblem } from '../kvm/native.ts';
import { releaseRam } from '../memory/allocate.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import type { EngineVm } from '../vcpu/engine.ts';
import type { RunOutcome } from '../vcpu/protocol.ts';
import type { VcpuState } from '../vcpu/state.ts';
import { fromMessage, VcpuThread } from '../vcpu/vcpu-thread.ts';
import { type Board, buildBoard } from './board.ts';
import { type LoadedBoot, loadBoot } from './boot.ts';
import { type ResolvedConfig, resolveConfig, type VmConfig } from './config.ts';
import { VmConsole } from './console.ts';
import { cpuSetup } from './cpu.ts';
import { type DeviceOptions, DeviceSet } from './device-set.ts';
import { chooseEngine, type EngineChoice } from './engine-choice.ts';
import { type ExitReason, type RegisterDump, statusOf, type VmExit } from './exit.ts';
import { addControllers, tickDevice } from './irqchip.ts';
import { defaultLog } from './log.ts';
import { registerDump, withSymbol } from './registers.ts';
import { collectStats, type VmStats } from './stats.ts';

/** Life-cycle states of a {@link Vm}. */
export type VmStateName = 'created' | 'running' | 'paused' | 'stopped';

/** Published with `{ vm, state }` whenever a machine changes state. */
const stateChannel = channel('tsvisor:state');
/** Published with `{ vm, exit }` when a run has ended. */
const exitChannel = channel('tsvisor:exit');
/** Published with `{ vm, lines }` for traced exits and accesses. */
const traceChannel = channel('tsvisor:trace');

/** Inputs of the interrupt controllers: the pins of the I/O APIC. */
const GSIS = 24;

/** How long a machine that ends waits for devices that have not answered yet. */
const STOP_PATIENCE_MS = 1000;

/** Machines whose vCPUs must be out of the guest before the process can end. */
const live = new Set<Vm>();
process.on('exit', () => {
  for (const vm of live) vm.stopNow();
});

/** A virtual machine. */
export class Vm implements AsyncDisposable {
  /** Shown in logs. */
  readonly name: string;
  /** What it was created with, defaults filled in. */
  readonly config: ResolvedConfig;
  /** Which engine runs it, and why. */
  readonly accel: EngineChoice;
  /** Guest RAM. It may be read and written at any time; the guest does so too while it runs. */
  readonly memory: GuestMemory;
  /** The serial console. */
  readonly console: VmConsole;
  /** Resolves when the run has ended and everything is released. Never rejects. */
  readonly exited: Promise<VmExit>;
  /** Where the machine and its devices log to. */
  readonly log: Logger;
  readonly #engine: EngineVm;
  readonly #bus: Bus;
  readonly #clock: GuestClock;
  readonly #vcpus: VcpuThread[] = [];
  readonly #devices: DeviceSet;
  /** Interrupt controllers, where they are the machine's. */
  readonly #router: InterruptRouter | undefined;
  readonly #assistLock = new SharedArrayBuffer(4);
  readonly #halted = new Set<VcpuThread>();
  #board: Board | undefined;
  #boot: LoadedBoot | undefined;
  #state: VmStateName = 'created';
  #finishing: Promise<void> | undefined;
  #exitDone!: (exit: VmExit) => void;

  private constructor(config: ResolvedConfig, accel: EngineChoice) {
    const virtual = config.clock === 'virtual';
    const clock = new GuestClock({ timeScale: config.timeScale, virtual });
    const { engine, memory } = accel.create(config, clock.time);
    this.config = config;
    this.name = config.name;
    this.accel = accel;
    this.memory = memory;
    this.log = config.log ?? defaultLog();
    this.#engine = engine;
    this.#bus = new Bus(
      { onDeviceError: (error) => this.#end({ reason: 'error', by: 'device', error }) },
      {
        deviceTimeout: config.deviceTimeout,
        settle: virtual,
        wakeups: nativeProblem() === undefined ? loadNative() : undefined,
        // A trace shows every access, and only vCPUs trace.
        notifier: config.trace.some((topic) => topic === 'io' || topic === 'mmio')
          ? undefined
          : (place, onWrite) => engine.watchWrite(place, onWrite),
      },
    );
    this.#clock = clock;
    this.#devices = new DeviceSet({
      bus: this.#bus,
      memory,
      clock: this.#clock,
      log: this.log,
      gsis: config.irqchip === 'none' ? 0 : GSIS,
      closeTimeout: config.deviceTimeout,
      setIrqLine: (gsi, level) => {
        if (this.#state === 'stopped') return;
        if (this.#router === undefined) engine.setIrqLine(gsi, level);
        else this.#router.setIrqLine(gsi, level);
      },
      pulseIrqLine: (gsi) => {
        if (this.#state === 'stopped') return;
        if (this.#router === undefined) engine.pulseIrqLine(gsi);
        else this.#router.pulseIrqLine(gsi);
      },
      signalMsi: (message) => {
        if (this.#state !== 'stopped') engine.signalMsi(message);
      },
      onStop: (reason) => this.#onStop(reason),
    });
    if (virtual) this.#devices.add(tickDevice(clock), { mmio: [{ base: TICK_CYCLE, size: 4 }] });
    this.#router = addControllers(config, engine, this.#devices, this.log);
    this.console = new VmConsole((bytes) => this.#board?.type(bytes));
    this.exited = new Promise((resolve) => {
      this.#exitDone = resolve;
    });
  }

  /**
   * Creates a machine: its memory, engine, board and vCPU threads; loads what it boots. Nothing runs yet.
   *
   * ```ts
   * await using vm = await Vm.create({ memory: '256M', boot: { kernel: 'vmlinux', initrd: 'initrd.img' } });
   * vm.start();
   * const exit = await vm.exited;
   * ```
   * @throws TsvError of any code that its configuration, files or the host give cause for; nothing is left behind
   */
  static async create(options: VmConfig): Promise<Vm> {
    const config = resolveConfig(options);
    const vm = new Vm(config, chooseEngine(config));
    live.add(vm);
    try {
      await vm.#setUp();
    } catch (error) {
      await vm.close();
      throw error;
    }
    return vm;
  }

  /** Where it is in its life. */
  get state(): VmStateName {
    return this.#state;
  }

  /** Guest time and wall clock as the devices see them. */
  get clock(): GuestClock {
    return this.#clock;
  }

  async #setUp(): Promise<void> {
    // Threads take longest to come up: they start first, the files are read meanwhile.
    for (let index = 0; index < this.config.cpus; index++) this.#vcpus.push(this.#spawn(index));
    this.#board = buildBoard(this, {
      onOutput: (bytes) => this.console.receive(bytes),
      onPanic: (message) => this.#panicked(message),
    });
    // What fails first is thrown; the other is over when the devices have been closed.
    this.#board?.ready.catch(() => undefined);
    this.#engine.prepare();
    [this.#boot] = await Promise.all([loadBoot(this.config, this.memory), this.#board?.ready]);
    await Promise.all(this.#vcpus.map((vcpu) => vcpu.ready));
    const { tsc_khz } = await this.#vcpus[0].get('tsc_khz');
    const states = cpuSetup(this.config, this.#engine, this.memory, this.#boot, tsc_khz, this.log);
    await Promise.all(this.#vcpus.map((vcpu, i) => vcpu.set(states[i])));
    // Without interrupt controllers nothing could ever start the other vCPUs.
    if (this.config.irqchip === 'none' && !this.#boot.startAll) {
      for (const vcpu of this.#vcpus.slice(1)) this.#halted.add(vcpu);
    }
  }

  #spawn(index: number): VcpuThread {
    const port = this.#engine.vcpuPort(index);
    const channelOfVcpu = this.#bus.addChannel();
    const init = {
      port,
      memory: this.memory.share(),
      busTable: this.#bus.table.shared,
      channel: channelOfVcpu.shared,
      doorbell: this.#bus.bell.shared,
      assistLock: this.#assistLock,
      irqchip: this.config.irqchip,
      synchronous: this.config.clock === 'virtual',
      trace: this.config.trace,
      affinity: this.config.affinity[index] ?? [],
    };
    return new VcpuThread(this.#engine, init, this.#engine.runArea(port), {
      onOutcome: (vcpu, outcome) => this.#onOutcome(vcpu, outcome),
      onTrace: (lines) => traceChannel.publish({ vm: this, lines }),
      onLog: (level, message) => this.log[level](message),
      onEoi: (vector) => this.#router?.ioApic.endOfInterrupt(vector),
    });
  }

  /**
   * Attaches a device to the bus. Before the start, or while the machine runs (hot-plug).
   * @throws TSV_E_CONFIG, TSV_E_BUS_OVERLAP, TSV_E_BUS_RANGE, TSV_E_IRQ, TSV_E_STATE
   */
  addDevice(device: Device, options: DeviceOptions = {}): void {
    this.#need('created', 'running', 'paused');
    this.#devices.add(device, options);
  }

  /** Takes a device off the bus and releases what it holds. */
  async removeDevice(device: Device): Promise<void> {
    await this.#devices.remove(device);
  }

  /** The attached devices, in order. */
  get devices(): readonly Device[] {
    return this.#devices.all;
  }

  /** Lets the guest run. @throws TSV_E_STATE unless created or paused */
  start(): void {
    this.#need('created', 'paused');
    if (this.#state === 'created') void this.#bus.serve();
    this.#clock.start();
    this.#engine.startClock();
    this.#setState('running');
    for (const vcpu of this.#vcpus) if (!this.#halted.has(vcpu)) vcpu.run();
  }

  /**
   * Brings all vCPUs to a stand; guest time stands still. Resolves when state and memory can be read, or when the
   * machine has ended meanwhile.
   * @throws TSV_E_STATE unless running or paused
   */
  async pause(): Promise<void> {
    this.#need('running', 'paused');
    if (this.#state === 'paused') return;
    this.#pausing ??= this.#pause().finally(() => {
      this.#pausing = undefined;
    });
    await this.#pausing;
  }
  #pausing: Promise<void> | undefined;

  async #pause(): Promise<void> {
    await Promise.all(this.#vcpus.map((vcpu) => vcpu.pause()));
    await Promise.race([this.#bus.drain(), this.exited]);
    if (this.#finishing !== undefined) {
      await this.exited;
      return;
    }
    this.#clock.pause();
    this.#engine.stopClock();
    this.#setState('paused');
  }

  /** Goes on after {@link pause}. */
  resume(): void {
    this.#need('paused');
    this.#clock.resume();
    this.#engine.startClock();
    this.#setState('running');
    for (const vcpu of this.#vcpus) if (!this.#halted.has(vcpu)) vcpu.run();
  }

  /** Ends the run from outside. Resolves when it has ended. */
  async stop(reason: 'stopped' | 'timeout' = 'stopped'): Promise<VmExit> {
    this.#end({ reason, by: 'host' });
    return this.exited;
  }

  /** Reads state of a vCPU. The machine must be created or paused. @throws TSV_E_STATE */
  async readVcpu<K extends keyof VcpuState>(index: number, ...keys: K[]): Promise<Pick<VcpuState, K>> {
    return this.#vcpu(index).get(...keys);
  }

  /** Writes state of a vCPU. The machine must be created or paused. @throws TSV_E_STATE, TSV_E_IOCTL */
  async writeVcpu(index: number, state: Partial<VcpuState>): Promise<void> {
    await this.#vcpu(index).set(state);
  }

  /** Linear to physical, by the page tables a vCPU uses; undefined when not mapped. Created or paused only. */
  async translate(index: number, linear: bigint): Promise<number | undefined> {
    const result = await this.#vcpu(index).call('translate', linear);
    return result.valid ? Number(result.physical_address) : undefined;
  }

  /** A non-maskable interrupt for a vCPU. Created or paused only. */
  async nmi(index: number): Promise<void> {
    await this.#vcpu(index).call('nmi');
  }

  /** The console's break condition, as sysrq wants it. */
  sendBreak(): void {
    this.#board?.sendBreak();
  }

  /** The power button: an ACPI guest shuts down. */
  pressPowerButton(): void {
    this.#board?.pressPowerButton();
  }

  /** Name and offset of the kernel symbol at a linear address, when the kernel image has symbols. */
  symbol(linear: bigint): string | undefined {
    return this.#boot?.symbols(linear);
  }

  /** The engine's half, for what has no place in this class (ioeventfd, irqfd, dirty log). */
  get engine(): EngineVm {
    return this.#engine;
  }

  /** @internal Indices of vCPUs whose run HLT has ended, because there is nothing that could wake them. */
  get halted(): readonly number[] {
    return [...this.#halted].map(({ index }) => index);
  }
  /** @internal Of a restored machine, which goes on with them at rest. */
  set halted(indices: readonly number[]) {
    this.#halted.clear();
    for (const index of indices) this.#halted.add(this.#vcpu(index));
  }

  /** Counters, readable at any time. */
  stats(): VmStats {
    const stats: VmStats = {
      ...collectStats(this.#vcpus.map(({ control }) => control)),
      ...this.#engine.eventfdCounts(),
    };
    const counts = this.#vcpus.map(({ index }) => this.#engine.instructions(index));
    if (counts.some((count) => count === undefined)) return stats;
    return { ...stats, instructions: counts.reduce((sum: number, count) => sum + (count ?? 0), 0) };
  }

  /** Ends the run, if it has not ended, and releases everything, the content of {@link memory} included. */
  async close(): Promise<void> {
    this.#end({ reason: 'stopped', by: 'host' });
    await this.exited;
    if (nativeProblem() === undefined) releaseRam(this.memory, nativeMemory(loadNative()));
  }

  /** {@link close}, for `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** @internal Gets the vCPUs out of the guest while the process ends. */
  stopNow(): void {
    this.#bus.abort();
    for (const vcpu of this.#vcpus) vcpu.stopNow();
  }

  #onOutcome(vcpu: VcpuThread, outcome: RunOutcome): void {
    switch (outcome.kind) {
      case 'halted':
        this.#halted.add(vcpu);
        if (this.#halted.size === this.#vcpus.length) this.#end({ reason: 'halt', by: 'HLT' });
        break;
      case 'shutdown':
        this.#end({
          reason: 'triple-fault',
          by: `vcpu${vcpu.index}`,
          error: new TsvError(
            'TSV_E_GUEST_TRIPLE_FAULT',
            `vCPU ${vcpu.index} shut down after a triple fault.`,
            {
              hint: 'The register dump shows where; a fault while delivering a double fault means a bad IDT, TSS or stack.',
            },
          ),
        });
        break;
      case 'system-event':
        this.#onSystemEvent(outcome.event);
        break;
      case 'error':
        this.#end({ reason: 'error', by: `vcpu${vcpu.index}`, error: fromMessage(outcome.error) });
        break;
      case 'debug':
        this.log.warn(
          `vCPU ${vcpu.index} stopped for a debugger at 0x${outcome.pc.toString(16)}; nobody asked for it`,
        );
        vcpu.run();
        break;
    }
  }

  #onSystemEvent(event: number): void {
    const kinds = ['unknown', 'poweroff', 'reset', 'panic'] as const;
    const kind = kinds[event] ?? 'unknown';
    if (kind === 'panic') this.#panic ??= 'it told the hypervisor so';
    this.#end({ reason: kind === 'unknown' ? 'stopped' : kind, by: `system event ${event}` });
  }

  #onStop(reason: StopReason): void {
    switch (reason.kind) {
      case 'exit':
        this.#end({ reason: 'exit', status: reason.status, by: reason.by });
        break;
      case 'panic':
        this.#panicked(reason.message);
        break;
      default:
        this.#end({ reason: reason.kind, by: reason.by });
    }
  }

  #panic: string | undefined;

  #panicked(message: string): void {
    this.#panic ??= message;
    if (!this.config.stopOnPanic) return;
    this.#end({ reason: 'panic', by: 'guest kernel' });
  }

  /** The first call decides how the run ended; later ones change nothing. */
  #end(exit: { reason: ExitReason; status?: number; by: string; error?: TsvError }): void {
    this.#finishing ??= this.#finish(exit);
  }

  async #finish(exit: { reason: ExitReason; status?: number; by: string; error?: TsvError }): Promise<void> {
    // Let the caller of #end, often a device in the middle of an access, come to its end first.
    await new Promise((resolve) => setImmediate(resolve));
    for (const vcpu of this.#vcpus) vcpu.stopNow();
    this.#bus.abort();
    await Promise.all(this.#vcpus.map((vcpu) => vcpu.stop()));
    this.console.finish();
    await this.#bus.drain(STOP_PATIENCE_MS);
    // Whether they are wanted is known only when all output has been taken.
    const dumps = await this.#registers();
    this.#clock.pause();
    await Promise.all(this.#vcpus.map((vcpu) => vcpu.close()));
    this.#bus.close();
    await this.#devices.close();
    // With panic=-1 Linux resets before it ends its report, and what it printed last has only now been taken.
    if (exit.reason === 'reset') this.#panic ??= this.#board?.panicMessage;
    this.#setState('stopped');
    await this.#engine[Symbol.asyncDispose]();
    live.delete(this);
    const reason = this.#panic !== undefined && exit.reason !== 'error' ? 'panic' : exit.reason;
    const bad = ['panic', 'triple-fault', 'error', 'timeout'].includes(reason);
    const registers = bad ? dumps : undefined;
    const error =
      this.#panic === undefined || exit.error !== undefined
        ? exit.error &&
          withSymbol(
            exit.error,
            registers?.find(({ vcpu }) => exit.by === `vcpu${vcpu}`),
          )
        : new TsvError('TSV_E_GUEST_PANIC', `The guest's kernel panicked: ${this.#panic}.`, {
            hint: 'The console output shows its reasons.',
          });
    const result: VmExit = {
      reason,
      status: exit.status ?? (reason === 'error' ? (error?.exitStatus ?? 4) : statusOf(reason)),
      by: exit.by,
      ...(error && { error }),
      ...(registers && { registers }),
    };
    this.console.end(result.reason);
    exitChannel.publish({ vm: this, exit: result });
    this.#exitDone(result);
  }

  async #registers(): Promise<RegisterDump[]> {
    const dumps = this.#vcpus.map(async (vcpu) => {
      try {
        const { regs, sregs } = await vcpu.get('regs', 'sregs');
        return [registerDump(vcpu.index, regs, sregs, this.memory, (linear) => this.#boot?.symbols(linear))];
      } catch (error) {
        this.log.debug(`no registers of vCPU ${vcpu.index}: ${String(error)}`);
        return [];
      }
    });
    return (await Promise.all(dumps)).flat();
  }

  #vcpu(index: number): VcpuThread {
    const vcpu = this.#vcpus[index];
    if (vcpu === undefined) {
      throw new TsvError('TSV_E_CPU_COUNT', `There is no vCPU ${index}.`, {
        hint: `This machine has vCPUs 0 to ${this.#vcpus.length - 1}.`,
      });
    }
    return vcpu;
  }

  #need(...states: VmStateName[]): void {
    if (this.#finishing === undefined && states.includes(this.#state)) return;
    const state = this.#finishing === undefined ? this.#state : 'stopped';
    throw new TsvError('TSV_E_STATE', `The machine is ${state}; this needs it ${states.join(' or ')}.`, {
      hint: 'See the state diagram of class Vm.',
    });
  }

  #setState(state: VmStateName): void {
    this.#state = state;
    stateChannel.publish({ vm: this, state });
  }
}
