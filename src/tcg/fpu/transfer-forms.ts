/** The instructions that move data: between registers, and from and to memory (SDM vol. 1, 8.3.3). */
import { FLAG } from '../emit/rflags.ts';
import {
  fromBcd,
  fromDouble,
  fromInteger,
  fromSingle,
  setIntegerIndefinite,
  toBcd,
  toDouble,
  toInteger,
  toSingle,
  writeBcdIndefinite,
} from './convert.ts';
import { C1, DE, KIND, kindOf, nanOperand, ROUND, setIndefinite } from './float80.ts';
import { X87_RESULT, type X87Unit } from './unit.ts';

/** FLD ST(i) */
export function loadRegister(u: X87Unit, i: number): number {
  const empty = u.empty(i);
  if (!empty) {
    u.get(i, u.a);
    if (u.room()) u.push(u.a);
    return X87_RESULT.DONE;
  }
  if (u.stackFault(false)) {
    setIndefinite(u.out);
    u.push(u.out);
  }
  return X87_RESULT.DONE;
}

/** FST and FSTP ST(i) */
export function storeRegister(u: X87Unit, i: number, pop: boolean): number {
  if (u.empty(0)) return u.underflow(i, pop ? 1 : 0);
  u.conditions(C1, 0);
  u.set(i, u.get(0, u.a));
  if (pop) u.pop();
  return X87_RESULT.DONE;
}

/** The undocumented FSTP at D9 D8+i: an empty ST(0) is popped without an exception. */
export function storeRegisterQuietly(u: X87Unit, i: number): number {
  if (!u.empty(0)) return storeRegister(u, i, true);
  u.conditions(C1, 0);
  u.pop();
  return X87_RESULT.DONE;
}

/** FXCH */
export function exchange(u: X87Unit, i: number): number {
  u.get(0, u.a);
  u.get(i, u.b);
  u.conditions(C1, 0);
  if (u.empty(0) || u.empty(i)) {
    if (!u.stackFault(false)) return X87_RESULT.DONE;
    if (u.empty(0)) setIndefinite(u.a);
    if (u.empty(i)) setIndefinite(u.b);
  }
  u.set(0, u.b);
  u.set(i, u.a);
  return X87_RESULT.DONE;
}

/** EFLAGS of FCMOVB, FCMOVE, FCMOVBE and FCMOVU. */
const CONDITIONS = [FLAG.CF, FLAG.ZF, FLAG.CF | FLAG.ZF, FLAG.PF];

/** FCMOVcc by ModRM.reg; an empty register faults whether or not the condition holds. */
export function conditionalMove(u: X87Unit, reg: number, negated: boolean, i: number): number {
  if (u.empty(0) || u.empty(i)) return u.underflow(0);
  const mask = CONDITIONS[reg];
  if (((u.eflags & mask) !== 0) !== negated) u.set(0, u.get(i, u.a));
  return X87_RESULT.DONE;
}

/** FFREE, and the undocumented FFREEP that pops after it. */
export function free(u: X87Unit, i: number, pop: boolean): number {
  u.conditions(C1, 0);
  u.ftw &= ~(1 << u.physical(i));
  if (pop) u.pop();
  return X87_RESULT.DONE;
}

/** FLD m32fp (opcode & 7 = 1) and m64fp (5) */
export function loadSingleOrDouble(u: X87Unit, group: number): number {
  if (!u.room()) return X87_RESULT.DONE;
  const { operand: view, operandOffset: offset } = u;
  const a = u.a;
  const c = u.context;
  const denormal =
    group === 1
      ? fromSingle(view.getInt32(offset, true), a)
      : fromDouble(view.getInt32(offset + 4, true), view.getInt32(offset, true), a);
  const kind = kindOf(a);
  if (kind === KIND.SNAN && !nanOperand(c, a, kind, a)) return X87_RESULT.DONE;
  // Unlike an arithmetic instruction, a load is not withheld by an unmasked denormal-operand exception.
  if (denormal) c.raise(DE);
  u.push(a);
  return X87_RESULT.DONE;
}

/** FLD m80fp: any bits, without an exception. */
export function loadExtended(u: X87Unit): number {
  if (u.room()) u.push(u.a.read(u.operand, u.operandOffset));
  return X87_RESULT.DONE;
}

/** FILD */
export function loadInteger(u: X87Unit, bits: 16 | 32 | 64): number {
  if (!u.room()) return X87_RESULT.DONE;
  const { operand: view, operandOffset: offset } = u;
  const low = bits === 16 ? view.getInt16(offset, true) : view.getInt32(offset, true);
  fromInteger(bits === 64 ? view.getInt32(offset + 4, true) : low >> 31, low, u.a);
  u.push(u.a);
  return X87_RESULT.DONE;
}

/** FBLD */
export function loadBcd(u: X87Unit): number {
  if (!u.room()) return X87_RESULT.DONE;
  fromBcd(u.operand, u.operandOffset, u.a);
  u.push(u.a);
  return X87_RESULT.DONE;
}

/** FST and FSTP m32fp (opcode & 7 = 1) and m64fp (5) */
export function storeFloat(u: X87Unit, group: number, pop: boolean): number {
  const { operand: view, operandOffset: offset } = u;
  const out = u.out;
  const c = u.context;
  const single = group === 1;
  let done: boolean;
  if (u.empty(0)) {
    done = u.stackFault(false);
    out.set(0, 0xfff8_0000, single ? 0xffc0_0000 : 0);
  } else {
    const a = u.get(0, u.a);
    done = single ? toSingle(c, a, out) : toDouble(c, a, out);
    u.roundedC1();
  }
  if (!done) return X87_RESULT.NO_STORE;
  view.setInt32(offset, out.lo, true);
  if (!single) view.setInt32(offset + 4, out.hi, true);
  if (pop) u.pop();
  return X87_RESULT.DONE;
}

/** FSTP m80fp: any bits, without an exception. */
export function storeExtended(u: X87Unit): number {
  u.conditions(C1, 0);
  if (!u.empty(0)) u.get(0, u.a);
  else if (u.stackFault(false)) setIndefinite(u.a);
  else return X87_RESULT.NO_STORE;
  u.a.write(u.operand, u.operandOffset);
  u.pop();
  return X87_RESULT.DONE;
}

/** FIST, FISTP, FISTTP */
export function storeInteger(u: X87Unit, bits: 16 | 32 | 64, pop: boolean, truncate: boolean): number {
  const { operand: view, operandOffset: offset } = u;
  const out = u.out;
  const c = u.context;
  let done: boolean;
  if (u.empty(0)) {
    done = u.stackFault(false);
    setIntegerIndefinite(bits, out);
  } else {
    done = toInteger(c, u.get(0, u.a), bits, truncate ? ROUND.ZERO : c.rounding, out);
    u.roundedC1();
  }
  if (!done) return X87_RESULT.NO_STORE;
  if (bits === 16) view.setInt16(offset, out.lo, true);
  else view.setInt32(offset, out.lo, true);
  if (bits === 64) view.setInt32(offset + 4, out.hi, true);
  if (pop) u.pop();
  return X87_RESULT.DONE;
}

/** FBSTP */
export function storeBcd(u: X87Unit): number {
  const { operand: view, operandOffset: offset } = u;
  let done: boolean;
  if (u.empty(0)) {
    done = u.stackFault(false);
    if (done) writeBcdIndefinite(view, offset);
  } else {
    done = toBcd(u.context, u.get(0, u.a), view, offset, u.out);
    u.roundedC1();
  }
  if (!done) return X87_RESULT.NO_STORE;
  u.pop();
  return X87_RESULT.DONE;
}
