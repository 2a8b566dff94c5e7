/**
 * Executes x87 instructions (SDM vol. 1, chapter 8; vol. 2) on an {@link X87State}.
 *
 * The engine raises #NM, #UD (see `x87Encoding`) and #MF, translates the memory operand and faults on it first; for
 * instructions that are not control instructions it then records FOP, FIP and FDP, copies the operand it read to
 * `operand`, calls `execute`, and copies the operand that was written back.
 */
import { add, divide, multiply, squareRoot } from './arithmetic.ts';
import {
  fromBcd,
  fromDouble,
  fromInteger,
  fromSingle,
  roundToInteger,
  setIntegerIndefinite,
  toBcd,
  toDouble,
  toInteger,
  toSingle,
  writeBcdIndefinite,
} from './convert.ts';
import {
  clearExceptions,
  type ImageFormat,
  initialize,
  loadEnvironment,
  loadState,
  storeEnvironment,
  storeState,
} from './environment.ts';
import {
  C0,
  C1,
  C2,
  C3,
  DE,
  ES,
  EXPONENT_BIAS,
  Float80,
  FpuContext,
  IE,
  KIND,
  kindOf,
  nanOperand,
  ROUND,
  SF,
  SIGN,
  setIndefinite,
} from './float80.ts';
import {
  ABANDONED,
  compare,
  examine,
  extract,
  NO_QUOTIENT,
  remainder,
  scale,
  UNORDERED,
} from './operations.ts';
import { controlWord, summarized, type X87State } from './state.ts';
import {
  ANGLE,
  arcTangent2,
  type Constant,
  circular,
  exponential,
  loadConstant,
  logarithm2,
  logarithm2Plus1,
} from './transcendental.ts';

/** What `execute` returns. */
export const X87_RESULT = {
  DONE: 0,
  /** An unmasked exception forbids the store: the memory operand stays as it is. */
  NO_STORE: 1,
  /** An earlier exception is pending: nothing was done; #MF, or the external interrupt of CR0.NE = 0. */
  PENDING: 2,
  /** No such instruction: #UD. */
  UNDEFINED: 3,
} as const;

/** EFLAGS that FCMOVcc and FCOMI use. */
const CF = 0x1;
const PF = 0x4;
const ZF = 0x40;
/** CF, PF, AF, ZF, SF, OF: all are written by FCOMI. */
const ARITHMETIC_FLAGS = 0x8d5;

const CONSTANTS: readonly Constant[] = ['L2T', 'L2E', 'PI', 'LG2', 'LN2'];
const OPERANDS = 128;

/** One vCPU's x87 unit. */
export class X87 implements ImageFormat {
  /** The memory operand, from `operandOffset` on: read by loads, written by stores. */
  readonly operand: DataView;
  readonly operandOffset: number;
  /** EFLAGS, read by FCMOVcc, written by FCOMI and kin. */
  eflags = 0;
  /** Written by FNSTSW AX. */
  ax = 0;
  /** Of FLDENV, FNSTENV, FRSTOR and FNSAVE: the operand size is 16 bits. */
  size16 = false;
  /** Of the same: not in real-address or virtual-8086 mode. */
  protectedMode = true;

  readonly #state: X87State;
  readonly #context = new FpuContext();
  readonly #a = new Float80();
  readonly #b = new Float80();
  readonly #out = new Float80();
  /** Status word of the instruction under way, without its exceptions. */
  #fsw = 0;
  /** Its abridged tags. */
  #ftw = 0;

  constructor(
    state: X87State,
    operand: DataView = new DataView(new ArrayBuffer(OPERANDS)),
    operandOffset = 0,
  ) {
    this.#state = state;
    this.operand = operand;
    this.operandOffset = operandOffset;
  }

  /** Whether an unmasked exception is pending: any waiting instruction, FWAIT too, raises #MF. */
  get pending(): boolean {
    return (this.#state.fsw & ES) !== 0;
  }

  /**
   * Executes one instruction.
   * @param opcode D8 to DF
   * @param modrm the whole ModRM byte
   * @returns one of X87_RESULT
   */
  execute(opcode: number, modrm: number): number {
    const group = opcode & 7;
    const reg = (modrm >> 3) & 7;
    const controls = modrm >= 0xc0 ? (group & 3) === 3 && reg === 4 : (group & 3) === 1 && reg >= 4;
    if (controls) {
      const result = this.#control(group, modrm);
      if (result !== X87_RESULT.UNDEFINED) return result;
    }
    const state = this.#state;
    const fsw = state.fsw;
    if ((fsw & ES) !== 0) return X87_RESULT.PENDING;
    const ftw = state.ftw;
    this.#fsw = fsw;
    this.#ftw = ftw;
    this.#context.begin(state.fcw);
    const result = modrm >= 0xc0 ? this.#register(group, reg, modrm & 7) : this.#memory(group, reg);
    if (result === X87_RESULT.UNDEFINED) return result;
    const c = this.#context;
    state.fsw = c.flags === 0 ? this.#fsw : summarized(this.#fsw | c.flags, state.fcw);
    if (this.#ftw !== ftw) state.ftw = this.#ftw;
    return result;
  }

  /** Instructions that run with an exception pending, or must not disturb the status word. */
  #control(group: number, modrm: number): number {
    const state = this.#state;
    const { operand, operandOffset } = this;
    if (modrm >= 0xc0) {
      if (group === 7 && modrm === 0xe0) this.ax = state.fsw;
      else if (group !== 3) return X87_RESULT.UNDEFINED;
      else if (modrm === 0xe2) clearExceptions(state);
      else if (modrm === 0xe3) initialize(state);
      else if (modrm !== 0xe0 && modrm !== 0xe1 && modrm !== 0xe4) return X87_RESULT.UNDEFINED;
      return X87_RESULT.DONE;
    }
    const reg = (modrm >> 3) & 7;
    if (group === 1 && reg >= 4) {
      if (reg === 7) operand.setUint16(operandOffset, state.fcw, true);
      else if (reg === 6) {
        storeEnvironment(state, operand, operandOffset, this, this.#a);
        // All exceptions are masked after it, so that a handler can go on.
        state.fcw |= 0x3f;
        state.fsw = summarized(state.fsw, state.fcw);
      } else if (this.pending) return X87_RESULT.PENDING;
      else if (reg === 5) {
        state.fcw = controlWord(operand.getUint16(operandOffset, true));
        state.fsw = summarized(state.fsw, state.fcw);
      } else loadEnvironment(state, operand, operandOffset, this);
      return X87_RESULT.DONE;
    }
    if (group === 5 && reg >= 4 && reg !== 5) {
      if (reg === 7) operand.setUint16(operandOffset, state.fsw, true);
      else if (reg === 6) {
        storeState(state, operand, operandOffset, this, this.#a);
        initialize(state);
      } else if (this.pending) return X87_RESULT.PENDING;
      else loadState(state, operand, operandOffset, this, this.#a);
      return X87_RESULT.DONE;
    }
    return X87_RESULT.UNDEFINED;
  }

  #memory(group: number, reg: number): number {
    switch (group) {
      case 0:
      case 2:
      case 4:
      case 6:
        return this.#memoryArithmetic(group, reg);
      case 1:
        if (reg === 0) return this.#loadSingleOrDouble(group);
        return reg === 1 ? X87_RESULT.UNDEFINED : this.#storeFloat(group, reg === 3);
      case 5:
        if (reg === 0) return this.#loadSingleOrDouble(group);
        if (reg === 5) return X87_RESULT.UNDEFINED;
        return reg === 1 ? this.#storeInteger(64, true, true) : this.#storeFloat(group, reg === 3);
      case 3:
        if (reg === 0) return this.#loadInteger(32);
        if (reg === 5) return this.#loadExtended();
        if (reg === 7) return this.#storeExtended();
        if (reg > 3) return X87_RESULT.UNDEFINED;
        return this.#storeInteger(32, reg !== 2, reg === 1);
      default:
        if (reg === 0) return this.#loadInteger(16);
        if (reg === 4) return this.#loadBcd();
        if (reg === 5) return this.#loadInteger(64);
        if (reg === 6) return this.#storeBcd();
        if (reg === 7) return this.#storeInteger(64, true, false);
        return this.#storeInteger(16, reg !== 2, reg === 1);
    }
  }

  #register(group: number, reg: number, i: number): number {
    switch (group) {
      case 0:
        return reg === 2 || reg === 3
          ? this.#compareRegister(i, false, reg === 3 ? 1 : 0)
          : this.#arithmetic(reg, i, 0, false);
      case 1:
        if (reg === 0) return this.#loadRegister(i);
        if (reg === 1) return this.#exchange(i);
        if (reg === 2) return i === 0 ? X87_RESULT.DONE : X87_RESULT.UNDEFINED;
        if (reg === 3) return this.#storeRegisterQuietly(i);
        return this.#special((reg - 4) * 8 + i);
      case 2:
        if (reg < 4) return this.#conditionalMove(reg, false, i);
        return reg === 5 && i === 1 ? this.#compareRegister(1, true, 2) : X87_RESULT.UNDEFINED;
      case 3:
        if (reg < 4) return this.#conditionalMove(reg, true, i);
        return reg === 5 || reg === 6 ? this.#compareFlags(i, reg === 5, false) : X87_RESULT.UNDEFINED;
      case 4:
        return reg === 2 || reg === 3
          ? this.#compareRegister(i, false, reg === 3 ? 1 : 0)
          : this.#arithmetic(reg, i, i, false);
      case 5:
        if (reg === 0) return this.#free(i, false);
        if (reg === 1) return this.#exchange(i);
        if (reg === 2 || reg === 3) return this.#storeRegister(i, reg === 3);
        return reg < 6 ? this.#compareRegister(i, true, reg - 4) : X87_RESULT.UNDEFINED;
      case 6:
        if (reg === 2) return this.#compareRegister(i, false, 1);
        if (reg === 3) return i === 1 ? this.#compareRegister(1, false, 2) : X87_RESULT.UNDEFINED;
        return this.#arithmetic(reg, i, i, true);
      default:
        if (reg === 0) return this.#free(i, true);
        if (reg === 1) return this.#exchange(i);
        if (reg === 2 || reg === 3) return this.#storeRegister(i, true);
        return reg === 5 || reg === 6 ? this.#compareFlags(i, reg === 5, true) : X87_RESULT.UNDEFINED;
    }
  }

  // The register stack.

  #physical(i: number): number {
    return ((this.#fsw >> 11) + i) & 7;
  }

  #empty(i: number): boolean {
    return (this.#ftw & (1 << this.#physical(i))) === 0;
  }

  #get(i: number, out: Float80): Float80 {
    this.#state.readRegister(this.#physical(i), out);
    return out;
  }

  /** Writes ST(i) and marks it valid. */
  #set(i: number, value: Float80): void {
    const physical = this.#physical(i);
    this.#state.writeRegister(physical, value);
    this.#ftw |= 1 << physical;
  }

  #pop(): void {
    this.#ftw &= ~(1 << this.#physical(0));
    this.#moveTop(1);
  }

  #push(value: Float80): void {
    this.#moveTop(-1);
    this.#set(0, value);
  }

  #moveTop(by: number): void {
    const fsw = this.#fsw;
    this.#fsw = (fsw & ~0x3800) | ((fsw + by * 0x800) & 0x3800);
  }

  /** Condition codes of the instruction; C1 says whether the result was rounded up. */
  #conditions(clear: number, set: number): void {
    this.#fsw = (this.#fsw & ~clear) | set;
  }

  #roundedC1(): void {
    this.#conditions(C1, this.#context.roundedUp ? C1 : 0);
  }

  /** Stack underflow (C1 clear) or overflow (set). Returns whether it is masked. */
  #stackFault(overflow: boolean): boolean {
    this.#conditions(C1, overflow ? C1 : 0);
    this.#fsw |= SF;
    return this.#context.raise(IE);
  }

  /** The masked response to underflow of an instruction that writes ST(i). */
  #underflow(i: number, pops = 0): number {
    if (this.#stackFault(false)) {
      setIndefinite(this.#out);
      this.#set(i, this.#out);
      for (; pops > 0; pops--) this.#pop();
    }
    return X87_RESULT.DONE;
  }

  /** Whether a push has room; the masked response to overflow pushes the indefinite. */
  #room(): boolean {
    if (this.#empty(7)) {
      this.#conditions(C1, 0);
      return true;
    }
    if (this.#stackFault(true)) {
      setIndefinite(this.#out);
      this.#push(this.#out);
    }
    return false;
  }

  // Arithmetic.

  /** `out = a op b`, with ModRM.reg as the operation. */
  #operate(reg: number, a: Float80, b: Float80, out: Float80): boolean {
    const c = this.#context;
    switch (reg) {
      case 0:
        return add(c, a, b, out);
      case 1:
        return multiply(c, a, b, out);
      case 4:
        return add(c, a, b, out, SIGN);
      case 5:
        return add(c, b, a, out, SIGN);
      case 6:
        return divide(c, a, b, out);
      default:
        return divide(c, b, a, out);
    }
  }

  #arithmetic(reg: number, i: number, destination: number, pop: boolean): number {
    if (this.#empty(0) || this.#empty(i)) return this.#underflow(destination, pop ? 1 : 0);
    const done = this.#operate(reg, this.#get(0, this.#a), this.#get(i, this.#b), this.#out);
    this.#roundedC1();
    if (done) {
      this.#set(destination, this.#out);
      if (pop) this.#pop();
    }
    return X87_RESULT.DONE;
  }

  #memoryArithmetic(group: number, reg: number): number {
    const comparison = reg === 2 || reg === 3;
    if (this.#empty(0)) {
      return comparison ? this.#unorderedUnderflow(reg - 2) : this.#underflow(0);
    }
    const { operand: view, operandOffset: offset } = this;
    const b = this.#b;
    const c = this.#context;
    if (group === 0) c.sourceDenormal = fromSingle(view.getInt32(offset, true), b);
    else if (group === 4) {
      c.sourceDenormal = fromDouble(view.getInt32(offset + 4, true), view.getInt32(offset, true), b);
    } else {
      const value = group === 2 ? view.getInt32(offset, true) : view.getInt16(offset, true);
      fromInteger(value >> 31, value, b);
    }
    this.#get(0, this.#a);
    if (comparison) return this.#finishCompare(compare(c, this.#a, b, false), reg - 2);
    const done = this.#operate(reg, this.#a, b, this.#out);
    this.#roundedC1();
    if (done) this.#set(0, this.#out);
    return X87_RESULT.DONE;
  }

  // Comparison.

  #unorderedUnderflow(pops: number): number {
    this.#stackFault(false);
    return this.#finishCompare(UNORDERED, pops);
  }

  #finishCompare(conditions: number, pops: number): number {
    this.#conditions(C0 | C1 | C2 | C3, conditions);
    if (!this.#context.unmasked) for (let n = pops; n > 0; n--) this.#pop();
    return X87_RESULT.DONE;
  }

  #compareRegister(i: number, quiet: boolean, pops: number): number {
    if (this.#empty(0) || this.#empty(i)) return this.#unorderedUnderflow(pops);
    const conditions = compare(this.#context, this.#get(0, this.#a), this.#get(i, this.#b), quiet);
    return this.#finishCompare(conditions, pops);
  }

  #compareFlags(i: number, quiet: boolean, pop: boolean): number {
    let conditions = UNORDERED;
    if (this.#empty(0) || this.#empty(i)) this.#stackFault(false);
    else conditions = compare(this.#context, this.#get(0, this.#a), this.#get(i, this.#b), quiet);
    this.eflags =
      (this.eflags & ~ARITHMETIC_FLAGS) |
      ((conditions & C0) !== 0 ? CF : 0) |
      ((conditions & C2) !== 0 ? PF : 0) |
      ((conditions & C3) !== 0 ? ZF : 0);
    if (pop && !this.#context.unmasked) this.#pop();
    return X87_RESULT.DONE;
  }

  // Moves between registers.

  #loadRegister(i: number): number {
    const empty = this.#empty(i);
    if (!empty) {
      this.#get(i, this.#a);
      if (this.#room()) this.#push(this.#a);
      return X87_RESULT.DONE;
    }
    if (this.#stackFault(false)) {
      setIndefinite(this.#out);
      this.#push(this.#out);
    }
    return X87_RESULT.DONE;
  }

  #storeRegister(i: number, pop: boolean): number {
    if (this.#empty(0)) return this.#underflow(i, pop ? 1 : 0);
    this.#conditions(C1, 0);
    this.#set(i, this.#get(0, this.#a));
    if (pop) this.#pop();
    return X87_RESULT.DONE;
  }

  /** The undocumented FSTP at D9 D8+i: an empty ST(0) is popped without an exception. */
  #storeRegisterQuietly(i: number): number {
    if (!this.#empty(0)) return this.#storeRegister(i, true);
    this.#conditions(C1, 0);
    this.#pop();
    return X87_RESULT.DONE;
  }

  #exchange(i: number): number {
    this.#get(0, this.#a);
    this.#get(i, this.#b);
    this.#conditions(C1, 0);
    if (this.#empty(0) || this.#empty(i)) {
      if (!this.#stackFault(false)) return X87_RESULT.DONE;
      if (this.#empty(0)) setIndefinite(this.#a);
      if (this.#empty(i)) setIndefinite(this.#b);
    }
    this.#set(0, this.#b);
    this.#set(i, this.#a);
    return X87_RESULT.DONE;
  }

  #conditionalMove(reg: number, negated: boolean, i: number): number {
    if (this.#empty(0) || this.#empty(i)) return this.#underflow(0);
    const mask = reg === 0 ? CF : reg === 1 ? ZF : reg === 2 ? CF | ZF : PF;
    if (((this.eflags & mask) !== 0) !== negated) this.#set(0, this.#get(i, this.#a));
    return X87_RESULT.DONE;
  }

  #free(i: number, pop: boolean): number {
    this.#conditions(C1, 0);
    this.#ftw &= ~(1 << this.#physical(i));
    if (pop) this.#pop();
    return X87_RESULT.DONE;
  }

  // Loads.

  #loadSingleOrDouble(group: number): number {
    if (!this.#room()) return X87_RESULT.DONE;
    const { operand: view, operandOffset: offset } = this;
    const a = this.#a;
    const c = this.#context;
    const denormal =
      group === 1
        ? fromSingle(view.getInt32(offset, true), a)
        : fromDouble(view.getInt32(offset + 4, true), view.getInt32(offset, true), a);
    const kind = kindOf(a);
    if (kind === KIND.SNAN && !nanOperand(c, a, kind, a)) return X87_RESULT.DONE;
    // Unlike an arithmetic instruction, a load is not withheld by an unmasked denormal-operand exception.
    if (denormal) c.raise(DE);
    this.#push(a);
    return X87_RESULT.DONE;
  }

  #loadExtended(): number {
    if (this.#room()) this.#push(this.#a.read(this.operand, this.operandOffset));
    return X87_RESULT.DONE;
  }

  #loadInteger(bits: 16 | 32 | 64): number {
    if (!this.#room()) return X87_RESULT.DONE;
    const { operand: view, operandOffset: offset } = this;
    const low = bits === 16 ? view.getInt16(offset, true) : view.getInt32(offset, true);
    fromInteger(bits === 64 ? view.getInt32(offset + 4, true) : low >> 31, low, this.#a);
    this.#push(this.#a);
    return X87_RESULT.DONE;
  }

  #loadBcd(): number {
    if (!this.#room()) return X87_RESULT.DONE;
    fromBcd(this.operand, this.operandOffset, this.#a);
    this.#push(this.#a);
    return X87_RESULT.DONE;
  }

  // Stores.

  #storeFloat(group: number, pop: boolean): number {
    const { operand: view, operandOffset: offset } = this;
    const out = this.#out;
    const c = this.#context;
    const single = group === 1;
    let done: boolean;
    if (this.#empty(0)) {
      done = this.#stackFault(false);
      out.set(0, 0xfff8_0000, single ? 0xffc0_0000 : 0);
    } else {
      const a = this.#get(0, this.#a);
      done = single ? toSingle(c, a, out) : toDouble(c, a, out);
      this.#roundedC1();
    }
    if (!done) return X87_RESULT.NO_STORE;
    view.setInt32(offset, out.lo, true);
    if (!single) view.setInt32(offset + 4, out.hi, true);
    if (pop) this.#pop();
    return X87_RESULT.DONE;
  }

  #storeExtended(): number {
    this.#conditions(C1, 0);
    if (!this.#empty(0)) this.#get(0, this.#a);
    else if (this.#stackFault(false)) setIndefinite(this.#a);
    else return X87_RESULT.NO_STORE;
    this.#a.write(this.operand, this.operandOffset);
    this.#pop();
    return X87_RESULT.DONE;
  }

  #storeInteger(bits: 16 | 32 | 64, pop: boolean, truncate: boolean): number {
    const { operand: view, operandOffset: offset } = this;
    const out = this.#out;
    const c = this.#context;
    let done: boolean;
    if (this.#empty(0)) {
      done = this.#stackFault(false);
      setIntegerIndefinite(bits, out);
    } else {
      done = toInteger(c, this.#get(0, this.#a), bits, truncate ? ROUND.ZERO : c.rounding, out);
      this.#roundedC1();
    }
    if (!done) return X87_RESULT.NO_STORE;
    if (bits === 16) view.setInt16(offset, out.lo, true);
    else view.setInt32(offset, out.lo, true);
    if (bits === 64) view.setInt32(offset + 4, out.hi, true);
    if (pop) this.#pop();
    return X87_RESULT.DONE;
  }

  #storeBcd(): number {
    const { operand: view, operandOffset: offset } = this;
    let done: boolean;
    if (this.#empty(0)) {
      done = this.#stackFault(false);
      if (done) writeBcdIndefinite(view, offset);
    } else {
      done = toBcd(this.#context, this.#get(0, this.#a), view, offset, this.#out);
      this.#roundedC1();
    }
    if (!done) return X87_RESULT.NO_STORE;
    this.#pop();
    return X87_RESULT.DONE;
  }

  /** D9 E0 to FF. */
  #special(index: number): number {
    switch (index) {
      case 0x00:
      case 0x01:
        return this.#sign(index === 0);
      case 0x04:
        return this.#test();
      case 0x05:
        this.#conditions(
          C0 | C1 | C2 | C3,
          this.#empty(0) ? C3 | C0 | (examine(this.#get(0, this.#a)) & C1) : examine(this.#get(0, this.#a)),
        );
        return X87_RESULT.DONE;
      case 0x02:
      case 0x03:
      case 0x06:
      case 0x07:
      case 0x0f:
        return X87_RESULT.UNDEFINED;
      case 0x10:
      case 0x1a:
      case 0x1c:
        return this.#unary(index);
      case 0x11:
      case 0x13:
      case 0x19:
        return this.#binaryPop(index);
      case 0x12:
      case 0x1b:
      case 0x1e:
      case 0x1f:
        return this.#circular(index);
      case 0x14:
        return this.#extract();
      case 0x15:
      case 0x18:
        return this.#remainder(index === 0x15);
      case 0x16:
      case 0x17:
        this.#conditions(C1, 0);
        this.#moveTop(index === 0x16 ? -1 : 1);
        return X87_RESULT.DONE;
      case 0x1d:
        return this.#scale();
      default:
        return this.#loadConstant(index - 0x08);
    }
  }

  #sign(change: boolean): number {
    if (this.#empty(0)) return this.#underflow(0);
    this.#conditions(C1, 0);
    const a = this.#get(0, this.#a);
    a.se = change ? a.se ^ SIGN : a.se & ~SIGN;
    this.#set(0, a);
    return X87_RESULT.DONE;
  }

  #test(): number {
    if (this.#empty(0)) return this.#unorderedUnderflow(0);
    this.#b.set(0, 0, 0);
    return this.#finishCompare(compare(this.#context, this.#get(0, this.#a), this.#b, false), 0);
  }

  #loadConstant(index: number): number {
    if (!this.#room()) return X87_RESULT.DONE;
    if (index === 0) this.#a.set(EXPONENT_BIAS, 0x8000_0000, 0);
    else if (index === 6) this.#a.set(0, 0, 0);
    else loadConstant(CONSTANTS[index - 1], this.#context.rounding, this.#a);
    this.#push(this.#a);
    return X87_RESULT.DONE;
  }

  /** F2XM1, FSQRT, FRNDINT. */
  #unary(index: number): number {
    if (this.#empty(0)) return this.#underflow(0);
    const c = this.#context;
    const a = this.#get(0, this.#a);
    const done =
      index === 0x10
        ? exponential(c, a, this.#out)
        : index === 0x1a
          ? squareRoot(c, a, this.#out)
          : roundToInteger(c, a, this.#out);
    this.#roundedC1();
    if (done) this.#set(0, this.#out);
    return X87_RESULT.DONE;
  }

  /** FYL2X, FPATAN, FYL2XP1: the result replaces ST(1), then ST(0) is popped. */
  #binaryPop(index: number): number {
    if (this.#empty(0) || this.#empty(1)) return this.#underflow(1, 1);
    const c = this.#context;
    const x = this.#get(0, this.#a);
    const y = this.#get(1, this.#b);
    const done =
      index === 0x11
        ? logarithm2(c, x, y, this.#out)
        : index === 0x13
          ? arcTangent2(c, y, x, this.#out)
          : logarithm2Plus1(c, x, y, this.#out);
    this.#roundedC1();
    if (done) {
      this.#set(1, this.#out);
      this.#pop();
    }
    return X87_RESULT.DONE;
  }

  /** The masked response to a stack fault of FXTRACT, FPTAN and FSINCOS: two indefinites. */
  #faultOfTwo(overflow: boolean): number {
    if (this.#stackFault(overflow)) {
      setIndefinite(this.#out);
      this.#set(0, this.#out);
      this.#push(this.#out);
    }
    return X87_RESULT.DONE;
  }

  /** FPTAN, FSINCOS, FSIN, FCOS. */
  #circular(index: number): number {
    const two = index === 0x12 || index === 0x1b;
    this.#conditions(C2, 0);
    if (two && (this.#empty(0) || !this.#empty(7))) return this.#faultOfTwo(!this.#empty(0));
    if (this.#empty(0)) return this.#underflow(0);
    const c = this.#context;
    const a = this.#get(0, this.#a);
    const tangent = index === 0x12;
    const sin = index === 0x1f ? undefined : this.#out;
    const cos = index === 0x1b ? this.#b : index === 0x1f ? this.#out : undefined;
    const outcome = circular(c, a, sin, cos, tangent);
    this.#roundedC1();
    if (outcome === ANGLE.OUT_OF_RANGE) this.#conditions(C1, C2);
    if (outcome !== ANGLE.DONE) return X87_RESULT.DONE;
    this.#set(0, this.#out);
    if (index === 0x1b) this.#push(this.#b);
    else if (tangent) {
      // A NaN is pushed again; otherwise 1.0.
      const nan = kindOf(this.#out) === KIND.QNAN;
      this.#push(nan ? this.#out : this.#a.set(EXPONENT_BIAS, 0x8000_0000, 0));
    }
    return X87_RESULT.DONE;
  }

  #extract(): number {
    if (this.#empty(0) || !this.#empty(7)) return this.#faultOfTwo(!this.#empty(0));
    this.#conditions(C1, 0);
    if (extract(this.#context, this.#get(0, this.#a), this.#out, this.#b)) {
      this.#set(0, this.#out);
      this.#push(this.#b);
    }
    return X87_RESULT.DONE;
  }

  #remainder(nearest: boolean): number {
    this.#conditions(C2, 0);
    if (this.#empty(0) || this.#empty(1)) return this.#underflow(0);
    const conditions = remainder(
      this.#context,
      this.#get(0, this.#a),
      this.#get(1, this.#b),
      nearest,
      this.#out,
    );
    // Without a quotient (NaN, invalid) C0 and C3 stay.
    this.#conditions(C1 | C2, 0);
    if (conditions === ABANDONED) return X87_RESULT.DONE;
    if (conditions !== NO_QUOTIENT) this.#conditions(C0 | C3, conditions);
    this.#set(0, this.#out);
    return X87_RESULT.DONE;
  }

  #scale(): number {
    if (this.#empty(0) || this.#empty(1)) return this.#underflow(0);
    const done = scale(this.#context, this.#get(0, this.#a), this.#get(1, this.#b), this.#out);
    this.#roundedC1();
    if (done) this.#set(0, this.#out);
    return X87_RESULT.DONE;
  }
}
