/** Single and double precision: bit patterns and numbers (IEEE 754; SDM vol. 1, 4.2.2). */

/** A format. Bit patterns are pairs of 32-bit integers; single precision is in `hi` alone. */
export interface FloatFormat {
  readonly bytes: 4 | 8;
  /** Bits of the significand with the leading one. */
  readonly precision: number;
  /** Exponents of the smallest normal and of the largest finite numbers. */
  readonly minExponent: number;
  readonly maxExponent: number;
  readonly largest: number;
  /** Bits of `hi`. */
  readonly exponentMask: number;
  readonly fractionMask: number;
  /** Set in a quiet NaN. */
  readonly quietBit: number;
}

export const SINGLE: FloatFormat = {
  bytes: 4,
  precision: 24,
  minExponent: -126,
  maxExponent: 127,
  largest: (2 - 2 ** -23) * 2 ** 127,
  exponentMask: 0x7f80_0000,
  fractionMask: 0x007f_ffff,
  quietBit: 0x0040_0000,
};

export const DOUBLE: FloatFormat = {
  bytes: 8,
  precision: 53,
  minExponent: -1022,
  maxExponent: 1023,
  largest: Number.MAX_VALUE,
  exponentMask: 0x7ff0_0000,
  fractionMask: 0x000f_ffff,
  quietBit: 0x0008_0000,
};

const SIGN = -0x8000_0000;

const doubles = new Float64Array(1);
const singles = new Float32Array(doubles.buffer);
const words = new Int32Array(doubles.buffer);
/** Index of a double's upper half: bit patterns are looked at, so the host's byte order matters. */
const HI = new Uint8Array(Int32Array.of(1).buffer)[0] === 1 ? 1 : 0;
const LO = 1 - HI;

/** A bit pattern, and what it means. */
export class Operand {
  hi = 0;
  lo = 0;
  /** The number; not for NaN. */
  value = 0;
  nan = false;
  signaling = false;
  /** A denormal operand that is not taken for zero. */
  denormal = false;

  /** @param daz denormals are taken for zeros of their sign */
  set(format: FloatFormat, hi: number, lo: number, daz: boolean): void {
    const { exponentMask, fractionMask, quietBit } = format;
    this.hi = hi;
    this.lo = lo;
    const exponent = hi & exponentMask;
    const hasFraction = ((hi & fractionMask) | lo) !== 0;
    this.nan = exponent === exponentMask && hasFraction;
    this.signaling = this.nan && (hi & quietBit) === 0;
    this.denormal = exponent === 0 && hasFraction;
    if (this.denormal && daz) {
      this.denormal = false;
      this.hi = hi & SIGN;
      this.lo = 0;
    }
    if (format.bytes === 4) {
      words[0] = this.hi;
      this.value = singles[0];
    } else {
      words[HI] = this.hi;
      words[LO] = this.lo;
      this.value = doubles[0];
    }
  }

  get negative(): boolean {
    return this.hi < 0;
  }
}

/** A bit pattern that is a result. */
export class Bits {
  hi = 0;
  lo = 0;

  set(hi: number, lo = 0): void {
    this.hi = hi;
    this.lo = lo;
  }

  /** A number that the format has; not NaN. */
  setNumber(format: FloatFormat, value: number): void {
    if (format.bytes === 4) {
      singles[0] = value;
      this.set(words[0]);
    } else {
      doubles[0] = value;
      this.set(words[HI], words[LO]);
    }
  }

  /** The NaN of an invalid operation (SDM vol. 1, 4.8.3.7: QNaN floating-point indefinite). */
  setIndefinite(format: FloatFormat): void {
    this.set(SIGN | format.exponentMask | format.quietBit);
  }
}

/** 2^-1074 to 2^1023; a table because doubles that are put together of words are slow to load. */
const POWERS = Float64Array.from({ length: 2098 }, (_, i) =>
  i < 52 ? 2 ** -1022 / 2 ** (52 - i) : 2 ** (i - 1074),
);

/** 2^exponent for exponents from -1074 to 1023. */
export function powerOfTwo(exponent: number): number {
  return POWERS[exponent + 1074];
}

/** Exponent of a positive finite number that is not zero; its significand is then in {@link significand}. */
export function split(value: number): number {
  doubles[0] = value;
  let exponent = (words[HI] >>> 20) - 1023;
  if (exponent > -1023) {
    significand = value * powerOfTwo(-exponent);
    return exponent;
  }
  doubles[0] = value * 2 ** 64;
  exponent = (words[HI] >>> 20) - 1023;
  significand = doubles[0] * powerOfTwo(-exponent);
  return exponent - 64;
}
/** 1 to 2, set by {@link split}. */
export let significand = 1;

/** What `product`, the rounded product of two numbers from 1/2 to 4, lacks to the exact one (Dekker 1971, Veltkamp). */
export function productError(a: number, b: number, product: number): number {
  const ca = a * 134217729;
  const cb = b * 134217729;
  const ah = ca - (ca - a);
  const bh = cb - (cb - b);
  const al = a - ah;
  const bl = b - bh;
  return al * bl - (product - ah * bh - al * bh - ah * bl);
}
