/**
 * Executes x87 instructions (SDM vol. 1, chapter 8; vol. 2) on an {@link X87State}.
 *
 * The engine raises #NM, #UD (see `x87Encoding`) and #MF, translates the memory operand and faults on it first; for
 * instructions that are not control instructions it then records FOP, FIP and FDP, copies the operand it read to
 * `operand`, calls `execute`, and copies the operand that was written back.
 */
import { arithmetic, compareFlags, compareRegister, memoryArithmetic } from './arithmetic-forms.ts';
import {
  clearExceptions,
  initialize,
  loadEnvironment,
  loadState,
  storeEnvironment,
  storeState,
} from './environment.ts';
import { ES } from './float80.ts';
import { special } from './special-forms.ts';
import { controlWord, summarized } from './state.ts';
import {
  conditionalMove,
  exchange,
  free,
  loadBcd,
  loadExtended,
  loadInteger,
  loadRegister,
  loadSingleOrDouble,
  storeBcd,
  storeExtended,
  storeFloat,
  storeInteger,
  storeRegister,
  storeRegisterQuietly,
} from './transfer-forms.ts';
import { X87_RESULT, X87Unit } from './unit.ts';

export { X87_RESULT } from './unit.ts';

/** One vCPU's x87 unit. */
export class X87 extends X87Unit {
  /** Whether an unmasked exception is pending: any waiting instruction, FWAIT too, raises #MF. */
  get pending(): boolean {
    return (this.state.fsw & ES) !== 0;
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
    const state = this.state;
    const fsw = state.fsw;
    if ((fsw & ES) !== 0) return X87_RESULT.PENDING;
    const ftw = state.ftw;
    this.fsw = fsw;
    this.ftw = ftw;
    this.context.begin(state.fcw);
    const result = modrm >= 0xc0 ? this.#register(group, reg, modrm & 7) : this.#memory(group, reg);
    if (result === X87_RESULT.UNDEFINED) return result;
    const c = this.context;
    state.fsw = c.flags === 0 ? this.fsw : summarized(this.fsw | c.flags, state.fcw);
    if (this.ftw !== ftw) state.ftw = this.ftw;
    return result;
  }

  /** Instructions that run with an exception pending, or must not disturb the status word. */
  #control(group: number, modrm: number): number {
    const state = this.state;
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
        storeEnvironment(state, operand, operandOffset, this, this.a);
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
        storeState(state, operand, operandOffset, this, this.a);
        initialize(state);
      } else if (this.pending) return X87_RESULT.PENDING;
      else loadState(state, operand, operandOffset, this, this.a);
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
        return memoryArithmetic(this, group, reg);
      case 1:
        if (reg === 0) return loadSingleOrDouble(this, group);
        return reg === 1 ? X87_RESULT.UNDEFINED : storeFloat(this, group, reg === 3);
      case 5:
        if (reg === 0) return loadSingleOrDouble(this, group);
        if (reg === 5) return X87_RESULT.UNDEFINED;
        return reg === 1 ? storeInteger(this, 64, true, true) : storeFloat(this, group, reg === 3);
      case 3:
        if (reg === 0) return loadInteger(this, 32);
        if (reg === 5) return loadExtended(this);
        if (reg === 7) return storeExtended(this);
        if (reg > 3) return X87_RESULT.UNDEFINED;
        return storeInteger(this, 32, reg !== 2, reg === 1);
      default:
        if (reg === 0) return loadInteger(this, 16);
        if (reg === 4) return loadBcd(this);
        if (reg === 5) return loadInteger(this, 64);
        if (reg === 6) return storeBcd(this);
        if (reg === 7) return storeInteger(this, 64, true, false);
        return storeInteger(this, 16, reg !== 2, reg === 1);
    }
  }

  #register(group: number, reg: number, i: number): number {
    switch (group) {
      case 0:
        return reg === 2 || reg === 3
          ? compareRegister(this, i, false, reg === 3 ? 1 : 0)
          : arithmetic(this, reg, i, 0, false);
      case 1:
        if (reg === 0) return loadRegister(this, i);
        if (reg === 1) return exchange(this, i);
        if (reg === 2) return i === 0 ? X87_RESULT.DONE : X87_RESULT.UNDEFINED;
        if (reg === 3) return storeRegisterQuietly(this, i);
        return special(this, 0xc0 | (reg << 3) | i);
      case 2:
        if (reg < 4) return conditionalMove(this, reg, false, i);
        return reg === 5 && i === 1 ? compareRegister(this, 1, true, 2) : X87_RESULT.UNDEFINED;
      case 3:
        if (reg < 4) return conditionalMove(this, reg, true, i);
        return reg === 5 || reg === 6 ? compareFlags(this, i, reg === 5, false) : X87_RESULT.UNDEFINED;
      case 4:
        return reg === 2 || reg === 3
          ? compareRegister(this, i, false, reg === 3 ? 1 : 0)
          : arithmetic(this, reg, i, i, false);
      case 5:
        if (reg === 0) return free(this, i, false);
        if (reg === 1) return exchange(this, i);
        if (reg === 2 || reg === 3) return storeRegister(this, i, reg === 3);
        return reg < 6 ? compareRegister(this, i, true, reg - 4) : X87_RESULT.UNDEFINED;
      case 6:
        if (reg === 2) return compareRegister(this, i, false, 1);
        if (reg === 3) return i === 1 ? compareRegister(this, 1, false, 2) : X87_RESULT.UNDEFINED;
        return arithmetic(this, reg, i, i, true);
      default:
        if (reg === 0) return free(this, i, true);
        if (reg === 1) return exchange(this, i);
        if (reg === 2 || reg === 3) return storeRegister(this, i, true);
        return reg === 5 || reg === 6 ? compareFlags(this, i, reg === 5, true) : X87_RESULT.UNDEFINED;
    }
  }
}
