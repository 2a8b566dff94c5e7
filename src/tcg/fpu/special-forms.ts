/** The instructions without operands at D9 E0 to D9 FF (SDM vol. 2, table A-9). */
import { squareRoot } from './arithmetic.ts';
import { finishCompare, unorderedUnderflow } from './arithmetic-forms.ts';
import { roundToInteger } from './convert.ts';
import { C0, C1, C2, C3, EXPONENT_BIAS, KIND, kindOf, SIGN, setIndefinite } from './float80.ts';
import { ABANDONED, compare, examine, extract, NO_QUOTIENT, remainder, scale } from './operations.ts';
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
import { X87_RESULT, type X87Unit } from './unit.ts';

/** ModRM bytes; FLD1 to FLDZ have the constants in between. */
const FORM = {
  FCHS: 0xe0,
  FABS: 0xe1,
  FTST: 0xe4,
  FXAM: 0xe5,
  FLD1: 0xe8,
  FLDZ: 0xee,
  F2XM1: 0xf0,
  FYL2X: 0xf1,
  FPTAN: 0xf2,
  FPATAN: 0xf3,
  FXTRACT: 0xf4,
  FPREM1: 0xf5,
  FDECSTP: 0xf6,
  FINCSTP: 0xf7,
  FPREM: 0xf8,
  FYL2XP1: 0xf9,
  FSQRT: 0xfa,
  FSINCOS: 0xfb,
  FRNDINT: 0xfc,
  FSCALE: 0xfd,
  FSIN: 0xfe,
  FCOS: 0xff,
} as const;

/** Of the bytes between FLD1 and FLDZ. */
const CONSTANTS: readonly Constant[] = ['L2T', 'L2E', 'PI', 'LG2', 'LN2'];

/**
 * Executes one of them.
 * @param modrm E0 to FF
 */
export function special(u: X87Unit, modrm: number): number {
  switch (modrm) {
    case FORM.FCHS:
    case FORM.FABS:
      return sign(u, modrm === FORM.FCHS);
    case FORM.FTST:
      return test(u);
    case FORM.FXAM:
      u.conditions(
        C0 | C1 | C2 | C3,
        u.empty(0) ? C3 | C0 | (examine(u.get(0, u.a)) & C1) : examine(u.get(0, u.a)),
      );
      return X87_RESULT.DONE;
    case FORM.F2XM1:
    case FORM.FSQRT:
    case FORM.FRNDINT:
      return unary(u, modrm);
    case FORM.FYL2X:
    case FORM.FPATAN:
    case FORM.FYL2XP1:
      return binaryPop(u, modrm);
    case FORM.FPTAN:
    case FORM.FSINCOS:
    case FORM.FSIN:
    case FORM.FCOS:
      return circularTop(u, modrm);
    case FORM.FXTRACT:
      return extractTop(u);
    case FORM.FPREM1:
    case FORM.FPREM:
      return remainderOfTop(u, modrm === FORM.FPREM1);
    case FORM.FDECSTP:
    case FORM.FINCSTP:
      u.conditions(C1, 0);
      u.moveTop(modrm === FORM.FDECSTP ? -1 : 1);
      return X87_RESULT.DONE;
    case FORM.FSCALE:
      return scaleTop(u);
    default:
      return modrm >= FORM.FLD1 && modrm <= FORM.FLDZ ? pushConstant(u, modrm) : X87_RESULT.UNDEFINED;
  }
}

function sign(u: X87Unit, change: boolean): number {
  if (u.empty(0)) return u.underflow(0);
  u.conditions(C1, 0);
  const a = u.get(0, u.a);
  a.se = change ? a.se ^ SIGN : a.se & ~SIGN;
  u.set(0, a);
  return X87_RESULT.DONE;
}

function test(u: X87Unit): number {
  if (u.empty(0)) return unorderedUnderflow(u, 0);
  u.b.set(0, 0, 0);
  return finishCompare(u, compare(u.context, u.get(0, u.a), u.b, false), 0);
}

function pushConstant(u: X87Unit, modrm: number): number {
  if (!u.room()) return X87_RESULT.DONE;
  if (modrm === FORM.FLD1) u.a.set(EXPONENT_BIAS, 0x8000_0000, 0);
  else if (modrm === FORM.FLDZ) u.a.set(0, 0, 0);
  else loadConstant(CONSTANTS[modrm - FORM.FLD1 - 1], u.context.rounding, u.a);
  u.push(u.a);
  return X87_RESULT.DONE;
}

/** F2XM1, FSQRT, FRNDINT. */
function unary(u: X87Unit, modrm: number): number {
  if (u.empty(0)) return u.underflow(0);
  const c = u.context;
  const a = u.get(0, u.a);
  const done =
    modrm === FORM.F2XM1
      ? exponential(c, a, u.out)
      : modrm === FORM.FSQRT
        ? squareRoot(c, a, u.out)
        : roundToInteger(c, a, u.out);
  u.roundedC1();
  if (done) u.set(0, u.out);
  return X87_RESULT.DONE;
}

/** FYL2X, FPATAN, FYL2XP1: the result replaces ST(1), then ST(0) is popped. */
function binaryPop(u: X87Unit, modrm: number): number {
  if (u.empty(0) || u.empty(1)) return u.underflow(1, 1);
  const c = u.context;
  const x = u.get(0, u.a);
  const y = u.get(1, u.b);
  const done =
    modrm === FORM.FYL2X
      ? logarithm2(c, x, y, u.out)
      : modrm === FORM.FPATAN
        ? arcTangent2(c, y, x, u.out)
        : logarithm2Plus1(c, x, y, u.out);
  u.roundedC1();
  if (done) {
    u.set(1, u.out);
    u.pop();
  }
  return X87_RESULT.DONE;
}

/** The masked response to a stack fault of FXTRACT, FPTAN and FSINCOS: two indefinites. */
function faultOfTwo(u: X87Unit, overflow: boolean): number {
  if (u.stackFault(overflow)) {
    setIndefinite(u.out);
    u.set(0, u.out);
    u.push(u.out);
  }
  return X87_RESULT.DONE;
}

/** FPTAN, FSINCOS, FSIN, FCOS. */
function circularTop(u: X87Unit, modrm: number): number {
  const two = modrm === FORM.FPTAN || modrm === FORM.FSINCOS;
  u.conditions(C2, 0);
  if (two && (u.empty(0) || !u.empty(7))) return faultOfTwo(u, !u.empty(0));
  if (u.empty(0)) return u.underflow(0);
  const c = u.context;
  const a = u.get(0, u.a);
  const tangent = modrm === FORM.FPTAN;
  const sin = modrm === FORM.FCOS ? undefined : u.out;
  const cos = modrm === FORM.FSINCOS ? u.b : modrm === FORM.FCOS ? u.out : undefined;
  const outcome = circular(c, a, sin, cos, tangent);
  u.roundedC1();
  if (outcome === ANGLE.OUT_OF_RANGE) u.conditions(C1, C2);
  if (outcome !== ANGLE.DONE) return X87_RESULT.DONE;
  u.set(0, u.out);
  if (modrm === FORM.FSINCOS) u.push(u.b);
  else if (tangent) {
    // A NaN is pushed again; otherwise 1.0.
    const nan = kindOf(u.out) === KIND.QNAN;
    u.push(nan ? u.out : u.a.set(EXPONENT_BIAS, 0x8000_0000, 0));
  }
  return X87_RESULT.DONE;
}

function extractTop(u: X87Unit): number {
  if (u.empty(0) || !u.empty(7)) return faultOfTwo(u, !u.empty(0));
  u.conditions(C1, 0);
  if (extract(u.context, u.get(0, u.a), u.out, u.b)) {
    u.set(0, u.out);
    u.push(u.b);
  }
  return X87_RESULT.DONE;
}

function remainderOfTop(u: X87Unit, nearest: boolean): number {
  u.conditions(C2, 0);
  if (u.empty(0) || u.empty(1)) return u.underflow(0);
  const conditions = remainder(u.context, u.get(0, u.a), u.get(1, u.b), nearest, u.out);
  // Without a quotient (NaN, invalid) C0 and C3 stay.
  u.conditions(C1 | C2, 0);
  if (conditions === ABANDONED) return X87_RESULT.DONE;
  if (conditions !== NO_QUOTIENT) u.conditions(C0 | C3, conditions);
  u.set(0, u.out);
  return X87_RESULT.DONE;
}

function scaleTop(u: X87Unit): number {
  if (u.empty(0) || u.empty(1)) return u.underflow(0);
  const done = scale(u.context, u.get(0, u.a), u.get(1, u.b), u.out);
  u.roundedC1();
  if (done) u.set(0, u.out);
  return X87_RESULT.DONE;
}
