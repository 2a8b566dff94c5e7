/**
 * A VM of the tcg engine, on the thread that owns the devices. Its vCPUs run inside the WebAssembly memory that also
 * holds guest RAM (layout.ts); what is here are the interrupt controllers outside of the processors.
 */
import type { Mount } from '../devices/bus.ts';
import type { Device } from '../devices/device.ts';
import { ApicBus } from '../devices/irqchip/apic-bus.ts';
import { type ApicMailbox, apicMailboxes } from '../devices/irqchip/apic-mailbox.ts';
import { InterruptRouter } from '../devices/irqchip/interrupt-router.ts';
import { SharedTime } from '../devices/shared-time.ts';
import { TsvError } from '../errors.ts';
import { KVM_RUN_IMMEDIATE_EXIT } from '../kvm/abi/run.ts';
import type { DirtyBitmap } from '../memory/dirty-bitmap.ts';
import type { HostMemory, RamRegion } from '../memory/guest-memory.ts';
import type { EngineVm, EngineVmConfig, IrqchipMode, MsiMessage, VcpuPort } from '../vcpu/engine.ts';
import { MSR, snapshotMsrs } from '../vcpu/msrs.ts';
import type { CpuidEntry } from '../vcpu/state.ts';
import { SIGNATURE, TSC_KHZ, tcgCpuid } from './cpuid.ts';
import { CodeWatch } from './decode/code-watch.ts';
import { DirtyLog } from './dirty-log.ts';
import { type CompiledModules, modulesForThreads } from './interpreter.ts';
import {
  ATTENTION_ENGINE,
  ATTENTION_KICK,
  areaBase,
  attentionWord,
  engineSize,
  PAGE,
  RUN,
  RUN_SIZE,
  S,
} from './layout.ts';
import { MemorySlots } from './memory-slots.ts';
import { Rendezvous } from './rendezvous.ts';
import { msrIndices } from './system/msrs.ts';

/** With more vCPUs than this the interpreter is compiled for all of them at once. */
const COMPILED_ONCE = 2;

/** Most vCPUs: each takes address space in the one memory that also holds guest RAM. */
export const MAX_TCG_CPUS = 64;

/** MSRs whose value belongs to the saved state. */
export const SAVED_MSRS: readonly number[] = [
  ...msrIndices(),
  MSR.IA32_TSC_DEADLINE,
  MSR.MSR_KVM_WALL_CLOCK_NEW,
  MSR.MSR_KVM_SYSTEM_TIME_NEW,
];

/** The engine-specific part of a {@link VcpuPort}. */
export interface TcgVcpuDetail {
  memory: WebAssembly.Memory;
  regions: readonly RamRegion[];
  cpus: number;
  apicIds: readonly number[];
  mailboxes: SharedArrayBuffer;
  time: SharedArrayBuffer;
  irqchip: IrqchipMode;
  seed: number | undefined;
  slots: SharedArrayBuffer;
  modules: CompiledModules | undefined;
}

/** A VM in software. */
export class TcgVm implements EngineVm {
  readonly engine = 'tcg';
  readonly guestTscKhz = TSC_KHZ;
  readonly cpuSignature = SIGNATURE;
  readonly #config: EngineVmConfig;
  readonly #cpus: number;
  readonly #memory: WebAssembly.Memory;
  readonly #words: Int32Array;
  readonly #apicIds: readonly number[];
  readonly #mailboxes: readonly ApicMailbox[];
  readonly #apicBus: ApicBus;
  readonly #router: InterruptRouter | undefined;
  readonly #time: SharedTime;
  readonly #slots = new MemorySlots();
  /** First byte behind RAM that is not given away yet. */
  #spare: number;
  readonly #modules: CompiledModules | undefined;
  #dirtyLog: DirtyLog | undefined;

  /** Room behind RAM for {@link allocateMemory}: address space that takes no memory until it is used. */
  static readonly spare = 64 << 20;

  /** Bytes of memory 0 that must lie before RAM for so many vCPUs (see allocateRam's `reserve`). */
  static reserve(cpus: number): number {
    return engineSize(cpus);
  }

  /**
   * Creates a VM. Its memory must have {@link TcgVm.reserve} bytes before RAM, all in one memory.
   * @throws TSV_E_CPU_COUNT for more than {@link MAX_TCG_CPUS}, TSV_E_CONFIG for another memory
   */
  static create(config: EngineVmConfig, cpus: number): TcgVm {
    if (cpus > MAX_TCG_CPUS) {
      throw new TsvError('TSV_E_CPU_COUNT', `The tcg engine cannot run ${cpus} vCPUs.`, {
        hint: `Ask for 1 to ${MAX_TCG_CPUS}, or run the machine with --accel kvm.`,
      });
    }
    const { memories, regions } = config.memory;
    if (memories.length !== 1 || regions.some(({ offset }) => offset < engineSize(cpus))) {
      throw new TsvError('TSV_E_CONFIG', 'The guest memory leaves no room for the tcg engine.', {
        hint: 'Allocate it with the reserve that TcgVm.reserve() asks for.',
      });
    }
    return new TcgVm(config, cpus);
  }

  private constructor(config: EngineVmConfig, cpus: number) {
    this.#config = config;
    this.#cpus = cpus;
    this.#memory = config.memory.memories[0] as WebAssembly.Memory;
    const words = new Int32Array(this.#memory.buffer as SharedArrayBuffer);
    this.#words = words;
    this.#apicIds = Array.from({ length: cpus }, (_, index) => config.apicIds?.[index] ?? index);
    this.#mailboxes = apicMailboxes(cpus, {
      ids: this.#apicIds,
      wake: (index) => ({ words, index: attentionWord(index) }),
    });
    this.#apicBus = new ApicBus(this.#mailboxes);
    if (config.irqchip === 'kernel') this.#router = new InterruptRouter(this.#apicBus);
    this.#time = config.time ?? runningTime();
    // A few threads compile at the same time, each for itself; many would wait for each other.
    if (cpus > COMPILED_ONCE) this.#modules = modulesForThreads();
    const { regions } = config.memory;
    this.#spare = Math.max(...regions.map(({ offset, size }) => offset + size));
    if (config.dirtyLog) this.#dirtyLog = new DirtyLog(this.#memory as HostMemory, config.memory.regions);
    const watch = new CodeWatch(
      this.#memory as HostMemory,
      config.memory.regions,
      cpus,
      undefined,
      this.#slots,
    );
    config.memory.onWrite = (gpa, length) => watch.wroteGuest(gpa, length);
  }

  /** What the machine must put on its bus: the interrupt controllers. */
  busDevices(): readonly { device: Device; mount: Mount }[] {
    return this.#router?.mounts ?? [];
  }

  prepare(): void {}

  supportedCpuid(): CpuidEntry[] {
    return tcgCpuid();
  }

  lackingFeatures(): readonly string[] {
    return [];
  }

  msrIndices(): number[] {
    return snapshotMsrs(SAVED_MSRS);
  }

  mapMemory(gpa: number, bytes: Uint8Array, options: { readonly?: boolean } = {}): number {
    if (bytes.buffer !== this.#memory.buffer) {
      throw new TsvError('TSV_E_CONFIG', 'The tcg engine can only map memory that it has allocated.', {
        hint: 'Get the bytes from allocateMemory().',
      });
    }
    const readOnly = options.readonly ?? false;
    const slot = this.#slots.add({ gpa, size: bytes.length, host: bytes.byteOffset, readOnly });
    this.#attend();
    return slot;
  }

  unmapMemory(slot: number): void {
    this.#slots.remove(slot);
    this.#attend();
  }

  allocateMemory(size: number): Uint8Array {
    const length = Math.ceil(size / PAGE) * PAGE;
    const start = this.#spare;
    const left = this.#memory.buffer.byteLength - start;
    if (!(size > 0) || !(length <= left)) {
      throw new TsvError(
        'TSV_E_MEMORY_SIZE',
        `There is no room for ${size} bytes more in the tcg engine's memory.`,
        {
          hint: `Up to ${Math.floor(left / 2 ** 20)} MiB more can be had.`,
        },
      );
    }
    this.#spare += length;
    return new Uint8Array(this.#memory.buffer, start, length);
  }

  /** Lets every vCPU look at what has changed. */
  #attend(): void {
    for (let i = 0; i < this.#cpus; i++) Atomics.or(this.#words, attentionWord(i), ATTENTION_ENGINE);
  }

  setIrqLine(gsi: number, level: 0 | 1): void {
    this.#router?.setIrqLine(gsi, level);
  }

  pulseIrqLine(gsi: number): void {
    this.setIrqLine(gsi, 1);
    this.setIrqLine(gsi, 0);
  }

  setPicOutput(level: 0 | 1): true {
    this.#apicBus.setIntr(level === 1);
    return true;
  }

  /** The end of every level-triggered interrupt is reported. */
  routePin(): void {}

  signalMsi(message: MsiMessage): void {
    this.#apicBus.signalMsi(message);
  }

  /** All writes go to the bus. */
  watchWrite(): undefined {}

  eventfdCounts(): undefined {}

  takeDirtyLog(): DirtyBitmap[] {
    this.#dirtyLog ??= new DirtyLog(this.#memory as HostMemory, this.#config.memory.regions);
    return this.#dirtyLog.take();
  }

  vcpuPort(index: number): VcpuPort {
    const detail: TcgVcpuDetail = {
      memory: this.#memory,
      regions: this.#config.memory.regions,
      cpus: this.#cpus,
      apicIds: this.#apicIds,
      mailboxes: this.#mailboxes[0].words.buffer as SharedArrayBuffer,
      time: this.#time.shared,
      irqchip: this.#config.irqchip,
      seed: this.#config.seed,
      slots: this.#slots.shared,
      modules: this.#modules,
    };
    return { engine: 'tcg', index, detail };
  }

  runArea({ index }: VcpuPort): Uint8Array {
    return new Uint8Array(this.#memory.buffer, areaBase(index) + RUN, RUN_SIZE);
  }

  instructions(index: number): number {
    const view = new DataView(this.#memory.buffer, areaBase(index) + S.RETIRED, 8);
    return Number(view.getBigUint64(0, true));
  }

  kick(_tid: number, run: Uint8Array): void {
    // In this order: the vCPU looks at the former after it has taken the latter.
    run[KVM_RUN_IMMEDIATE_EXIT] = 1;
    const word = (run.byteOffset - RUN + S.ATTENTION) >> 2;
    Atomics.or(this.#words, word, ATTENTION_KICK);
    Atomics.notify(this.#words, word);
  }

  retire(index: number): void {
    Rendezvous.retire(this.#words, index);
  }

  /** Guest time is the machine's, which stands still by itself. */
  stopClock(): void {}
  startClock(): void {}

  /** The interrupt controllers are devices of the machine, local APICs belong to their vCPUs, time is the machine's. */
  save(): Record<string, unknown> {
    return {};
  }
  restore(): void {}

  async [Symbol.asyncDispose](): Promise<void> {}
}

/** Guest time that runs from now on, for a VM without a machine around it. */
function runningTime(): SharedTime {
  const time = new SharedTime();
  time.run(0, 1);
  return time;
}
