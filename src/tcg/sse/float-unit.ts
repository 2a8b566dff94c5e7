/**
 * IEEE 754 arithmetic as SSE has it: every rounding mode, exception flags, denormals-are-zero, flush-to-zero and the
 * processor's NaN (SDM vol. 1, 4.8.3, 4.9, 10.2.3, 11.5).
 *
 * An operation computes the nearest double and the sign of what it lacks to the exact result, by error-free
 * transformations; rounding to the format follows from both. Single precision goes the same way, as its numbers are
 * doubles.
 */
import {
  Bits,
  type FloatFormat,
  Operand,
  powerOfTwo,
  productError,
  SINGLE,
  significand,
  split,
} from './format.ts';
import {
  ALL_EXCEPTIONS,
  BEFORE_COMPUTATION,
  DAZ,
  DE,
  FTZ,
  IE,
  MASK_SHIFT,
  OE,
  PE,
  RC_SHIFT,
  ROUND,
  UE,
  ZE,
} from './mxcsr.ts';

/** Results of a comparison: bits as CMPPS' predicates 0, 1 and 3 ask for them, or none of them for greater. */
export const COMPARISON = { GREATER: 0, EQUAL: 1, LESS: 2, UNORDERED: 4 } as const;

/** An arithmetic unit: operands {@link a} and {@link b}, a result, and the flags of everything since {@link begin}. */
export class FloatUnit {
  readonly a = new Operand();
  readonly b = new Operand();
  readonly result = new Bits();
  flags = 0;
  rounding: number = ROUND.NEAREST;
  #masks = ALL_EXCEPTIONS;
  #daz = false;
  #ftz = false;
  // What #roundAt() found.
  #inexact = false;

  /** Takes the controls of MXCSR and forgets flags. */
  begin(mxcsr: number): void {
    this.flags = 0;
    this.#masks = (mxcsr >> MASK_SHIFT) & ALL_EXCEPTIONS;
    this.rounding = (mxcsr >> RC_SHIFT) & 3;
    this.#daz = (mxcsr & DAZ) !== 0;
    this.#ftz = (mxcsr & FTZ) !== 0;
  }

  /** Whether an exception was raised that is not masked. */
  get unmasked(): boolean {
    return (this.flags & ~this.#masks) !== 0;
  }

  /** The flags that MXCSR gets: with an unmasked exception that prevents the computation, nothing is computed. */
  get reported(): number {
    const before = this.flags & BEFORE_COMPUTATION;
    return (before & ~this.#masks) !== 0 ? before : this.flags;
  }

  setA(format: FloatFormat, hi: number, lo = 0): void {
    this.a.set(format, hi, lo, this.#daz);
  }
  setB(format: FloatFormat, hi: number, lo = 0): void {
    this.b.set(format, hi, lo, this.#daz);
  }

  /** a + b, or a - b. */
  add(format: FloatFormat, subtract = false): void {
    if (this.#nanOperand(format)) return;
    const a = this.a.value;
    const b = subtract ? -this.b.value : this.b.value;
    if (a - a !== 0 && b === -a) {
      this.#invalid(format);
      return;
    }
    this.#denormalOperand();
    if (a - a !== 0 || b - b !== 0) {
      this.result.setNumber(format, a + b);
      return;
    }
    let sum = a + b;
    if (sum === 0) {
      // Zeros of one sign keep it; all other sums of zero are exact and have the sign that the rounding mode wants.
      const negative = Object.is(a, b) ? Object.is(a, -0) : this.rounding === ROUND.DOWN;
      this.result.setNumber(format, negative ? -0 : 0);
      return;
    }
    let large = a;
    let small = b;
    if (Math.abs(a) < Math.abs(b)) {
      large = b;
      small = a;
    }
    let exponent = 0;
    if (sum - sum !== 0) {
      large /= 2;
      small /= 2;
      sum = large + small;
      exponent = 1;
    }
    const rest = small - (sum - large);
    this.#round(format, sum < 0, Math.abs(sum), sum < 0 ? -rest : rest, exponent);
  }

  mul(format: FloatFormat): void {
    if (this.#nanOperand(format)) return;
    const a = Math.abs(this.a.value);
    const b = Math.abs(this.b.value);
    const product = a * b;
    if (Number.isNaN(product)) {
      this.#invalid(format);
      return;
    }
    this.#denormalOperand();
    const negative = this.a.negative !== this.b.negative;
    if (a === 0 || b === 0 || a - a !== 0 || b - b !== 0) {
      this.result.setNumber(format, negative ? -product : product);
      return;
    }
    const exponentA = split(a);
    const x = significand;
    const exponentB = split(b);
    const y = significand;
    this.#round(format, negative, x * y, productError(x, y, x * y), exponentA + exponentB);
  }

  div(format: FloatFormat): void {
    if (this.#nanOperand(format)) return;
    const a = Math.abs(this.a.value);
    const b = Math.abs(this.b.value);
    const quotient = a / b;
    if (Number.isNaN(quotient)) {
      this.#invalid(format);
      return;
    }
    const negative = this.a.negative !== this.b.negative;
    if (b === 0 && a - a === 0) {
      this.flags |= ZE;
      this.result.setNumber(format, negative ? -quotient : quotient);
      return;
    }
    this.#denormalOperand();
    if (a === 0 || a - a !== 0 || b - b !== 0 || b === 0) {
      this.result.setNumber(format, negative ? -quotient : quotient);
      return;
    }
    const exponentA = split(a);
    const x = significand;
    const exponentB = split(b);
    const y = significand;
    const q = x / y;
    const back = q * y;
    // The remainder of a correctly rounded division is a double.
    const rest = x - back - productError(q, y, back);
    this.#round(format, negative, q, rest, exponentA - exponentB);
  }

  /** The square root of b. */
  sqrt(format: FloatFormat): void {
    const { b } = this;
    if (b.nan) {
      this.#propagate(format, b);
      return;
    }
    if (b.value < 0) {
      this.#invalid(format);
      return;
    }
    if (b.denormal) this.flags |= DE;
    if (b.value === 0 || b.value - b.value !== 0) {
      this.result.set(b.hi, b.lo);
      return;
    }
    let exponent = split(b.value);
    let x = significand;
    if (exponent & 1) {
      x *= 2;
      exponent--;
    }
    const root = Math.sqrt(x);
    const square = root * root;
    this.#round(format, false, root, x - square - productError(root, root, square), exponent / 2);
  }

  /** The source b, unless a is smaller (or larger): so for zeros, and when there is a NaN, which is invalid. */
  minMax(larger: boolean): void {
    const { a, b, result } = this;
    if (a.nan || b.nan) {
      this.flags |= IE;
      result.set(b.hi, b.lo);
      return;
    }
    this.#denormalOperand();
    const first = larger ? a.value > b.value : a.value < b.value;
    if (first) result.set(a.hi, a.lo);
    else result.set(b.hi, b.lo);
  }

  /**
   * Compares a with b.
   * @param signals whether quiet NaN is invalid as well
   * @returns a {@link COMPARISON}
   */
  compare(signals: boolean): number {
    const { a, b } = this;
    if (a.nan || b.nan) {
      if (signals || a.signaling || b.signaling) this.flags |= IE;
      return COMPARISON.UNORDERED;
    }
    this.#denormalOperand();
    if (a.value === b.value) return COMPARISON.EQUAL;
    return a.value < b.value ? COMPARISON.LESS : COMPARISON.GREATER;
  }

  /** b rounded to an integer of its format; `quietly` without flagging that it was not one. */
  roundToInteger(format: FloatFormat, mode: number, quietly: boolean): void {
    const { b } = this;
    if (b.nan) {
      this.#propagate(format, b);
      return;
    }
    const rounded = roundNumber(b.value, mode);
    if (rounded !== b.value && !quietly) this.flags |= PE;
    this.result.setNumber(format, rounded);
  }

  /**
   * b as a signed integer.
   * @returns the integer, or undefined for the integer indefinite
   */
  toInteger(bits: 32 | 64, mode: number): number | undefined {
    const { b } = this;
    const rounded = roundNumber(b.value, mode);
    const limit = bits === 64 ? 2 ** 63 : 2 ** 31;
    if (b.nan || rounded >= limit || rounded < -limit) {
      this.flags |= IE;
      return undefined;
    }
    if (rounded !== b.value) this.flags |= PE;
    return rounded;
  }

  /** A signed integer of 64 bits, given as its upper half and its unsigned lower half. */
  fromInteger(format: FloatFormat, high: number, low: number): void {
    const negative = high < 0;
    let large = high * 2 ** 32;
    let small = low;
    if (negative) {
      large = -large;
      small = -small;
    }
    const sum = large + small;
    if (sum === 0) this.result.set(0);
    else this.#round(format, negative, sum, small - (sum - large), 0);
  }

  /** b of one format in the other. */
  convert(from: FloatFormat, to: FloatFormat): void {
    const { b } = this;
    if (b.nan) {
      if (b.signaling) this.flags |= IE;
      this.#convertNan(to);
      return;
    }
    if (b.denormal) this.flags |= DE;
    const magnitude = Math.abs(b.value);
    if (magnitude === 0 || magnitude - magnitude !== 0 || from === SINGLE) {
      this.result.setNumber(to, b.value);
    } else this.#round(to, b.negative, magnitude, 0, 0);
  }

  #convertNan(to: FloatFormat): void {
    const { hi, lo } = this.b;
    const sign = hi & -0x8000_0000;
    if (to === SINGLE) {
      this.result.set(sign | 0x7fc0_0000 | ((hi & 0x7_ffff) << 3) | (lo >>> 29));
    } else this.result.set(sign | 0x7ff8_0000 | ((hi & 0x3f_ffff) >>> 3), hi << 29);
  }

  /** The first operand that is a NaN is the result, made quiet (SDM vol. 1, table 4-7). */
  #nanOperand(format: FloatFormat): boolean {
    const { a, b } = this;
    if (!a.nan && !b.nan) return false;
    if (b.signaling) this.flags |= IE;
    if (a.signaling) this.flags |= IE;
    const { hi, lo } = a.nan ? a : b;
    this.result.set(hi | format.quietBit, lo);
    return true;
  }

  #propagate(format: FloatFormat, { hi, lo, signaling }: Operand): void {
    if (signaling) this.flags |= IE;
    this.result.set(hi | format.quietBit, lo);
  }

  #invalid(format: FloatFormat): void {
    this.flags |= IE;
    this.result.setIndefinite(format);
  }

  #denormalOperand(): void {
    if (this.a.denormal || this.b.denormal) this.flags |= DE;
  }

  /**
   * Rounds (-1)^negative * (magnitude + rest) * 2^scale to the format.
   * @param magnitude not zero; the double nearest to the exact value, with ties to even
   * @param rest only its sign counts
   */
  #round(format: FloatFormat, negative: boolean, magnitude: number, rest: number, scale: number): void {
    const { precision, minExponent, maxExponent } = format;
    let exponent = split(magnitude);
    let x = significand;
    // Just below a power of two.
    if (x === 1 && rest < 0) {
      x = 2;
      exponent--;
    }
    exponent += scale;
    const whole = powerOfTwo(precision);
    let n = this.#roundAt(negative, x, rest, precision - 1);
    if (exponent >= minExponent) {
      if (exponent > maxExponent || (exponent === maxExponent && n === whole)) {
        this.#overflow(format, negative);
        return;
      }
      if (this.#inexact) this.flags |= PE;
      // Twice, as the scale of the largest numbers is more than a double can be.
      const value = n * powerOfTwo(1 - precision) * powerOfTwo(exponent);
      this.result.setNumber(format, negative ? -value : value);
      return;
    }
    // Tininess is detected after rounding (SDM vol. 1, 4.9.1.5).
    const tiny = exponent < minExponent - 1 || n !== whole;
    if (tiny && (this.#masks & UE) === 0) {
      this.flags |= UE;
      if (this.#inexact) this.flags |= PE;
      return;
    }
    if (tiny && this.#ftz) {
      this.flags |= UE | PE;
      this.result.setNumber(format, negative ? -0 : 0);
      return;
    }
    n = this.#roundAt(negative, x, rest, Math.max(-2, precision - 1 - (minExponent - exponent)));
    if (this.#inexact) this.flags |= tiny ? UE | PE : PE;
    const value = n * powerOfTwo(minExponent - precision + 1);
    this.result.setNumber(format, negative ? -value : value);
  }

  /** Rounds (x + rest) * 2^shift, x from 1 to 2, to an integer. */
  #roundAt(negative: boolean, x: number, rest: number, shift: number): number {
    const exact = x * powerOfTwo(shift);
    let n = Math.floor(exact);
    let fraction = exact - n;
    this.#inexact = fraction !== 0 || rest !== 0;
    if (!this.#inexact) return n;
    if (fraction === 0) {
      if (rest < 0) n--;
      fraction = rest < 0 ? 0.75 : 0.25;
    } else if (fraction === 0.5 && rest !== 0) fraction = rest < 0 ? 0.25 : 0.75;
    switch (this.rounding) {
      case ROUND.NEAREST:
        return fraction > 0.5 || (fraction === 0.5 && n % 2 === 1) ? n + 1 : n;
      case ROUND.DOWN:
        return negative ? n + 1 : n;
      case ROUND.UP:
        return negative ? n : n + 1;
      default:
        return n;
    }
  }

  /** The masked response: infinity or the largest finite number, by rounding mode (SDM vol. 1, table 4-11). */
  #overflow(format: FloatFormat, negative: boolean): void {
    const exactly = !this.#inexact;
    this.flags |= OE;
    if (!exactly || (this.#masks & OE) !== 0) this.flags |= PE;
    const toInfinity =
      this.rounding === ROUND.NEAREST || this.rounding === (negative ? ROUND.DOWN : ROUND.UP);
    const value = toInfinity ? Number.POSITIVE_INFINITY : format.largest;
    this.result.setNumber(format, negative ? -value : value);
  }
}

/** A number rounded to an integer; zeros keep the sign. */
function roundNumber(value: number, mode: number): number {
  switch (mode) {
    case ROUND.DOWN:
      return Math.floor(value);
    case ROUND.UP:
      return Math.ceil(value);
    case ROUND.ZERO:
      return Math.trunc(value);
    default:
      return nearestInteger(value);
  }
}

function nearestInteger(value: number): number {
  const low = Math.floor(value);
  const fraction = value - low;
  if (fraction === 0 || fraction - fraction !== 0) return value;
  const rounded = fraction > 0.5 || (fraction === 0.5 && low % 2 !== 0) ? low + 1 : low;
  return rounded === 0 && value < 0 ? -0 : rounded;
}
