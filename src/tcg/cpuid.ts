/** What the CPU of the tcg engine has: its CPUID leaves, for src/vcpu/cpuid to build a model's table from. */
import { CPU_FEATURES, featureNamed } from '../vcpu/cpuid/features.ts';
import type { CpuidEntry } from '../vcpu/state.ts';
import { PHYSICAL_BITS } from './mmu/walk.ts';

/** The TSC counts guest time's nanoseconds. */
export const TSC_KHZ = 1_000_000;

/**
 * Family 6, model 0x1C, stepping 10: a processor that executes in order. This CPU does as well, and kernels know from that
 * model that none of the attacks on speculative execution concern it, and leave their costly defences out.
 */
export const SIGNATURE = 0x0001_06ca;

/** Every feature whose instructions and registers are there, by the names of src/vcpu/cpuid/features.ts. */
const TCG_FEATURES: readonly string[] = [
  'fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 ht',
  'pni ssse3 cx16 sse4_1 sse4_2 x2apic movbe popcnt tsc_deadline_timer hypervisor',
  'pclmulqdq aes xsave rdrand',
  'arat fsgsbase tsc_adjust bmi1 smep bmi2 erms invpcid rdseed adx smap clflushopt clwb sha_ni umip rdpid pcid xsaveopt',
  'lahf_lm abm 3dnowprefetch syscall nx pdpe1gb rdtscp lm invtsc',
  'kvmclock kvmclock2 kvmclock_stable kvm_nopiodelay',
].flatMap((names) => names.split(' '));

const VENDOR = new DataView(Uint8Array.from('GenuineIntel', (c) => c.charCodeAt(0)).buffer);
/** XSAVE components the CPU has: x87 and SSE (SDM vol. 1 13.1). */
const XCR0 = 3;
const XSAVE_SIZE = 576;

/** The engine's own CPUID table: what KVM_GET_SUPPORTED_CPUID is for the other engine. */
export function tcgCpuid(): CpuidEntry[] {
  const entry = (leaf: number, registers: Partial<CpuidEntry> = {}, index = 0, flags = 0): CpuidEntry => {
    return { function: leaf, index, flags, eax: 0, ebx: 0, ecx: 0, edx: 0, ...registers };
  };
  const [ebx, edx, ecx] = [0, 4, 8].map((at) => VENDOR.getUint32(at, true));
  const table = [
    entry(0, { eax: 0xd, ebx, ecx, edx }),
    entry(1, { eax: SIGNATURE }),
    entry(6),
    entry(7, {}, 0, 1),
    entry(0xd, { eax: XCR0, ebx: XSAVE_SIZE, ecx: XSAVE_SIZE }, 0, 1),
    entry(0xd, {}, 1, 1),
    entry(0x4000_0001),
    entry(0x8000_0000, { eax: 0x8000_0008 }),
    entry(0x8000_0001),
    entry(0x8000_0007),
    entry(0x8000_0008, { eax: PHYSICAL_BITS | (48 << 8) }),
  ];
  for (const name of TCG_FEATURES) {
    const { leaf, index, register, bit } = featureNamed(name);
    const row = table.find((candidate) => candidate.function === leaf && candidate.index === index)!;
    row[register] = (row[register] | (1 << bit)) >>> 0;
  }
  return table;
}

/** Names the instruction table has for features that are called otherwise elsewhere. */
const TABLE_NAMES: Readonly<Record<string, string>> = { sse3: 'pni', lzcnt: 'abm' };

/** Whether a CPUID table has a feature, by the instruction table's name of it. */
export function featuresOf(cpuid: readonly CpuidEntry[]): (name: string) => boolean {
  const has = new Set<string>();
  for (const { name, leaf, index, register, bit } of CPU_FEATURES.values()) {
    const row = cpuid.find((entry) => entry.function === leaf && entry.index === index);
    if (row !== undefined && ((row[register] >>> bit) & 1) === 1) has.add(name);
  }
  return (name) => has.has(TABLE_NAMES[name] ?? name);
}
