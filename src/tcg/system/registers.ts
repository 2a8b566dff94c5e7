/** Control registers, debug registers, MSRs and CPUID (SDM vol. 3A 2.5, vol. 4). */

import { MSR } from '../../vcpu/msrs.ts';
import type { CpuidEntry } from '../../vcpu/state.ts';
import type { Cpu } from '../cpu.ts';
import { S } from '../layout.ts';
import { GuestFault, VECTOR } from './fault.ts';
import type { Segments } from './segments.ts';

const CR0 = {
  PE: 1n,
  MP: 2n,
  EM: 4n,
  TS: 8n,
  ET: 16n,
  NE: 32n,
  WP: 1n << 16n,
  AM: 1n << 18n,
  NW: 1n << 29n,
  CD: 1n << 30n,
  PG: 1n << 31n,
};
const CR0_VALID =
  CR0.PE | CR0.MP | CR0.EM | CR0.TS | CR0.ET | CR0.NE | CR0.WP | CR0.AM | CR0.NW | CR0.CD | CR0.PG;
/** VME to PGE, PCE, OSFXSR, OSXMMEXCPT, UMIP, FSGSBASE, PCIDE, OSXSAVE, SMEP, SMAP. */
const CR4_VALID = 0x37_0fffn;
const CR4_FLUSHES = 0x30_00b0n | (1n << 17n);
const EFER = { SCE: 1n, LME: 1n << 8n, LMA: 1n << 10n, NXE: 1n << 11n, FFXSR: 1n << 14n };
const EFER_WRITABLE = EFER.SCE | EFER.LME | EFER.NXE;

/** MSRs that live in the state area. */
const STATE_MSRS: Readonly<Record<number, number>> = {
  [MSR.IA32_STAR]: S.STAR,
  [MSR.IA32_LSTAR]: S.LSTAR,
  [MSR.IA32_CSTAR]: S.CSTAR,
  [MSR.IA32_FMASK]: S.FMASK,
  [MSR.IA32_KERNEL_GS_BASE]: S.KERNEL_GS_BASE,
  [MSR.IA32_SYSENTER_CS]: S.SYSENTER_CS,
  [MSR.IA32_SYSENTER_ESP]: S.SYSENTER_ESP,
  [MSR.IA32_SYSENTER_EIP]: S.SYSENTER_EIP,
  [MSR.IA32_TSC_AUX]: S.TSC_AUX,
  [MSR.IA32_APIC_BASE]: S.APIC_BASE,
};
const CANONICAL_MSRS = new Set<number>([
  MSR.IA32_LSTAR,
  MSR.IA32_CSTAR,
  MSR.IA32_FS_BASE,
  MSR.IA32_GS_BASE,
  MSR.IA32_KERNEL_GS_BASE,
  MSR.IA32_SYSENTER_ESP,
  MSR.IA32_SYSENTER_EIP,
]);
/** Plain storage with its reset value. */
const STORED: readonly (readonly [number, bigint])[] = [
  [MSR.IA32_TSC_ADJUST, 0n],
  [MSR.IA32_BIOS_SIGN_ID, 0n],
  [MSR.IA32_MISC_ENABLE, 1n],
  [MSR.IA32_PAT, 0x0007_0406_0007_0406n],
  [MSR.IA32_MTRR_DEF_TYPE, 0n],
  [MSR.IA32_MCG_STATUS, 0n],
  [MSR.IA32_SPEC_CTRL, 0n],
  [MSR.IA32_DEBUGCTL, 0n],
  [MSR.MSR_MISC_FEATURES_ENABLES, 0n],
  [MSR.MSR_K7_HWCR, 0n],
  ...Array.from({ length: 16 }, (_, i) => [MSR.IA32_MTRR_PHYSBASE0 + i, 0n] as const),
  [MSR.IA32_MTRR_FIX64K_00000, 0n],
  [MSR.IA32_MTRR_FIX16K_80000, 0n],
  [MSR.IA32_MTRR_FIX16K_A0000, 0n],
  ...Array.from({ length: 8 }, (_, i) => [MSR.IA32_MTRR_FIX4K_C0000 + i, 0n] as const),
];
const CONSTANT: Readonly<Record<number, bigint>> = {
  // Eight variable ranges, fixed ranges, write-combining.
  [MSR.IA32_MTRRCAP]: 0x508n,
  [MSR.IA32_MCG_CAP]: 0n,
  [MSR.IA32_PLATFORM_ID]: 0n,
  [MSR.IA32_FEATURE_CONTROL]: 1n,
};

export function isCanonical(value: bigint): boolean {
  return BigInt.asUintN(64, BigInt.asIntN(48, value)) === value;
}

/** The TSC and MSRs that belong to devices. */
export interface Peripherals {
  /** Guest TSC. */
  tsc(): bigint;
  setTsc(value: bigint): void;
  /** undefined: no such MSR here. */
  readMsr(index: number): bigint | undefined;
  /** false: no such MSR, or a value it refuses. */
  writeMsr(index: number, value: bigint): boolean;
  /** The task priority, as CR8 has it. */
  cr8: bigint;
  /** 64 random bits for RDRAND and RDSEED; without it they come from the host. */
  random?(): bigint;
}

/** System registers of a vCPU. */
export class SystemRegisters {
  cpuid: readonly CpuidEntry[] = [];
  peripherals: Peripherals;
  readonly stored = new Map<number, bigint>(STORED);
  readonly #cpu: Cpu;
  readonly #segments: Segments;

  constructor(cpu: Cpu, segments: Segments) {
    this.#cpu = cpu;
    this.#segments = segments;
    let start = process.hrtime.bigint();
    this.peripherals = {
      tsc: () => process.hrtime.bigint() - start,
      setTsc: (value) => {
        start = process.hrtime.bigint() - value;
      },
      readMsr: () => undefined,
      writeMsr: () => false,
      cr8: 0n,
    };
  }

  readCr(number: number): bigint {
    const { state } = this.#cpu;
    switch (number) {
      case 0:
        return state.u64(S.CR0);
      case 2:
        return state.u64(S.CR2);
      case 3:
        return state.u64(S.CR3);
      case 4:
        return state.u64(S.CR4);
      case 8:
        return this.peripherals.cr8;
      default:
        throw new GuestFault(VECTOR.UD);
    }
  }

  writeCr(number: number, value: bigint): void {
    const { state, mmu, blocks } = this.#cpu;
    switch (number) {
      case 0:
        this.#writeCr0(value);
        return;
      case 2:
        state.setU64(S.CR2, value);
        return;
      case 3:
        // Bit 63 only asks not to flush with PCIDs.
        state.setU64(S.CR3, value & ~(1n << 63n));
        mmu.flush();
        return;
      case 4: {
        if (value & ~CR4_VALID) throw new GuestFault(VECTOR.GP);
        const old = state.u64(S.CR4);
        if (this.#segments.isLongMode && (value & 0x20n) === 0n) throw new GuestFault(VECTOR.GP);
        state.setU64(S.CR4, value);
        if ((old ^ value) & CR4_FLUSHES) mmu.flush();
        mmu.selectTlb();
        blocks.selectKey();
        return;
      }
      case 8:
        if (value > 15n) throw new GuestFault(VECTOR.GP);
        this.peripherals.cr8 = value;
        return;
      default:
        throw new GuestFault(VECTOR.UD);
    }
  }

  #writeCr0(value: bigint): void {
    const { state, mmu, blocks } = this.#cpu;
    if (value >> 32n) throw new GuestFault(VECTOR.GP);
    const wanted = (value & CR0_VALID) | CR0.ET;
    if ((wanted & CR0.PG && !(wanted & CR0.PE)) || (wanted & CR0.NW && !(wanted & CR0.CD)))
      throw new GuestFault(VECTOR.GP);
    const old = state.u64(S.CR0);
    const efer = state.u64(S.EFER);
    if (wanted & CR0.PG && !(old & CR0.PG) && efer & EFER.LME) {
      if ((state.u64(S.CR4) & 0x20n) === 0n) throw new GuestFault(VECTOR.GP);
      state.setU64(S.EFER, efer | EFER.LMA);
    }
    if (!(wanted & CR0.PG) && old & CR0.PG && efer & EFER.LMA) {
      if (this.#segments.is64) throw new GuestFault(VECTOR.GP);
      state.setU64(S.EFER, efer & ~EFER.LMA);
    }
    state.setU64(S.CR0, wanted);
    if ((old ^ wanted) & (CR0.PG | CR0.WP | CR0.PE)) {
      mmu.flush();
      this.#segments.update();
      blocks.newKey();
    }
    // EM and TS decide what SSE and MMX instructions are decoded to.
    blocks.selectKey();
  }

  readMsr(index: number): bigint {
    const { state } = this.#cpu;
    const device = this.peripherals.readMsr(index);
    if (device !== undefined) return device;
    const field = STATE_MSRS[index];
    if (field !== undefined) return state.u64(field);
    switch (index) {
      case MSR.IA32_TSC:
        return this.peripherals.tsc();
      case MSR.IA32_EFER:
        return state.u64(S.EFER);
      case MSR.IA32_FS_BASE:
        return this.#segments.base(4);
      case MSR.IA32_GS_BASE:
        return this.#segments.base(5);
    }
    const value = this.stored.get(index) ?? CONSTANT[index];
    if (value === undefined) throw new GuestFault(VECTOR.GP);
    return value;
  }

  writeMsr(index: number, value: bigint): void {
    const { state } = this.#cpu;
    if (CANONICAL_MSRS.has(index) && !isCanonical(value)) throw new GuestFault(VECTOR.GP);
    if (this.peripherals.writeMsr(index, value)) return;
    switch (index) {
      case MSR.IA32_TSC:
        this.peripherals.setTsc(value);
        return;
      case MSR.IA32_EFER:
        this.#writeEfer(value);
        return;
      case MSR.IA32_FS_BASE:
        this.#segments.setBase(4, value);
        return;
      case MSR.IA32_GS_BASE:
        this.#segments.setBase(5, value);
        return;
      case MSR.IA32_BIOS_UPDT_TRIG:
      case MSR.IA32_PRED_CMD:
        return;
    }
    const field = STATE_MSRS[index];
    if (field !== undefined) state.setU64(field, value);
    else if (this.stored.has(index)) this.stored.set(index, value);
    else throw new GuestFault(VECTOR.GP);
  }

  #writeEfer(value: bigint): void {
    const { state, mmu } = this.#cpu;
    if (value & ~(EFER_WRITABLE | EFER.LMA | EFER.FFXSR)) throw new GuestFault(VECTOR.GP);
    const old = state.u64(S.EFER);
    if ((old ^ value) & EFER.LME && state.u64(S.CR0) & CR0.PG) throw new GuestFault(VECTOR.GP);
    state.setU64(S.EFER, (value & EFER_WRITABLE) | (old & EFER.LMA));
    if ((old ^ value) & EFER.NXE) mmu.flush();
  }

  /** Executes CPUID into EAX, EBX, ECX, EDX. */
  executeCpuid(): void {
    const { state } = this.#cpu;
    const leaf = state.gpr32(0);
    const subleaf = state.gpr32(1);
    const entry = this.#cpuidEntry(leaf, subleaf);
    let { eax, ebx, ecx, edx } = entry ?? { eax: 0, ebx: 0, ecx: 0, edx: 0 };
    // OSXSAVE mirrors CR4.
    if (leaf === 1) ecx = (ecx & ~(1 << 27)) | (state.cr4 & (1 << 18) ? 1 << 27 : 0);
    [eax, ebx, ecx, edx].forEach((value, i) => {
      state.setGpr32([0, 3, 1, 2][i], value);
    });
  }

  #cpuidEntry(leaf: number, subleaf: number): CpuidEntry | undefined {
    const found = this.cpuid.find((e) => e.function === leaf && ((e.flags & 1) === 0 || e.index === subleaf));
    if (found !== undefined) return found;
    // A leaf beyond the highest of its range gives the highest basic leaf (SDM vol. 2, CPUID).
    const known = this.cpuid.some((e) => e.function === leaf);
    const highest = this.cpuid.find((e) => e.function === (leaf & 0x8000_0000) >>> 0)?.eax ?? 0;
    if (known || leaf <= highest >>> 0) return undefined;
    const basic = this.cpuid.find((e) => e.function === 0)?.eax ?? 0;
    return this.cpuid.find((e) => e.function === basic && ((e.flags & 1) === 0 || e.index === subleaf));
  }
}
