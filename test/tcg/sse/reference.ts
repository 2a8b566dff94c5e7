/** IEEE 754 arithmetic with integers of any size: slow, short, and made of the definition alone. */
import { DOUBLE, type FloatFormat } from '../../../src/tcg/sse/format.ts';
import { DE, OE, PE, ROUND, UE, ZE } from '../../../src/tcg/sse/mxcsr.ts';

/** A finite number: (-1)^negative * significand * 2^exponent. */
export interface Finite {
  readonly negative: boolean;
  readonly significand: bigint;
  readonly exponent: number;
  readonly denormal: boolean;
}

/** Bits of a result, and flags. */
export interface Outcome {
  readonly bits: bigint;
  readonly flags: number;
}

const fractionBits = (format: FloatFormat) => BigInt(format.precision - 1);
const signBit = (format: FloatFormat) => 1n << BigInt(format.bytes * 8 - 1);
const exponentBits = (format: FloatFormat) => BigInt(2 * format.maxExponent + 1) << fractionBits(format);

/** The number a bit pattern stands for; undefined for infinities and NaN. */
export function decode(format: FloatFormat, bits: bigint): Finite | undefined {
  const fraction = bits & ((1n << fractionBits(format)) - 1n);
  const field = (bits & exponentBits(format)) >> fractionBits(format);
  if (field === BigInt(2 * format.maxExponent + 1)) return undefined;
  const normal = field !== 0n;
  return {
    negative: (bits & signBit(format)) !== 0n,
    significand: normal ? fraction | (1n << fractionBits(format)) : fraction,
    exponent: (normal ? Number(field) : 1) - format.maxExponent - (format.precision - 1),
    denormal: !normal && fraction !== 0n,
  };
}

/** Whole part of something by 2^unit, and how the rest compares: 0 none, 1 below a half, 2 a half, 3 above. */
type Cut = (unit: number) => { whole: bigint; rest: 0 | 1 | 2 | 3 };

/** A positive fraction. */
function quotient(numerator: bigint, denominator: bigint): Cut {
  return (unit) => {
    const n = unit < 0 ? numerator << BigInt(-unit) : numerator;
    const d = unit < 0 ? denominator : denominator << BigInt(unit);
    const left = n % d;
    const rest = left === 0n ? 0 : 2n * left < d ? 1 : 2n * left === d ? 2 : 3;
    return { whole: n / d, rest };
  };
}

/** Newton's iteration from above. */
function squareRoot(square: bigint): bigint {
  if (square < 2n) return square;
  let x = 1n << BigInt((square.toString(2).length + 1) >> 1);
  for (;;) {
    const next = (x + square / x) >> 1n;
    if (next >= x) return x;
    x = next;
  }
}

/** The square root of a positive integer times 2^exponent, exponent even. */
function root(value: bigint, exponent: number): Cut {
  return (unit) => {
    const shift = exponent - 2 * unit;
    const scaled = shift >= 0 ? value << BigInt(shift) : value >> BigInt(-shift);
    const lost = shift < 0 && scaled << BigInt(-shift) !== value;
    const whole = squareRoot(scaled);
    const exact = whole * whole === scaled && !lost;
    // A root is never a tie: its square would have bits that no square of fewer has.
    return { whole, rest: exact ? 0 : (2n * whole + 1n) ** 2n <= 4n * scaled ? 3 : 1 };
  };
}

function isRoundedUp(mode: number, negative: boolean, whole: bigint, rest: number): boolean {
  if (rest === 0) return false;
  if (mode === ROUND.NEAREST) return rest === 3 || (rest === 2 && (whole & 1n) === 1n);
  return mode === (negative ? ROUND.DOWN : ROUND.UP);
}

/** Rounds with all exceptions masked. */
function pack(format: FloatFormat, mode: number, negative: boolean, cut: Cut): Outcome {
  const sign = negative ? signBit(format) : 0n;
  const { precision, minExponent, maxExponent } = format;
  const rounded = (unit: number) => {
    const { whole, rest } = cut(unit);
    return { n: isRoundedUp(mode, negative, whole, rest) ? whole + 1n : whole, exact: rest === 0 };
  };
  let unit = minExponent - precision + 1;
  // With unlimited exponents: the unit at which the whole part has all bits of the precision.
  let free = -2200;
  for (let bits = 0; bits !== precision; free += bits - precision) bits = cut(free).whole.toString(2).length;
  const tiny = free < unit && !(free === unit - 1 && rounded(free).n >> BigInt(precision) !== 0n);
  unit = Math.max(unit, free);
  const { n: at, exact } = rounded(unit);
  let n = at;
  if (n >> BigInt(precision) !== 0n) {
    n >>= 1n;
    unit++;
  }
  if (unit > maxExponent - precision + 1) {
    const infinite = mode === ROUND.NEAREST || mode === (negative ? ROUND.DOWN : ROUND.UP);
    return { bits: sign | (exponentBits(format) - (infinite ? 0n : 1n)), flags: OE | PE };
  }
  const normal = n >> BigInt(precision - 1) !== 0n;
  const field = normal ? BigInt(unit + precision - 1 + maxExponent) : 0n;
  const fraction = n & ((1n << fractionBits(format)) - 1n);
  const flags = exact ? 0 : tiny ? UE | PE : PE;
  return { bits: sign | (field << fractionBits(format)) | fraction, flags };
}

const value = ({ negative, significand, exponent }: Finite, unit: number) =>
  (negative ? -significand : significand) << BigInt(exponent - unit);

/** a + b, a * b, a / b or the root of b; all operands finite, and the root's not negative. */
export function compute(
  operation: 'add' | 'mul' | 'div' | 'sqrt',
  format: FloatFormat,
  mode: number,
  a: Finite,
  b: Finite,
): Outcome | undefined {
  const zero = (negative: boolean, flags = 0): Outcome => ({ bits: negative ? signBit(format) : 0n, flags });
  const finish = (outcome: Outcome, ...operands: Finite[]): Outcome => ({
    bits: outcome.bits,
    flags: outcome.flags | (operands.some(({ denormal }) => denormal) ? DE : 0),
  });
  const unit = Math.min(a.exponent, b.exponent);
  const negative = a.negative !== b.negative;
  const power = (exponent: number) => 1n << BigInt(Math.max(0, exponent));
  switch (operation) {
    case 'add': {
      const sum = value(a, unit) + value(b, unit);
      if (sum === 0n) {
        const same = a.significand === 0n && a.negative === b.negative;
        return finish(zero(same ? a.negative : mode === ROUND.DOWN), a, b);
      }
      const magnitude = sum < 0n ? -sum : sum;
      return finish(pack(format, mode, sum < 0n, quotient(magnitude * power(unit), power(-unit))), a, b);
    }
    case 'mul': {
      if (a.significand === 0n || b.significand === 0n) return finish(zero(negative), a, b);
      const exponent = a.exponent + b.exponent;
      const product = a.significand * b.significand;
      return finish(
        pack(format, mode, negative, quotient(product * power(exponent), power(-exponent))),
        a,
        b,
      );
    }
    case 'div': {
      if (b.significand === 0n) {
        if (a.significand === 0n) return undefined;
        return { bits: (negative ? signBit(format) : 0n) | exponentBits(format), flags: ZE };
      }
      if (a.significand === 0n) return finish(zero(negative), b);
      const exponent = a.exponent - b.exponent;
      const cut = quotient(a.significand * power(exponent), b.significand * power(-exponent));
      return finish(pack(format, mode, negative, cut), a, b);
    }
    default: {
      if (b.significand === 0n) return zero(b.negative);
      if (b.negative) return undefined;
      const odd = b.exponent & 1;
      return finish(pack(format, mode, false, root(b.significand << BigInt(odd), b.exponent - odd)), b);
    }
  }
}

/** A finite double as a single. */
export function narrow(format: FloatFormat, mode: number, b: Finite): Outcome {
  const one: Finite = { negative: false, significand: 1n, exponent: 0, denormal: false };
  const { bits, flags } = compute('mul', format, mode, b, one)!;
  return { bits, flags };
}

/** An integer in a format. */
export function fromInteger(format: FloatFormat, mode: number, integer: bigint): Outcome {
  const significand = integer < 0n ? -integer : integer;
  const one = decode(DOUBLE, 0x3ff0n << 48n)!;
  const finite = { negative: integer < 0n, significand, exponent: 0, denormal: false };
  return compute('mul', format, mode, finite, { ...one, significand: 1n, exponent: 0 })!;
}
