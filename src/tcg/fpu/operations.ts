/** Comparison, classification, remainder, scale and extract (SDM vol. 1, 8.3.6 and 8.3.5; vol. 2). */
import { leadingZeros, shiftedHigh, shiftedLow } from './arithmetic.ts';
import { fromInteger } from './convert.ts';
import {
  C0,
  C1,
  C2,
  C3,
  denormalOperands,
  EXPONENT_BIAS,
  EXPONENT_MASK,
  type Float80,
  type FpuContext,
  IE,
  invalid,
  KIND,
  kindOf,
  nanOperand,
  nanOperands,
  SIGN,
  setInfinity,
  setZero,
  ZE,
} from './float80.ts';
import { normalizeRoundPack } from './round.ts';

/** Condition codes of an unordered comparison. */
export const UNORDERED = C3 | C2 | C0;
/** What remainder returns instead of condition codes when an unmasked exception abandons it. */
export const ABANDONED = -1;
/** What remainder returns with a result that is not a remainder: a NaN. */
export const NO_QUOTIENT = -2;

/**
 * Compares. Unmasked exceptions do not withhold the condition codes, only a pop.
 * @param quiet as FUCOM: a quiet NaN is not invalid
 * @returns C3, C2 and C0
 */
export function compare(c: FpuContext, a: Float80, b: Float80, quiet: boolean): number {
  const aKind = kindOf(a);
  const bKind = kindOf(b);
  if (aKind >= KIND.QNAN || bKind >= KIND.QNAN) {
    if (quiet && aKind <= KIND.QNAN && bKind <= KIND.QNAN) return UNORDERED;
    c.raise(IE);
    return UNORDERED;
  }
  denormalOperands(c, aKind, bKind);
  if (aKind === KIND.ZERO && bKind === KIND.ZERO) return C3;
  const aSign = a.se & SIGN;
  if (aSign !== (b.se & SIGN)) return aSign === 0 ? 0 : C0;
  const order = compareMagnitude(a, b);
  if (order === 0) return C3;
  return order > 0 === (aSign === 0) ? 0 : C0;
}

function compareMagnitude(a: Float80, b: Float80): number {
  // A pseudo-denormal equals the normal value with exponent 1.
  const exponent = (a.se & EXPONENT_MASK || 1) - (b.se & EXPONENT_MASK || 1);
  // A zero or denormal has a smaller significand with the same exponent 1, so that this order is total.
  if (exponent !== 0) return exponent;
  if (a.hi !== b.hi) return a.hi >>> 0 > b.hi >>> 0 ? 1 : -1;
  if (a.lo !== b.lo) return a.lo >>> 0 > b.lo >>> 0 ? 1 : -1;
  return 0;
}

/** FXAM: condition codes of a register that is not empty (SDM vol. 2, table 3-36). */
export function examine(a: Float80): number {
  const sign = (a.se & SIGN) === 0 ? 0 : C1;
  switch (kindOf(a)) {
    case KIND.ZERO:
      return sign | C3;
    case KIND.NORMAL:
      return sign | C2;
    case KIND.DENORMAL:
      return sign | C3 | C2;
    case KIND.INFINITY:
      return sign | C2 | C0;
    case KIND.UNSUPPORTED:
      return sign;
    default:
      return sign | C0;
  }
}

/**
 * FPREM and FPREM1: `out = a - b * q`, with the quotient truncated or rounded to nearest even. One execution reduces the
 * exponent difference by less than 64; C2 says that more is to be done.
 *
 * @returns C0, C3 and C1 with the quotient's bits 2, 1 and 0, and C2; or ABANDONED
 */
export function remainder(c: FpuContext, a: Float80, b: Float80, nearest: boolean, out: Float80): number {
  const aKind = kindOf(a);
  const bKind = kindOf(b);
  if (aKind >= KIND.QNAN || bKind >= KIND.QNAN) {
    return nanOperands(c, a, aKind, b, bKind, out) ? NO_QUOTIENT : ABANDONED;
  }
  if (aKind === KIND.INFINITY || bKind === KIND.ZERO) return invalid(c, out) ? NO_QUOTIENT : ABANDONED;
  if (!denormalOperands(c, aKind, bKind)) return ABANDONED;
  if (aKind === KIND.ZERO) {
    out.copy(a);
    return 0;
  }
  const sign = a.se & SIGN;
  const aShift = leadingZeros(a.hi, a.lo);
  const aExponent = (a.se & EXPONENT_MASK || 1) - aShift;
  const aHi = shiftedHigh(a.hi, a.lo, aShift);
  const aLo = shiftedLow(a.lo, aShift);
  if (bKind === KIND.INFINITY) {
    normalizeRoundPack(c, sign, aExponent, aHi, aLo, 0, 64, out);
    return 0;
  }
  const bShift = leadingZeros(b.hi, b.lo);
  const bExponent = (b.se & EXPONENT_MASK || 1) - bShift;
  const difference = aExponent - bExponent;
  if (difference < -1 || (difference < 0 && !nearest)) {
    normalizeRoundPack(c, sign, aExponent, aHi, aLo, 0, 64, out);
    return 0;
  }
  const divisor = b.significand << BigInt(bShift);
  let dividend = (BigInt(aHi >>> 0) << 32n) | BigInt(aLo >>> 0);
  if (difference >= 64) {
    // 32 to 63 bits at once (SDM vol. 2, FPREM): so many that the rest is a multiple of 32.
    const reduce = (difference & 31) | 32;
    const rest = (dividend << BigInt(reduce)) % divisor;
    finish(c, sign, bExponent + difference - reduce, rest, out);
    return C2;
  }
  if (difference < 0) {
    // FPREM1 with half the divisor possibly exceeded: the quotient is 0 or 1.
    const double = divisor << 1n;
    // |a| * 2 in units of the divisor's last place is the dividend itself.
    if (dividend > divisor) {
      finish(c, sign ^ SIGN, bExponent - 1, double - dividend, out);
      return quotientBits(1);
    }
    finish(c, sign, bExponent - 1, dividend, out);
    return 0;
  }
  dividend <<= BigInt(difference);
  let quotient = dividend / divisor;
  let rest = dividend % divisor;
  let resultSign = sign;
  if (nearest) {
    const twice = rest << 1n;
    if (twice > divisor || (twice === divisor && (quotient & 1n) === 1n)) {
      rest = divisor - rest;
      resultSign ^= SIGN;
      quotient++;
    }
  }
  if (rest === 0n) setZero(out, sign);
  else finish(c, resultSign, bExponent, rest, out);
  return quotientBits(Number(quotient & 7n));
}

function quotientBits(quotient: number): number {
  return ((quotient & 4) !== 0 ? C0 : 0) | ((quotient & 2) !== 0 ? C3 : 0) | ((quotient & 1) !== 0 ? C1 : 0);
}

function finish(c: FpuContext, sign: number, exponent: number, rest: bigint, out: Float80): void {
  if (rest === 0n) {
    setZero(out, sign);
    return;
  }
  const hi = Number(rest >> 32n) | 0;
  const lo = Number(rest & 0xffff_ffffn) | 0;
  normalizeRoundPack(c, sign, exponent, hi, lo, 0, 64, out);
}

/** FSCALE: `out = a * 2^trunc(b)` (SDM vol. 2, table 3-33). Returns whether there is a result. */
export function scale(c: FpuContext, a: Float80, b: Float80, out: Float80): boolean {
  const aKind = kindOf(a);
  const bKind = kindOf(b);
  if (aKind >= KIND.QNAN || bKind >= KIND.QNAN) return nanOperands(c, a, aKind, b, bKind, out);
  const sign = a.se & SIGN;
  if (bKind === KIND.INFINITY) {
    const down = (b.se & SIGN) !== 0;
    if (aKind === (down ? KIND.INFINITY : KIND.ZERO)) return invalid(c, out);
    if (!denormalOperands(c, aKind, bKind)) return false;
    if (down) setZero(out, sign);
    else setInfinity(out, sign);
    return true;
  }
  if (!denormalOperands(c, aKind, bKind)) return false;
  if (aKind === KIND.INFINITY || aKind === KIND.ZERO) {
    out.copy(a);
    return true;
  }
  const size = (b.se & EXPONENT_MASK) - EXPONENT_BIAS;
  // Beyond 2^16 every finite value over- or underflows, by more than the exponent adjustment can mend.
  let by = size < 0 ? 0 : size > 16 ? 0x2_0000 : b.hi >>> (31 - size);
  if ((b.se & SIGN) !== 0) by = -by;
  normalizeRoundPack(c, sign, (a.se & EXPONENT_MASK || 1) + by, a.hi, a.lo, 0, 64, out);
  return true;
}

/**
 * FXTRACT: the exponent goes to `exponent`, the significand, with exponent 0, to `significand`. Returns whether there is
 * a result.
 */
export function extract(c: FpuContext, a: Float80, exponent: Float80, significand: Float80): boolean {
  const kind = kindOf(a);
  if (kind >= KIND.QNAN) {
    if (!nanOperand(c, a, kind, exponent)) return false;
    significand.copy(exponent);
    return true;
  }
  if (kind === KIND.INFINITY) {
    significand.copy(a);
    setInfinity(exponent, 0);
    return true;
  }
  if (kind === KIND.ZERO) {
    if (!c.raise(ZE)) return false;
    significand.copy(a);
    setInfinity(exponent, SIGN);
    return true;
  }
  if (!denormalOperands(c, kind, kind)) return false;
  const shift = leadingZeros(a.hi, a.lo);
  const value = (a.se & EXPONENT_MASK || 1) - shift - EXPONENT_BIAS;
  significand.set((a.se & SIGN) | EXPONENT_BIAS, shiftedHigh(a.hi, a.lo, shift), shiftedLow(a.lo, shift));
  fromInteger(value < 0 ? -1 : 0, value, exponent);
  return true;
}
