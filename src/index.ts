/**
 * tsvisor: x86-64 virtual machines for Node.js.
 *
 * The public API, nothing else. Start with {@link Vm.create}; see README.md and examples/.
 */

export { buildInitramfs, type InitramfsNode, type InitramfsOptions } from './boot/initramfs/build.ts';
export type { HostFile } from './boot/initramfs/host-files.ts';
export type { ModuleOptions } from './boot/initramfs/modules.ts';
export type { Clock, Timer } from './devices/clock.ts';
export type {
  AccessSize,
  Device,
  DeviceContext,
  DeviceState,
  IrqLine,
  Latch,
  NotifyRegister,
  RegisterMode,
  StopReason,
} from './devices/device.ts';
export { type ConsoleOptions, VirtioConsole } from './devices/virtio/console/console.ts';
export type { ConsolePortOptions } from './devices/virtio/console/port.ts';
export type { Chain, VirtioDevice, VirtioHost, Virtqueue } from './devices/virtio/virtio-device.ts';
export { ERROR_CODES, TsvError, type TsvErrorCode } from './errors.ts';
export {
  type FetchedKernel,
  type FetchKernelOptions,
  fetchBusybox,
  fetchKernel,
} from './host/kernel-fetch.ts';
export type { FetchOptions, FetchProgress } from './host/packages.ts';
export { type KvmProbe, probeKvm } from './kvm/probe.ts';
export type { BootConfig, FlatBoot, KernelBoot, VmConfig } from './machine/config.ts';
export type { ExpectOptions, VmConsole } from './machine/console.ts';
export type { DeviceOptions } from './machine/device-set.ts';
export type { EngineChoice } from './machine/engine-choice.ts';
export type { ExitReason, RegisterDump, VmExit } from './machine/exit.ts';
export type { PmemConfig } from './machine/pmem.ts';
export { formatRegisters } from './machine/registers.ts';
export { type SoftwareKvmProfile, softwareKvmProfile } from './machine/slow-kvm.ts';
export type { VmStats } from './machine/stats.ts';
export type { DiskConfig, VirtioTransport } from './machine/virtio.ts';
export { Vm, type VmStateName } from './machine/vm.ts';
export { DirtyBitmap, type PageRun } from './memory/dirty-bitmap.ts';
export { type AttachedMemory, GuestMemory, type RamRegion } from './memory/guest-memory.ts';
export { type Gate, writeIdt } from './memory/interrupt-tables.ts';
export { PageTableBuilder, type PageTableOptions } from './memory/page-tables.ts';
export { GdtBuilder } from './memory/segments.ts';
export type { BlockBackend, DiskExtent } from './storage/backend.ts';
export { type CreateOverlayOptions, createOverlay, createRaw } from './storage/create.ts';
export { type BackingPolicy, type DiskFormat, type OpenDiskOptions, openDisk } from './storage/open.ts';
export {
  type NamedOverlayOptions,
  type OverlayOptions,
  openNamedOverlay,
  openOverlay,
} from './storage/overlay.ts';
export { type CreateQcow2Options, createQcow2 } from './storage/qcow2/create.ts';
export { type ThrottleClock, ThrottledDisk, type ThrottleLimits } from './storage/throttle.ts';
export type { EngineVm, EventfdUse, IrqchipMode, MsiMessage } from './vcpu/engine.ts';
export type { TraceTopic } from './vcpu/protocol.ts';
export type {
  CpuidEntry,
  DebugRegs,
  Dtable,
  Fpu,
  Msr,
  Regs,
  Segment,
  Sregs,
  VcpuEvents,
  VcpuState,
  Xcr,
} from './vcpu/state.ts';
