/**
 * Addition, multiplication, division and square root (SDM vol. 1, 8.3.5).
 *
 * Every operation returns whether there is a result: `false` means that an unmasked invalid-operation, zero-divide or
 * denormal-operand exception abandoned the instruction before anything was changed (SDM vol. 1, 4.9.1.1 to 4.9.1.3).
 */
import {
  denormalOperands,
  EXPONENT_BIAS,
  EXPONENT_MASK,
  type Float80,
  type FpuContext,
  invalid,
  KIND,
  kindOf,
  nanOperand,
  nanOperands,
  SIGN,
  setInfinity,
  setZero,
  zeroDivide,
} from './float80.ts';
import { normalizeRoundPack, roundPack, zeroSumSign } from './round.ts';

const TWO32 = 0x1_0000_0000;

/** `out = a + b`, or `a - b` where `negate` is SIGN. */
export function add(c: FpuContext, a: Float80, b: Float80, out: Float80, negate = 0): boolean {
  const aKind = kindOf(a);
  const bKind = kindOf(b);
  if (aKind >= KIND.QNAN || bKind >= KIND.QNAN) return nanOperands(c, a, aKind, b, bKind, out);
  let aSign = a.se & SIGN;
  const bSign = (b.se & SIGN) ^ negate;
  if (aKind === KIND.INFINITY && bKind === KIND.INFINITY && aSign !== bSign) return invalid(c, out);
  if (!denormalOperands(c, aKind, bKind)) return false;
  if (aKind === KIND.INFINITY) {
    setInfinity(out, aSign);
    return true;
  }
  if (bKind === KIND.INFINITY) {
    setInfinity(out, bSign);
    return true;
  }
  if (aKind === KIND.ZERO && bKind === KIND.ZERO) {
    setZero(out, aSign === bSign ? aSign : zeroSumSign(c));
    return true;
  }
  let exponent = a.se & EXPONENT_MASK || 1;
  let hi = a.hi;
  let lo = a.lo;
  let smallExponent = b.se & EXPONENT_MASK || 1;
  let bHi = b.hi;
  let bLo = b.lo;
  // Zero is handled as the denormal it looks like, but its exponent must not count.
  if (aKind === KIND.ZERO) exponent = smallExponent;
  else if (bKind === KIND.ZERO) smallExponent = exponent;
  const subtract = aSign !== bSign;
  const swap =
    smallExponent > exponent ||
    (smallExponent === exponent && (bHi >>> 0 > hi >>> 0 || (bHi === hi && bLo >>> 0 > lo >>> 0)));
  if (swap) {
    let t = exponent;
    exponent = smallExponent;
    smallExponent = t;
    t = hi;
    hi = bHi;
    bHi = t;
    t = lo;
    lo = bLo;
    bLo = t;
    aSign = bSign;
  }
  let bExtra = 0;
  let shift = exponent - smallExponent;
  if (shift > 0) {
    if (shift > 66) shift = 66;
    while (shift >= 32) {
      bExtra = bLo | (bExtra === 0 ? 0 : 1);
      bLo = bHi;
      bHi = 0;
      shift -= 32;
    }
    if (shift > 0) {
      const lost = bExtra << (32 - shift);
      bExtra = (bExtra >>> shift) | (bLo << (32 - shift)) | (lost === 0 ? 0 : 1);
      bLo = (bLo >>> shift) | (bHi << (32 - shift));
      bHi = bHi >>> shift;
    }
  }
  if (!subtract) {
    const low = (lo >>> 0) + (bLo >>> 0);
    const high = (hi >>> 0) + (bHi >>> 0) + (low >= TWO32 ? 1 : 0);
    lo = low | 0;
    hi = high | 0;
    if (high >= TWO32) {
      bExtra = (bExtra >>> 1) | (lo << 31) | (bExtra & 1);
      lo = (lo >>> 1) | (hi << 31);
      hi = (hi >>> 1) | -0x8000_0000;
      exponent++;
    }
  } else {
    // hi:lo.0 - bHi:bLo.bExtra; never negative, since the operands are ordered.
    const borrow = bExtra === 0 ? 0 : 1;
    const low = (lo >>> 0) - (bLo >>> 0) - borrow;
    bExtra = -bExtra | 0;
    hi = (hi - bHi - (low < 0 ? 1 : 0)) | 0;
    lo = low | 0;
    if ((hi | lo | bExtra) === 0) {
      setZero(out, zeroSumSign(c));
      return true;
    }
  }
  if (hi < 0) roundPack(c, aSign, exponent, hi, lo, bExtra, c.precision, out);
  else normalizeRoundPack(c, aSign, exponent, hi, lo, bExtra, c.precision, out);
  return true;
}

/** Upper 32 bits of the product of two unsigned 32-bit integers, as a signed one. */
function multiplyHigh(a: number, b: number): number {
  const al = a & 0xffff;
  const ah = a >>> 16;
  const bl = b & 0xffff;
  const bh = b >>> 16;
  // Neither sum exceeds 32 bits, so that wrapping integer arithmetic is exact.
  const first = (Math.imul(ah, bl) + (Math.imul(al, bl) >>> 16)) | 0;
  const second = (Math.imul(al, bh) + (first & 0xffff)) | 0;
  return (Math.imul(ah, bh) + (first >>> 16) + (second >>> 16)) | 0;
}

/** `out = a * b` */
export function multiply(c: FpuContext, a: Float80, b: Float80, out: Float80): boolean {
  const aKind = kindOf(a);
  const bKind = kindOf(b);
  if (aKind >= KIND.QNAN || bKind >= KIND.QNAN) return nanOperands(c, a, aKind, b, bKind, out);
  const sign = (a.se ^ b.se) & SIGN;
  if (aKind === KIND.INFINITY || bKind === KIND.INFINITY) {
    if (aKind === KIND.ZERO || bKind === KIND.ZERO) return invalid(c, out);
    if (!denormalOperands(c, aKind, bKind)) return false;
    setInfinity(out, sign);
    return true;
  }
  if (!denormalOperands(c, aKind, bKind)) return false;
  if (aKind === KIND.ZERO || bKind === KIND.ZERO) {
    setZero(out, sign);
    return true;
  }
  const exponent = (a.se & EXPONENT_MASK || 1) + (b.se & EXPONENT_MASK || 1) - EXPONENT_BIAS + 1;
  const aHi = a.hi;
  const aLo = a.lo;
  const bHi = b.hi;
  const bLo = b.lo;
  let w0 = 0;
  let w1 = 0;
  let w2 = Math.imul(aHi, bHi);
  let w3 = multiplyHigh(aHi, bHi);
  if ((aLo | bLo) !== 0) {
    w0 = Math.imul(aLo, bLo);
    const middle = (multiplyHigh(aLo, bLo) >>> 0) + (Math.imul(aHi, bLo) >>> 0) + (Math.imul(aLo, bHi) >>> 0);
    w1 = middle | 0;
    const upper =
      (w2 >>> 0) + (multiplyHigh(aHi, bLo) >>> 0) + (multiplyHigh(aLo, bHi) >>> 0) + ((middle / TWO32) | 0);
    w2 = upper | 0;
    w3 = (w3 + ((upper / TWO32) | 0)) | 0;
  }
  const extra = w1 | (w0 === 0 ? 0 : 1);
  if (w3 < 0) roundPack(c, sign, exponent, w3, w2, extra, c.precision, out);
  else if (w3 >= 0x4000_0000) {
    const hi = (w3 << 1) | (w2 >>> 31);
    const lo = (w2 << 1) | (w1 >>> 31);
    roundPack(c, sign, exponent - 1, hi, lo, (w1 << 1) | (w0 === 0 ? 0 : 1), c.precision, out);
  } else {
    multiplyDenormal(c, sign, exponent, w3, w2, w1, w0, out);
  }
  return true;
}

/** Product of a denormal: all four words count, for the first may be far to the right. */
function multiplyDenormal(
  c: FpuContext,
  sign: number,
  exponent: number,
  w3: number,
  w2: number,
  w1: number,
  w0: number,
  out: Float80,
): void {
  while (w3 === 0) {
    w3 = w2;
    w2 = w1;
    w1 = w0;
    w0 = 0;
    exponent -= 32;
  }
  const shift = Math.clz32(w3);
  if (shift > 0) {
    w3 = (w3 << shift) | (w2 >>> (32 - shift));
    w2 = (w2 << shift) | (w1 >>> (32 - shift));
    w1 = (w1 << shift) | (w0 >>> (32 - shift));
    w0 <<= shift;
    exponent -= shift;
  }
  roundPack(c, sign, exponent, w3, w2, w1 | (w0 === 0 ? 0 : 1), c.precision, out);
}

/** `out = a / b` */
export function divide(c: FpuContext, a: Float80, b: Float80, out: Float80): boolean {
  const aKind = kindOf(a);
  const bKind = kindOf(b);
  if (aKind >= KIND.QNAN || bKind >= KIND.QNAN) return nanOperands(c, a, aKind, b, bKind, out);
  const sign = (a.se ^ b.se) & SIGN;
  if (aKind === KIND.INFINITY) {
    if (bKind === KIND.INFINITY) return invalid(c, out);
    if (!denormalOperands(c, aKind, bKind)) return false;
    setInfinity(out, sign);
    return true;
  }
  if (bKind === KIND.ZERO) {
    if (aKind === KIND.ZERO) return invalid(c, out);
    return zeroDivide(c, sign, out);
  }
  if (!denormalOperands(c, aKind, bKind)) return false;
  if (aKind === KIND.ZERO || bKind === KIND.INFINITY) {
    setZero(out, sign);
    return true;
  }
  let exponent = (a.se & EXPONENT_MASK || 1) - (b.se & EXPONENT_MASK || 1) + EXPONENT_BIAS;
  let aHi = a.hi;
  let aLo = a.lo;
  if (aHi >= 0) {
    const shift = leadingZeros(aHi, aLo);
    aHi = shiftedHigh(aHi, aLo, shift);
    aLo = shift >= 32 ? 0 : aLo << shift;
    exponent -= shift;
  }
  let bHi = b.hi;
  let bLo = b.lo;
  if (bHi >= 0) {
    const shift = leadingZeros(bHi, bLo);
    bHi = shiftedHigh(bHi, bLo, shift);
    bLo = shift >= 32 ? 0 : bLo << shift;
    exponent += shift;
  }
  // Long division in digits of 16 bits; every intermediate value is an integer below 2^53, hence an exact double.
  const dh = bHi >>> 0;
  const dl = bLo >>> 0;
  let rh = aHi >>> 0;
  let rl = aLo >>> 0;
  let first = 0;
  if (rh > dh || (rh === dh && rl >= dl)) {
    first = 1;
    rl -= dl;
    rh -= dh;
    if (rl < 0) {
      rl += TWO32;
      rh--;
    }
  }
  let q1 = 0;
  let q2 = 0;
  let q3 = 0;
  for (let digit = 0; digit < 5; digit++) {
    const numerator = rh * 0x1_0000 + (rl >>> 16);
    let q = Math.floor(numerator / dh);
    const product = q * dl;
    const carry = Math.floor(product / TWO32);
    let h = numerator - q * dh - carry;
    let l = (rl & 0xffff) * 0x1_0000 - (product - carry * TWO32);
    if (l < 0) {
      l += TWO32;
      h--;
    }
    while (h < 0) {
      q--;
      l += dl;
      h += dh;
      if (l >= TWO32) {
        l -= TWO32;
        h++;
      }
    }
    rh = h;
    rl = l;
    if (digit === 0) q1 = q << 16;
    else if (digit === 1) q1 |= q;
    else if (digit === 2) q2 = q << 16;
    else if (digit === 3) q2 |= q;
    else q3 = q << 16;
  }
  const sticky = (rh | rl) === 0 ? 0 : 1;
  if (first === 1) {
    const extra = (q2 << 31) | (q3 >>> 1) | sticky;
    roundPack(c, sign, exponent, (q1 >>> 1) | -0x8000_0000, (q1 << 31) | (q2 >>> 1), extra, c.precision, out);
  } else {
    roundPack(c, sign, exponent - 1, q1, q2, q3 | sticky, c.precision, out);
  }
  return true;
}

/** Zero bits above the first set one of a significand that is not zero. */
export function leadingZeros(hi: number, lo: number): number {
  return hi === 0 ? 32 + Math.clz32(lo) : Math.clz32(hi);
}

/** Upper half of a significand shifted to the left by 0 to 63 bits. */
export function shiftedHigh(hi: number, lo: number, shift: number): number {
  if (shift >= 32) return lo << (shift - 32);
  return shift === 0 ? hi : (hi << shift) | (lo >>> (32 - shift));
}

/** Lower half of the same. */
export function shiftedLow(lo: number, shift: number): number {
  return shift >= 32 ? 0 : lo << shift;
}

/** `out = sqrt(a)` */
export function squareRoot(c: FpuContext, a: Float80, out: Float80): boolean {
  const kind = kindOf(a);
  if (kind >= KIND.QNAN) return nanOperand(c, a, kind, out);
  if (kind === KIND.ZERO) {
    out.copy(a);
    return true;
  }
  if ((a.se & SIGN) !== 0) return invalid(c, out);
  if (kind === KIND.INFINITY) {
    out.copy(a);
    return true;
  }
  if (!denormalOperands(c, kind, kind)) return false;
  const shift = leadingZeros(a.hi, a.lo);
  const exponent = (a.se & EXPONENT_MASK || 1) - shift - EXPONENT_BIAS;
  // The radicand's exponent must be even; 66 bits of root: 64, one to round by, one to spare.
  const odd = exponent & 1;
  const radicand = a.significand << BigInt(shift + odd + 67);
  const root = integerSquareRoot(radicand);
  const fraction = Number(root & 3n) << 30;
  const sticky = root * root === radicand ? 0 : 1;
  const significand = root >> 2n;
  roundPack(
    c,
    0,
    ((exponent - odd) >> 1) + EXPONENT_BIAS,
    Number(significand >> 32n) | 0,
    Number(significand & 0xffff_ffffn) | 0,
    fraction | sticky,
    c.precision,
    out,
  );
  return true;
}

/** Largest integer whose square is not above `n`, which has 131 or 132 bits. */
function integerSquareRoot(n: bigint): bigint {
  // A double has 52 good bits; a Newton step doubles them.
  let root = BigInt(Math.floor(Math.sqrt(Number(n))));
  root = (root + n / root) >> 1n;
  while (root * root > n) root--;
  while ((root + 1n) * (root + 1n) <= n) root++;
  return root;
}
