/** Rounding of exact results to the destination's format (SDM vol. 1, 4.8.4, 4.9.1.4 to 4.9.1.6 and 8.5.4 to 8.5.6). */
import {
  EXPONENT_MASK,
  type Float80,
  type FpuContext,
  OE,
  PE,
  ROUND,
  SIGN,
  setInfinity,
  setZero,
  UE,
} from './float80.ts';

/** Added to or taken from the exponent when underflow or overflow are unmasked and the result is a register. */
const EXPONENT_ADJUST = 24576;

/**
 * Whether a significand grows by one unit.
 * @param rest what lies behind it, as a fraction of 2^32 with everything lower collected in the last bit
 */
export function roundsUp(rounding: number, sign: number, rest: number, odd: boolean): boolean {
  switch (rounding) {
    case ROUND.NEAREST:
      return rest < 0 && (odd || rest !== -0x8000_0000);
    case ROUND.DOWN:
      return sign !== 0 && rest !== 0;
    case ROUND.UP:
      return sign === 0 && rest !== 0;
    default:
      return false;
  }
}

/**
 * Rounds and packs `(-1)^sign * hi:lo.extra * 2^(exponent - bias - 63)`.
 *
 * @param sign 0 or SIGN
 * @param exponent biased, not limited
 * @param hi the significand's upper half, top bit set; the halves and extra are signed 32-bit integers
 * @param extra bits below the significand, with everything lower collected in the last bit
 * @param precision 24, 53 or 64
 */
export function roundPack(
  c: FpuContext,
  sign: number,
  exponent: number,
  hi: number,
  lo: number,
  extra: number,
  precision: number,
  out: Float80,
): void {
  if (exponent <= 0) {
    packTiny(c, sign, exponent, hi, lo, extra, precision, out);
    return;
  }
  let rest = extra;
  let odd: boolean;
  if (precision === 64) {
    odd = (lo & 1) !== 0;
  } else if (precision === 53) {
    rest = (lo << 21) | (extra === 0 ? 0 : 1);
    odd = (lo & 0x800) !== 0;
    lo &= ~0x7ff;
  } else {
    rest = (hi << 24) | ((lo | extra) === 0 ? 0 : 1);
    odd = (hi & 0x100) !== 0;
    hi &= ~0xff;
    lo = 0;
  }
  if (rest !== 0 && roundsUp(c.rounding, sign, rest, odd)) {
    c.roundedUp = true;
    if (precision === 24) {
      hi = (hi + 0x100) | 0;
    } else {
      lo = (lo + (precision === 64 ? 1 : 0x800)) | 0;
      if (lo === 0) hi = (hi + 1) | 0;
    }
    if (hi >= 0) {
      hi = -0x8000_0000;
      exponent++;
    }
  }
  if (exponent >= EXPONENT_MASK) {
    packHuge(c, sign, exponent, hi, lo, rest, precision, out);
    return;
  }
  if (rest !== 0) c.flags |= PE;
  out.se = sign | exponent;
  out.hi = hi;
  out.lo = lo;
}

function packHuge(
  c: FpuContext,
  sign: number,
  exponent: number,
  hi: number,
  lo: number,
  rest: number,
  precision: number,
  out: Float80,
): void {
  if (!c.raise(OE)) {
    if (rest !== 0) c.flags |= PE;
    const adjusted = exponent - EXPONENT_ADJUST;
    if (adjusted < EXPONENT_MASK) out.set(sign | adjusted, hi, lo);
    else {
      // Only FSCALE gets here: "massive overflow".
      setInfinity(out, sign);
      c.roundedUp = true;
      c.flags |= PE;
    }
    return;
  }
  c.flags |= PE;
  packOverflow(c, sign, precision, out);
}

/** The masked response to overflow: infinity or the largest finite value, by rounding mode. */
function packOverflow(c: FpuContext, sign: number, precision: number, out: Float80): void {
  const r = c.rounding;
  c.roundedUp = r === ROUND.NEAREST || (r === ROUND.UP && sign === 0) || (r === ROUND.DOWN && sign !== 0);
  if (c.roundedUp) setInfinity(out, sign);
  else if (precision === 24) out.set(sign | 0x7ffe, 0xffff_ff00, 0);
  else out.set(sign | 0x7ffe, 0xffff_ffff, precision === 53 ? 0xffff_f800 : 0xffff_ffff);
}

function packTiny(
  c: FpuContext,
  sign: number,
  exponent: number,
  hi: number,
  lo: number,
  extra: number,
  precision: number,
  out: Float80,
): void {
  // Tininess is detected after rounding: at exponent 0 the value may still round to the smallest normal one.
  const tiny = exponent < 0 || !reachesNormal(c, sign, hi, lo, extra, precision);
  if (tiny && (c.masks & UE) === 0) {
    c.flags |= UE;
    const adjusted = exponent + EXPONENT_ADJUST;
    if (adjusted > 0) roundPack(c, sign, adjusted, hi, lo, extra, precision, out);
    else {
      // Only FSCALE gets here: "massive underflow".
      setZero(out, sign);
      c.flags |= PE;
      c.roundedUp = false;
    }
    return;
  }
  let shift = 1 - exponent;
  if (shift > 66) shift = 66;
  while (shift >= 32) {
    extra = lo | (extra === 0 ? 0 : 1);
    lo = hi;
    hi = 0;
    shift -= 32;
  }
  if (shift > 0) {
    const lost = extra << (32 - shift);
    extra = (extra >>> shift) | (lo << (32 - shift)) | (lost === 0 ? 0 : 1);
    lo = (lo >>> shift) | (hi << (32 - shift));
    hi = hi >>> shift;
  }
  let rest = extra;
  let unitHi = 0;
  let unitLo = 1;
  if (precision === 53) {
    rest = (lo << 21) | (extra === 0 ? 0 : 1);
    lo &= ~0x7ff;
    unitLo = 0x800;
  } else if (precision === 24) {
    rest = (hi << 24) | ((lo | extra) === 0 ? 0 : 1);
    hi &= ~0xff;
    lo = 0;
    unitHi = 0x100;
    unitLo = 0;
  }
  if (rest !== 0) {
    c.flags |= tiny ? UE | PE : PE;
    if (roundsUp(c.rounding, sign, rest, ((lo & unitLo) | (hi & unitHi)) !== 0)) {
      c.roundedUp = true;
      lo = (lo + unitLo) | 0;
      hi = (hi + unitHi + (unitLo !== 0 && lo === 0 ? 1 : 0)) | 0;
    }
  }
  out.set(sign | (hi < 0 ? 1 : 0), hi, lo);
}

/** Whether rounding with unlimited exponent range carries out of the significand. */
function reachesNormal(
  c: FpuContext,
  sign: number,
  hi: number,
  lo: number,
  extra: number,
  precision: number,
): boolean {
  if (precision === 64) return hi === -1 && lo === -1 && roundsUp(c.rounding, sign, extra, true);
  if (precision === 53) {
    if (hi !== -1 || (lo | 0x7ff) !== -1) return false;
    return roundsUp(c.rounding, sign, (lo << 21) | (extra === 0 ? 0 : 1), true);
  }
  if ((hi | 0xff) !== -1) return false;
  return roundsUp(c.rounding, sign, (hi << 24) | ((lo | extra) === 0 ? 0 : 1), true);
}

/** Shifts a significand that is not zero to the left until its top bit is set, then rounds and packs it. */
export function normalizeRoundPack(
  c: FpuContext,
  sign: number,
  exponent: number,
  hi: number,
  lo: number,
  extra: number,
  precision: number,
  out: Float80,
): void {
  while (hi === 0) {
    hi = lo;
    lo = extra;
    extra = 0;
    exponent -= 32;
  }
  const shift = Math.clz32(hi);
  if (shift > 0) {
    hi = (hi << shift) | (lo >>> (32 - shift));
    lo = (lo << shift) | (extra >>> (32 - shift));
    extra <<= shift;
    exponent -= shift;
  }
  roundPack(c, sign, exponent, hi, lo, extra, precision, out);
}

/** Sign of an exact zero that two nonzero values of unlike sign add up to. */
export function zeroSumSign(c: FpuContext): number {
  return c.rounding === ROUND.DOWN ? SIGN : 0;
}
