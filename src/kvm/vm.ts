/** A VM of the kvm engine: memory slots, interrupt lines, machine-wide state (KVM api.rst, VM ioctls). */

import type { Notifier, NotifyPlace } from '../devices/notifications.ts';
import { TsvError } from '../errors.ts';
import { allocateRam } from '../memory/allocate.ts';
import { DirtyBitmap } from '../memory/dirty-bitmap.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import { KVM_IDENTITY_MAP_BASE, KVM_TSS_BASE } from '../memory/layout.ts';
import type { EngineVm, EngineVmConfig, MsiMessage, VcpuPort } from '../vcpu/engine.ts';
import { MSR } from '../vcpu/msrs.ts';
import type { CpuidEntry } from '../vcpu/state.ts';
import { REPAIR_MSR } from '../vcpu/syscall-repair.ts';
import * as abi from './abi/index.ts';
import type { KvmFd } from './fd.ts';
import { GsiRoutes, PC_ROUTES } from './gsi-routes.ts';
import { KvmInterrupts } from './interrupts.ts';
import { type MsrFilterRange, type Native, nativeMemory } from './native.ts';
import { KvmNotifiers } from './notifiers.ts';
import type { KvmProbe } from './probe.ts';
import { KvmSystem, type KvmSystemOptions } from './system.ts';
import type { KvmVcpuDetail } from './vcpu.ts';

const PAGE = 4096;
const WASM_PAGE = 65536;
const IRQCHIPS = [abi.KVM_IRQCHIP_PIC_MASTER, abi.KVM_IRQCHIP_PIC_SLAVE, abi.KVM_IRQCHIP_IOAPIC];
const IMMEDIATE_EXIT = abi.KVM_RUN_IMMEDIATE_EXIT;

interface Slot {
  gpa: number;
  bytes: Uint8Array;
  flags: number;
}

/** Where a coalesced zone lies. */
export interface IoRange {
  space: 'pio' | 'mmio';
  address: number;
  /** Bytes. */
  size: number;
}

/** Options of {@link KvmVm.create}. */
export interface KvmVmOptions extends KvmSystemOptions {
  /** What this host's KVM can run; without it the VM takes KVM's word. The probe itself runs a VM, hence a function. */
  probe?: () => KvmProbe;
}

/** A VM on /dev/kvm. */
export class KvmVm implements EngineVm {
  readonly engine = 'kvm';
  readonly system: KvmSystem;
  readonly fd: KvmFd;
  readonly #native: Native;
  readonly #config: EngineVmConfig;
  readonly #probe: (() => KvmProbe) | undefined;
  readonly #slots = new Map<number, Slot>();
  readonly #ramSlots: number;
  readonly #runSize: number;
  readonly #notifiers: KvmNotifiers | undefined;
  #routes!: GsiRoutes;
  #interrupts!: KvmInterrupts;
  #msrIndices: number[] | undefined;

  private constructor(system: KvmSystem, config: EngineVmConfig, probe?: () => KvmProbe) {
    this.system = system;
    this.#native = system.native;
    this.#config = config;
    this.#probe = probe;
    this.fd = system.createVm();
    this.#runSize = system.vcpuMmapSize();
    this.#ramSlots = config.memory.regions.length;
    if (config.eventfds !== 'none') this.#notifiers = new KvmNotifiers(this.fd);
  }

  /**
   * Creates a VM with its RAM and interrupt controllers.
   * @throws the errors of {@link KvmSystem.open}; TSV_E_KVM_CAPABILITY, TSV_E_IOCTL
   */
  static create(config: EngineVmConfig, options: KvmVmOptions = {}): KvmVm {
    const system = KvmSystem.open(options);
    let vm: KvmVm | undefined;
    try {
      vm = new KvmVm(system, config, options.probe);
      vm.#setUp();
      return vm;
    } catch (error) {
      vm?.fd.close();
      system.close();
      throw error;
    }
  }

  #setUp(): void {
    // The identity map page must be placed before the first vCPU, the TSS before the first entry.
    this.fd.ioctl(abi.KVM_SET_IDENTITY_MAP_ADDR, u64Bytes(KVM_IDENTITY_MAP_BASE));
    this.fd.ioctl(abi.KVM_SET_TSS_ADDR, KVM_TSS_BASE);
    const { irqchip, pit, memory, eventfds = 'auto' } = this.#config;
    if (irqchip === 'kernel') this.fd.ioctl(abi.KVM_CREATE_IRQCHIP);
    this.#routes = new GsiRoutes(this.fd, irqchip === 'kernel' ? PC_ROUTES : []);
    this.#interrupts = new KvmInterrupts(this.fd, this.#routes, irqchip === 'none' ? 'none' : eventfds);
    if (irqchip === 'split') this.enableCap(abi.KVM_CAP_SPLIT_IRQCHIP, [BigInt(abi.KVM_IOAPIC_NUM_PINS)]);
    if (pit)
      this.fd.ioctl(abi.KVM_CREATE_PIT2, abi.kvm_pit_config.encode({ flags: abi.KVM_PIT_SPEAKER_DUMMY }));
    const flags = this.#config.dirtyLog ? abi.KVM_MEM_LOG_DIRTY_PAGES : 0;
    memory.regions.forEach((region, slot) => {
      this.#setSlot(slot, { gpa: region.gpa, bytes: ramBytes(memory, slot), flags });
    });
  }

  busDevices(): readonly [] {
    return [];
  }

  readonly guestTscKhz = undefined;
  readonly cpuSignature = undefined;

  prepare(): void {
    if (!this.#probe?.().syscallUnfinished) return;
    // SyscallRepair wants to know when the guest says where its system calls go.
    this.enableCap(abi.KVM_CAP_X86_USER_SPACE_MSR, [BigInt(abi.KVM_MSR_EXIT_REASON_FILTER)]);
    const lstar = { flags: abi.KVM_MSR_FILTER_WRITE, base: REPAIR_MSR, nmsrs: 1, bitmap: new Uint8Array(8) };
    this.setMsrFilter(false, [lstar]);
  }

  supportedCpuid(): CpuidEntry[] {
    return this.system.supportedCpuid();
  }

  lackingFeatures(): readonly string[] {
    return this.#probe?.().lacking ?? [];
  }

  msrIndices(): number[] {
    // Without a local APIC in the kernel, KVM lets this one be read and refuses even what it read.
    const refused = this.#config.irqchip === 'none' ? MSR.MSR_KVM_ASYNC_PF_INT : undefined;
    this.#msrIndices ??= this.system.msrIndices().filter((index) => index !== refused);
    return this.#msrIndices;
  }

  allocateMemory(size: number): Uint8Array {
    const memory = allocateRam({
      size: Math.ceil(size / PAGE) * PAGE,
      // Who fills it knows how much of it will be touched.
      overcommit: true,
      native: nativeMemory(this.#native),
    });
    return memory.bytes(memory.regions[0].gpa, memory.regions[0].size);
  }

  mapMemory(gpa: number, bytes: Uint8Array, options: { readonly?: boolean } = {}): number {
    let slot = this.#ramSlots;
    while (this.#slots.has(slot)) slot++;
    this.#setSlot(slot, { gpa, bytes, flags: options.readonly ? abi.KVM_MEM_READONLY : 0 });
    return slot;
  }

  unmapMemory(slot: number): void {
    const old = this.#slots.get(slot);
    if (old === undefined) return;
    this.#native.setUserMemoryRegion(this.fd.fd, slot, 0, old.gpa, new Uint8Array(0));
    this.#slots.delete(slot);
  }

  #setSlot(slot: number, { gpa, bytes, flags }: Slot): void {
    this.fd.check(
      'KVM_SET_USER_MEMORY_REGION',
      this.#native.setUserMemoryRegion(this.fd.fd, slot, flags, gpa, bytes),
    );
    this.#slots.set(slot, { gpa, bytes, flags });
  }

  /** Starts or stops the dirty log of RAM while the VM exists. */
  setDirtyLog(on: boolean): void {
    for (const [slot, { gpa, bytes, flags }] of this.#slots) {
      if (slot >= this.#ramSlots) continue;
      const logged = on ? flags | abi.KVM_MEM_LOG_DIRTY_PAGES : flags & ~abi.KVM_MEM_LOG_DIRTY_PAGES;
      this.#setSlot(slot, { gpa, bytes, flags: logged });
    }
  }

  takeDirtyLog(): DirtyBitmap[] {
    return this.#config.memory.regions.map((_, slot) => this.dirtyLog(slot));
  }

  /** KVM_GET_DIRTY_LOG of one slot; clears it too unless KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 is enabled. */
  dirtyLog(slot: number): DirtyBitmap {
    const pages = (this.#slots.get(slot)?.bytes.length ?? 0) / PAGE;
    const bitmap = new DirtyBitmap(pages);
    this.fd.check('KVM_GET_DIRTY_LOG', this.#native.getDirtyLog(this.fd.fd, slot, bitmap.bytes, pages));
    return bitmap;
  }

  /** KVM_CLEAR_DIRTY_LOG: forgets the marked pages among `numPages` from `firstPage`, both multiples of 64. */
  clearDirtyLog(slot: number, firstPage: number, numPages: number, bitmap: DirtyBitmap): void {
    const result = this.#native.clearDirtyLog(this.fd.fd, slot, firstPage, numPages, bitmap.bytes);
    this.fd.check('KVM_CLEAR_DIRTY_LOG', result);
  }

  setIrqLine(gsi: number, level: 0 | 1): void {
    this.#interrupts.setLine(gsi, level);
  }

  pulseIrqLine(gsi: number): void {
    this.#interrupts.pulse(gsi);
  }

  /** KVM would need its vCPUs' interrupt windows watched; guests with an I/O APIC do not use the PIC. */
  setPicOutput(): false {
    return false;
  }

  routePin(pin: number, message: MsiMessage): void {
    this.#routes.setMessage(pin, message);
  }

  signalMsi(message: MsiMessage): void {
    this.#interrupts.send(message);
  }

  watchWrite(place: NotifyPlace, onWrite: () => void): Notifier | undefined {
    return this.#notifiers?.open(place, onWrite);
  }

  eventfdCounts(): { ioeventfd: number; irqfd: number } {
    return { ioeventfd: this.#notifiers?.received ?? 0, irqfd: this.#interrupts.signalled };
  }

  /** Collects writes to a range in the run area's ring instead of exiting (KVM_REGISTER_COALESCED_MMIO). */
  coalesce(range: IoRange, on = true): void {
    const request = on ? abi.KVM_REGISTER_COALESCED_MMIO : abi.KVM_UNREGISTER_COALESCED_MMIO;
    const pio = range.space === 'pio' ? 1 : 0;
    this.fd.ioctl(
      request,
      abi.kvm_coalesced_mmio_zone.encode({ addr: range.address, size: range.size, pio }),
    );
  }

  /** KVM_ENABLE_CAP on the VM. @throws TSV_E_IOCTL */
  enableCap(cap: number, args: readonly bigint[] = []): void {
    const padded = [...args, 0n, 0n, 0n, 0n].slice(0, 4);
    this.fd.ioctl(abi.KVM_ENABLE_CAP, abi.kvm_enable_cap.encode({ cap, flags: 0, args: padded }));
  }

  /** KVM_X86_SET_MSR_FILTER: accesses the filter denies exit to userspace once KVM_CAP_X86_USER_SPACE_MSR asks for it. */
  setMsrFilter(defaultDeny: boolean, ranges: MsrFilterRange[]): void {
    this.fd.check('KVM_X86_SET_MSR_FILTER', this.#native.setMsrFilter(this.fd.fd, defaultDeny, ranges));
  }

  /** Guest time of kvm-clock in nanoseconds (KVM_GET_CLOCK). */
  get clock(): bigint {
    const bytes = new Uint8Array(abi.kvm_clock_data.size);
    this.fd.ioctl(abi.KVM_GET_CLOCK, bytes);
    return abi.kvm_clock_data.decode(bytes).clock;
  }

  set clock(clock: bigint) {
    const data = { clock, flags: 0, realtime: 0n, host_tsc: 0n };
    this.fd.ioctl(abi.KVM_SET_CLOCK, abi.kvm_clock_data.encode(data));
  }

  #stoppedAt: bigint | undefined;

  stopClock(): void {
    this.#interrupts.flush();
    this.#stoppedAt = this.clock;
  }

  startClock(): void {
    if (this.#stoppedAt !== undefined) this.clock = this.#stoppedAt;
    this.#stoppedAt = undefined;
  }

  vcpuPort(index: number): VcpuPort {
    const pages = Math.ceil(this.#runSize / WASM_PAGE);
    const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
    const detail: KvmVcpuDetail = {
      vmFd: this.fd.fd,
      vcpuId: this.#config.apicIds?.[index] ?? index,
      run: memory.buffer,
      runSize: this.#runSize,
      msrIndices: this.msrIndices(),
    };
    return { engine: 'kvm', index, detail };
  }

  runArea(port: VcpuPort): Uint8Array {
    const { run, runSize } = port.detail as KvmVcpuDetail;
    return new Uint8Array(run, 0, runSize);
  }

  instructions(): undefined {}

  kick(tid: number, run: Uint8Array): void {
    // In this order: a vCPU about to enter sees immediate_exit, one inside is interrupted by the signal.
    run[IMMEDIATE_EXIT] = 1;
    this.#native.kick(tid);
  }

  /** The kernel releases what a thread held. */
  retire(): void {}

  save(): Record<string, unknown> {
    this.#interrupts.flush();
    const { irqchip, pit } = this.#config;
    const state: Record<string, unknown> = { clock: this.#stoppedAt ?? this.clock };
    if (irqchip === 'kernel') state.irqchips = IRQCHIPS.map((chip) => this.#irqchip(chip));
    if (pit) {
      const bytes = new Uint8Array(abi.kvm_pit_state2.size);
      this.fd.ioctl(abi.KVM_GET_PIT2, bytes);
      state.pit = bytes;
    }
    return state;
  }

  restore(state: Record<string, unknown>): void {
    const { clock, irqchips, pit } = state as { clock: bigint; irqchips?: Uint8Array[]; pit?: Uint8Array };
    const { irqchip, pit: hasPit } = this.#config;
    if ((irqchip === 'kernel') !== (irqchips !== undefined) || hasPit !== (pit !== undefined)) {
      throw new TsvError('TSV_E_STATE', 'The saved state is of a machine with other interrupt controllers.', {
        hint: 'Create the machine with the same irqchip and pit options as the saved one.',
      });
    }
    irqchips?.forEach((chip) => {
      this.fd.ioctl(abi.KVM_SET_IRQCHIP, chip);
    });
    if (pit !== undefined) this.fd.ioctl(abi.KVM_SET_PIT2, pit);
    this.clock = clock;
    // What it counts until the machine runs is not the guest's.
    this.#stoppedAt = clock;
  }

  #irqchip(chip_id: number): Uint8Array {
    const bytes = abi.kvm_irqchip.encode({ chip_id, chip: new Uint8Array(512) });
    this.fd.ioctl(abi.KVM_GET_IRQCHIP, bytes);
    return bytes;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#notifiers?.close();
    this.#interrupts.close();
    this.fd.close();
    this.system.close();
  }
}

/** All bytes of a RAM region. */
function ramBytes(memory: GuestMemory, index: number): Uint8Array {
  const region = memory.regions[index];
  return memory.bytes(region.gpa, region.size);
}

function u64Bytes(value: number): Uint8Array {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(value), true);
  return bytes;
}
