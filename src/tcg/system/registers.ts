/** Control registers, debug registers, MSRs and CPUID (SDM vol. 3A 2.5, vol. 4). */

import { MSR } from '../../vcpu/msrs.ts';
import type { CpuidEntry } from '../../vcpu/state.ts';
import type { Cpu } from '../cpu.ts';
import { S, SEG } from '../layout.ts';
import { GuestFault, VECTOR } from './fault.ts';
import { isCanonical } from './linear.ts';
import { COMMAND_MSRS, CONSTANT_MSRS, IGNORED_MSRS, PROBED_MSRS, STORED_MSRS } from './msrs.ts';
import { RIGHTS, type Segments } from './segments.ts';

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
const CR4 = { DE: 1n << 3n, PAE: 1n << 5n, PCIDE: 1n << 17n };
/** TSD, DE, PSE, PAE, MCE, PGE, PCE, OSFXSR, OSXMMEXCPT: always there. */
const CR4_BASE = 0x7fcn;
/** Bits of CR4 that exist with a feature. */
const CR4_FEATURES: readonly (readonly [feature: string, bits: bigint])[] = [
  ['umip', 1n << 11n],
  ['fsgsbase', 1n << 16n],
  ['pcid', CR4.PCIDE],
  ['xsave', 1n << 18n],
  ['smep', 1n << 20n],
  ['smap', 1n << 21n],
];
/** A change of PSE, PAE, PGE, PCIDE, SMEP or SMAP voids translations (SDM vol. 3A 4.10.4.1). */
const CR4_FLUSHES = 0x32_00b0n;
/** CR3 bits 12 to 45; the low ones are PWT and PCD, or the PCID. */
const CR3_RESERVED = 0x7fff_c000_0000_0000n;
const CR3_NO_FLUSH = 1n << 63n;
/** Bits of a PDPTE that must be zero, above all those beyond the physical address (SDM vol. 3A 4.4.1). */
const PDPTE_RESERVED = 0xffff_c000_0000_01e6n;
const EFER = { SCE: 1n, LME: 1n << 8n, LMA: 1n << 10n, NXE: 1n << 11n };
const EFER_WRITABLE = EFER.SCE | EFER.LME | EFER.NXE;
/** What CPUs say of their microcode: Intel's revision is in the upper half. */
const MICROCODE = { intel: 1n << 32n, amd: 0x0100_0065n };
/** EBX of CPUID leaf 0: "Auth". */
const VENDOR_AMD = 0x6874_7541;

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
/** MSRs whose upper half is reserved. */
const NARROW_MSRS = new Set<number>([MSR.IA32_TSC_AUX, MSR.IA32_FMASK, MSR.IA32_SYSENTER_CS]);

/** Carries out an access to an MSR; undefined for #GP. */
function gpIsUndefined<T>(access: () => T): T | undefined {
  try {
    return access();
  } catch (error) {
    if (error instanceof GuestFault) return undefined;
    throw error;
  }
}

/** The TSC and MSRs that belong to devices. */
export interface Peripherals {
  /** Guest TSC. */
  tsc(): bigint;
  setTsc(value: bigint): void;
  /** undefined: no such MSR here. */
  readMsr(index: number): bigint | undefined;
  /** false: no such MSR, or, when it can be read, a value it refuses. */
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
  readonly stored = new Map<number, bigint>([...STORED_MSRS.values()].map((m) => [m.index, m.reset]));
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
    const { state } = this.#cpu;
    switch (number) {
      case 0:
        this.#writeCr0(value);
        return;
      case 2:
        state.setU64(S.CR2, value);
        return;
      case 3:
        this.#writeCr3(value);
        return;
      case 4:
        this.#writeCr4(value);
        return;
      case 8:
        if (value > 15n) throw new GuestFault(VECTOR.GP);
        this.peripherals.cr8 = value;
        return;
      default:
        throw new GuestFault(VECTOR.UD);
    }
  }

  /** With PCIDs, bit 63 asks to keep translations; they are dropped nevertheless, which is always allowed. */
  #writeCr3(value: bigint): void {
    const { state, mmu } = this.#cpu;
    const long = this.#segments.isLongMode;
    const wanted = state.u64(S.CR4) & CR4.PCIDE ? value & ~CR3_NO_FLUSH : value;
    if (long && wanted & (CR3_RESERVED | CR3_NO_FLUSH)) throw new GuestFault(VECTOR.GP);
    const usesPdptes = !long && state.u64(S.CR0) & CR0.PG && state.u64(S.CR4) & CR4.PAE;
    if (usesPdptes) this.#checkPdptes(wanted);
    state.setU64(S.CR3, wanted);
    mmu.flushLocal();
  }

  /** PAE paging: a reserved bit in a present PDPTE raises #GP when CR3 is loaded, not when it is used. */
  #checkPdptes(cr3: bigint): void {
    const { map, state } = this.#cpu;
    const start = Number(cr3 & 0xffff_ffe0n);
    for (let i = 0; i < 4; i++) {
      const host = map.host(start + i * 8);
      const entry = host < 0 ? 0n : state.view.getBigUint64(host, true);
      if (entry & 1n && entry & PDPTE_RESERVED) throw new GuestFault(VECTOR.GP);
    }
  }

  #writeCr4(value: bigint): void {
    const { state, mmu, blocks, hasFeature, system } = this.#cpu;
    const valid = CR4_FEATURES.reduce(
      (bits, [feature, more]) => (hasFeature(feature) ? bits | more : bits),
      CR4_BASE,
    );
    if (value & ~valid) throw new GuestFault(VECTOR.GP);
    const old = state.u64(S.CR4);
    const long = this.#segments.isLongMode;
    if (long && (value & CR4.PAE) === 0n) throw new GuestFault(VECTOR.GP);
    if (value & CR4.PCIDE && !(old & CR4.PCIDE) && (!long || state.u64(S.CR3) & 0xfffn))
      throw new GuestFault(VECTOR.GP);
    const turnsPaeOn = value & CR4.PAE && !(old & CR4.PAE);
    if (!long && turnsPaeOn && state.u64(S.CR0) & CR0.PG) this.#checkPdptes(state.u64(S.CR3));
    state.setU64(S.CR4, value);
    if ((old ^ value) & CR4_FLUSHES) mmu.flush();
    if ((old ^ value) & CR4.DE) system.debug.update();
    mmu.selectTlb();
    blocks.selectKey();
  }

  #writeCr0(value: bigint): void {
    const { state, mmu, blocks } = this.#cpu;
    if (value >> 32n) throw new GuestFault(VECTOR.GP);
    const wanted = (value & CR0_VALID) | CR0.ET;
    if ((wanted & CR0.PG && !(wanted & CR0.PE)) || (wanted & CR0.NW && !(wanted & CR0.CD)))
      throw new GuestFault(VECTOR.GP);
    const old = state.u64(S.CR0);
    const efer = state.u64(S.EFER);
    const cr4 = state.u64(S.CR4);
    if (wanted & CR0.PG && !(old & CR0.PG)) {
      if (efer & EFER.LME) {
        // Not from a 64-bit code segment, and not with a 16-bit TSS (SDM vol. 3A 9.8.5).
        const cs64 = (this.#segments.rights(SEG.CS) & RIGHTS.L) !== 0;
        if ((cr4 & CR4.PAE) === 0n || cs64) throw new GuestFault(VECTOR.GP);
        state.setU64(S.EFER, efer | EFER.LMA);
      } else if (cr4 & CR4.PAE) this.#checkPdptes(state.u64(S.CR3));
    }
    if (!(wanted & CR0.PG) && old & CR0.PG) {
      if (cr4 & CR4.PCIDE || (efer & EFER.LMA && this.#segments.is64)) throw new GuestFault(VECTOR.GP);
      state.setU64(S.EFER, efer & ~EFER.LMA);
    }
    state.setU64(S.CR0, wanted);
    if ((old ^ wanted) & (CR0.PG | CR0.WP | CR0.PE)) {
      mmu.flush();
      this.#segments.update();
      blocks.newKey();
    }
    mmu.selectTlb();
    blocks.selectKey();
  }

  /** RDMSR. @throws GuestFault #GP */
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
        return this.#segments.base(SEG.FS);
      case MSR.IA32_GS_BASE:
        return this.#segments.base(SEG.GS);
    }
    const value = this.stored.get(index) ?? this.#constant(index);
    if (value === undefined) throw this.#unknown('read', index);
    return value;
  }

  #constant(index: number): bigint | undefined {
    if (index === MSR.IA32_BIOS_SIGN_ID) {
      return this.isAmd ? MICROCODE.amd : MICROCODE.intel;
    }
    const isThere = index !== MSR.IA32_ARCH_CAPABILITIES || this.#cpu.hasFeature('arch_capabilities');
    if (!isThere) return undefined;
    return IGNORED_MSRS.has(index) ? 0n : CONSTANT_MSRS.get(index);
  }

  #unknown(what: 'read' | 'write', index: number): GuestFault {
    const number = `0x${index.toString(16)}`;
    const message =
      what === 'read'
        ? `The guest reads MSR ${number}, which this CPU does not have; it gets #GP.`
        : `The guest writes a value to MSR ${number} that this CPU does not take; it gets #GP.`;
    if (!PROBED_MSRS.has(index)) this.#cpu.system.notices.say(message);
    return new GuestFault(VECTOR.GP);
  }

  /** WRMSR. @throws GuestFault #GP */
  writeMsr(index: number, value: bigint): void {
    const { state } = this.#cpu;
    if (CANONICAL_MSRS.has(index) && !isCanonical(value)) throw new GuestFault(VECTOR.GP);
    if (NARROW_MSRS.has(index) && value >> 32n) throw new GuestFault(VECTOR.GP);
    if (this.peripherals.writeMsr(index, value)) return;
    // What a device has, only the device may take.
    if (this.peripherals.readMsr(index) !== undefined) throw new GuestFault(VECTOR.GP);
    const adjust = this.stored.get(MSR.IA32_TSC_ADJUST)!;
    switch (index) {
      case MSR.IA32_TSC: {
        // Both registers move by the same amount (SDM vol. 3B 17.17.3).
        const moved = value - this.peripherals.tsc();
        this.stored.set(MSR.IA32_TSC_ADJUST, BigInt.asUintN(64, adjust + moved));
        this.peripherals.setTsc(value);
        return;
      }
      case MSR.IA32_TSC_ADJUST:
        this.peripherals.setTsc(BigInt.asUintN(64, this.peripherals.tsc() + value - adjust));
        this.stored.set(index, value);
        return;
      case MSR.IA32_EFER:
        this.#writeEfer(value);
        return;
      case MSR.IA32_FS_BASE:
        this.#segments.setBase(SEG.FS, value);
        return;
      case MSR.IA32_GS_BASE:
        this.#segments.setBase(SEG.GS, value);
        return;
      // Written before the revision is asked for.
      case MSR.IA32_BIOS_SIGN_ID:
        return;
    }
    if (COMMAND_MSRS.has(index) || IGNORED_MSRS.has(index)) return;
    const field = STATE_MSRS[index];
    const msr = STORED_MSRS.get(index);
    if (field !== undefined) state.setU64(field, value);
    else if (msr?.accepts(value)) this.stored.set(index, value);
    else throw this.#unknown('write', index);
  }

  /** An MSR of a saved state. @returns undefined when there is none of that number */
  getMsr(index: number): bigint | undefined {
    return gpIsUndefined(() => this.readMsr(index));
  }

  /**
   * Sets an MSR as saved: TSC and TSC_ADJUST each by itself.
   * @returns false when there is none of that number, or it refuses the value
   */
  setMsr(index: number, value: bigint): boolean {
    if (index === MSR.IA32_TSC) this.peripherals.setTsc(value);
    else if (index === MSR.IA32_TSC_ADJUST) this.stored.set(index, value);
    else {
      return (
        gpIsUndefined(() => {
          this.writeMsr(index, value);
          return true;
        }) ?? false
      );
    }
    return true;
  }

  #writeEfer(value: bigint): void {
    const { state, mmu } = this.#cpu;
    if (value & ~(EFER_WRITABLE | EFER.LMA)) throw new GuestFault(VECTOR.GP);
    const old = state.u64(S.EFER);
    if ((old ^ value) & EFER.LME && state.u64(S.CR0) & CR0.PG) throw new GuestFault(VECTOR.GP);
    state.setU64(S.EFER, (value & EFER_WRITABLE) | (old & EFER.LMA));
    if ((old ^ value) & EFER.NXE) mmu.flush();
  }

  /** Whether CPUID says that this is AMD's: the vendors differ in where SYSCALL and SYSENTER are. */
  get isAmd(): boolean {
    return this.#cpuidEntry(0, 0)?.ebx === VENDOR_AMD;
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
