import { describe, expect, it } from 'vitest';
import { COMPARISON, FloatUnit } from '../../../src/tcg/sse/float-unit.ts';
import { DOUBLE, type FloatFormat, SINGLE } from '../../../src/tcg/sse/format.ts';
import { DAZ, DE, FTZ, IE, MASK_SHIFT, OE, PE, ROUND, UE, ZE } from '../../../src/tcg/sse/mxcsr.ts';
import { Random } from '../generate-cases.ts';
import { floatBits } from './operands.ts';
import { compute, decode, type Finite, fromInteger, narrow } from './reference.ts';

const MASKED = 0x1f80;
const CASES = 500;
const MODES = Object.entries(ROUND);
const FORMATS = [
  ['single', SINGLE, 'f32'],
  ['double', DOUBLE, 'f64'],
] as const;

const unit = new FloatUnit();

function words(format: FloatFormat, bits: bigint): [number, number] {
  const low = Number(bits & 0xffff_ffffn) | 0;
  return format === SINGLE ? [low, 0] : [Number(bits >> 32n) | 0, low];
}

function result(format: FloatFormat): bigint {
  const { hi, lo } = unit.result;
  const high = BigInt(hi >>> 0);
  return format === SINGLE ? high : (high << 32n) | BigInt(lo >>> 0);
}

/** Runs one operation; gives bits and flags. */
function run(format: FloatFormat, mxcsr: number, a: bigint, b: bigint, operation: () => void, to = format) {
  unit.begin(mxcsr);
  unit.setA(format, ...words(format, a));
  unit.setB(format, ...words(format, b));
  operation();
  return { bits: result(to), flags: unit.flags };
}

/** Finite operands. */
function* pairs(kind: 'f32' | 'f64', format: FloatFormat): Generator<[bigint, bigint, Finite, Finite]> {
  const r = new Random(20);
  for (let i = 0; i < CASES; i++) {
    const [a, b] = [floatBits(r, kind), floatBits(r, kind)];
    const [x, y] = [decode(format, a), decode(format, b)];
    if (x !== undefined && y !== undefined) yield [a, b, x, y];
  }
}

describe.each(FORMATS)('finite numbers in %s precision', (_name, format, kind) => {
  const operations = {
    add: () => unit.add(format),
    mul: () => unit.mul(format),
    div: () => unit.div(format),
    sqrt: () => unit.sqrt(format),
  };

  it.each(MODES)('rounded %s are what arithmetic with integers gives, with the same flags', (_mode, mode) => {
    for (const [a, b, x, y] of pairs(kind, format)) {
      for (const name of ['add', 'mul', 'div', 'sqrt'] as const) {
        const wanted = compute(name, format, mode, x, y);
        if (wanted === undefined) continue;
        const got = run(format, MASKED | (mode << 13), a, b, operations[name]);
        expect({ name, a, b, ...got }).toEqual({ name, a, b, ...wanted });
      }
    }
  });

  it('made of integers of 64 bits are rounded once', () => {
    const r = new Random(3);
    for (let i = 0; i < CASES; i++) {
      const integer = BigInt.asIntN(64, r.u64() >> BigInt(r.below(64)));
      for (const mode of Object.values(ROUND)) {
        unit.begin(MASKED | (mode << 13));
        unit.fromInteger(format, Number(integer >> 32n), Number(integer & 0xffff_ffffn));
        const wanted = fromInteger(format, mode, integer);
        expect({ integer, bits: result(format), flags: unit.flags }).toEqual({ integer, ...wanted });
      }
    }
  });
});

describe('a double made a single', () => {
  it.each(MODES)('is rounded %s', (_mode, mode) => {
    for (const [, b, , y] of pairs('f64', DOUBLE)) {
      const got = run(DOUBLE, MASKED | (mode << 13), 0n, b, () => unit.convert(DOUBLE, SINGLE), SINGLE);
      expect({ b, ...got }).toEqual({ b, ...narrow(SINGLE, mode, y) });
    }
  });
});

const INFINITY = 0x7ff0n << 48n;
const QNAN = (0x7ff8n << 48n) | 5n;
const SNAN = (0x7ff0n << 48n) | 7n;
const INDEFINITE = 0xfff8n << 48n;
const SIGN = 1n << 63n;
const ONE = 0x3ff0n << 48n;
const DENORMAL = 1n;
const LEAST = 0x0010n << 48n;
const LARGEST = INFINITY - 1n;

describe('what is not a number', () => {
  const add = (a: bigint, b: bigint) => run(DOUBLE, MASKED, a, b, () => unit.add(DOUBLE));

  it.each([
    ['the first of two', QNAN, QNAN | SIGN, QNAN, 0],
    ['the second', ONE, QNAN, QNAN, 0],
    ['a signaling one, made quiet', SNAN, QNAN, SNAN | (8n << 48n), IE],
    ['a quiet one before a signaling one', QNAN, SNAN, QNAN, IE],
    ['no denormal beside it', DENORMAL, QNAN, QNAN, 0],
  ])('is the result: %s', (_name, a, b, bits, flags) => {
    expect(add(a, b)).toEqual({ bits, flags });
  });

  it.each([
    ['infinity - infinity', () => unit.add(DOUBLE, true), INFINITY, INFINITY],
    ['0 * infinity', () => unit.mul(DOUBLE), 0n, INFINITY],
    ['0 / 0', () => unit.div(DOUBLE), 0n, SIGN],
    ['infinity / infinity', () => unit.div(DOUBLE), INFINITY, INFINITY],
    ['the root of -1', () => unit.sqrt(DOUBLE), 0n, ONE | SIGN],
    ['the root of a negative denormal', () => unit.sqrt(DOUBLE), 0n, DENORMAL | SIGN],
  ])('comes of %s', (_name, operation, a, b) => {
    expect(run(DOUBLE, MASKED, a, b, operation)).toEqual({ bits: INDEFINITE, flags: IE });
  });

  it('keeps its upper bits in the other precision', () => {
    const single = run(
      DOUBLE,
      MASKED,
      0n,
      0xfff4_5678_9abc_def0n,
      () => unit.convert(DOUBLE, SINGLE),
      SINGLE,
    );
    expect(single).toEqual({ bits: 0xffe2_b3c4n, flags: IE });
    const double = run(SINGLE, MASKED, 0n, 0x7fc1_2345n, () => unit.convert(SINGLE, DOUBLE), DOUBLE);
    expect(double).toEqual({ bits: 0x7ff8_2468_a000_0000n, flags: 0 });
  });
});

describe('MINSD and MAXSD', () => {
  const min = (a: bigint, b: bigint) => run(DOUBLE, MASKED, a, b, () => unit.minMax(false));
  it('give the source for zeros and NaN', () => {
    expect(min(0n, SIGN)).toEqual({ bits: SIGN, flags: 0 });
    expect(min(SIGN, 0n)).toEqual({ bits: 0n, flags: 0 });
    expect(min(QNAN, ONE)).toEqual({ bits: ONE, flags: IE });
    expect(min(ONE, SNAN)).toEqual({ bits: SNAN, flags: IE });
  });
});

describe('a comparison', () => {
  const compare = (a: bigint, b: bigint, signals: boolean) => {
    unit.begin(MASKED);
    unit.setA(DOUBLE, ...words(DOUBLE, a));
    unit.setB(DOUBLE, ...words(DOUBLE, b));
    return [unit.compare(signals), unit.flags];
  };
  it('finds quiet NaN invalid only where it is told to', () => {
    expect(compare(QNAN, ONE, false)).toEqual([COMPARISON.UNORDERED, 0]);
    expect(compare(QNAN, ONE, true)).toEqual([COMPARISON.UNORDERED, IE]);
    expect(compare(SNAN, ONE, false)).toEqual([COMPARISON.UNORDERED, IE]);
    expect(compare(0n, SIGN, true)).toEqual([COMPARISON.EQUAL, 0]);
    expect(compare(DENORMAL, ONE, true)).toEqual([COMPARISON.LESS, DE]);
  });
});

describe('denormals', () => {
  it('are zeros of their sign with DAZ, and not told', () => {
    const sum = run(DOUBLE, MASKED | DAZ, DENORMAL | SIGN, SIGN, () => unit.add(DOUBLE));
    expect(sum).toEqual({ bits: SIGN, flags: 0 });
    const quotient = run(DOUBLE, MASKED | DAZ, ONE, DENORMAL, () => unit.div(DOUBLE));
    expect(quotient).toEqual({ bits: INFINITY, flags: ZE });
  });

  it('become zeros of their sign with FTZ, even exact ones', () => {
    const difference = run(DOUBLE, MASKED | FTZ, LEAST, LEAST + 1n, () => unit.add(DOUBLE, true));
    expect(difference).toEqual({ bits: SIGN, flags: UE | PE });
  });

  it('are no underflow when they are exact', () => {
    const difference = run(DOUBLE, MASKED, LEAST, LEAST + 1n, () => unit.add(DOUBLE, true));
    expect(difference).toEqual({ bits: SIGN | 1n, flags: 0 });
  });

  it('are an underflow even when they are exact, if it is not masked', () => {
    const unmasked = MASKED & ~(UE << MASK_SHIFT);
    const { flags } = run(DOUBLE, unmasked, LEAST, LEAST + 1n, () => unit.add(DOUBLE, true));
    expect([flags, unit.unmasked]).toEqual([UE, true]);
  });

  it('are what is rounded, not what is smaller before: tininess is found after rounding', () => {
    // (1 + 2^-52) * (least normal - least denormal) is just below the least normal number, but rounds to it.
    const product = run(DOUBLE, MASKED, ONE + 1n, LEAST - 1n, () => unit.mul(DOUBLE));
    expect(product).toEqual({ bits: LEAST, flags: DE | PE });
  });
});

describe('flags', () => {
  it('of what is computed are not reported beside an unmasked one that prevents it', () => {
    unit.begin(MASKED & ~(IE << MASK_SHIFT));
    unit.flags = IE | DE | OE | PE;
    expect([unit.unmasked, unit.reported]).toEqual([true, IE | DE]);
    unit.begin(MASKED & ~(OE << MASK_SHIFT));
    unit.flags = DE | OE | PE;
    expect([unit.unmasked, unit.reported]).toEqual([true, DE | OE | PE]);
  });

  it.each([
    ['NEAREST', INFINITY, INFINITY | SIGN],
    ['DOWN', LARGEST, INFINITY | SIGN],
    ['UP', INFINITY, LARGEST | SIGN],
    ['ZERO', LARGEST, LARGEST | SIGN],
  ] as const)('of an overflow rounded %s come with infinity or the largest number', (mode, up, down) => {
    const control = MASKED | (ROUND[mode] << 13);
    const twice = (x: bigint) => run(DOUBLE, control, x, x, () => unit.add(DOUBLE));
    expect(twice(LARGEST)).toEqual({ bits: up, flags: OE | PE });
    expect(twice(LARGEST | SIGN)).toEqual({ bits: down, flags: OE | PE });
  });
});

describe('integers', () => {
  const toInteger = (value: number, bits: 32 | 64, mode: number) => {
    const view = new DataView(new ArrayBuffer(8));
    view.setFloat64(0, value);
    unit.begin(MASKED);
    unit.setB(DOUBLE, view.getInt32(0), view.getInt32(4));
    return [unit.toInteger(bits, mode), unit.flags];
  };
  it.each([
    [2.5, ROUND.NEAREST, 2],
    [3.5, ROUND.NEAREST, 4],
    [-2.5, ROUND.NEAREST, -2],
    [-2.5, ROUND.DOWN, -3],
    [2.5, ROUND.UP, 3],
    [-2.5, ROUND.ZERO, -2],
  ])('%d rounded by mode %d is %d', (value, mode, integer) => {
    expect(toInteger(value, 32, mode)).toEqual([integer, PE]);
  });
  it('that do not fit are indefinite, and not inexact', () => {
    expect(toInteger(2 ** 31 - 0.5, 32, ROUND.NEAREST)).toEqual([undefined, IE]);
    expect(toInteger(2 ** 31 - 0.5, 32, ROUND.ZERO)).toEqual([2 ** 31 - 1, PE]);
    expect(toInteger(-(2 ** 31) - 0.5, 32, ROUND.NEAREST)).toEqual([-(2 ** 31), PE]);
    expect(toInteger(2 ** 63, 64, ROUND.NEAREST)).toEqual([undefined, IE]);
    expect(toInteger(-(2 ** 63), 64, ROUND.NEAREST)).toEqual([-(2 ** 63), 0]);
    expect(toInteger(Number.NaN, 64, ROUND.NEAREST)).toEqual([undefined, IE]);
  });
  it('keep the sign of zero where they stay floats', () => {
    const round = (value: bigint, mode: number, quietly: boolean) =>
      run(DOUBLE, MASKED, 0n, value, () => unit.roundToInteger(DOUBLE, mode, quietly));
    expect(round(0xbfd0n << 48n, ROUND.NEAREST, false)).toEqual({ bits: SIGN, flags: PE });
    expect(round(0xbfd0n << 48n, ROUND.UP, true)).toEqual({ bits: SIGN, flags: 0 });
    expect(round(DENORMAL, ROUND.UP, false)).toEqual({ bits: ONE, flags: PE });
  });
});
