/**
 * The double extended-precision format (SDM vol. 1, 4.2.2 and 8.2) and the environment of its operations.
 *
 * A value is a sign and exponent word and a significand in two halves: arithmetic on halves as 32-bit integers is an
 * order of magnitude faster in JavaScript than on bigints. Halves are signed 32-bit integers (`| 0`) wherever they are
 * stored, so that V8 keeps them unboxed.
 */

/** Bits of the status word; the low six are also the masks of the control word (SDM vol. 1, 8.1.3). */
export const IE = 0x01;
export const DE = 0x02;
export const ZE = 0x04;
export const OE = 0x08;
export const UE = 0x10;
export const PE = 0x20;
export const SF = 0x40;
export const ES = 0x80;
export const C0 = 0x100;
export const C1 = 0x200;
export const C2 = 0x400;
export const C3 = 0x4000;
export const BUSY = 0x8000;
export const ALL_EXCEPTIONS = 0x3f;

/** Rounding control, as the field RC of the control word holds it. */
export const ROUND = { NEAREST: 0, DOWN: 1, UP: 2, ZERO: 3 } as const;

export const SIGN = 0x8000;
export const EXPONENT_MASK = 0x7fff;
export const EXPONENT_BIAS = 0x3fff;

/** An 80-bit value: operands are read from it and results written into it. */
export class Float80 {
  /** Bits 64 to 79: sign and biased exponent. */
  se = 0;
  /** Bits 32 to 63, signed; the top bit is the explicit integer bit. */
  hi = 0;
  /** Bits 0 to 31, signed. */
  lo = 0;

  set(se: number, hi: number, lo: number): this {
    this.se = se;
    this.hi = hi | 0;
    this.lo = lo | 0;
    return this;
  }

  copy(other: Float80): this {
    this.se = other.se;
    this.hi = other.hi;
    this.lo = other.lo;
    return this;
  }

  get significand(): bigint {
    return (BigInt(this.hi >>> 0) << 32n) | BigInt(this.lo >>> 0);
  }

  /** Reads the ten bytes at `offset`. */
  read(view: DataView, offset: number): this {
    this.lo = view.getInt32(offset, true);
    this.hi = view.getInt32(offset + 4, true);
    this.se = view.getUint16(offset + 8, true);
    return this;
  }

  /** Writes the ten bytes at `offset`. */
  write(view: DataView, offset: number): void {
    view.setInt32(offset, this.lo, true);
    view.setInt32(offset + 4, this.hi, true);
    view.setUint16(offset + 8, this.se, true);
  }
}

/** Control in, exceptions out, of one or more operations. */
export class FpuContext {
  rounding = 0;
  /** Bits of the significand that arithmetic rounds to: 24, 53 or 64. */
  precision = 64;
  /** Masked exceptions. */
  masks = ALL_EXCEPTIONS;
  /** Exceptions raised so far. */
  flags = 0;
  /** C1 of an inexact result: the last rounding was away from zero. */
  roundedUp = false;
  /** A memory operand was denormal before it was converted: reported by the operation, with its own priority. */
  sourceDenormal = false;

  /** Takes over the control word and forgets exceptions. */
  begin(fcw: number): void {
    this.rounding = (fcw >> 10) & 3;
    const precision = (fcw >> 8) & 3;
    this.precision = precision === 0 ? 24 : precision === 2 ? 53 : 64;
    this.masks = fcw & ALL_EXCEPTIONS;
    this.flags = 0;
    this.roundedUp = false;
    this.sourceDenormal = false;
  }

  /** Whether an unmasked exception was raised. */
  get unmasked(): boolean {
    return (this.flags & ~this.masks) !== 0;
  }

  /** Raises exceptions. Returns whether all are masked, so that the operation goes on with its default response. */
  raise(exceptions: number): boolean {
    this.flags |= exceptions;
    return (exceptions & ~this.masks) === 0;
  }
}

/** What a value is (SDM vol. 1, table 8-3). */
export const KIND = {
  ZERO: 0,
  NORMAL: 1,
  /** With or without integer bit: denormal and pseudo-denormal. */
  DENORMAL: 2,
  INFINITY: 3,
  QNAN: 4,
  SNAN: 5,
  /** Unnormal, pseudo-infinity, pseudo-NaN: invalid in every arithmetic operation. */
  UNSUPPORTED: 6,
} as const;

export function kindOf(x: Float80): number {
  const exponent = x.se & EXPONENT_MASK;
  if (exponent === 0) return (x.hi | x.lo) === 0 ? KIND.ZERO : KIND.DENORMAL;
  if (x.hi >= 0) return KIND.UNSUPPORTED;
  if (exponent !== EXPONENT_MASK) return KIND.NORMAL;
  if (((x.hi << 1) | x.lo) === 0) return KIND.INFINITY;
  return (x.hi & 0x4000_0000) !== 0 ? KIND.QNAN : KIND.SNAN;
}

/** The QNaN floating-point indefinite, the masked response to an invalid operation. */
export function setIndefinite(out: Float80): void {
  out.set(0xffff, 0xc000_0000, 0);
}

export function setZero(out: Float80, sign: number): void {
  out.set(sign, 0, 0);
}

export function setInfinity(out: Float80, sign: number): void {
  out.set(sign | EXPONENT_MASK, 0x8000_0000, 0);
}

/** Invalid operation: the indefinite, unless unmasked. Returns whether there is a result. */
export function invalid(c: FpuContext, out: Float80): boolean {
  if (!c.raise(IE)) return false;
  setIndefinite(out);
  return true;
}

/** Zero divide: infinity, unless unmasked. Returns whether there is a result. */
export function zeroDivide(c: FpuContext, sign: number, out: Float80): boolean {
  if (!c.raise(ZE)) return false;
  setInfinity(out, sign);
  return true;
}

/** Result of an operation with one NaN or unsupported operand. Returns whether there is one. */
export function nanOperand(c: FpuContext, a: Float80, kind: number, out: Float80): boolean {
  if (kind === KIND.UNSUPPORTED) return invalid(c, out);
  if (kind === KIND.SNAN && !c.raise(IE)) return false;
  out.set(a.se, a.hi | 0x4000_0000, a.lo);
  return true;
}

/** Result of an operation with two operands, at least one NaN or unsupported (SDM vol. 1, table 4-7). */
export function nanOperands(
  c: FpuContext,
  a: Float80,
  aKind: number,
  b: Float80,
  bKind: number,
  out: Float80,
): boolean {
  if (aKind === KIND.UNSUPPORTED || bKind === KIND.UNSUPPORTED) return invalid(c, out);
  if ((aKind === KIND.SNAN || bKind === KIND.SNAN) && !c.raise(IE)) return false;
  let chosen: Float80;
  if (aKind < KIND.QNAN) chosen = b;
  else if (bKind < KIND.QNAN) chosen = a;
  else if (aKind !== bKind) chosen = aKind === KIND.QNAN ? a : b;
  else chosen = largerSignificand(a, b);
  out.set(chosen.se, chosen.hi | 0x4000_0000, chosen.lo);
  return true;
}

/** Of two equal significands, the positive one. */
function largerSignificand(a: Float80, b: Float80): Float80 {
  if (a.hi !== b.hi) return a.hi >>> 0 > b.hi >>> 0 ? a : b;
  if (a.lo !== b.lo) return a.lo >>> 0 > b.lo >>> 0 ? a : b;
  return a.se < b.se ? a : b;
}

/** Raises the denormal-operand exception for either operand. Returns whether the operation goes on. */
export function denormalOperands(c: FpuContext, aKind: number, bKind: number): boolean {
  if (aKind !== KIND.DENORMAL && bKind !== KIND.DENORMAL && !c.sourceDenormal) return true;
  return c.raise(DE);
}
