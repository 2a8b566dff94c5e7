/**
 * CPU features by name: the CPUID bit that reports each (Intel SDM vol. 2A CPUID, AMD APM vol. 3 appendix E, Linux
 * Documentation/virt/kvm/x86/cpuid.rst for the 0x40000001 leaf). Names are those of /proc/cpuinfo; QEMU's spelling
 * with dashes and dots is accepted too.
 */
import { TsvError } from '../../errors.ts';
import type { CpuidEntry } from '../state.ts';

export type CpuidRegister = 'eax' | 'ebx' | 'ecx' | 'edx';

/** Where CPUID reports a feature. */
export interface CpuFeature {
  readonly name: string;
  readonly leaf: number;
  readonly index: number;
  readonly register: CpuidRegister;
  /** 0 to 31. */
  readonly bit: number;
}

/** Feature words; names in bit order from bit 0, `-` for a bit without a name, `n:` sets the next bit number. */
const WORDS: readonly (readonly [leaf: number, index: number, register: CpuidRegister, names: string])[] = [
  [
    1,
    0,
    'ecx',
    `pni pclmulqdq dtes64 monitor ds_cpl vmx smx est tm2 ssse3 cid sdbg fma cx16 xtpr pdcm - pcid dca sse4_1 sse4_2
     x2apic movbe popcnt tsc_deadline_timer aes xsave osxsave avx f16c rdrand hypervisor`,
  ],
  [
    1,
    0,
    'edx',
    `fpu vme de pse tsc msr pae mce cx8 apic - sep mtrr pge mca cmov pat pse36 pn clflush - dts acpi mmx fxsr sse sse2
     ss ht tm ia64 pbe`,
  ],
  [6, 0, 'eax', '2: arat'],
  [
    7,
    0,
    'ebx',
    `fsgsbase tsc_adjust sgx bmi1 hle avx2 - smep bmi2 erms invpcid rtm cqm - mpx rdt_a avx512f avx512dq rdseed adx
     smap avx512ifma - clflushopt clwb intel_pt avx512pf avx512er avx512cd sha_ni avx512bw avx512vl`,
  ],
  [
    7,
    0,
    'ecx',
    `prefetchwt1 avx512vbmi umip pku ospke waitpkg avx512_vbmi2 shstk gfni vaes vpclmulqdq avx512_vnni avx512_bitalg
     tme avx512_vpopcntdq - la57 22: rdpid key_locker bus_lock_detect cldemote - movdiri movdir64b enqcmd sgx_lc pks`,
  ],
  [
    7,
    0,
    'edx',
    `2: avx512_4vnniw avx512_4fmaps fsrm uintr 8: avx512_vp2intersect srbds_ctrl md_clear rtm_always_abort -
     tsx_force_abort serialize hybrid_cpu tsxldtrk - pconfig arch_lbr ibt - amx_bf16 avx512_fp16 amx_tile amx_int8
     spec_ctrl intel_stibp flush_l1d arch_capabilities core_capabilities spec_ctrl_ssbd`,
  ],
  [
    7,
    1,
    'eax',
    `sha512 sm3 sm4 rao_int avx_vnni avx512_bf16 lass cmpccxadd 10: fzrm fsrs fsrc 17: fred lkgs wrmsrns - amx_fp16
     hreset avx_ifma 26: lam`,
  ],
  [0xd, 1, 'eax', 'xsaveopt xsavec xgetbv1 xsaves xfd'],
  [
    0x4000_0001,
    0,
    'eax',
    `kvmclock kvm_nopiodelay kvm_mmu kvmclock2 kvm_asyncpf kvm_steal_time kvm_pv_eoi kvm_pv_unhalt - kvm_pv_tlb_flush
     kvm_asyncpf_vmexit kvm_pv_ipi kvm_poll_control kvm_pv_sched_yield kvm_asyncpf_int kvm_msi_ext_dest_id
     kvm_hc_map_gpa_range kvm_migration_control 24: kvmclock_stable`,
  ],
  [0x4000_0001, 0, 'edx', 'kvm_hint_dedicated'],
  [
    0x8000_0001,
    0,
    'ecx',
    `lahf_lm cmp_legacy svm extapic cr8_legacy abm sse4a misalignsse 3dnowprefetch osvw ibs xop skinit wdt - lwp fma4
     tce - nodeid_msr - tbm topoext perfctr_core perfctr_nb - bpext ptsc perfctr_llc mwaitx`,
  ],
  [0x8000_0001, 0, 'edx', '11: syscall 19: mp nx - mmxext 25: fxsr_opt pdpe1gb rdtscp - lm 3dnowext 3dnow'],
  [0x8000_0007, 0, 'edx', '8: invtsc'],
  [
    0x8000_0008,
    0,
    'ebx',
    `clzero irperf xsaveerptr - rdpru 9: wbnoinvd 12: ibpb 14: ibrs amd_stibp 23: amd_ppin amd_ssbd virt_ssbd
     amd_ssb_no 28: amd_psfd`,
  ],
  [0x8000_0021, 0, 'eax', 'no_nested_data_bp - lfence_rdtsc 6: null_sel_clr_base 8: autoibrs'],
];

/** QEMU's and other common names for features whose /proc/cpuinfo name differs by more than dashes and dots. */
const ALIASES: Readonly<Record<string, string>> = {
  sse3: 'pni',
  lzcnt: 'abm',
  pclmuldq: 'pclmulqdq',
  ffxsr: 'fxsr_opt',
  i64: 'lm',
  xd: 'nx',
  sse41: 'sse4_1',
  sse42: 'sse4_2',
  tsc_deadline: 'tsc_deadline_timer',
  cr8legacy: 'cr8_legacy',
  cmplegacy: 'cmp_legacy',
  lahf: 'lahf_lm',
  constant_tsc: 'invtsc',
  nonstop_tsc: 'invtsc',
  kvm_clock: 'kvmclock',
  kvm_steal: 'kvm_steal_time',
};

/** Every feature by name. */
export const CPU_FEATURES: ReadonlyMap<string, CpuFeature> = new Map(
  WORDS.flatMap(([leaf, index, register, names]) => {
    const features: [string, CpuFeature][] = [];
    let bit = 0;
    for (const word of names.split(/\s+/)) {
      if (word.endsWith(':')) {
        bit = Number(word.slice(0, -1));
        continue;
      }
      if (word !== '-') features.push([word, { name: word, leaf, index, register, bit }]);
      bit++;
    }
    return features;
  }),
);

/** Features that are of no use without others (Intel SDM vol. 1, detection rules of each extension). */
const REQUIRES: Readonly<Record<string, readonly string[]>> = {
  cx16: ['cx8'],
  sse: ['fxsr'],
  sse2: ['sse'],
  pni: ['sse2'],
  ssse3: ['pni'],
  sse4_1: ['ssse3'],
  sse4_2: ['sse4_1'],
  sse4a: ['pni'],
  aes: ['sse2'],
  pclmulqdq: ['sse2'],
  sha_ni: ['sse2'],
  gfni: ['sse2'],
  mmxext: ['mmx'],
  '3dnow': ['mmx'],
  '3dnowext': ['3dnow'],
  xsaveopt: ['xsave'],
  xsavec: ['xsave'],
  xgetbv1: ['xsave'],
  xsaves: ['xsavec'],
  xfd: ['xsaves'],
  pku: ['xsave'],
  mpx: ['xsave'],
  avx: ['xsave', 'sse4_2'],
  f16c: ['avx'],
  fma: ['avx'],
  fma4: ['avx'],
  xop: ['avx'],
  avx2: ['avx'],
  avx_vnni: ['avx2'],
  avx_ifma: ['avx2'],
  vaes: ['avx', 'aes'],
  vpclmulqdq: ['avx', 'pclmulqdq'],
  sha512: ['avx2'],
  sm3: ['avx'],
  sm4: ['avx'],
  avx512f: ['avx2', 'fma'],
  amx_tile: ['xsave'],
  amx_bf16: ['amx_tile'],
  amx_int8: ['amx_tile'],
  amx_fp16: ['amx_tile'],
  nx: ['pae'],
  lm: ['pae'],
  pdpe1gb: ['lm'],
  la57: ['lm'],
  lahf_lm: ['lm'],
  invpcid: ['pcid'],
  x2apic: ['apic'],
  tsc_deadline_timer: ['apic'],
  kvmclock_stable: ['kvmclock2'],
};

/** The features that `name` needs to be usable. */
export function requirementsOf(name: string): readonly string[] {
  const own = REQUIRES[name];
  if (own !== undefined) return own;
  return name.startsWith('avx512') ? ['avx512f'] : [];
}

/** The feature a user means, or undefined. Case, dashes and dots do not matter. */
export function findFeature(name: string): CpuFeature | undefined {
  const key = name.toLowerCase().replace(/[-.]/g, '_');
  return CPU_FEATURES.get(key) ?? CPU_FEATURES.get(ALIASES[key] ?? '');
}

/** The feature a user means. @throws TSV_E_CPU_MODEL naming the nearest known feature */
export function featureNamed(name: string): CpuFeature {
  const feature = findFeature(name);
  if (feature !== undefined) return feature;
  const near = nearest(name.toLowerCase(), [...CPU_FEATURES.keys(), ...Object.keys(ALIASES)]);
  throw new TsvError('TSV_E_CPU_MODEL', `Unknown CPU feature '${name}'.`, {
    hint:
      near === undefined
        ? `Known features: ${[...CPU_FEATURES.keys()].sort().join(' ')}.`
        : `Did you mean '${near}'? An unknown name such as '?' lists them all.`,
  });
}

/** The names of all features that a CPUID table reports, in the order of the leaves. */
export function featureNames(table: readonly CpuidEntry[]): string[] {
  return [...CPU_FEATURES.values()].filter((feature) => hasFeature(table, feature)).map(({ name }) => name);
}

/** True when a CPUID table reports the feature. */
export function hasFeature(table: readonly CpuidEntry[], feature: CpuFeature): boolean {
  const entry = table.find((e) => e.function === feature.leaf && e.index === feature.index);
  return entry !== undefined && ((entry[feature.register] >>> feature.bit) & 1) === 1;
}

/** The candidate at the smallest edit distance, when that is small enough to be a typing error. */
export function nearest(name: string, candidates: readonly string[]): string | undefined {
  let best: string | undefined;
  let bestDistance = Math.min(3, Math.ceil(name.length / 2));
  for (const candidate of candidates) {
    const distance = editDistance(name, candidate);
    if (distance < bestDistance) {
      best = candidate;
      bestDistance = distance;
    }
  }
  return best;
}

/** Levenshtein distance. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next[j] = Math.min(next[j - 1] + 1, row[j] + 1, row[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1));
    }
    row = next;
  }
  return row[b.length];
}
