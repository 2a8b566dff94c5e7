/** CPU models and the `model,+feature,-feature` syntax that selects them. */
import { TsvError } from '../../errors.ts';
import { featureNamed, nearest } from './features.ts';

/** Names of the models: the host's features, or a level of the x86-64 psABI (section 3.1.1). */
export const CPU_MODELS = ['host', 'x86-64-v1', 'x86-64-v2', 'x86-64-v3'] as const;
export type CpuModelName = (typeof CPU_MODELS)[number];

/** A parsed `--cpu` value. */
export interface CpuModelSpec {
  readonly model: CpuModelName;
  /** Features to add, by canonical name. */
  readonly add: readonly string[];
  /** Features to remove, by canonical name. */
  readonly remove: readonly string[];
}

/** The x86-64 baseline with what every 64-bit kernel relies on besides. */
const V1 = `fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 syscall nx
  lm`;
const V2 = 'cx16 lahf_lm popcnt pni ssse3 sse4_1 sse4_2';
const V3 = 'xsave avx avx2 bmi1 bmi2 f16c fma abm movbe';

const words = (text: string): string[] => text.split(/\s+/);

/** The features that define a level; a `host` model has no list of its own. */
export const MODEL_FEATURES: Readonly<Record<Exclude<CpuModelName, 'host'>, readonly string[]>> = {
  'x86-64-v1': words(V1),
  'x86-64-v2': words(`${V1} ${V2}`),
  'x86-64-v3': words(`${V1} ${V2} ${V3}`),
};

/**
 * Features of the platform rather than of the instruction set: every level has those that the engine offers.
 * Nothing is missing when one is not there.
 */
export const PLATFORM_FEATURES: readonly string[] = words(
  `hypervisor x2apic tsc_deadline_timer arat tsc_adjust topoext kvmclock kvmclock2 kvmclock_stable kvm_nopiodelay
   kvm_steal_time kvm_pv_eoi kvm_pv_unhalt kvm_pv_tlb_flush kvm_pv_ipi kvm_pv_sched_yield kvm_poll_control
   kvm_asyncpf kvm_asyncpf_int kvm_msi_ext_dest_id`,
);

/**
 * Parses `model[,+feature][,-feature]...`, e.g. `x86-64-v2,+aes,-popcnt`.
 * @throws TSV_E_CPU_MODEL for an unknown model or feature, a feature without a sign, or one both added and removed
 */
export function parseCpuModel(text: string): CpuModelSpec {
  const [name, ...changes] = text.split(',').map((part) => part.trim());
  const model = CPU_MODELS.find((candidate) => candidate === name.toLowerCase());
  if (model === undefined) {
    const near = nearest(name.toLowerCase(), CPU_MODELS);
    throw new TsvError('TSV_E_CPU_MODEL', `Unknown CPU model '${name}'.`, {
      hint: `${near === undefined ? '' : `Did you mean '${near}'? `}Known models: ${CPU_MODELS.join(', ')}.`,
    });
  }
  const add = new Set<string>();
  const remove = new Set<string>();
  for (const change of changes) {
    const sign = change[0];
    if (sign !== '+' && sign !== '-') {
      throw new TsvError('TSV_E_CPU_MODEL', `CPU feature '${change}' has no sign.`, {
        hint: `Write +${change} to add it or -${change} to remove it.`,
      });
    }
    (sign === '+' ? add : remove).add(featureNamed(change.slice(1)).name);
  }
  for (const feature of add) {
    if (!remove.has(feature)) continue;
    throw new TsvError('TSV_E_CPU_MODEL', `CPU feature '${feature}' is both added and removed.`, {
      hint: `Keep either +${feature} or -${feature}.`,
    });
  }
  return { model, add: [...add], remove: [...remove] };
}
