/** Conversions between the extended format and the formats of memory operands (SDM vol. 1, 4.2, 4.7 and 8.1.2). */
import { leadingZeros, shiftedHigh, shiftedLow } from './arithmetic.ts';
import {
  denormalOperands,
  EXPONENT_BIAS,
  EXPONENT_MASK,
  type Float80,
  type FpuContext,
  IE,
  KIND,
  kindOf,
  nanOperand,
  OE,
  PE,
  ROUND,
  SIGN,
  UE,
} from './float80.ts';
import { roundsUp } from './round.ts';

/** A binary format of memory operands. */
interface Format {
  /** Bits of the significand with the implied one. */
  readonly precision: 24 | 53;
  readonly bias: number;
  readonly maxExponent: number;
}
const SINGLE: Format = { precision: 24, bias: 127, maxExponent: 255 };
const DOUBLE: Format = { precision: 53, bias: 1023, maxExponent: 2047 };

/**
 * Widens a single; exact, and a signaling NaN stays one.
 * @returns whether it was denormal
 */
export function fromSingle(bits: number, out: Float80): boolean {
  const sign = (bits >>> 16) & SIGN;
  const exponent = (bits >>> 23) & 0xff;
  const fraction = bits << 8;
  if (exponent === 0) {
    if (fraction === 0) {
      out.set(sign, 0, 0);
      return false;
    }
    const shift = Math.clz32(fraction);
    out.set(sign | (1 - SINGLE.bias + EXPONENT_BIAS - shift), fraction << shift, 0);
    return true;
  }
  const wide = exponent === 0xff ? EXPONENT_MASK : exponent - SINGLE.bias + EXPONENT_BIAS;
  out.set(sign | wide, fraction | -0x8000_0000, 0);
  return false;
}

/**
 * Widens a double; exact, and a signaling NaN stays one.
 * @returns whether it was denormal
 */
export function fromDouble(high: number, low: number, out: Float80): boolean {
  const sign = (high >>> 16) & SIGN;
  const exponent = (high >>> 20) & 0x7ff;
  const hi = ((high << 11) | (low >>> 21)) & 0x7fff_ffff;
  const lo = low << 11;
  if (exponent === 0) {
    if ((hi | lo) === 0) {
      out.set(sign, 0, 0);
      return false;
    }
    const shift = leadingZeros(hi, lo);
    out.set(
      sign | (1 - DOUBLE.bias + EXPONENT_BIAS - shift),
      shiftedHigh(hi, lo, shift),
      shiftedLow(lo, shift),
    );
    return true;
  }
  const wide = exponent === 0x7ff ? EXPONENT_MASK : exponent - DOUBLE.bias + EXPONENT_BIAS;
  out.set(sign | wide, hi | -0x8000_0000, lo);
  return false;
}

/** Widens a signed 64-bit integer; exact. */
export function fromInteger(high: number, low: number, out: Float80): void {
  let hi = high | 0;
  let lo = low | 0;
  const sign = hi < 0 ? SIGN : 0;
  if (sign !== 0) {
    hi = lo === 0 ? -hi | 0 : ~hi;
    lo = -lo | 0;
  }
  if ((hi | lo) === 0) {
    out.set(0, 0, 0);
    return;
  }
  const shift = leadingZeros(hi, lo);
  out.set(sign | (EXPONENT_BIAS + 63 - shift), shiftedHigh(hi, lo, shift), shiftedLow(lo, shift));
}

/**
 * Narrows to a single, whose bits it leaves in `out.lo`.
 * @returns whether the destination is to be written
 */
export function toSingle(c: FpuContext, a: Float80, out: Float80): boolean {
  return narrow(c, a, SINGLE, out);
}

/**
 * Narrows to a double, whose bits it leaves in `out.hi` and `out.lo`.
 * @returns whether the destination is to be written
 */
export function toDouble(c: FpuContext, a: Float80, out: Float80): boolean {
  return narrow(c, a, DOUBLE, out);
}

function narrow(c: FpuContext, a: Float80, format: Format, out: Float80): boolean {
  const kind = kindOf(a);
  const scratch = out;
  if (kind >= KIND.QNAN) {
    if (!nanOperand(c, a, kind, scratch)) return false;
    pack(scratch.se & SIGN, format.maxExponent, scratch.hi & 0x7fff_ffff, scratch.lo, format, out);
    return true;
  }
  const sign = a.se & SIGN;
  if (kind === KIND.ZERO || kind === KIND.INFINITY) {
    pack(sign, kind === KIND.ZERO ? 0 : format.maxExponent, 0, 0, format, out);
    return true;
  }
  const shift = leadingZeros(a.hi, a.lo);
  let exponent = (a.se & EXPONENT_MASK || 1) - shift - EXPONENT_BIAS + format.bias;
  let hi = shiftedHigh(a.hi, a.lo, shift);
  let lo = shiftedLow(a.lo, shift);

  let sticky = 0;
  const tiny = exponent <= 0 && (exponent < 0 || !carries(c, sign, hi, lo, format));
  if (tiny && (c.masks & UE) === 0) {
    c.flags |= UE;
    return false;
  }
  if (exponent <= 0) {
    // The integer bit of a denormal is not implied: the significand moves one further to the right.
    let right = Math.min(1 - exponent, 66);
    while (right >= 32) {
      sticky |= lo;
      lo = hi;
      hi = 0;
      right -= 32;
    }
    if (right > 0) {
      sticky |= lo << (32 - right);
      lo = (lo >>> right) | (hi << (32 - right));
      hi >>>= right;
    }
    exponent = 0;
  }
  const rest = restOf(hi, lo, format) | (sticky === 0 ? 0 : 1);
  const single = format.precision === 24;
  if (rest !== 0) {
    const odd = single ? (hi & 0x100) !== 0 : (lo & 0x800) !== 0;
    const up = roundsUp(c.rounding, sign, rest, odd);
    const wasNormal = hi < 0;
    if (up) {
      if (single) hi = ((hi & ~0xff) + 0x100) | 0;
      else {
        lo = ((lo & ~0x7ff) + 0x800) | 0;
        if (lo === 0) hi = (hi + 1) | 0;
      }
      if (wasNormal && hi >= 0) {
        exponent++;
        hi = -0x8000_0000;
      } else if (!wasNormal && hi < 0) {
        exponent = 1;
      }
    }
    if (exponent < format.maxExponent) {
      c.flags |= tiny ? UE | PE : PE;
      c.roundedUp = up;
    }
  }
  if (exponent >= format.maxExponent) return overflow(c, sign, format, out);
  pack(sign, exponent, hi & 0x7fff_ffff, lo, format, out);
  return true;
}

/** Bits of a significand that do not fit, as a fraction of 2^32. */
function restOf(hi: number, lo: number, format: Format): number {
  return format.precision === 24 ? (hi << 24) | (lo === 0 ? 0 : 1) : lo << 21;
}

/** Whether rounding with unlimited exponent range carries out of the significand. */
function carries(c: FpuContext, sign: number, hi: number, lo: number, format: Format): boolean {
  const full = format.precision === 24 ? (hi | 0xff) === -1 : hi === -1 && (lo | 0x7ff) === -1;
  return full && roundsUp(c.rounding, sign, restOf(hi, lo, format), true);
}

function overflow(c: FpuContext, sign: number, format: Format, out: Float80): boolean {
  if (!c.raise(OE)) return false;
  c.flags |= PE;
  const r = c.rounding;
  c.roundedUp = r === ROUND.NEAREST || (r === ROUND.UP && sign === 0) || (r === ROUND.DOWN && sign !== 0);
  if (c.roundedUp) pack(sign, format.maxExponent, 0, 0, format, out);
  else pack(sign, format.maxExponent - 1, 0x7fff_ffff, -1, format, out);
  return true;
}

/** Puts sign, exponent and the 63 bits below the integer bit together. */
function pack(sign: number, exponent: number, hi: number, lo: number, format: Format, out: Float80): void {
  if (format.precision === 24) {
    out.set(0, 0, (sign << 16) | (exponent << 23) | (hi >>> 8));
  } else {
    out.set(0, (sign << 16) | (exponent << 20) | (hi >>> 11), (lo >>> 11) | (hi << 21));
  }
}

/**
 * Rounds to a signed integer of 16, 32 or 64 bits, which it leaves sign-extended in `out.hi` and `out.lo`.
 * @param rounding one of ROUND; FISTTP truncates whatever the control word says
 * @returns whether the destination is to be written
 */
export function toInteger(
  c: FpuContext,
  a: Float80,
  bits: 16 | 32 | 64,
  rounding: number,
  out: Float80,
): boolean {
  const kind = kindOf(a);
  const exponent = (a.se & EXPONENT_MASK) - EXPONENT_BIAS;
  if (kind >= KIND.INFINITY || exponent >= 64) return integerIndefinite(c, bits, out);
  const sign = a.se & SIGN;
  let hi = a.hi;
  let lo = a.lo;
  let extra = 0;
  let right = Math.min(63 - exponent, 66);
  while (right >= 32) {
    extra = lo | (extra === 0 ? 0 : 1);
    lo = hi;
    hi = 0;
    right -= 32;
  }
  if (right > 0) {
    const lost = extra << (32 - right);
    extra = (extra >>> right) | (lo << (32 - right)) | (lost === 0 ? 0 : 1);
    lo = (lo >>> right) | (hi << (32 - right));
    hi >>>= right;
  }
  const up = extra !== 0 && roundsUp(rounding, sign, extra, (lo & 1) !== 0);
  if (up) {
    lo = (lo + 1) | 0;
    if (lo === 0) {
      hi = (hi + 1) | 0;
      if (hi === 0) return integerIndefinite(c, bits, out);
    }
  }
  // hi:lo is the magnitude, below 2^64.
  if (!fits(hi, lo, bits, sign !== 0)) return integerIndefinite(c, bits, out);
  if (sign !== 0) {
    hi = lo === 0 ? -hi | 0 : ~hi;
    lo = -lo | 0;
  }
  if (extra !== 0) {
    c.flags |= PE;
    c.roundedUp = up;
  }
  out.set(0, hi, lo);
  return true;
}

function fits(hi: number, lo: number, bits: 16 | 32 | 64, negative: boolean): boolean {
  if (bits === 64) return hi >= 0 || (negative && hi === -0x8000_0000 && lo === 0);
  if (hi !== 0) return false;
  const limit = bits === 32 ? 0x8000_0000 : 0x8000;
  return lo >>> 0 < limit || (negative && lo >>> 0 === limit);
}

function integerIndefinite(c: FpuContext, bits: 16 | 32 | 64, out: Float80): boolean {
  if (!c.raise(IE)) return false;
  setIntegerIndefinite(bits, out);
  return true;
}

/** The integer indefinite: the most negative integer. */
export function setIntegerIndefinite(bits: 16 | 32 | 64, out: Float80): void {
  if (bits === 64) out.set(0, -0x8000_0000, 0);
  else out.set(0, -1, bits === 32 ? -0x8000_0000 : -0x8000);
}

/** Reads packed BCD of 18 digits; exact. Digits above nine count with their weight. */
export function fromBcd(view: DataView, offset: number, out: Float80): void {
  let upper = 0;
  let lower = 0;
  for (let i = 8; i >= 0; i--) {
    const byte = view.getUint8(offset + i);
    const pair = (byte >> 4) * 10 + (byte & 15);
    if (i >= 4) upper = upper * 100 + pair;
    else lower = lower * 100 + pair;
  }
  const value = BigInt(upper) * 100_000_000n + BigInt(lower);
  fromInteger(Number(value >> 32n), Number(value & 0xffff_ffffn), out);
  out.se |= (view.getUint8(offset + 9) & 0x80) << 8;
}

/**
 * Rounds to an integer of 18 decimal digits and writes it as packed BCD.
 * @returns whether the destination was written
 */
export function toBcd(c: FpuContext, a: Float80, view: DataView, offset: number, scratch: Float80): boolean {
  const negative = (a.se & SIGN) !== 0;
  const before = c.flags;
  const roundedBefore = c.roundedUp;
  const inRange = kindOf(a) < KIND.INFINITY && (a.se & EXPONENT_MASK) < EXPONENT_BIAS + 60;
  if (inRange && toInteger(c, a, 64, c.rounding, scratch)) {
    let value = BigInt.asIntN(64, (BigInt(scratch.hi) << 32n) | BigInt(scratch.lo >>> 0));
    if (value < 0n) value = -value;
    if (value < 1_000_000_000_000_000_000n) {
      for (let i = 0; i < 9; i++) {
        const pair = Number(value % 100n);
        value /= 100n;
        view.setUint8(offset + i, (Math.floor(pair / 10) << 4) | (pair % 10));
      }
      view.setUint8(offset + 9, negative ? 0x80 : 0);
      return true;
    }
    c.flags = before;
    c.roundedUp = roundedBefore;
  }
  if (!c.raise(IE)) return false;
  writeBcdIndefinite(view, offset);
  return true;
}

/** The packed BCD indefinite. */
export function writeBcdIndefinite(view: DataView, offset: number): void {
  view.setInt32(offset, 0, true);
  view.setInt32(offset + 4, -0x4000_0000, true);
  view.setUint16(offset + 8, 0xffff, true);
}

/** FRNDINT: rounds to an integer in the extended format. Returns whether there is a result. */
export function roundToInteger(c: FpuContext, a: Float80, out: Float80): boolean {
  const kind = kindOf(a);
  if (kind >= KIND.QNAN) return nanOperand(c, a, kind, out);
  if (!denormalOperands(c, kind, kind)) return false;
  const exponent = (a.se & EXPONENT_MASK) - EXPONENT_BIAS;
  if (kind === KIND.ZERO || kind === KIND.INFINITY || exponent >= 63) {
    out.copy(a);
    return true;
  }
  const sign = a.se & SIGN;
  if (exponent < 0) {
    // Below one: the result is zero or one; the rest behind the integer's last bit is the value itself.
    const half = exponent === -1 ? (((a.hi & 0x7fff_ffff) | a.lo) === 0 ? -0x8000_0000 : -1) : 1;
    c.flags |= PE;
    c.roundedUp = roundsUp(c.rounding, sign, half, false);
    if (c.roundedUp) out.set(sign | EXPONENT_BIAS, -0x8000_0000, 0);
    else out.set(sign, 0, 0);
    return true;
  }
  let { hi, lo } = a;
  let rest: number;
  let odd: boolean;
  let unitHi = 0;
  let unitLo = 0;
  if (exponent >= 32) {
    const drop = 63 - exponent;
    rest = lo << (32 - drop);
    unitLo = 1 << drop;
    odd = (lo & unitLo) !== 0;
    lo &= -unitLo;
  } else if (exponent === 31) {
    rest = lo;
    unitHi = 1;
    odd = (hi & 1) !== 0;
    lo = 0;
  } else {
    const drop = 31 - exponent;
    rest = (hi << (32 - drop)) | (lo === 0 ? 0 : 1);
    unitHi = drop === 31 ? -0x8000_0000 : 1 << drop;
    // `lo` may share its sticky bit with the lowest bit of the rest only if nothing else is there.
    odd = (hi & unitHi) !== 0;
    hi &= -unitHi;
    lo = 0;
  }
  let se = a.se;
  if (rest !== 0) {
    c.flags |= PE;
    c.roundedUp = roundsUp(c.rounding, sign, rest, odd);
    if (c.roundedUp) {
      lo = (lo + unitLo) | 0;
      hi = (hi + unitHi + (unitLo !== 0 && lo === 0 ? 1 : 0)) | 0;
      if (hi >= 0) {
        hi = -0x8000_0000;
        se++;
      }
    }
  }
  out.set(se, hi, lo);
  return true;
}
