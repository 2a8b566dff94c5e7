/** What each vCPU starts with: CPUID, MSRs and the registers of the boot protocol's entry state. */
import type { Logger } from 'pino';
import { BOOT_LAYOUT } from '../boot/layout.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import { PageTableBuilder } from '../memory/page-tables.ts';
import { apicIdOf, buildCpuid, parseCpuModel, topologyOf } from '../vcpu/cpuid/index.ts';
import type { EngineVm } from '../vcpu/engine.ts';
import {
  type EntryState,
  longModeEntry,
  protectedModeEntry,
  realModeEntry,
  resetState,
  writeBootGdt,
} from '../vcpu/entry.ts';
import { bootMsrs } from '../vcpu/msrs.ts';
import { MP_STATE, type VcpuState } from '../vcpu/state.ts';
import type { LoadedBoot } from './boot.ts';
import type { ResolvedConfig } from './config.ts';

/** APIC ids of a machine's vCPUs, by index. */
export function apicIds(config: ResolvedConfig): number[] {
  const topology = topologyOf(config.cpus, config.topology);
  return Array.from({ length: config.cpus }, (_, index) => apicIdOf(index, topology));
}

/** Clocks that run in the host's time; a guest whose time is scaled must not see them. */
const HOST_TIME_FEATURES = ['kvmclock', 'kvmclock2', 'kvmclock_stable', 'kvm_steal_time'];

/**
 * The initial state of every vCPU; writes GDT and page tables of the entry state into guest memory.
 *
 * Scaled time: the guest's TSC runs at the host's rate, so a guest that is told a frequency N times too high sees time,
 * and sets its TSC-deadline timer, N times slower. It is told by CPUID leaf 0x15, which guests read on Intel only.
 * @param tscKhz frequency of the vCPUs' TSC
 * @param log told of what a named model lacks on this engine
 * @throws TSV_E_CPU_MODEL, TSV_E_GUEST_ADDRESS
 */
export function cpuSetup(
  config: ResolvedConfig,
  engine: EngineVm,
  memory: GuestMemory,
  boot: LoadedBoot,
  tscKhz: number,
  log: Logger,
): Partial<VcpuState>[] {
  const scaled = config.timeScale !== 1 && engine.guestTscKhz === undefined;
  const spec = parseCpuModel(config.cpu ?? DEFAULT_MODEL[engine.engine]);
  const supported = engine.supportedCpuid();
  const topology = topologyOf(config.cpus, config.topology);
  const msrs = bootMsrs(engine.msrIndices());
  const entry = entryState(memory, boot);
  const hide = [
    ...engine.lackingFeatures(),
    ...(config.hideFeatures ?? []),
    ...(scaled ? HOST_TIME_FEATURES : []),
  ];
  return apicIds(config).map((apicId, index) => {
    const { entries, unavailable } = buildCpuid(spec, supported, {
      apicId,
      topology,
      hide,
      vendor: config.vendor ?? (scaled ? 'intel' : undefined),
      tscKhz: scaled ? Math.round(tscKhz * config.timeScale) : engine.guestTscKhz,
      signature: engine.cpuSignature,
    });
    const first = index === 0;
    if (first && unavailable.length > 0 && config.cpu !== undefined && config.hideFeatures === undefined) {
      const lacking = unavailable.join(', ');
      log.warn(`The CPU model ${spec.model} is without ${lacking}, which the ${engine.engine} engine lacks.`);
    }
    const state: EntryState = structuredClone(first || boot.startAll ? entry : resetState({ bsp: false }));
    if (!first) state.sregs.apic_base &= ~APIC_BASE_BSP;
    if (boot.startAll) state.regs.rdi = BigInt(index);
    const waits = !first && !boot.startAll && config.irqchip !== 'none';
    return {
      cpuid: entries,
      msrs,
      ...state,
      mp_state: waits ? MP_STATE.UNINITIALIZED : MP_STATE.RUNNABLE,
    };
  });
}

/** On hardware a guest gets what the host has; in software what distributions are built for and what makes kernels fast. */
const DEFAULT_MODEL = {
  kvm: 'host',
  tcg: 'x86-64-v2,+invtsc,+rdtscp,+erms,+fsgsbase,+smep,+pdpe1gb,+3dnowprefetch',
} as const;

/** IA32_APIC_BASE.BSP (SDM vol. 3A 11.4.4). */
const APIC_BASE_BSP = 1n << 8n;

function entryState(memory: GuestMemory, boot: LoadedBoot): EntryState {
  const state = modeState(memory, boot);
  for (const [name, value] of Object.entries(boot.registers)) {
    state.regs[name as keyof typeof state.regs] = BigInt(value);
  }
  return state;
}

function modeState(memory: GuestMemory, boot: LoadedBoot): EntryState {
  switch (boot.mode) {
    case 'real':
      return realModeEntry({ ...boot.realMode! });
    case 'protected32':
      return protectedModeEntry({
        entry: boot.entry,
        segments: writeBootGdt(memory, BOOT_LAYOUT.gdt.gpa, 32),
      });
    case 'long64': {
      const { gpa, size } = BOOT_LAYOUT.pageTables;
      const tables = new PageTableBuilder(memory, { start: gpa, end: gpa + size });
      const map = boot.identityMap!;
      return longModeEntry({
        entry: BigInt(boot.entry),
        cr3: tables.identityMap(map.gpa, map.size).cr3,
        segments: writeBootGdt(memory, BOOT_LAYOUT.gdt.gpa, 64),
      });
    }
  }
}
