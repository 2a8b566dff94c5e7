/** Segment registers with their hidden parts, and the descriptor tables (SDM vol. 3A 3.4, 3.5, 5). */
import type { Cpu } from '../cpu.ts';
import { S, SEG } from '../layout.ts';
import { GuestFault, VECTOR } from './fault.ts';
import { isCanonical, type LinearMemory } from './linear.ts';

/** Bits of a descriptor's access rights: bits 8 to 23 of its second word, shifted down by 8. */
export const RIGHTS = {
  ACCESSED: 1,
  /** Data: writable; code: readable. */
  RW: 2,
  /** Data: expand down; code: conforming. */
  EC: 4,
  CODE: 8,
  S: 0x10,
  DPL: 0x60,
  P: 0x80,
  AVL: 0x1000,
  L: 0x2000,
  DB: 0x4000,
  G: 0x8000,
  UNUSABLE: 0x1_0000,
} as const;

/** Types of system descriptors. */
export const SYSTEM_TYPE = {
  TSS16: 1,
  LDT: 2,
  TSS16_BUSY: 3,
  CALL16: 4,
  TASK_GATE: 5,
  INTERRUPT16: 6,
  TRAP16: 7,
  TSS: 9,
  TSS_BUSY: 11,
  CALL: 12,
  INTERRUPT: 14,
  TRAP: 15,
} as const;

/** A descriptor. */
export interface Descriptor {
  base: bigint;
  limit: number;
  rights: number;
  low: number;
  high: number;
}

export const dpl = (rights: number) => (rights & RIGHTS.DPL) >> 5;

/** Segment registers of a vCPU. */
export class Segments {
  readonly #cpu: Cpu;
  readonly #memory: LinearMemory;

  constructor(cpu: Cpu, memory: LinearMemory) {
    this.#cpu = cpu;
    this.#memory = memory;
  }

  get #state() {
    return this.#cpu.state;
  }

  selector(segment: number): number {
    return this.#state.i32(S.SELECTOR + segment * 4);
  }
  rights(segment: number): number {
    return this.#state.i32(S.RIGHTS + segment * 4);
  }
  limit(segment: number): number {
    return this.#state.i32(S.LIMIT + segment * 4) >>> 0;
  }
  base(segment: number): bigint {
    return this.#state.u64(S.RAW_BASE + segment * 8);
  }

  get isLongMode(): boolean {
    return (this.#state.efer & (1 << 10)) !== 0;
  }
  get is64(): boolean {
    return this.isLongMode && (this.rights(SEG.CS) & RIGHTS.L) !== 0;
  }
  get isReal(): boolean {
    return (this.#state.cr0 & 1) === 0 || (this.#state.eflags & 0x2_0000) !== 0;
  }

  /** Sets a segment register and its hidden part, and what follows from it. */
  set(segment: number, selector: number, base: bigint, limit: number, rights: number): void {
    const state = this.#state;
    state.setI32(S.SELECTOR + segment * 4, selector);
    state.setU64(S.RAW_BASE + segment * 8, base);
    state.setI32(S.LIMIT + segment * 4, limit);
    state.setI32(S.RIGHTS + segment * 4, rights);
    if (segment === SEG.CS) this.#codeChanged();
    else this.#derive(segment, this.is64);
    if (segment === SEG.SS) this.#stack();
  }

  /** Mode in which segments were last derived, and the base that code was found by. */
  #derived64: boolean | undefined;
  #codeBase = 0n;

  #codeChanged(): void {
    const is64 = this.is64;
    if (is64 !== this.#derived64) this.update();
    else this.#derive(SEG.CS, is64);
    const base = is64 ? 0n : this.base(SEG.CS);
    if (base !== this.#codeBase) this.#cpu.blocks.newKey();
    else this.#cpu.blocks.selectKey();
    this.#codeBase = base;
  }

  setBase(segment: number, base: bigint): void {
    this.#state.setU64(S.RAW_BASE + segment * 8, base);
    this.#state.setU64(S.SEGMENT_BASE + segment * 8, base);
  }

  /** Derives all that depends on the mode. To be called when CR0.PE, EFER.LMA or CS change. */
  update(): void {
    const is64 = this.is64;
    this.#derived64 = is64;
    for (let segment = 0; segment < 8; segment++) this.#derive(segment, is64);
    this.#stack();
  }

  #stack(): void {
    const mask = this.is64 ? (1n << 64n) - 1n : this.rights(SEG.SS) & RIGHTS.DB ? 0xffff_ffffn : 0xffffn;
    this.#state.setU64(S.STACK_MASK, mask);
  }

  #derive(segment: number, is64: boolean): void {
    const state = this.#state;
    const hasBase = !is64 || segment >= SEG.FS;
    state.setU64(S.SEGMENT_BASE + segment * 8, hasBase ? this.base(segment) : 0n);
    const rights = this.rights(segment);
    const limit = this.limit(segment);
    let first = 0;
    let last = limit;
    if (rights & RIGHTS.UNUSABLE) [first, last] = [1, 0];
    else if ((rights & (RIGHTS.S | RIGHTS.CODE | RIGHTS.EC)) === (RIGHTS.S | RIGHTS.EC)) {
      first = (limit + 1) >>> 0;
      last = rights & RIGHTS.DB ? 0xffff_ffff : 0xffff;
    }
    const isCode = (rights & RIGHTS.CODE) !== 0;
    const real = this.isReal;
    const readable = real || !isCode || (rights & RIGHTS.RW) !== 0;
    const writable = real || (!isCode && (rights & RIGHTS.RW) !== 0);
    // Where no access may go, the first valid offset lies behind the last one.
    state.setI32(S.SEGMENT_FIRST + segment * 4, readable ? first : -1);
    state.setI32(S.SEGMENT_LAST_READ + segment * 4, readable ? last : 0);
    state.setI32(S.SEGMENT_FIRST_WRITE + segment * 4, writable ? first : -1);
    state.setI32(S.SEGMENT_LAST_WRITE + segment * 4, writable ? last : 0);
  }

  /** Linear address of an access by segment and offset. @throws GuestFault #SS or #GP outside of the segment */
  linear(segment: number, offset: bigint, bytes: number, write: boolean): bigint {
    const state = this.#state;
    const linear = state.u64(S.SEGMENT_BASE + segment * 8) + offset;
    if (this.is64) return BigInt.asUintN(64, linear);
    const field = (at: number) => BigInt(state.i32(at + segment * 4) >>> 0);
    const first = field(write ? S.SEGMENT_FIRST_WRITE : S.SEGMENT_FIRST);
    const last = field(write ? S.SEGMENT_LAST_WRITE : S.SEGMENT_LAST_READ);
    if (offset < first || offset + BigInt(bytes - 1) > last)
      throw new GuestFault(segment === SEG.SS ? VECTOR.SS : VECTOR.GP);
    return BigInt.asUintN(32, linear);
  }

  /** Real-mode load: the base is 16 times the selector. */
  setReal(segment: number, selector: number): void {
    const v86 = (this.#state.eflags & 0x2_0000) !== 0;
    // Real mode keeps limit and rights; in virtual-8086 mode they are those of data at level 3 (SDM vol. 3B 21.2).
    const rights = v86 ? 0xf3 : (this.rights(segment) & ~RIGHTS.UNUSABLE) | RIGHTS.P;
    this.set(segment, selector, BigInt(selector << 4), v86 ? 0xffff : this.limit(segment), rights);
  }

  /**
   * Reads a descriptor.
   * @param ext the EXT bit of the error code
   * @throws GuestFault with the vector given and the selector as error code
   */
  descriptor(selector: number, vector: number = VECTOR.GP, ext = 0): Descriptor {
    const at = this.#address(selector, vector, ext);
    const raw = this.#memory.get(at, 8, true);
    return parseDescriptor(raw);
  }

  #address(selector: number, vector: number, ext = 0): bigint {
    const state = this.#state;
    const inLdt = (selector & 4) !== 0;
    const limit = inLdt ? this.limit(SEG.LDT) : state.i32(S.GDT_LIMIT) >>> 0;
    const unusable = inLdt && (this.rights(SEG.LDT) & RIGHTS.UNUSABLE) !== 0;
    if (unusable || (selector | 7) > limit) throw new GuestFault(vector, (selector & 0xfffc) | ext);
    return (inLdt ? this.base(SEG.LDT) : state.u64(S.GDT_BASE)) + BigInt(selector & 0xfff8);
  }

  /**
   * The upper half of a 16-byte descriptor's address (long mode: LDT, TSS, call gate).
   * @throws GuestFault #GP when its type field is not zero or the address is not canonical
   */
  upperAddress(selector: number, lower: bigint): bigint {
    if ((selector | 15) > (selector & 4 ? this.limit(SEG.LDT) : this.#state.i32(S.GDT_LIMIT) >>> 0))
      throw new GuestFault(VECTOR.GP, selector & 0xfffc);
    const upper = this.#memory.get(this.#address(selector, VECTOR.GP) + 8n, 8, true);
    const address = lower | ((upper & 0xffff_ffffn) << 32n);
    const type = (upper >> 40n) & 0x1fn;
    if (type !== 0n || !isCanonical(address)) throw new GuestFault(VECTOR.GP, selector & 0xfffc);
    return address;
  }

  /** Sets the accessed bit in memory. To be called before anything is changed: it may fault. */
  markAccessed(selector: number, d: Descriptor): void {
    if ((d.rights & RIGHTS.ACCESSED) === 0) this.mark(selector, RIGHTS.ACCESSED);
  }

  /** Sets bits of a descriptor's access byte in memory. */
  mark(selector: number, bits: number): void {
    this.#memory.setBits(this.#address(selector, VECTOR.GP) + 5n, bits);
  }

  /** Loads a data or stack segment register (SDM vol. 2, MOV and POP). */
  load(segment: number, selector: number): void {
    if (this.isReal) {
      this.setReal(segment, selector);
      return;
    }
    const { cpl } = this.#state;
    const rpl = selector & 3;
    if ((selector & 0xfffc) === 0) {
      // A null stack segment is possible in 64-bit mode below CPL 3.
      if (segment === SEG.SS && (!this.is64 || cpl === 3 || rpl !== cpl)) throw new GuestFault(VECTOR.GP);
      const rights = segment === SEG.SS ? RIGHTS.UNUSABLE | (cpl << 5) : RIGHTS.UNUSABLE;
      this.set(segment, selector, 0n, 0, rights);
      return;
    }
    const d = this.descriptor(selector);
    const error = selector & 0xfffc;
    const isData = (d.rights & (RIGHTS.S | RIGHTS.CODE)) === RIGHTS.S;
    if (segment === SEG.SS) {
      if (rpl !== cpl || dpl(d.rights) !== cpl || !isData || (d.rights & RIGHTS.RW) === 0) {
        throw new GuestFault(VECTOR.GP, error);
      }
      if ((d.rights & RIGHTS.P) === 0) throw new GuestFault(VECTOR.SS, error);
    } else {
      const readable = isData || ((d.rights & RIGHTS.S) !== 0 && (d.rights & RIGHTS.RW) !== 0);
      const conforming = !isData && (d.rights & RIGHTS.EC) !== 0;
      if (!readable || (!conforming && (rpl > dpl(d.rights) || cpl > dpl(d.rights)))) {
        throw new GuestFault(VECTOR.GP, error);
      }
      if ((d.rights & RIGHTS.P) === 0) throw new GuestFault(VECTOR.NP, error);
    }
    this.markAccessed(selector, d);
    this.set(segment, selector, d.base, d.limit, d.rights | RIGHTS.ACCESSED);
  }

  /**
   * The code segment descriptor of a far transfer, checked.
   * @param cpl the privilege level that will be the current one
   */
  code(selector: number, cpl: number, vector: number = VECTOR.GP): Descriptor {
    if ((selector & 0xfffc) === 0) throw new GuestFault(vector);
    const d = this.descriptor(selector, vector);
    const error = selector & 0xfffc;
    if ((d.rights & (RIGHTS.S | RIGHTS.CODE)) !== (RIGHTS.S | RIGHTS.CODE))
      throw new GuestFault(vector, error);
    const conforming = (d.rights & RIGHTS.EC) !== 0;
    if (conforming ? dpl(d.rights) > cpl : dpl(d.rights) !== cpl) throw new GuestFault(vector, error);
    if ((d.rights & RIGHTS.P) === 0) throw new GuestFault(VECTOR.NP, error);
    if (this.isLongMode && (d.rights & (RIGHTS.L | RIGHTS.DB)) === (RIGHTS.L | RIGHTS.DB)) {
      throw new GuestFault(vector, error);
    }
    this.markAccessed(selector, d);
    return d;
  }

  /** Sets CS and CPL. */
  setCode(selector: number, d: Descriptor, cpl: number): void {
    this.#state.setI32(S.CPL, cpl);
    this.set(SEG.CS, (selector & 0xfffc) | cpl, d.base, d.limit, d.rights | RIGHTS.ACCESSED);
    this.#cpu.mmu.selectTlb();
  }
}

/** Decodes the eight bytes of a descriptor. */
function parseDescriptor(raw: bigint): Descriptor {
  const low = Number(raw & 0xffff_ffffn);
  const high = Number(raw >> 32n);
  const rights = (high >>> 8) & 0xf0ff;
  const scaled = (low & 0xffff) | (high & 0xf_0000);
  const limit = rights & RIGHTS.G ? ((scaled << 12) | 0xfff) >>> 0 : scaled;
  const base = BigInt((((high & 0xff00_0000) | ((high & 0xff) << 16) | (low >>> 16)) >>> 0) >>> 0);
  return { base, limit, rights, low, high };
}
