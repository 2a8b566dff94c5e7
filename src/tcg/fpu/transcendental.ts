/**
 * The transcendental instructions (SDM vol. 1, 8.3.7 to 8.3.10). Results are the exact values rounded once to 64 bits by
 * the rounding control; processors may differ by one unit in the last place. Precision control does not apply.
 */

import {
  arcTangent,
  cosine,
  expm1,
  FRACTION,
  LN2,
  LOG2E,
  LOG2T,
  LOG10_2,
  logarithm,
  PI,
  sine,
} from './fixed.ts';
import {
  denormalOperands,
  EXPONENT_BIAS,
  EXPONENT_MASK,
  Float80,
  type FpuContext,
  invalid,
  KIND,
  kindOf,
  nanOperand,
  nanOperands,
  PE,
  SIGN,
  setInfinity,
  setZero,
  zeroDivide,
} from './float80.ts';
import { roundPack, roundsUp } from './round.ts';

const F = BigInt(FRACTION);
const ONE = 1n << F;
/** Below 2^-SMALL the first term of every series is the result up to its last bits. */
const SMALL = 68;

function bitLength(n: bigint): number {
  return n.toString(16).length * 4 - Math.clz32(Number.parseInt(n.toString(16)[0], 16)) + 28;
}

/**
 * Rounds `(-1)^sign * magnitude * 2^-fraction`.
 * @param sticky whether the value is inexact, a little above `magnitude`
 */
function packBig(
  c: FpuContext,
  sign: number,
  magnitude: bigint,
  fraction: number,
  sticky: boolean,
  out: Float80,
): void {
  const length = bitLength(magnitude);
  const drop = length - 96;
  let top = magnitude;
  let rest = sticky;
  if (drop > 0) {
    top = magnitude >> BigInt(drop);
    rest ||= top << BigInt(drop) !== magnitude;
  } else {
    top = magnitude << BigInt(-drop);
  }
  roundPack(
    c,
    sign,
    length - 1 - fraction + EXPONENT_BIAS,
    Number(top >> 64n) | 0,
    Number((top >> 32n) & 0xffff_ffffn) | 0,
    Number(top & 0xffff_ffffn) | (rest ? 1 : 0),
    64,
    out,
  );
}

/** Rounds a value of FRACTION bits behind the point that is not exact. */
function packFixed(c: FpuContext, sign: number, value: bigint, out: Float80): void {
  if (value < 0n) packBig(c, sign ^ SIGN, -value, FRACTION, true, out);
  else packBig(c, sign, value, FRACTION, true, out);
}

/** Exponent of the last bit of a finite value's significand. */
function unitExponent(x: Float80): number {
  return (x.se & EXPONENT_MASK || 1) - EXPONENT_BIAS - 63;
}

/** Magnitude with FRACTION bits behind the point; exact from 2^-SMALL on. */
function toFixed(x: Float80): bigint {
  const shift = unitExponent(x) + FRACTION;
  return shift >= 0 ? x.significand << BigInt(shift) : x.significand >> BigInt(-shift);
}

/** Exponent of the first bit of a finite value that is not zero. */
function exponentOf(x: Float80): number {
  return unitExponent(x) + bitLength(x.significand) - 1;
}

/** Rounds a value a little below (`less`) or above a given one. */
function packNear(c: FpuContext, x: Float80, less: boolean, out: Float80): void {
  const magnitude = (x.significand << 64n) - (less ? 1n : 0n);
  packBig(c, x.se & SIGN, magnitude, 64 - unitExponent(x), true, out);
}

/** Values of the FLDL2T, FLDL2E, FLDPI, FLDLG2 and FLDLN2 constants before rounding. */
const CONSTANTS = { L2T: LOG2T, L2E: LOG2E, PI, LG2: LOG10_2, LN2 } as const;
export type Constant = keyof typeof CONSTANTS;

/** A constant as the rounding control rounds it; raises nothing (SDM vol. 1, 8.3.4). */
export function loadConstant(name: Constant, rounding: number, out: Float80): void {
  const [down, rest] = ROUNDED[name];
  out.copy(down);
  if (roundsUp(rounding, 0, rest, (down.lo & 1) !== 0)) out.lo = (out.lo + 1) | 0;
}

/** Significands cut to 64 bits, and the 32 bits behind. */
const ROUNDED = Object.fromEntries(
  Object.entries(CONSTANTS).map(([name, value]) => {
    const length = bitLength(value);
    const top = value >> BigInt(length - 96);
    const exponent = length - 1 - FRACTION + EXPONENT_BIAS;
    const down = new Float80().set(exponent, Number(top >> 64n) | 0, Number((top >> 32n) & 0xffff_ffffn) | 0);
    return [name, [down, Number(top & 0xffff_ffffn) | 0]];
  }),
) as Record<Constant, [Float80, number]>;

/** What processors answer to finite operands for which the SDM defines no result: the operand, as if inexact. */
function outOfRange(c: FpuContext, a: Float80, out: Float80): boolean {
  c.flags |= PE;
  out.copy(a);
  return true;
}

/** F2XM1: `out = 2^a - 1` for -1 <= a <= 1; the SDM leaves larger ones undefined. */
export function exponential(c: FpuContext, a: Float80, out: Float80): boolean {
  const kind = kindOf(a);
  if (kind >= KIND.QNAN) return nanOperand(c, a, kind, out);
  const sign = a.se & SIGN;
  if (kind === KIND.INFINITY) {
    if (sign === 0) out.copy(a);
    else out.set(SIGN | EXPONENT_BIAS, -0x8000_0000, 0);
    return true;
  }
  if (!denormalOperands(c, kind, kind)) return false;
  const exponent = kind === KIND.ZERO ? 0 : exponentOf(a);
  if (kind === KIND.ZERO) {
    out.copy(a);
    return true;
  }
  if (exponent >= 0) {
    if (exponent > 0 || a.hi << 1 !== 0 || a.lo !== 0) return outOfRange(c, a, out);
    c.flags |= PE;
    out.set(sign | (EXPONENT_BIAS - (sign === 0 ? 0 : 1)), -0x8000_0000, 0);
    return true;
  }
  if (exponent < -SMALL) {
    packBig(c, sign, a.significand * LN2, FRACTION - unitExponent(a), true, out);
    return true;
  }
  const x = (toFixed(a) * LN2) >> F;
  packFixed(c, 0, expm1(sign === 0 ? x : -x), out);
  return true;
}

/** `out = y * value` for a value of FRACTION bits behind the point that is not exact. */
function multiplyPack(c: FpuContext, y: Float80, value: bigint, out: Float80): void {
  const sign = (y.se & SIGN) ^ (value < 0n ? SIGN : 0);
  const magnitude = (value < 0n ? -value : value) * y.significand;
  packBig(c, sign, magnitude, FRACTION - unitExponent(y), true, out);
}

/** FYL2X: `out = y * log2(x)` (SDM vol. 2, table 3-49). */
export function logarithm2(c: FpuContext, x: Float80, y: Float80, out: Float80): boolean {
  const xKind = kindOf(x);
  const yKind = kindOf(y);
  if (xKind >= KIND.QNAN || yKind >= KIND.QNAN) return nanOperands(c, y, yKind, x, xKind, out);
  const sign = y.se & SIGN;
  if (xKind === KIND.ZERO) {
    if (yKind === KIND.ZERO) return invalid(c, out);
    if (yKind !== KIND.INFINITY) return zeroDivide(c, sign ^ SIGN, out);
    setInfinity(out, sign ^ SIGN);
    return true;
  }
  if ((x.se & SIGN) !== 0) return invalid(c, out);
  if (xKind === KIND.INFINITY) {
    if (yKind === KIND.ZERO) return invalid(c, out);
    if (!denormalOperands(c, xKind, yKind)) return false;
    setInfinity(out, sign);
    return true;
  }
  const exponent = exponentOf(x);
  const significand = x.significand;
  const powerOfTwo = (significand & (significand - 1n)) === 0n;
  const isOne = powerOfTwo && exponent === 0;
  if (isOne && yKind === KIND.INFINITY) return invalid(c, out);
  if (!denormalOperands(c, xKind, yKind)) return false;
  const negative = exponent < 0 ? SIGN : 0;
  if (isOne || yKind === KIND.ZERO) {
    setZero(out, isOne ? sign : sign ^ negative);
    return true;
  }
  if (yKind === KIND.INFINITY) {
    setInfinity(out, sign ^ negative);
    return true;
  }
  if (powerOfTwo) {
    // Processors call even an exact product inexact.
    c.flags |= PE;
    packBig(c, sign ^ negative, y.significand * BigInt(Math.abs(exponent)), -unitExponent(y), false, out);
    return true;
  }
  // x = m * 2^k with m between sqrt(1/2) and sqrt(2); the logarithm of m by atanh((m - 1) / (m + 1)).
  let k = exponent;
  let m = (significand << F) >> BigInt(bitLength(significand) - 1);
  if (m * m > 2n * ONE * ONE) {
    m >>= 1n;
    k++;
  }
  const log2 = (logarithm(((m - ONE) << F) / (m + ONE)) << F) / LN2;
  multiplyPack(c, y, (BigInt(k) << F) + log2, out);
  return true;
}

/**
 * FYL2XP1: `out = y * log2(x + 1)` (SDM vol. 2, table 3-50). Above -1, operands outside of the instruction's range
 * give the mathematical result.
 */
export function logarithm2Plus1(c: FpuContext, x: Float80, y: Float80, out: Float80): boolean {
  const xKind = kindOf(x);
  const yKind = kindOf(y);
  if (xKind >= KIND.QNAN || yKind >= KIND.QNAN) return nanOperands(c, y, yKind, x, xKind, out);
  const xSign = x.se & SIGN;
  const sign = (y.se ^ x.se) & SIGN;
  if (xKind === KIND.INFINITY) {
    if (xSign !== 0 || yKind === KIND.ZERO) return invalid(c, out);
    if (!denormalOperands(c, xKind, yKind)) return false;
    setInfinity(out, sign);
    return true;
  }
  if (xKind === KIND.ZERO && yKind === KIND.INFINITY) return invalid(c, out);
  const exponent = xKind === KIND.ZERO ? -EXPONENT_BIAS : exponentOf(x);
  if (!denormalOperands(c, xKind, yKind)) return false;
  if (xKind === KIND.ZERO || yKind === KIND.ZERO) {
    setZero(out, sign);
    return true;
  }
  if (xSign !== 0 && exponent >= 0) return outOfRange(c, x, out);
  if (yKind === KIND.INFINITY) {
    setInfinity(out, sign);
    return true;
  }
  if (exponent < -SMALL) {
    const magnitude = x.significand * LOG2E * y.significand;
    packBig(c, sign, magnitude, FRACTION - unitExponent(x) - unitExponent(y), true, out);
    return true;
  }
  const fixed = xSign === 0 ? toFixed(x) : -toFixed(x);
  let k = 0;
  let m = ONE + fixed;
  if (fixed > ONE || m < ONE >> 1n) {
    k = bitLength(m) - 1 - FRACTION;
    m = k >= 0 ? m >> BigInt(k) : m << BigInt(-k);
  }
  while (m * m > 2n * ONE * ONE) {
    m >>= 1n;
    k++;
  }
  const log2 = (logarithm(((m - ONE) << F) / (m + ONE)) << F) / LN2;
  const value = (BigInt(k) << F) + log2;
  if (value === 0n) setZero(out, sign);
  else multiplyPack(c, y, value, out);
  return true;
}

/** FPATAN: `out = atan2(y, x)` (SDM vol. 2, table 3-30). */
export function arcTangent2(c: FpuContext, y: Float80, x: Float80, out: Float80): boolean {
  const xKind = kindOf(x);
  const yKind = kindOf(y);
  if (xKind >= KIND.QNAN || yKind >= KIND.QNAN) return nanOperands(c, y, yKind, x, xKind, out);
  if (!denormalOperands(c, xKind, yKind)) return false;
  const sign = y.se & SIGN;
  const left = (x.se & SIGN) !== 0;
  if (yKind === KIND.ZERO || (xKind === KIND.INFINITY && yKind !== KIND.INFINITY)) {
    if (left) packFixed(c, sign, PI, out);
    else setZero(out, sign);
    return true;
  }
  if (xKind === KIND.INFINITY) {
    packFixed(c, sign, left ? (PI * 3n) >> 2n : PI >> 2n, out);
    return true;
  }
  if (xKind === KIND.ZERO || yKind === KIND.INFINITY) {
    packFixed(c, sign, PI >> 1n, out);
    return true;
  }
  const difference = exponentOf(y) - exponentOf(x);
  if (difference < -SMALL && !left) {
    smallQuotient(c, y, x, out);
    return true;
  }
  packFixed(c, sign, angle(y, x, difference, left), out);
  return true;
}

/** atan2 of magnitudes, from 0 to pi. */
function angle(y: Float80, x: Float80, difference: number, left: boolean): bigint {
  // Beyond 2^200 a quotient is nothing against pi or pi/2, but must keep the result off the exact value.
  if (difference < -200) return PI - 1n;
  if (difference > 200) return (PI >> 1n) + (left ? 1n : -1n);
  const byUnits = unitExponent(y) - unitExponent(x);
  let n = y.significand;
  let d = x.significand;
  if (byUnits >= 0) n <<= BigInt(byUnits);
  else d <<= BigInt(-byUnits);
  const acute = n <= d ? arcTangent((n << F) / d) : (PI >> 1n) - arcTangent((d << F) / n);
  return left ? PI - acute : acute;
}

/** atan(y / x) for a tiny quotient: the quotient less a trifle. */
function smallQuotient(c: FpuContext, y: Float80, x: Float80, out: Float80): void {
  const quotient = (y.significand << 192n) / x.significand;
  packBig(c, y.se & SIGN, quotient - 1n, 192 - unitExponent(y) + unitExponent(x), true, out);
}

/** pi as the processors' argument reduction has it: 66 bits of significand (SDM vol. 1, 8.3.8). */
const PI66 = PI >> (F - 64n);

/** What an angle instruction does with its operand. */
export const ANGLE = {
  /** An unmasked exception abandoned it. */
  ABANDONED: 0,
  /** Results are there. */
  DONE: 1,
  /** The operand is out of range: C2 is set and nothing else changes. */
  OUT_OF_RANGE: 2,
} as const;

/**
 * FSIN, FCOS, FSINCOS, FPTAN: computes sine and cosine, or the tangent in the place of the sine. Results that are not
 * asked for raise nothing. With both, C1 tells of the sine.
 *
 * @returns one of ANGLE
 */
export function circular(
  c: FpuContext,
  a: Float80,
  sin: Float80 | undefined,
  cos: Float80 | undefined,
  tangent: boolean,
): number {
  const kind = kindOf(a);
  if (kind >= KIND.QNAN || kind === KIND.INFINITY) {
    const out = (sin ?? cos)!;
    if (!(kind === KIND.INFINITY ? invalid(c, out) : nanOperand(c, a, kind, out))) return ANGLE.ABANDONED;
    cos?.copy(out);
    return ANGLE.DONE;
  }
  if ((a.se & EXPONENT_MASK) >= EXPONENT_BIAS + 63) return ANGLE.OUT_OF_RANGE;
  if (!denormalOperands(c, kind, kind)) return ANGLE.ABANDONED;
  if (kind === KIND.ZERO) {
    cos?.set(EXPONENT_BIAS, -0x8000_0000, 0);
    sin?.copy(a);
    return ANGLE.DONE;
  }
  if (exponentOf(a) < -SMALL) {
    if (cos !== undefined) packFixed(c, 0, ONE - 1n, cos);
    if (sin !== undefined) {
      c.roundedUp = false;
      packNear(c, a, !tangent, sin);
    }
    return ANGLE.DONE;
  }
  const sign = a.se & SIGN;
  const halfPi = PI66 << (F - 65n);
  const x = toFixed(a);
  const quadrants = (x + (halfPi >> 1n)) / halfPi;
  const r = x - quadrants * halfPi;
  const quadrant = Number(quadrants & 3n);
  // Odd quadrants swap the two; what is not asked for is not computed.
  const odd = (quadrant & 1) !== 0;
  const both = tangent || (sin !== undefined && cos !== undefined);
  const s = both || (sin !== undefined) !== odd ? sine(r) : 0n;
  const k = both || (sin !== undefined) === odd ? cosine(r) : 0n;
  const sinX = quadrant === 0 ? s : quadrant === 1 ? k : quadrant === 2 ? -s : -k;
  const cosX = quadrant === 0 ? k : quadrant === 1 ? -s : quadrant === 2 ? -k : s;
  if (cos !== undefined) packFixed(c, 0, cosX, cos);
  if (sin !== undefined) {
    c.roundedUp = false;
    packFixed(c, sign, tangent ? (sinX << F) / cosX : sinX, sin);
  }
  return ANGLE.DONE;
}
