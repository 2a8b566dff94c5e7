/** What a machine is made of: the options of `Vm.create`, their defaults and their checks. */
import { cpus as hostCpus } from 'node:os';
import type { Logger } from 'pino';
import type { VirtioDevice } from '../devices/virtio/virtio-device.ts';
import { TsvError } from '../errors.ts';
import { parseMemorySize } from '../memory/layout.ts';
import type { CpuTopology } from '../vcpu/cpuid/index.ts';
import type { EventfdUse, IrqchipMode } from '../vcpu/engine.ts';
import type { TraceTopic } from '../vcpu/protocol.ts';
import { checkPmem, type PmemConfig } from './pmem.ts';
import type { DiskConfig, VirtioTransport } from './virtio.ts';

/** Most vCPUs a machine may have; KVM's own limit is checked as well. */
export const MAX_CPUS = 255;

/** A Linux, PVH or multiboot kernel. Files are paths or their bytes. */
export interface KernelBoot {
  /** bzImage, vmlinux, PVH or multiboot kernel. */
  kernel: string | Uint8Array;
  /** Initial RAM disk. */
  initrd?: string | Uint8Array;
  /** Kernel command line. */
  cmdline?: string;
  /**
   * How the kernel is entered. `auto` (default) finds it out: a bzImage is unpacked on the host and entered by the
   * 64-bit boot protocol, as is a Linux vmlinux; an ELF with only a PVH note by PVH; an ELF32 with a multiboot header
   * by multiboot. `bzimage` leaves the unpacking to the guest.
   */
  protocol?: 'auto' | 'linux64' | 'pvh' | 'bzimage' | 'multiboot';
  /** Multiboot modules. */
  modules?: readonly { file: string | Uint8Array; cmdline?: string }[];
}

/** Machine code without any format. */
export interface FlatBoot {
  /** The code: a path or bytes. */
  flat: string | Uint8Array;
  /** Guest-physical address it is copied to. Default 0x7c00 in real mode, 0x100000 in 64-bit mode. */
  address?: number;
  /**
   * Mode the vCPUs start in: `real`, or `long64` with the low 4 GiB identity-mapped. Default `real`.
   */
  mode?: 'real' | 'long64';
  /** First instruction; default the load address. */
  entry?: number;
  /** Start the other vCPUs at the same address too, instead of leaving them to INIT/SIPI. RDI holds the index. */
  startAll?: boolean;
}

/** What the first vCPU starts with. */
export type BootConfig = KernelBoot | FlatBoot;

/** Options of `Vm.create`. */
export interface VmConfig {
  /** Shown in logs and process titles. Default "vm". */
  name?: string;
  /** RAM: bytes, or a text like "512M" or "2G". Default 128 MiB. */
  memory?: number | string;
  /** RAM back end: anonymous (default), memfd, hugepages, thp, file:PATH; see src/memory/backends.ts. */
  memoryBackend?: string;
  /** Record which pages the guest writes. */
  dirtyLog?: boolean;
  /** Let KSM merge equal pages (MADV_MERGEABLE). */
  mergeable?: boolean;
  /** Touch all RAM before the start. */
  prefault?: boolean;
  /** Number of vCPUs, 1 to 255. Default 1. */
  cpus?: number;
  /** CPU model and features: "host", "x86-64-v2,+aes,-avx". Default: what suits the engine. */
  cpu?: string;
  /** CPU features to keep from the guest, whatever the model says. Those the host's KVM cannot run are kept anyway. */
  hideFeatures?: readonly string[];
  /** CPU vendor the guest sees; default the host's. */
  vendor?: 'intel' | 'amd';
  /** Sockets, cores and threads; default one socket with a core for each vCPU. */
  topology?: CpuTopology;
  /** Which engine runs the guest. Default auto. */
  accel?: 'auto' | 'kvm' | 'tcg';
  /**
   * Interrupt controllers: all the engine's (`kernel`, default), its local APICs with the machine's I/O APIC and PICs
   * (`split`), or `none`, the default of the bare board.
   */
  irqchip?: IrqchipMode;
  /** `pc` (default): the legacy devices, ACPI and PCI host of a PC. `none`: an empty bus. */
  board?: 'pc' | 'none';
  /** Disks: virtio-blk devices, /dev/vda first. */
  disks?: readonly DiskConfig[];
  /** Disk images in the guest's physical memory: virtio-pmem devices, /dev/pmem0 first. */
  pmem?: readonly PmemConfig[];
  /** Further virtio devices, behind the disks and persistent memory. */
  virtio?: readonly VirtioDevice[];
  /** A virtio entropy device. Default false. */
  rng?: boolean;
  /** How guests reach the virtio devices: `mmio` (default, found by ACPI) or `pci`. */
  transport?: VirtioTransport;
  /** What it starts with. */
  boot: BootConfig;
  /** Guest time runs this many times slower than the host's, 1 to 1000. Default 1. */
  timeScale?: number;
  /**
   * `virtual`: guest time advances with executed instructions, a nanosecond each, and not while nothing is executed. A
   * run without input from outside then repeats exactly, instruction for instruction. Needs the tcg engine and one vCPU.
   * Default `host`.
   */
  clock?: 'host' | 'virtual';
  /** Seed of the guest's random number instructions under tcg, 0 to 2^53-1. Default: the host's entropy; 0 with a virtual clock. */
  seed?: number;
  /** What the kvm engine uses eventfds for. Default auto. */
  eventfds?: EventfdUse;
  /** Milliseconds one access may keep a device busy. Default 30 000; 0 for no limit. */
  deviceTimeout?: number;
  /** Host CPUs for each vCPU's thread: entry i for vCPU i. */
  affinity?: readonly (readonly number[])[];
  /** End the run when the guest's kernel panics. Default true. */
  stopOnPanic?: boolean;
  /** What to trace; lines are published on the diagnostics channel `tsvisor:trace`. */
  trace?: readonly TraceTopic[];
  /** pino logger for what the machine has to say. Default: warnings to stderr. */
  log?: Logger;
}

/** A configuration with every default filled in. */
export interface ResolvedConfig extends Omit<VmConfig, 'memory'> {
  name: string;
  memory: number;
  memoryBackend: string;
  cpus: number;
  accel: 'auto' | 'kvm' | 'tcg';
  irqchip: IrqchipMode;
  board: 'pc' | 'none';
  disks: readonly DiskConfig[];
  pmem: readonly PmemConfig[];
  virtio: readonly VirtioDevice[];
  rng: boolean;
  transport: VirtioTransport;
  eventfds: EventfdUse;
  timeScale: number;
  clock: 'host' | 'virtual';
  deviceTimeout: number;
  affinity: readonly (readonly number[])[];
  stopOnPanic: boolean;
  trace: readonly TraceTopic[];
}

/**
 * Checks a configuration and fills in the defaults.
 * @throws TSV_E_MEMORY_SIZE, TSV_E_CPU_COUNT, TSV_E_CONFIG
 */
export function resolveConfig(config: VmConfig): ResolvedConfig {
  const board = config.board ?? 'pc';
  const resolved: ResolvedConfig = {
    ...config,
    name: config.name ?? 'vm',
    memory: typeof config.memory === 'number' ? config.memory : parseMemorySize(config.memory ?? '128M'),
    memoryBackend: config.memoryBackend ?? 'anonymous',
    cpus: config.cpus ?? 1,
    accel: config.accel ?? 'auto',
    irqchip: config.irqchip ?? (board === 'none' ? 'none' : 'kernel'),
    board,
    disks: config.disks ?? [],
    pmem: config.pmem ?? [],
    virtio: config.virtio ?? [],
    rng: config.rng ?? false,
    transport: config.transport ?? 'mmio',
    timeScale: config.timeScale ?? 1,
    clock: config.clock ?? 'host',
    seed: config.seed ?? (config.clock === 'virtual' ? 0 : undefined),
    eventfds: config.eventfds ?? 'auto',
    deviceTimeout: config.deviceTimeout ?? 30_000,
    affinity: config.affinity ?? [],
    stopOnPanic: config.stopOnPanic ?? true,
    trace: config.trace ?? [],
  };
  checkCpus(resolved);
  checkPmem(resolved);
  if (!(resolved.timeScale >= 1 && resolved.timeScale <= 1000)) {
    throw new TsvError('TSV_E_CONFIG', `timeScale is ${resolved.timeScale}; it must be from 1 to 1000.`, {
      hint: '1 is real time, 20 lets guest time run 20 times slower.',
    });
  }
  checkClock(resolved);
  if (resolved.board === 'pc' && resolved.irqchip === 'none') {
    throw new TsvError('TSV_E_CONFIG', 'The pc board needs interrupt controllers.', {
      hint: 'Use irqchip: "kernel" (the default) or "split", or board: "none".',
    });
  }
  const { disks, pmem, virtio, rng } = resolved;
  if (board === 'none' && (disks.length + pmem.length + virtio.length > 0 || rng)) {
    throw new TsvError('TSV_E_CONFIG', 'The bare board has no virtio devices.', {
      hint: 'Leave disks, pmem, virtio and rng out, or use board: "pc".',
    });
  }
  return resolved;
}

function checkClock({ clock, cpus, accel, timeScale, seed }: ResolvedConfig): void {
  if (seed !== undefined && !(Number.isSafeInteger(seed) && seed >= 0)) {
    throw new TsvError('TSV_E_CONFIG', `${seed} cannot be a seed.`, {
      hint: 'Give a whole number from 0 to 2^53-1.',
    });
  }
  if (seed !== undefined && accel === 'kvm') {
    throw new TsvError('TSV_E_CONFIG', 'The kvm engine takes random numbers from the processor.', {
      hint: 'Leave the seed out, or use accel: "tcg".',
    });
  }
  if (clock === 'host') return;
  const wrong =
    accel === 'kvm'
      ? 'the kvm engine'
      : cpus > 1
        ? `${cpus} vCPUs`
        : timeScale !== 1
          ? 'a time scale'
          : undefined;
  if (wrong === undefined) return;
  throw new TsvError('TSV_E_CONFIG', `A virtual clock does not go with ${wrong}.`, {
    hint: 'Use one vCPU, the tcg engine and no time scale.',
  });
}

function checkCpus({ cpus, affinity }: ResolvedConfig): void {
  if (!Number.isInteger(cpus) || cpus < 1 || cpus > MAX_CPUS) {
    throw new TsvError('TSV_E_CPU_COUNT', `A machine cannot have ${cpus} vCPUs.`, {
      hint: `Ask for 1 to ${MAX_CPUS}; this host has ${hostCpus().length} processors.`,
    });
  }
  const wrong = affinity.flat().find((cpu) => !Number.isInteger(cpu) || cpu < 0 || cpu >= 1024);
  if (wrong !== undefined) {
    throw new TsvError('TSV_E_CONFIG', `${wrong} is not a host CPU number.`, {
      hint: `This host has CPUs 0 to ${hostCpus().length - 1}.`,
    });
  }
}
