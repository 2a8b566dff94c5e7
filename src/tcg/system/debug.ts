/**
 * Debug registers and breakpoints (SDM vol. 3B 17.2, 17.3).
 *
 * Breakpoints cost nothing where there are none: code of a page with an instruction breakpoint is executed in single
 * steps only, and a page with a data breakpoint never enters the soft TLB. An access that hits is abandoned, and the
 * instruction executed again as a single step, after which the trap is due.
 */
import type { Cpu } from '../cpu.ts';
import { ACCESS } from '../emit/access.ts';
import { PAGE, S } from '../layout.ts';
import type { DataBreakpoints } from '../mmu/mmu.ts';
import { GuestFault, VECTOR } from './fault.ts';

/** Bits of DR6 besides B0 to B3 (SDM vol. 3B 17.2.3). */
export const DR6 = { BD: 1 << 13, BS: 1 << 14, FIXED: 0xffff_0ff0n, WRITABLE: 0xe00fn } as const;
/** Bits of DR7 besides the breakpoints' own (SDM vol. 3B 17.2.4). LE and GE are stored and count for nothing. */
const DR7 = { GD: 1n << 13n, FIXED: 0x400n, WRITABLE: 0xffff_2bffn } as const;
/** Values of DR7's R/W fields. */
const BREAK_ON = { code: 0, write: 1, io: 2, access: 3 } as const;
/** Values of DR7's LEN fields, in bytes. */
const LENGTHS = [1, 2, 8, 4] as const;
const CR4_DE = 8;
const MASK64 = (1n << 64n) - 1n;

/** An enabled breakpoint; `bit` is that of DR6. */
interface Breakpoint {
  readonly bit: number;
  readonly address: bigint;
  readonly length: number;
  readonly kind: number;
}

/** The debug registers of a vCPU. */
export class DebugRegisters implements DataBreakpoints {
  readonly #cpu: Cpu;
  #code: Breakpoint[] = [];
  #data: Breakpoint[] = [];
  #ports: Breakpoint[] = [];
  /** Bits of DR6 for the trap after the current instruction. */
  #hits = 0;

  constructor(cpu: Cpu) {
    this.#cpu = cpu;
    this.reset();
  }

  /** As after power-on or INIT (SDM vol. 3A table 10-1). */
  reset(): void {
    const { state } = this.#cpu;
    for (let i = 0; i < 4; i++) state.setU64(S.DR + i * 8, 0n);
    state.setU64(S.DR + 6 * 8, DR6.FIXED);
    state.setU64(S.DR + 7 * 8, DR7.FIXED);
    this.#hits = 0;
    this.update();
  }

  #get(number: number): bigint {
    return this.#cpu.state.u64(S.DR + number * 8);
  }

  /** Any breakpoints of a kind. */
  get hasCode(): boolean {
    return this.#code.length > 0;
  }
  get hasData(): boolean {
    return this.#data.length > 0;
  }

  /** MOV from DR0 to DR3, DR6 or DR7. @throws GuestFault #DB for general detect */
  read(number: number): bigint {
    this.#detect();
    return this.#get(number);
  }

  /** MOV to DR0 to DR3, DR6 or DR7. @throws GuestFault */
  write(number: number, value: bigint): void {
    this.#detect();
    if (number >= 6 && value >> 32n) throw new GuestFault(VECTOR.GP);
    const { state } = this.#cpu;
    const stored =
      number === 6
        ? (value & DR6.WRITABLE) | DR6.FIXED
        : number === 7
          ? (value & DR7.WRITABLE) | DR7.FIXED
          : value;
    state.setU64(S.DR + number * 8, stored);
    if (number !== 6) this.update();
  }

  #detect(): void {
    if ((this.#get(7) & DR7.GD) === 0n) return;
    this.report(DR6.BD);
    throw new GuestFault(VECTOR.DB);
  }

  /** Sets bits of DR6. */
  report(bits: number): void {
    this.#cpu.state.setU64(S.DR + 6 * 8, this.#get(6) | BigInt(bits));
  }

  /** A #DB is being delivered: its handler may use the debug registers. */
  entered(): void {
    this.#cpu.state.setU64(S.DR + 7 * 8, this.#get(7) & ~DR7.GD);
  }

  /** Takes over DR0 to DR7. To be called when they, or CR4.DE, were changed otherwise than by {@link write}. */
  update(): void {
    const cpu = this.#cpu;
    const dr7 = Number(this.#get(7) & 0xffff_ffffn);
    const wasActive = this.#code.length + this.#data.length > 0;
    const all: Breakpoint[] = [];
    for (let i = 0; i < 4; i++) {
      if (((dr7 >>> (i * 2)) & 3) === 0) continue;
      const kind = (dr7 >>> (16 + i * 4)) & 3;
      if (kind === BREAK_ON.io && (cpu.state.cr4 & CR4_DE) === 0) continue;
      const length = LENGTHS[(dr7 >>> (18 + i * 4)) & 3];
      const address = kind === BREAK_ON.code ? this.#get(i) : this.#get(i) & ~BigInt(length - 1) & MASK64;
      all.push({ bit: 1 << i, address, length, kind });
    }
    this.#code = all.filter(({ kind }) => kind === BREAK_ON.code);
    this.#ports = all.filter(({ kind }) => kind === BREAK_ON.io);
    this.#data = all.filter(({ kind }) => kind === BREAK_ON.write || kind === BREAK_ON.access);
    cpu.mmu.breakpoints = this.hasData ? this : undefined;
    if (!wasActive && this.#code.length + this.#data.length === 0) return;
    cpu.mmu.flush();
    cpu.state.attend();
  }

  /** DR6 bits of the instruction breakpoints at a linear address. */
  codeAt(linear: bigint): number {
    return this.#code.reduce((bits, { bit, address }) => (address === linear ? bits | bit : bits), 0);
  }

  /** Whether code of the page at a linear address, given in halves, has to be executed in single steps. */
  isCodePage(low: number, high: number): boolean {
    return this.#code.some(({ address }) => isPage(address, low, high));
  }

  /** Whether accesses to the page at a linear address have to be looked at each. */
  isDataPage(low: number, high: number): boolean {
    return this.#data.some(({ address }) => isPage(address, low, high));
  }

  /**
   * Looks at a data access.
   * @returns false when it hit a breakpoint outside of a single step: the instruction must be abandoned
   */
  access(low: number, high: number, size: number, access: number): boolean {
    const start = (BigInt(high >>> 0) << 32n) | BigInt(low >>> 0);
    const writes = access === ACCESS.write || access === ACCESS.modify;
    return this.#hit(this.#data, start, size, (kind) => kind === BREAK_ON.access || writes);
  }

  /** Looks at a port access, like {@link access}. */
  port(port: number, size: number): boolean {
    if (this.#ports.length === 0) return true;
    return this.#hit(this.#ports, BigInt(port), size, () => true);
  }

  #hit(
    breakpoints: readonly Breakpoint[],
    start: bigint,
    size: number,
    counts: (kind: number) => boolean,
  ): boolean {
    let bits = 0;
    for (const { bit, address, length, kind } of breakpoints) {
      const overlaps = start < address + BigInt(length) && address < start + BigInt(size);
      if (overlaps && counts(kind)) bits |= bit;
    }
    if (bits === 0) return true;
    const { blocks, system } = this.#cpu;
    if (!blocks.single) {
      system.stepOnce = true;
      return false;
    }
    this.#hits |= bits;
    return true;
  }

  /** DR6 bits of the data and port breakpoints that the instruction hit; once. */
  takeHits(): number {
    const hits = this.#hits;
    this.#hits = 0;
    return hits;
  }
}

function isPage(address: bigint, low: number, high: number): boolean {
  const page = (BigInt(high >>> 0) << 32n) | BigInt((low & -PAGE) >>> 0);
  return (address & ~BigInt(PAGE - 1)) === page;
}
