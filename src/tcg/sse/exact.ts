/**
 * Whether a result that was rounded to nearest is exact: for the generated code, while PE is not set yet. Error-free
 * transformations (Knuth's sum, Dekker's product) give what the result lacks.
 */
import type { Meaning } from '../emit/meaning.ts';
import { S } from '../layout.ts';
import { type Expr, type Local, v128, vector } from '../wasm/index.ts';
import { type FloatShape, splat } from './checks.ts';
import { RC } from './mxcsr.ts';

/** 2^ceil(p/2) + 1 for significands of p bits: splits a number into halves. */
const SPLITTER = { f32x4: 0x4580_0800n, f64x2: 0x41a0_0000_0200_0000n } as const;
/** 2^-100 and 2^-900: products above have errors that are not lost to underflow. */
const SAFE = { f32x4: 0x0d80_0000n, f64x2: 0x07bn << 52n } as const;

/** Whether MXCSR rounds to nearest. */
export function roundsToNearest(c: Meaning): Expr {
  return c.state('i32.load', S.MXCSR).and(RC).eqz();
}

/** Operators of one shape. */
const of = (shape: FloatShape) => ({
  add: (x: Expr, y: Expr) => vector(`${shape}.add`, x, y),
  sub: (x: Expr, y: Expr) => vector(`${shape}.sub`, x, y),
  mul: (x: Expr, y: Expr) => vector(`${shape}.mul`, x, y),
  eq: (x: Expr, y: Expr) => vector(`${shape}.eq`, x, y),
});
const both = (x: Expr, y: Expr) => vector('v128.and', x, y);
const either = (x: Expr, y: Expr) => vector('v128.or', x, y);

/** Lanes where r is exactly a + b. */
export function sumIsExact(c: Meaning, shape: FloatShape, r: Local, a: Local, b: Local): Expr {
  const { add, sub, eq } = of(shape);
  const part = c.let(sub(r, a));
  return eq(add(sub(a, sub(r, part)), sub(b, part)), v128(0n));
}

/** Lanes where r is exactly a - b. */
export function differenceIsExact(c: Meaning, shape: FloatShape, r: Local, a: Local, b: Local): Expr {
  const { add, sub, eq } = of(shape);
  const part = c.let(sub(r, a));
  return eq(sub(sub(a, sub(r, part)), add(b, part)), v128(0n));
}

/** Lanes where r, which is a * b rounded, lacks nothing. Numbers too large to be split are taken for inexact. */
function lacksNothing(c: Meaning, shape: FloatShape, r: Local, a: Local, b: Local): Expr {
  const { sub, mul, eq } = of(shape);
  const halves = (x: Local) => {
    const scaled = c.let(mul(x, splat(shape, SPLITTER[shape])));
    const high = c.let(sub(scaled, sub(scaled, x)));
    return [high, c.let(sub(x, high))];
  };
  const [ah, al] = halves(a);
  const [bh, bl] = halves(b);
  const rest = sub(sub(sub(r, mul(ah, bh)), mul(al, bh)), mul(ah, bl));
  const safe = vector(`${shape}.gt`, r.vector(`${shape}.abs`), splat(shape, SAFE[shape]));
  return both(eq(rest, mul(al, bl)), safe);
}

/** Lanes where r is exactly a * b. */
export function productIsExact(c: Meaning, shape: FloatShape, r: Local, a: Local, b: Local): Expr {
  const { eq } = of(shape);
  return either(lacksNothing(c, shape, r, a, b), either(eq(a, v128(0n)), eq(b, v128(0n))));
}

/** Lanes where r is exactly a / b. */
export function quotientIsExact(c: Meaning, shape: FloatShape, r: Local, a: Local, b: Local): Expr {
  const { mul, eq } = of(shape);
  const back = c.let(mul(r, b));
  return either(both(lacksNothing(c, shape, back, r, b), eq(back, a)), eq(a, v128(0n)));
}

/** Lanes where r is exactly the square root of b. */
export function rootIsExact(c: Meaning, shape: FloatShape, r: Local, b: Local): Expr {
  return quotientIsExact(c, shape, r, b, r);
}
