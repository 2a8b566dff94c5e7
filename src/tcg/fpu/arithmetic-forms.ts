/** The instructions of basic arithmetic and comparison, between registers and with memory (SDM vol. 1, 8.3.5, 8.3.6). */
import { ARITHMETIC, FLAG } from '../emit/rflags.ts';
import { add, divide, multiply } from './arithmetic.ts';
import { fromDouble, fromInteger, fromSingle } from './convert.ts';
import { C0, C1, C2, C3, type Float80, SIGN } from './float80.ts';
import { compare, UNORDERED } from './operations.ts';
import { X87_RESULT, type X87Unit } from './unit.ts';

/** `out = a op b`, with ModRM.reg as the operation. */
function operate(u: X87Unit, reg: number, a: Float80, b: Float80, out: Float80): boolean {
  const c = u.context;
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

/** FADD, FMUL, FSUB(R), FDIV(R) of ST(0) and ST(i), by ModRM.reg, into ST(destination). */
export function arithmetic(u: X87Unit, reg: number, i: number, destination: number, pop: boolean): number {
  if (u.empty(0) || u.empty(i)) return u.underflow(destination, pop ? 1 : 0);
  const done = operate(u, reg, u.get(0, u.a), u.get(i, u.b), u.out);
  u.roundedC1();
  if (done) {
    u.set(destination, u.out);
    if (pop) u.pop();
  }
  return X87_RESULT.DONE;
}

/** The same and FCOM(P) with m32fp, m32int, m64fp or m16int, by opcode & 7 = 0, 2, 4 or 6. */
export function memoryArithmetic(u: X87Unit, group: number, reg: number): number {
  const comparison = reg === 2 || reg === 3;
  if (u.empty(0)) {
    return comparison ? unorderedUnderflow(u, reg - 2) : u.underflow(0);
  }
  const { operand: view, operandOffset: offset } = u;
  const b = u.b;
  const c = u.context;
  if (group === 0) c.sourceDenormal = fromSingle(view.getInt32(offset, true), b);
  else if (group === 4) {
    c.sourceDenormal = fromDouble(view.getInt32(offset + 4, true), view.getInt32(offset, true), b);
  } else {
    const value = group === 2 ? view.getInt32(offset, true) : view.getInt16(offset, true);
    fromInteger(value >> 31, value, b);
  }
  u.get(0, u.a);
  if (comparison) return finishCompare(u, compare(c, u.a, b, false), reg - 2);
  const done = operate(u, reg, u.a, b, u.out);
  u.roundedC1();
  if (done) u.set(0, u.out);
  return X87_RESULT.DONE;
}

/** Ends a comparison with an empty register. */
export function unorderedUnderflow(u: X87Unit, pops: number): number {
  u.stackFault(false);
  return finishCompare(u, UNORDERED, pops);
}

/** Sets the condition codes of a comparison and pops, unless an unmasked exception withholds that. */
export function finishCompare(u: X87Unit, conditions: number, pops: number): number {
  u.conditions(C0 | C1 | C2 | C3, conditions);
  if (!u.context.unmasked) for (let n = pops; n > 0; n--) u.pop();
  return X87_RESULT.DONE;
}

/** FCOM, FUCOM and their popping forms. */
export function compareRegister(u: X87Unit, i: number, quiet: boolean, pops: number): number {
  if (u.empty(0) || u.empty(i)) return unorderedUnderflow(u, pops);
  const conditions = compare(u.context, u.get(0, u.a), u.get(i, u.b), quiet);
  return finishCompare(u, conditions, pops);
}

/** FCOMI, FUCOMI and their popping forms. */
export function compareFlags(u: X87Unit, i: number, quiet: boolean, pop: boolean): number {
  let conditions = UNORDERED;
  if (u.empty(0) || u.empty(i)) u.stackFault(false);
  else conditions = compare(u.context, u.get(0, u.a), u.get(i, u.b), quiet);
  u.eflags =
    (u.eflags & ~ARITHMETIC) |
    ((conditions & C0) !== 0 ? FLAG.CF : 0) |
    ((conditions & C2) !== 0 ? FLAG.PF : 0) |
    ((conditions & C3) !== 0 ? FLAG.ZF : 0);
  if (pop && !u.context.unmasked) u.pop();
  return X87_RESULT.DONE;
}
