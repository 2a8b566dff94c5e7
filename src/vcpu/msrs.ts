/** Model-specific registers: names, boot values and the set that makes up a vCPU's saved state (Intel SDM vol. 4). */
import type { Msr } from './state.ts';

/** MSR numbers under the names of Intel SDM vol. 4, AMD APM vol. 2 appendix A and, for KVM's own, Linux msr.rst. */
export const MSR = {
  IA32_TSC: 0x10,
  IA32_PLATFORM_ID: 0x17,
  IA32_APIC_BASE: 0x1b,
  IA32_FEATURE_CONTROL: 0x3a,
  IA32_TSC_ADJUST: 0x3b,
  IA32_SPEC_CTRL: 0x48,
  IA32_PRED_CMD: 0x49,
  IA32_BIOS_UPDT_TRIG: 0x79,
  IA32_BIOS_SIGN_ID: 0x8b,
  IA32_SMBASE: 0x9e,
  MSR_PLATFORM_INFO: 0xce,
  IA32_MTRRCAP: 0xfe,
  IA32_ARCH_CAPABILITIES: 0x10a,
  MSR_MISC_FEATURES_ENABLES: 0x140,
  IA32_SYSENTER_CS: 0x174,
  IA32_SYSENTER_ESP: 0x175,
  IA32_SYSENTER_EIP: 0x176,
  IA32_MCG_CAP: 0x179,
  IA32_MCG_STATUS: 0x17a,
  IA32_MCG_CTL: 0x17b,
  IA32_MISC_ENABLE: 0x1a0,
  IA32_XFD: 0x1c4,
  IA32_XFD_ERR: 0x1c5,
  IA32_DEBUGCTL: 0x1d9,
  MSR_LASTBRANCHFROMIP: 0x1db,
  MSR_LASTBRANCHTOIP: 0x1dc,
  MSR_LASTINTFROMIP: 0x1dd,
  MSR_LASTINTTOIP: 0x1de,
  MSR_POWER_CTL: 0x1fc,
  IA32_MTRR_PHYSBASE0: 0x200,
  IA32_MTRR_FIX64K_00000: 0x250,
  IA32_MTRR_FIX16K_80000: 0x258,
  IA32_MTRR_FIX16K_A0000: 0x259,
  IA32_MTRR_FIX4K_C0000: 0x268,
  IA32_PAT: 0x277,
  IA32_MTRR_DEF_TYPE: 0x2ff,
  IA32_PERF_CAPABILITIES: 0x345,
  IA32_MC0_CTL: 0x400,
  IA32_TSC_DEADLINE: 0x6e0,
  IA32_XSS: 0xda0,
  IA32_EFER: 0xc000_0080,
  IA32_STAR: 0xc000_0081,
  IA32_LSTAR: 0xc000_0082,
  IA32_CSTAR: 0xc000_0083,
  IA32_FMASK: 0xc000_0084,
  IA32_FS_BASE: 0xc000_0100,
  IA32_GS_BASE: 0xc000_0101,
  IA32_KERNEL_GS_BASE: 0xc000_0102,
  IA32_TSC_AUX: 0xc000_0103,
  MSR_AMD64_TSC_RATIO: 0xc000_0104,
  MSR_K7_HWCR: 0xc001_0015,
  MSR_VM_HSAVE_PA: 0xc001_0117,
  MSR_AMD64_VIRT_SPEC_CTRL: 0xc001_011f,
  MSR_KVM_WALL_CLOCK: 0x11,
  MSR_KVM_SYSTEM_TIME: 0x12,
  MSR_KVM_WALL_CLOCK_NEW: 0x4b56_4d00,
  MSR_KVM_SYSTEM_TIME_NEW: 0x4b56_4d01,
  MSR_KVM_ASYNC_PF_EN: 0x4b56_4d02,
  MSR_KVM_STEAL_TIME: 0x4b56_4d03,
  MSR_KVM_PV_EOI_EN: 0x4b56_4d04,
  MSR_KVM_POLL_CONTROL: 0x4b56_4d05,
  MSR_KVM_ASYNC_PF_INT: 0x4b56_4d06,
  MSR_KVM_ASYNC_PF_ACK: 0x4b56_4d07,
  MSR_KVM_MIGRATION_CONTROL: 0x4b56_4d08,
} as const;

/** Variable-range MTRR pairs of KVM (KVM_NR_VAR_MTRR). */
const VARIABLE_MTRRS = 8;

/** Memory types of MTRRs and PAT (SDM vol. 3A table 12-8). */
const MEMORY_TYPE = { UC: 0, WC: 1, WT: 4, WP: 5, WB: 6, UC_MINUS: 7 } as const;
/** IA32_MTRR_DEF_TYPE: MTRRs enabled. */
const MTRR_ENABLE = 1n << 11n;
/** IA32_MISC_ENABLE: fast string operations. */
const MISC_ENABLE_FAST_STRING = 1n << 0n;

/** IA32_PAT after reset (SDM vol. 3A 12.12.4): WB, WT, UC-, UC, twice. */
const PAT_RESET = [MEMORY_TYPE.WB, MEMORY_TYPE.WT, MEMORY_TYPE.UC_MINUS, MEMORY_TYPE.UC].reduce(
  (pat, type, i) => pat | (BigInt(type) << BigInt(i * 8)) | (BigInt(type) << BigInt((i + 4) * 8)),
  0n,
);

/**
 * What firmware leaves in the MSRs: fast strings, all RAM write-back, the reset PAT, no SYSENTER or SYSCALL entry.
 * @param supported KVM_GET_MSR_INDEX_LIST, or nothing to get all
 */
export function bootMsrs(supported?: Iterable<number>): Msr[] {
  const values: [number, bigint][] = [
    [MSR.IA32_TSC, 0n],
    [MSR.IA32_SYSENTER_CS, 0n],
    [MSR.IA32_SYSENTER_ESP, 0n],
    [MSR.IA32_SYSENTER_EIP, 0n],
    [MSR.IA32_STAR, 0n],
    [MSR.IA32_LSTAR, 0n],
    [MSR.IA32_CSTAR, 0n],
    [MSR.IA32_FMASK, 0n],
    [MSR.IA32_KERNEL_GS_BASE, 0n],
    [MSR.IA32_MISC_ENABLE, MISC_ENABLE_FAST_STRING],
    [MSR.IA32_PAT, PAT_RESET],
    [MSR.IA32_MTRR_DEF_TYPE, MTRR_ENABLE | BigInt(MEMORY_TYPE.WB)],
  ];
  const known = supported === undefined ? undefined : new Set([...supported, ...UNLISTED]);
  return values
    .filter(([index]) => known === undefined || known.has(index))
    .map(([index, data]) => ({ index, data }));
}

/** KVM implements these on every host but leaves them out of KVM_GET_MSR_INDEX_LIST. */
const UNLISTED: readonly number[] = [
  MSR.IA32_MTRR_DEF_TYPE,
  MSR.IA32_MTRR_FIX64K_00000,
  MSR.IA32_MTRR_FIX16K_80000,
  MSR.IA32_MTRR_FIX16K_A0000,
  ...Array.from({ length: 8 }, (_, i) => MSR.IA32_MTRR_FIX4K_C0000 + i),
  ...Array.from({ length: 2 * VARIABLE_MTRRS }, (_, i) => MSR.IA32_MTRR_PHYSBASE0 + i),
];

/** MSRs that are part of other saved state, commands, read-only facts of the host, or write-once. */
const NOT_SAVED: ReadonlySet<number> = new Set([
  // In struct kvm_sregs.
  MSR.IA32_EFER,
  MSR.IA32_APIC_BASE,
  MSR.IA32_FS_BASE,
  MSR.IA32_GS_BASE,
  // Commands and host facts.
  MSR.IA32_PRED_CMD,
  MSR.IA32_BIOS_UPDT_TRIG,
  MSR.IA32_BIOS_SIGN_ID,
  MSR.IA32_MTRRCAP,
  MSR.IA32_ARCH_CAPABILITIES,
  MSR.MSR_PLATFORM_INFO,
  // Reads as zero and restarts a page fault when written.
  MSR.MSR_KVM_ASYNC_PF_ACK,
  // The old numbers of two clocks: restoring both numbers would register the clock twice.
  MSR.MSR_KVM_WALL_CLOCK,
  MSR.MSR_KVM_SYSTEM_TIME,
  MSR.IA32_PERF_CAPABILITIES,
]);

/** First and last of ranges that are host facts or counters: VMX capabilities and the PMU. */
const NOT_SAVED_RANGES: readonly (readonly [number, number])[] = [
  [0x480, 0x493],
  [0xc1, 0xc8],
  [0x186, 0x18d],
  [0x309, 0x30c],
  [0x38d, 0x390],
  [0xc001_0000, 0xc001_0007],
  [0xc001_0200, 0xc001_020b],
];

/**
 * The MSRs to save of a vCPU, in the order to restore them: the TSC first, so that what depends on guest time sees
 * the right one, and the TSC deadline last, because it needs TSC and local APIC in place.
 * @param supported KVM_GET_MSR_INDEX_LIST
 */
export function snapshotMsrs(supported: Iterable<number>): number[] {
  const known = new Set([...supported, ...UNLISTED]);
  const saved = [...known].filter(
    (index) =>
      !NOT_SAVED.has(index) &&
      !NOT_SAVED_RANGES.some(([first, last]) => index >= first && index <= last) &&
      index !== MSR.IA32_TSC &&
      index !== MSR.IA32_TSC_DEADLINE,
  );
  saved.sort((a, b) => a - b);
  if (known.has(MSR.IA32_TSC)) saved.unshift(MSR.IA32_TSC);
  if (known.has(MSR.IA32_TSC_DEADLINE)) saved.push(MSR.IA32_TSC_DEADLINE);
  return saved;
}
