/** The doctor on KVM: addon, API, capabilities, limits, CPU models, speed. */
import { toTsvError } from '../../errors.ts';
import * as abi from '../../kvm/abi/index.ts';
import { nativeProblem } from '../../kvm/native.ts';
import { probeKvm } from '../../kvm/probe.ts';
import { KvmSystem } from '../../kvm/system.ts';
import { CPU_FEATURES, hasFeature, MODEL_FEATURES } from '../../vcpu/cpuid/index.ts';
import type { Check } from './check.ts';
import { deviceChecks } from './permissions.ts';

/** Without these no machine can be made. */
const REQUIRED = [
  'USER_MEMORY',
  'SET_TSS_ADDR',
  'EXT_CPUID',
  'IRQCHIP',
  'IMMEDIATE_EXIT',
  'MP_STATE',
  'VCPU_EVENTS',
];
/** Without these a machine does less, or the same in a slower way. */
const OPTIONAL =
  `PIT2 PIT_STATE2 SPLIT_IRQCHIP IRQ_ROUTING IRQFD IRQFD_RESAMPLE IOEVENTFD SIGNAL_MSI COALESCED_MMIO
  COALESCED_PIO READONLY_MEM MANUAL_DIRTY_LOG_PROTECT2 XSAVE XSAVE2 XCRS DEBUGREGS SET_GUEST_DEBUG TSC_DEADLINE_TIMER
  TSC_CONTROL GET_TSC_KHZ ADJUST_CLOCK INTERNAL_ERROR_DATA X86_USER_SPACE_MSR X86_MSR_FILTER SET_IDENTITY_MAP_ADDR
  ENABLE_CAP_VM SYSTEM_EVENT_DATA X86_TRIPLE_FAULT_EVENT BINARY_STATS_FD`.split(/\s+/);

const CAPABILITIES = new Map<string, unknown>(
  Object.entries(abi).map(([name, value]) => [name.replace('KVM_CAP_', ''), value]),
);

/** What was found, and whether the kvm engine can be used. */
export interface KvmFindings {
  readonly checks: Check[];
  readonly engine: Check;
}

/** Examines everything between the addon and the first guest instruction. */
export function kvmFindings(): KvmFindings {
  const checks: Check[] = [addonCheck(), ...deviceChecks()];
  try {
    using system = KvmSystem.open();
    checks.push(...systemChecks(system), ...modelChecks(system));
    const speed = speedCheck();
    checks.push(speed);
    const usable = checks.every(({ verdict, id }) => verdict !== 'fail' || id.startsWith('cpu.'));
    return { checks, engine: engineCheck(usable, speed.verdict === 'warn' ? 'usable, but slow' : 'usable') };
  } catch (error) {
    const problem = toTsvError(
      error,
      'TSV_E_KVM_CAPABILITY',
      error instanceof Error ? error.message : String(error),
      'This is a defect of tsvisor: please report it with TSVISOR_DEBUG=1.',
    );
    return { checks, engine: engineCheck(false, `${problem.code}: ${problem.message}`, problem.hint) };
  }
}

function engineCheck(usable: boolean, detail: string, repair?: string): Check {
  return {
    id: 'engine.kvm',
    title: 'kvm',
    verdict: usable ? 'ok' : 'fail',
    detail,
    ...(repair && { repair }),
  };
}

function addonCheck(): Check {
  const problem = nativeProblem();
  return {
    id: 'kvm.addon',
    title: 'Native addon',
    verdict: problem === undefined ? 'ok' : 'fail',
    detail: problem?.message ?? 'loaded',
    ...(problem && { repair: problem.hint }),
  };
}

function systemChecks(system: KvmSystem): Check[] {
  const capability = (name: string) => system.extension(CAPABILITIES.get(name) as number);
  const missing = REQUIRED.filter((name) => capability(name) <= 0);
  const absent = OPTIONAL.filter((name) => capability(name) <= 0);
  const limits = {
    maxVcpus: capability('MAX_VCPUS'),
    recommendedVcpus: capability('NR_VCPUS'),
    memslots: capability('NR_MEMSLOTS'),
  };
  const all = [...REQUIRED, ...OPTIONAL];
  return [
    { id: 'kvm.api', title: 'API version', verdict: 'ok', detail: String(abi.KVM_API_VERSION) },
    {
      id: 'kvm.capabilities',
      title: 'Capabilities',
      verdict: missing.length > 0 ? 'fail' : absent.length > 0 ? 'warn' : 'ok',
      detail: capabilityText(all.length, missing, absent),
      ...(missing.length > 0 && { repair: 'Use a newer host kernel.' }),
      data: Object.fromEntries(all.map((name) => [`KVM_CAP_${name}`, capability(name)])),
    },
    {
      id: 'kvm.limits',
      title: 'Limits',
      verdict: 'ok',
      detail: `${limits.maxVcpus} vCPUs (${limits.recommendedVcpus} recommended), ${limits.memslots} memory slots`,
      data: limits,
    },
  ];
}

function capabilityText(all: number, missing: readonly string[], absent: readonly string[]): string {
  if (missing.length > 0) return `needed but missing: ${missing.join(', ')}`;
  if (absent.length > 0) return `${all - absent.length} of ${all}; absent: ${absent.join(', ')}`;
  return `all ${all} present`;
}

/** Which CPU models the host can give a guest. */
function modelChecks(system: KvmSystem): Check[] {
  const table = system.supportedCpuid();
  return Object.entries(MODEL_FEATURES).map(([model, names]) => {
    const missing = names.filter((name) => {
      const feature = CPU_FEATURES.get(name);
      return feature === undefined || !hasFeature(table, feature);
    });
    return {
      id: `cpu.${model}`,
      title: `CPU model ${model}`,
      verdict: missing.length === 0 ? 'ok' : 'warn',
      detail: missing.length === 0 ? 'complete' : `missing: ${missing.join(', ')}`,
      data: { missing },
    };
  });
}

/** Runs guest code. */
function speedCheck(): Check {
  const { kernelMips, userMips, software, lacking, forced } = probeKvm();
  return {
    id: 'kvm.speed',
    title: 'Guest speed',
    verdict: software ? 'warn' : 'ok',
    detail: `kernel mode ${mips(kernelMips)}, user mode ${mips(userMips)} million instructions a second`,
    ...(software && {
      repair: `This is a software KVM: kernels take minutes to boot. Use a host with VT-x or AMD-V for speed. It cannot run in kernel mode: ${lacking.join(', ')}.`,
    }),
    data: { kernelMips, userMips, software, lacking, forced },
  };
}

const mips = (value: number) => (value < 10 ? value.toFixed(1) : value.toFixed(0));
