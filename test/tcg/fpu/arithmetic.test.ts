import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { add, divide, multiply, squareRoot } from '../../../src/tcg/fpu/arithmetic.ts';
import { fromDouble, fromInteger, toDouble, toInteger } from '../../../src/tcg/fpu/convert.ts';
import { Float80, FpuContext, KIND, kindOf, PE } from '../../../src/tcg/fpu/float80.ts';
import { remainder } from '../../../src/tcg/fpu/operations.ts';

const DOUBLE_PRECISION = 0x27f;
const EXTENDED_PRECISION = 0x37f;

function context(fcw: number): FpuContext {
  const c = new FpuContext();
  c.begin(fcw);
  return c;
}

function wide(value: number): Float80 {
  const view = new DataView(new ArrayBuffer(8));
  view.setFloat64(0, value);
  const out = new Float80();
  fromDouble(view.getInt32(0), view.getInt32(4), out);
  return out;
}

function narrow(value: Float80): number {
  const out = new Float80();
  toDouble(context(EXTENDED_PRECISION), value, out);
  const view = new DataView(new ArrayBuffer(8));
  view.setInt32(0, out.hi);
  view.setInt32(4, out.lo);
  return view.getFloat64(0);
}

/** Doubles whose products and quotients stay normal, so that rounding to 53 bits once is what doubles do. */
const moderate = fc
  .tuple(fc.double({ min: 1, max: 2, noNaN: true }), fc.integer({ min: -400, max: 400 }), fc.boolean())
  .map(([m, e, negative]) => (negative ? -m : m) * 2 ** e);

type Operation = (c: FpuContext, a: Float80, b: Float80, out: Float80) => boolean;

describe('arithmetic with 53 bits of precision', () => {
  const pairs: [string, Operation, (a: number, b: number) => number][] = [
    ['addition', (c, a, b, out) => add(c, a, b, out), (a, b) => a + b],
    ['subtraction', (c, a, b, out) => add(c, a, b, out, 0x8000), (a, b) => a - b],
    ['multiplication', multiply, (a, b) => a * b],
    ['division', divide, (a, b) => a / b],
    ['square root', (c, a, _, out) => squareRoot(c, a, out), (a) => Math.sqrt(a)],
  ];
  for (const [name, operation, reference] of pairs) {
    it(`agrees with doubles: ${name}`, () => {
      fc.assert(
        fc.property(moderate, moderate, (a, b) => {
          const out = new Float80();
          operation(context(DOUBLE_PRECISION), wide(a), wide(b), out);
          expect(narrow(out)).toBe(reference(a, b));
        }),
        { numRuns: 2000 },
      );
    });
  }
});

const register = fc
  .tuple(fc.integer({ min: 0, max: 0xffff }), fc.integer(), fc.integer())
  .map(([se, hi, lo]) => new Float80().set(se, hi, lo));
const normal = fc
  .tuple(fc.boolean(), fc.integer({ min: 0x3fff - 30, max: 0x3fff + 30 }), fc.integer(), fc.integer())
  .map(([negative, e, hi, lo]) => new Float80().set((negative ? 0x8000 : 0) | e, hi | -0x8000_0000, lo));
const control = fc.integer({ min: 0, max: 0xf }).map((rounding) => 0x7f | (rounding << 8));

describe('arithmetic on any bits', () => {
  it('has a commutative sum and product', () => {
    fc.assert(
      fc.property(register, register, control, (a, b, fcw) => {
        for (const operation of [add, multiply] as Operation[]) {
          const [x, y] = [new Float80(), new Float80()];
          operation(context(fcw), a, b, x);
          operation(context(fcw), b, a, y);
          // Two NaNs with equal significands give the positive one either way.
          expect(x).toEqual(y);
        }
      }),
    );
  });

  it('never leaves an unsupported encoding or a signaling NaN', () => {
    fc.assert(
      fc.property(register, register, control, (a, b, fcw) => {
        for (const operation of [add, multiply, divide] as Operation[]) {
          const out = new Float80();
          expect(operation(context(fcw), a, b, out)).toBe(true);
          expect(kindOf(out)).toBeLessThan(KIND.SNAN);
        }
      }),
      { numRuns: 1000 },
    );
  });

  it('brackets the exact result between rounding down and up', () => {
    fc.assert(
      fc.property(normal, normal, (a, b) => {
        const [down, up, nearest] = [0x77f, 0xb7f, 0x37f].map((fcw) => {
          const out = new Float80();
          const c = context(fcw);
          divide(c, a, b, out);
          return { value: inUnits(out), inexact: (c.flags & PE) !== 0 };
        });
        expect(down.inexact).toBe(up.inexact);
        expect(down.value < up.value).toBe(down.inexact);
        expect([down.value, up.value]).toContain(nearest.value);
      }),
    );
  });
});

/** A moderate value in units of 2^-200. */
function inUnits(x: Float80): bigint {
  const magnitude = x.significand << BigInt((x.se & 0x7fff) - 0x3fff - 63 + 200);
  return (x.se & 0x8000) === 0 ? magnitude : -magnitude;
}

describe('FPREM', () => {
  it('leaves what exact division leaves', () => {
    fc.assert(
      fc.property(normal, normal, (a, b) => {
        const out = new Float80();
        const conditions = remainder(context(EXTENDED_PRECISION), a, b, false, out);
        // C2 is clear: the exponents differ by less than 64.
        expect(conditions & 0x400).toBe(0);
        expect(out.significand === 0n ? 0n : inUnits(out)).toBe(inUnits(a) % inUnits(b));
      }),
    );
  });
});

describe('integers', () => {
  it('survive a load and a store', () => {
    fc.assert(
      fc.property(fc.bigInt({ min: -(1n << 63n), max: (1n << 63n) - 1n }), (value) => {
        const x = new Float80();
        fromInteger(Number(value >> 32n), Number(value & 0xffff_ffffn) | 0, x);
        const c = context(EXTENDED_PRECISION);
        const out = new Float80();
        toInteger(c, x, 64, 0, out);
        expect((BigInt(out.hi) << 32n) | BigInt(out.lo >>> 0)).toBe(value);
        expect(c.flags).toBe(0);
      }),
    );
  });
});

describe('doubles', () => {
  it('survive a load and a store, NaN payloads too', () => {
    fc.assert(
      fc.property(fc.integer(), fc.integer(), (high, low) => {
        const [x, out] = [new Float80(), new Float80()];
        fromDouble(high, low, x);
        const signaling = kindOf(x) === KIND.SNAN;
        toDouble(context(EXTENDED_PRECISION), x, out);
        expect([out.hi, out.lo]).toEqual([signaling ? high | 0x8_0000 : high, low]);
      }),
      {
        examples: [
          [0x7ff0_0000, 1],
          [0x7ff8_0000, 5],
          [0, 1],
          [-0x8000_0000, 0],
        ],
      },
    );
  });
});
