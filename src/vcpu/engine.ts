/**
 * The engine seam: everything above this file is the same code for kvm and tcg.
 *
 * An engine has two halves. {@link EngineVm} lives on the thread that created the machine: memory slots, interrupt
 * lines, machine-wide state. {@link EngineVcpu} lives in a vCPU's worker thread: it enters the guest and reports
 * exits in the layout of struct kvm_run (src/kvm/abi/run.ts), whichever engine ran.
 */

import type { Mount } from '../devices/bus.ts';
import type { BusClient } from '../devices/bus-client.ts';
import type { Device } from '../devices/device.ts';
import type { Notifier, NotifyPlace } from '../devices/notifications.ts';
import type { SharedTime } from '../devices/shared-time.ts';
import type { DirtyBitmap } from '../memory/dirty-bitmap.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import type { TraceTopic } from './protocol.ts';
import type { CpuidEntry, DebugRegs, Translation, VcpuState } from './state.ts';

/** Engines by name. */
export type EngineName = 'kvm' | 'tcg';

/**
 * Who emulates the interrupt controllers: `kernel` (PIC, I/O APIC and local APICs by the engine), `split` (local APICs
 * by the engine, the rest by devices), `none` (HLT then ends the vCPU's run).
 */
export type IrqchipMode = 'kernel' | 'split' | 'none';

/**
 * What kvm uses eventfds for where it can. `auto`: notifications of devices come by ioeventfds, message-signalled interrupts
 * go by irqfds. `all`: so do edges of interrupt lines, which costs the machine's thread less, but they arrive later: the
 * kernel hands them to a worker of its own. `none`: exits and ioctls.
 */
export type EventfdUse = 'auto' | 'all' | 'none';

/** Options of {@link EngineVm} creation. */
export interface EngineVmConfig {
  memory: GuestMemory;
  irqchip: IrqchipMode;
  /** Whether the engine shall emulate the PIT and port 0x61; needs `irqchip: 'kernel'`. */
  pit: boolean;
  /** Record which pages the guest writes. */
  dirtyLog?: boolean;
  /** Local APIC ids by vCPU index, the first 0; a vCPU beyond the list has its index. */
  apicIds?: readonly number[];
  /** The machine's guest time, for an engine that keeps TSC and timers by it. */
  time?: SharedTime;
  /** Default `auto`. */
  eventfds?: EventfdUse;
  /** Seed of the guest's random number instructions; from the host's entropy when absent. */
  seed?: number;
}

/** What a vCPU half may use of its thread. */
export interface VcpuContext {
  /** Tracing, by topic (src/vcpu/protocol.ts). */
  tracer: { has(topic: TraceTopic): boolean; add(line: string): void };
  /** Something for the machine's log. */
  log(level: 'info' | 'warn', message: string): void;
}

/** One half of an MSI: the address and data a device writes (SDM vol. 3, 11.11). */
export interface MsiMessage {
  /** Guest-physical address, from 0xFEE00000 on. */
  address: number;
  /** 32 bits: vector, delivery mode, trigger mode. */
  data: number;
}

/** A machine as an engine sees it, on the thread that owns the devices. */
export interface EngineVm extends AsyncDisposable {
  /** Which engine this is. */
  readonly engine: EngineName;
  /**
   * Finds out what the host cannot do and takes precautions. Called once, before a vCPU runs; it may take some
   * milliseconds, so the vCPU threads are on their way by then.
   */
  prepare(): void;
  /** Parts of the engine that are devices of the machine's bus: interrupt controllers that are not the kernel's. */
  busDevices(): readonly { device: Device; mount: Mount }[];
  /**
   * Frequency of the TSC in kHz when it counts guest time, which may be slower than the host's; undefined when it follows
   * the host's TSC.
   */
  readonly guestTscKhz: number | undefined;
  /** Family, model and stepping (CPUID leaf 1 EAX) of this engine's own processor; undefined for the usual ones. */
  readonly cpuSignature: number | undefined;
  /** CPUID leaves that guests of this engine can have. */
  supportedCpuid(): CpuidEntry[];
  /** Features among these that guests must not be shown, because the engine cannot run their instructions. */
  lackingFeatures(): readonly string[];
  /** MSRs whose value belongs to a vCPU's saved state. */
  msrIndices(): number[];
  /**
   * Memory for {@link mapMemory}, zero.
   * @param size bytes; rounded up to whole pages
   * @throws TSV_E_MEMORY_SIZE, TSV_E_HOST_MEMORY
   */
  allocateMemory(size: number): Uint8Array;
  /**
   * Adds RAM or ROM that is not part of the machine's memory. What is written to ROM goes to the bus.
   * @param bytes page-aligned view of shared memory; of {@link allocateMemory} for every engine
   * @throws TSV_E_CONFIG, TSV_E_IOCTL
   */
  mapMemory(gpa: number, bytes: Uint8Array, options?: { readonly?: boolean }): number;
  /** Removes what {@link mapMemory} added. */
  unmapMemory(slot: number): void;
  /** Drives an input of the interrupt controllers. */
  setIrqLine(gsi: number, level: 0 | 1): void;
  /** An edge of an input that is low: up, and down again. */
  pulseIrqLine(gsi: number): void;
  /**
   * `split` irqchip: level of the PIC's output, INTR of every processor.
   * @returns false when the engine cannot take its interrupts
   */
  setPicOutput(level: 0 | 1): boolean;
  /** `split` irqchip: an input of the I/O APIC now gives this message; the end of level-triggered ones is to be reported. */
  routePin(pin: number, message: MsiMessage): void;
  /** Delivers a message-signalled interrupt. */
  signalMsi(message: MsiMessage): void;
  /**
   * Watches a guest's writes, which then do not reach the bus.
   * @param onWrite called on this thread, once for one or several writes
   * @returns undefined when the engine cannot
   */
  watchWrite(place: NotifyPlace, onWrite: () => void): Notifier | undefined;
  /** Notifications that came by an ioeventfd and interrupts that went by an irqfd; undefined without such things. */
  eventfdCounts(): { ioeventfd: number; irqfd: number } | undefined;
  /** Pages written since the last call, one bitmap for each RAM region, and starts anew. Needs `dirtyLog`. */
  takeDirtyLog(): DirtyBitmap[];
  /** What a vCPU's worker needs to open its half; structured-cloneable. */
  vcpuPort(index: number): VcpuPort;
  /** The vCPU's run area, as its worker sees it too. */
  runArea(port: VcpuPort): Uint8Array;
  /** Instructions a vCPU has executed, as of its last return from guest code; undefined when the engine does not know. */
  instructions(index: number): number | undefined;
  /** Makes a vCPU's `enter` return soon, from any state. */
  kick(tid: number, run: Uint8Array): void;
  /** A vCPU's thread is gone: what it held while it ran is nobody's, and nothing waits for it. */
  retire(index: number): void;
  /**
   * The machine is paused: lets the engine's paravirtual clock stand still, and waits for interrupts that are still on
   * their way to the controllers.
   */
  stopClock(): void;
  /** The clock goes on from where {@link stopClock} left it. */
  startClock(): void;
  /** Machine-wide engine state: interrupt controllers, timers, clock. All vCPUs must be paused. */
  save(): Record<string, unknown>;
  /** Continues from what {@link save} gave. @throws TSV_E_IOCTL */
  restore(state: Record<string, unknown>): void;
}

/** Names an engine and a vCPU to its worker. */
export interface VcpuPort {
  engine: EngineName;
  index: number;
  /** Engine-specific, structured-cloneable. */
  detail: unknown;
}

/** A state component and its value. */
export type StateKey = keyof VcpuState;

/** The order in which state must be written: later components depend on earlier ones (KVM api.rst 4.x). */
export const STATE_ORDER: readonly StateKey[] = [
  'cpuid',
  'tsc_khz',
  'sregs',
  'regs',
  'xcrs',
  'xsave',
  'fpu',
  'debugregs',
  'lapic',
  'msrs',
  'events',
  'mp_state',
];

/** What single-stepping and breakpoints need (KVM_SET_GUEST_DEBUG). */
export interface GuestDebug {
  control: number;
  debugregs: Pick<DebugRegs, 'db' | 'dr7'>;
}

/** A vCPU, in its worker. */
export interface EngineVcpu {
  /** The run area: struct kvm_run and the data pages after it, in shared memory. */
  readonly run: Uint8Array;
  /** Runs the guest until the next exit. @returns 0 on an exit, -EINTR after a kick, another -errno on failure */
  enter(): number;
  get<K extends StateKey>(key: K): VcpuState[K];
  set<K extends StateKey>(key: K, value: VcpuState[K]): void;
  /** Reads single MSRs. @throws TSV_E_IOCTL naming the one that is refused */
  getMsrs(indices: readonly number[]): VcpuState['msrs'];
  /** Linear to physical, by the guest's current page tables. */
  translate(linear: bigint): Translation;
  setGuestDebug(debug: GuestDebug): void;
  /** Queues an external interrupt; only with `irqchip: 'none'`. */
  interrupt(vector: number): void;
  nmi(): void;
  /** The bus of this thread, for accesses that an engine can carry out without an exit. */
  attachBus?(bus: BusClient): void;
  /** Tells the guest that it was paused, so that its watchdogs do not take the gap for a hang. */
  announcePause(): void;
  close(): void;
}
