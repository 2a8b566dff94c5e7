/**
 * What an instruction's meaning is written with: its operands, flags, memory, stack and ways to leave.
 *
 * Values are i64, zero-extended from their size when read; only the low bytes count when written. All stores and
 * everything that may fault must come before the first write to a register or flag: a fault or an exit abandons the
 * instruction, which is then executed again from its start.
 */
import {
  ADDRESS_16,
  ADDRESS_32,
  PAGE,
  R,
  S,
  SEG,
  TLB_ADDEND,
  TLB_INDEX_MASK,
  TLB_INDEX_SHIFT,
  TLB_READ,
  TLB_WRITE,
} from '../layout.ts';
import type { Slot } from '../table/instruction.ts';
import {
  type Expr,
  type FunctionBuilder,
  i32,
  i64,
  type Label,
  type Local,
  load,
  type Operand,
} from '../wasm/index.ts';
import { ACCESS, type Access } from './access.ts';
import { Flags } from './flags.ts';
import type { Site } from './site.ts';

/** How the address of a memory operand is computed: base + displacement, all of 64-bit mode, or anything. */
export type AddressKind = 'base' | 'flat' | 'any';

const LOAD_BY_SIZE = { 1: 'i64.load8_u', 2: 'i64.load16_u', 4: 'i64.load32_u', 8: 'i64.load' } as const;
const LOAD_SIGNED = { 1: 'i64.load8_s', 2: 'i64.load16_s', 4: 'i64.load32_s', 8: 'i64.load' } as const;
const STORE_BY_SIZE = { 1: 'i64.store8', 2: 'i64.store16', 4: 'i64.store32', 8: 'i64.store' } as const;
/** Bytes of the word that a LOCK is atomic within. */
const WORD = 8;
type Size = 1 | 2 | 4 | 8;

/** Shape of the handler that is emitted. */
export interface Form {
  readonly slots: readonly Slot[];
  readonly size: number;
  readonly address: AddressKind;
  readonly lock: boolean;
  /** Vector memory operands of 16 bytes must be aligned. */
  readonly aligned: boolean;
}

/** The environment of one meaning. */
export class Meaning {
  readonly f: FunctionBuilder;
  readonly flags: Flags;
  readonly site: Site;
  readonly form: Form;
  /** Size of the instruction's operands in bytes. */
  readonly size: number;
  #address: Local | undefined;
  #host: Local | undefined;
  #retry: { label: Label; word: Local; shift: Local; isWhole: Local } | undefined;

  /** @param muted whether the flags it sets are not stored, because the next instruction replaces them */
  constructor(site: Site, form: Form, muted = false) {
    this.site = site;
    this.form = form;
    this.f = site.f;
    this.size = form.size;
    this.flags = new Flags(site.f, site.base, muted);
  }

  get bits(): number {
    return this.size * 8;
  }

  let(value: Expr): Local {
    return this.f.let(value);
  }

  local64(): Local {
    return this.f.local('i64');
  }

  /** Whether operand i is in memory. */
  isMemory(i: number): boolean {
    return this.form.slots[i].place === 'memory';
  }

  /** A field of the record. */
  record(op: 'i32.load' | 'i32.load8_u' | 'i32.load16_u' | 'i64.load' | 'i64.load32_s', field: number): Expr {
    return load(op, this.site.pc, field);
  }

  /** A field of the vCPU's state. */
  state(op: 'i32.load' | 'i64.load' | 'i32.load8_u' | 'v128.load', field: number): Expr {
    return load(op, this.site.base, field);
  }

  setState(op: 'i32.store' | 'i64.store' | 'v128.store', field: number, value: Operand): void {
    this.f.store(op, this.site.base, value, field);
  }

  /** A general register by number, all 64 bits or the low bytes. */
  gpr(number: number, bytes: number = 8): Expr {
    return load(LOAD_BY_SIZE[bytes as Size], this.site.base, S.GPR + number * 8);
  }

  /** Writes a general register; 4 bytes clear the upper half, 1 and 2 keep the rest. */
  setGpr(number: number, value: Expr, bytes: number = 8): void {
    this.#setRegister(this.site.base, value, bytes, S.GPR + number * 8);
  }

  #setRegister(pointer: Expr, value: Expr, bytes: number, offset = 0): void {
    if (bytes === 4) this.f.store('i64.store', pointer, value.low(4), offset);
    else this.f.store(STORE_BY_SIZE[bytes as Size], pointer, value, offset);
  }

  /** Address of a register or immediate operand. */
  pointer(i: number): Expr {
    const { place } = this.form.slots[i];
    const field = place === 'A' ? R.A : place === 'B' ? R.B : R.IMMEDIATE;
    return this.record('i32.load', field);
  }

  /** The value of operand i. */
  read(i: number, signed = false): Expr {
    const { place, bytes } = this.form.slots[i];
    const op = (signed ? LOAD_SIGNED : LOAD_BY_SIZE)[bytes as Size];
    switch (place) {
      case 'memory':
        return load(op, this.#translateOnce(i, ACCESS.read));
      case 'immediate':
        return signed
          ? this.record('i64.load', R.IMMEDIATE)
          : this.record('i64.load', R.IMMEDIATE).low(bytes);
      case 'cl':
        return this.gpr(1, 1);
      case 'one':
        return i64(1);
      default:
        return load(op, this.pointer(i));
    }
  }

  /** Like {@link read}, sign-extended. */
  readSigned(i: number): Expr {
    return this.read(i, true);
  }

  /**
   * The value of operand 0 that {@link write} will replace. With LOCK this begins a loop that write() ends: what is
   * between them may run again.
   */
  modify(i = 0): Local {
    const { place, bytes } = this.form.slots[i];
    const { f } = this;
    if (place !== 'memory') return f.let(load(LOAD_BY_SIZE[bytes as Size], this.pointer(i)));
    if (this.form.lock) return this.#beginLocked(i);
    const host = this.#translateOnce(i, ACCESS.modify);
    return f.let(load(LOAD_BY_SIZE[bytes as Size], host));
  }

  /**
   * LOCK (SDM vol. 3A 8.1.2). Within an 8-byte word, aligned or not, it is a compare-and-exchange of that word. What
   * crosses words is done while all other vCPUs stand still (rendezvous.ts).
   *
   * Processors' ordering of loads and stores (8.2.2) needs nothing here: V8 makes plain accesses plain MOVs and leaves
   * their order, and the compare-and-exchange is a LOCK of the host's. That holds on x86-64 hosts only.
   */
  #beginLocked(i: number): Local {
    const { bytes } = this.form.slots[i];
    const { f, site } = this;
    const host = this.#translateOnce(i, ACCESS.locked);
    const isWhole = f.let(host.and(WORD - 1).le_u(WORD - bytes));
    f.if_(isWhole.eqz(), () => {
      const what = bytes | (ACCESS.split << 8);
      f.set(host, f.call(site.helpers.translateSlow, this.address(bytes, ACCESS.locked), what, site.pc));
      f.if_(host.eqz(), () => site.leave());
    });
    const shift = f.let(
      host
        .and(WORD - 1)
        .shl(3)
        .wide(),
    );
    const word = f.local('i64');
    const old = f.local('i64');
    const label = f.beginLoop();
    f.if_(
      isWhole,
      () => {
        f.set(word, load('i64.atomic.load', host.and(-WORD)));
        f.set(old, word.shr_u(shift).low(bytes));
      },
      () => f.set(old, load(LOAD_BY_SIZE[bytes as Size], host)),
    );
    this.#retry = { label, word, shift, isWhole };
    return old;
  }

  /** Writes operand i. A memory operand must be written before registers and flags. */
  write(i: number, value: Expr): void {
    const { place, bytes } = this.form.slots[i];
    if (place !== 'memory') {
      this.#setRegister(this.pointer(i), value, bytes);
      return;
    }
    const { f } = this;
    const retry = this.#retry;
    const host = this.#host ?? this.#translateOnce(i, ACCESS.write);
    if (retry === undefined) {
      this.storeHost(host, value, bytes);
      return;
    }
    this.#retry = undefined;
    const { label, word, shift, isWhole } = retry;
    const wanted = f.let(value.low(bytes));
    f.if_(
      isWhole,
      () => {
        const others = bytes === WORD ? i64(0) : word.and(i64(-1).low(bytes).shl(shift).not());
        const replaced = f.let(others.or(wanted.shl(shift)));
        f.brIf(label, f.cmpxchg(WORD, host.and(-WORD), word, replaced).ne(word));
      },
      () => f.store(STORE_BY_SIZE[bytes as Size], host, wanted),
    );
    f.end();
    this.#announce(load('i32.load8_u', host.shr_u(12)).or(isWhole.eqz()), host, i32(bytes));
  }

  /** Effective address of the memory operand, without segment (LEA). */
  effectiveAddress(): Expr {
    const { form, f, site } = this;
    if (form.address === 'any') return f.call(site.helpers.effectiveAddress, site.pc);
    return this.#flatOffset();
  }

  #area(field: number): Expr {
    return load('i64.load', this.record('i32.load8_u', field).add(this.site.base));
  }

  #flatOffset(): Expr {
    const simple = this.#area(R.BASE).add(this.record('i64.load32_s', R.DISPLACEMENT));
    if (this.form.address === 'base') return simple;
    return simple.add(this.#area(R.INDEX_REGISTER).shl(this.record('i32.load8_u', R.SCALE).wide()));
  }

  /** Linear address of the memory operand. */
  address(bytes: number, access: Access): Local {
    if (this.#address !== undefined) return this.#address;
    const { form, f, site } = this;
    const value =
      form.address === 'any'
        ? f.call(site.helpers.address, site.pc, bytes | (access << 8))
        : form.address === 'base'
          ? this.#flatOffset()
          : this.#flatOffset().add(this.#area(R.SEGMENT));
    this.#address = f.let(value);
    return this.#address;
  }

  /** Moves the memory operand within its segment and address size, before its first use (bit strings). */
  moveAddress(bytes: number, access: Access, by: Expr): void {
    const { f, site } = this;
    const offset = f.let(this.effectiveAddress().add(by));
    const width = this.record('i32.load8_u', R.ADDRESS);
    f.if_(width.and(ADDRESS_16), () => f.set(offset, offset.low(2)));
    f.if_(width.and(ADDRESS_32), () => f.set(offset, offset.low(4)));
    const segment = this.record('i32.load8_u', R.EXTRA);
    this.#address = f.let(
      f.call(site.helpers.segmentAddress, bytes | (access << 8), segment, offset, site.pc),
    );
  }

  #translateOnce(i: number, access: Access): Local {
    if (this.#host !== undefined) return this.#host;
    const { bytes } = this.form.slots[i];
    this.#host = this.translate(this.address(bytes, access), bytes, access);
    return this.#host;
  }

  /** The host address of a vector or other memory operand for direct loads and stores. */
  host(i: number, access: Access): Local {
    const { bytes } = this.form.slots[i];
    if (this.#host === undefined && bytes === 16 && this.form.aligned) {
      const { f } = this;
      const at = this.address(bytes, access);
      f.if_(at.and(15).ne(0), () => this.raise(13, 0));
    }
    return this.#translateOnce(i, access);
  }

  /**
   * Host address of a linear address for an access of `bytes` within a page, or of a staged copy when the access has
   * no single host address. Leaves on a fault.
   */
  translate(linear: Local, bytes: number, access: Access): Local {
    const { f, site } = this;
    const index = linear.shr_u(TLB_INDEX_SHIFT).wrap().and(TLB_INDEX_MASK);
    const entry = f.let(index.add(this.state('i32.load', S.TLB)));
    const host = f.let(linear.wrap().add(load('i32.load', entry, TLB_ADDEND)));
    const last = bytes === 1 ? linear : linear.add(bytes - 1);
    const page = last.and(-PAGE);
    const tag = load('i64.load', entry, access === ACCESS.read ? TLB_READ : TLB_WRITE);
    f.if_(tag.ne(page), () => {
      f.set(host, f.call(site.helpers.translateSlow, linear, bytes | (access << 8), site.pc));
      f.if_(host.eqz(), () => site.leave());
    });
    return host;
  }

  /** Loads from a linear address. */
  loadLinear(linear: Expr, bytes: number): Local {
    const at = this.translate(this.f.let(linear), bytes, ACCESS.read);
    return this.f.let(load(LOAD_BY_SIZE[bytes as Size], at));
  }

  /** Stores to a linear address. */
  storeLinear(linear: Expr, value: Expr, bytes: number): void {
    this.storeHost(this.translate(this.f.let(linear), bytes, ACCESS.write), value, bytes);
  }

  /** Stores to a translated address, and tells the engine if the page is special. */
  storeHost(host: Local, value: Expr, bytes: number): void {
    this.f.store(STORE_BY_SIZE[bytes as Size], host, value);
    this.#afterStore(host, bytes);
  }

  /** Stores a vector to a translated address. */
  storeVector(host: Local, value: Expr): void {
    this.f.store('v128.store', host, value);
    this.#afterStore(host, 16);
  }

  /** To be called after any store to a translated address. */
  afterStore(host: Local, bytes: Expr): void {
    this.#announce(load('i32.load8_u', host.shr_u(12)), host, bytes);
  }

  #announce(condition: Expr, host: Local, bytes: Expr): void {
    const { f, site } = this;
    f.if_(condition, () => {
      f.if_(f.call(site.helpers.afterStore, site.pc, host, bytes), () => site.leave());
    });
  }

  #afterStore(host: Local, bytes: number): void {
    this.afterStore(host, i32(bytes));
  }

  /** The stack pointer as far as it counts, moved by some bytes, as an offset in the stack segment. */
  stackOffset(delta: number): Expr {
    const moved = this.gpr(4).add(delta);
    return this.size === 8 ? moved : moved.and(this.state('i64.load', S.STACK_MASK));
  }

  /** Linear address of a stack offset. */
  stackAddress(offset: Expr, bytes: number, access: Access): Expr {
    if (this.size === 8) return offset;
    const { f, site } = this;
    return f.call(site.helpers.segmentAddress, bytes | (access << 8), SEG.SS, offset, site.pc);
  }

  /** Sets the stack pointer to an offset that {@link stackOffset} gave. */
  setStack(offset: Expr): void {
    if (this.size === 8) {
      this.setGpr(4, offset);
      return;
    }
    const mask = this.state('i64.load', S.STACK_MASK);
    this.setGpr(4, this.gpr(4).and(mask.not()).or(offset.and(mask)));
  }

  /** Pushes a value of the operand size. */
  push(value: Expr, bytes = this.size): void {
    const offset = this.f.let(this.stackOffset(-bytes));
    this.storeLinear(this.stackAddress(offset, bytes, ACCESS.write), value, bytes);
    this.setStack(offset);
  }

  /** The value on top of the stack; the stack pointer is moved by {@link dropStack}. */
  top(bytes = this.size): Local {
    return this.loadLinear(this.stackAddress(this.stackOffset(0), bytes, ACCESS.read), bytes);
  }

  dropStack(bytes: number = this.size): void {
    this.setStack(this.stackOffset(bytes));
  }

  /** RIP of the next instruction. */
  nextRip(): Expr {
    return this.state('i64.load', S.BLOCK_RIP).add(
      this.record('i32.load16_u', R.OFFSET).add(this.record('i32.load8_u', R.LENGTH)).wide(),
    );
  }

  /** RIP of this instruction. */
  rip(): Expr {
    return this.state('i64.load', S.BLOCK_RIP).add(this.record('i32.load16_u', R.OFFSET).wide());
  }

  /** A segment selector: by number, or the one that ModRM.reg names. */
  selector(number?: number): Expr {
    if (number !== undefined) return this.state('i32.load', S.SELECTOR + number * 4).wide();
    const at = this.record('i32.load', R.B).shl(2);
    return load('i32.load', at.add(this.site.base), S.SELECTOR).wide();
  }

  /** Ends the block at a RIP cut to the operand size. */
  jump(rip: Expr): void {
    this.site.jump(this.size === 8 ? rip : rip.low(this.size));
  }

  /** Raises an exception: the instruction is abandoned. */
  raise(vector: number, error = 0): void {
    this.setState('i32.store', S.FAULT_VECTOR, vector);
    this.setState('i32.store', S.FAULT_ERROR, error);
    this.site.leave();
  }

  /**
   * Carries out an operation written in TypeScript. It is given the operation, the operand size, whether there is a
   * memory operand, and a detail of at most 15 bits.
   */
  system(operation: number, detail = 0): void {
    const { f, site, form } = this;
    const memory = form.slots.some(({ place }) => place === 'memory') ? 1 : 0;
    const code = operation | (this.size << 8) | (memory << 15) | (detail << 16);
    site.status(f.call(site.helpers.system, code, site.pc));
  }

  // Vector operands.

  /** A vector operand: all 16 bytes of a register, or `bytes` of memory, the rest zero. */
  readVector(i: number): Expr {
    const { place, bytes } = this.form.slots[i];
    if (place !== 'memory') return load('v128.load', this.pointer(i));
    const host = this.host(i, ACCESS.read);
    if (bytes === 16) return load('v128.load', host);
    if (bytes === 8) return load('v128.load64_zero', host);
    return load('v128.load32_zero', host);
  }

  /** Writes a vector register or 16 bytes of memory. */
  writeVector(i: number, value: Expr): void {
    if (this.form.slots[i].place !== 'memory') this.f.store('v128.store', this.pointer(i), value);
    else this.storeVector(this.host(i, ACCESS.write), value);
  }
}
