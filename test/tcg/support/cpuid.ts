/** What the CPU of a tcg test machine says it is. */
import { featureNamed } from '../../../src/vcpu/cpuid/features.ts';
import type { CpuidEntry } from '../../../src/vcpu/state.ts';

/** Frequency of the TSC: it counts guest time's nanoseconds. */
const TSC_HZ = 1e9;

/** What the CPU has: what Linux needs, without what the engine leaves out. */
const FEATURES = [
  'fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush fxsr sse sse2 pni ssse3 cx16 sse4_1',
  'sse4_2 movbe popcnt tsc_deadline_timer hypervisor fsgsbase smep smap syscall nx rdtscp lm lahf_lm',
].flatMap((names) => names.split(' '));

/** Whether the CPU decodes a feature's instructions, by the instruction table's name of it. */
export function hasFeature(name: string): boolean {
  return FEATURES.includes(name === 'sse3' ? 'pni' : name);
}

/** The CPUID table (SDM vol. 2A, CPUID) with {@link FEATURES}. */
export function cpuid(): CpuidEntry[] {
  const entry = (leaf: number, eax = 0, ebx = 0, ecx = 0, edx = 0): CpuidEntry => ({
    function: leaf,
    index: 0,
    flags: 0,
    eax,
    ebx,
    ecx,
    edx,
  });
  const vendor = Buffer.from('GenuineIntel');
  const [ebx, edx, ecx] = [0, 4, 8].map((at) => vendor.readInt32LE(at));
  const table = [
    entry(0, 0x16, ebx, ecx, edx),
    // Family 15; 64-byte lines for CLFLUSH, one logical processor.
    entry(1, 0xf61, 0x0001_0800),
    entry(7),
    // The TSC's ratio to the crystal clock, and that clock; frequencies in MHz.
    entry(0x15, 1, 1, TSC_HZ),
    entry(0x16, TSC_HZ / 1e6, TSC_HZ / 1e6, 100),
    entry(0x8000_0000, 0x8000_0008),
    entry(0x8000_0001),
    // Invariant TSC.
    entry(0x8000_0007, 0, 0, 0, 1 << 8),
    // 46 physical and 48 linear address bits.
    entry(0x8000_0008, 0x302e),
  ];
  for (const name of FEATURES) {
    const { leaf, register, bit } = featureNamed(name);
    table.find((row) => row.function === leaf)![register] |= 1 << bit;
  }
  return table;
}
