/**
 * The MSRs that are storage or facts: their values after reset, which values they take, and which of them belong to a
 * saved state (SDM vol. 4; AMD APM vol. 2 appendix A). Those with effects are in registers.ts.
 */
import { MSR } from '../../vcpu/msrs.ts';

/** Whether an MSR takes a value; those that do not raise #GP. */
type Check = (value: bigint) => boolean;

const ANY: Check = () => true;
const only =
  (bits: bigint): Check =>
  (value) =>
    (value & ~bits) === 0n;
const everyByte =
  (types: readonly number[]): Check =>
  (value) =>
    Array.from({ length: 8 }, (_, i) => Number((value >> BigInt(i * 8)) & 0xffn)).every((type) =>
      types.includes(type),
    );

/** Memory types of an MTRR and of the PAT (SDM vol. 3A tables 12-8 and 12-10). */
const MTRR_TYPES = [0, 1, 4, 5, 6];
const PAT_TYPES = [...MTRR_TYPES, 7];
const MTRR_RANGES = 8;
/** Physical addresses of 46 bits (mmu/walk.ts), in pages. */
const ADDRESS = 0x3fff_ffff_f000n;
/** IA32_MTRR_DEF_TYPE: fixed ranges enabled, MTRRs enabled. */
const MTRR_ENABLES = 0xc00n;
const MTRR_VALID = 0x800n;

function isMtrrType(value: bigint): boolean {
  return MTRR_TYPES.includes(Number(value & 0xffn));
}

/** An MSR that holds what is written to it. */
interface StoredMsr {
  readonly index: number;
  readonly reset: bigint;
  readonly accepts: Check;
}

const stored = (index: number, reset = 0n, accepts: Check = ANY): StoredMsr => ({ index, reset, accepts });
const fixedMtrr = (index: number) => stored(index, 0n, everyByte(MTRR_TYPES));

const STORED: readonly StoredMsr[] = [
  stored(MSR.IA32_TSC_ADJUST),
  // IBRS, STIBP, SSBD.
  stored(MSR.IA32_SPEC_CTRL, 0n, only(7n)),
  stored(MSR.MSR_MISC_FEATURES_ENABLES, 0n, only(0n)),
  stored(MSR.IA32_MCG_STATUS, 0n, only(7n)),
  stored(MSR.IA32_MISC_ENABLE, 1n),
  // Branch records and branch steps are not there: LBR and BTF are stored and do nothing.
  stored(MSR.IA32_DEBUGCTL, 0n, only(3n)),
  ...Array.from({ length: MTRR_RANGES }, (_, i) => [
    stored(MSR.IA32_MTRR_PHYSBASE0 + 2 * i, 0n, (v) => isMtrrType(v) && (v & ~(ADDRESS | 0xffn)) === 0n),
    stored(MSR.IA32_MTRR_PHYSBASE0 + 2 * i + 1, 0n, only(ADDRESS | MTRR_VALID)),
  ]).flat(),
  fixedMtrr(MSR.IA32_MTRR_FIX64K_00000),
  fixedMtrr(MSR.IA32_MTRR_FIX16K_80000),
  fixedMtrr(MSR.IA32_MTRR_FIX16K_A0000),
  ...Array.from({ length: 8 }, (_, i) => fixedMtrr(MSR.IA32_MTRR_FIX4K_C0000 + i)),
  stored(MSR.IA32_PAT, 0x0007_0406_0007_0406n, everyByte(PAT_TYPES)),
  stored(MSR.IA32_MTRR_DEF_TYPE, 0n, (v) => isMtrrType(v) && (v & ~(MTRR_ENABLES | 0xffn)) === 0n),
  stored(MSR.MSR_K7_HWCR),
];

/** Stored MSRs by number. */
export const STORED_MSRS: ReadonlyMap<number, StoredMsr> = new Map(STORED.map((msr) => [msr.index, msr]));

/** Read-only facts. */
export const CONSTANT_MSRS: ReadonlyMap<number, bigint> = new Map<number, bigint>([
  [MSR.IA32_PLATFORM_ID, 0n],
  // Locked: neither VMX nor SGX can be switched on.
  [MSR.IA32_FEATURE_CONTROL, 1n],
  [MSR.MSR_PLATFORM_INFO, 0n],
  // Eight variable ranges, fixed ranges, write-combining.
  [MSR.IA32_MTRRCAP, 0x500n | BigInt(MTRR_RANGES)],
  // No banks of machine-check registers.
  [MSR.IA32_MCG_CAP, 0n],
  // None of RDCL, L1TF, MDS, SSB, TAA, SBDR, FBSDP, PSDP, BHI, post-barrier RSB, GDS, RFDS: nothing is speculated upon.
  [MSR.IA32_ARCH_CAPABILITIES, 0x0d10_e17bn],
  // Last branches are not recorded.
  [MSR.MSR_LASTBRANCHFROMIP, 0n],
  [MSR.MSR_LASTBRANCHTOIP, 0n],
  [MSR.MSR_LASTINTFROMIP, 0n],
  [MSR.MSR_LASTINTTOIP, 0n],
]);

/**
 * Configuration of real machines that kernels look at or switch on without asking CPUID: reads as zero, writes do
 * nothing. P5_MC_ADDR and P5_MC_TYPE, EBL_CR_POWERON; of AMD's SYSCFG, TOP_MEM, NB_CFG, MMIO_CFG_BASE, the P-state and
 * interrupt-pending registers, VM_CR, and the LS, IC, DC, DE and BU configuration.
 */
export const IGNORED_MSRS: ReadonlySet<number> = new Set([
  0x0, 0x1, 0x2a, 0xc001_0010, 0xc001_001a, 0xc001_001d, 0xc001_001f, 0xc001_0055, 0xc001_0058, 0xc001_0061,
  0xc001_0062, 0xc001_0063, 0xc001_0112, 0xc001_0113, 0xc001_0114, 0xc001_1020, 0xc001_1021, 0xc001_1022,
  0xc001_1023, 0xc001_1029, 0xc001_102a,
]);

/**
 * MSRs that kernels try in the expectation of #GP: TEST_CTRL, PPIN_CTL of both vendors, CORE_CAPABILITIES, TSX_CTRL,
 * MCU_OPT_CTRL, TURBO_RATIO_LIMIT, POWER_CTL, PERF_CAPABILITIES and RAPL's units. There is nothing to tell of them.
 */
export const PROBED_MSRS: ReadonlySet<number> = new Set([
  0x33, 0x4e, 0xc001_02f0, 0xcf, 0x122, 0x123, 0x1ad, 0x1fc, 0x345, 0x606,
]);

/** MSRs that take commands and cannot be read. */
export const COMMAND_MSRS: ReadonlySet<number> = new Set([MSR.IA32_PRED_CMD, MSR.IA32_BIOS_UPDT_TRIG]);

/** MSRs that live in the state area or among the segments, or are the time. */
const OTHERS: readonly number[] = [
  MSR.IA32_TSC,
  MSR.IA32_SYSENTER_CS,
  MSR.IA32_SYSENTER_ESP,
  MSR.IA32_SYSENTER_EIP,
  MSR.IA32_STAR,
  MSR.IA32_LSTAR,
  MSR.IA32_CSTAR,
  MSR.IA32_FMASK,
  MSR.IA32_KERNEL_GS_BASE,
  MSR.IA32_TSC_AUX,
];

/**
 * MSRs of the CPU itself whose value belongs to a vCPU's saved state, besides those in struct kvm_sregs (EFER, the bases
 * of FS and GS, APIC_BASE) and those of devices.
 */
export function msrIndices(): number[] {
  return [...OTHERS, ...STORED_MSRS.keys()];
}
