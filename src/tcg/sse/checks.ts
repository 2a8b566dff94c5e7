/**
 * When WebAssembly's floating-point arithmetic is the processor's: conditions for the generated code.
 *
 * WebAssembly rounds to nearest, has neither flags nor MXCSR, and leaves open which NaN a result is. So a result is
 * taken only when none of that could be seen: MXCSR rounds to nearest and has PE set and masked, the operands are zeros
 * or normal numbers, and the result is a normal number or an exact zero. The rest is done in TypeScript.
 */
import type { Meaning } from '../emit/meaning.ts';
import { S } from '../layout.ts';
import { SYSTEM } from '../table/system-operations.ts';
import { type Expr, type Local, v128, vector } from '../wasm/index.ts';
import { PLAIN, PLAIN_MASK } from './mxcsr.ts';

export type FloatShape = 'f32x4' | 'f64x2';

const LEAST_NORMAL = { f32x4: 0x0080_0000n, f64x2: 0x0010n << 48n } as const;
const INFINITY = { f32x4: 0x7f80_0000n, f64x2: 0x7ff0n << 48n } as const;

/** A bit pattern in all lanes. */
export function splat(shape: FloatShape, bits: bigint): Expr {
  let all = 0n;
  const width = shape === 'f32x4' ? 32n : 64n;
  for (let at = 0n; at < 128n; at += width) all |= bits << at;
  return v128(all);
}

/** Whether MXCSR allows to take results that are rounded to nearest, and not to say so. */
export function isPlain(c: Meaning): Expr {
  return c.state('i32.load', S.MXCSR).and(PLAIN_MASK).eq(PLAIN);
}

/** Whether a mask is set in all lanes, or in the lowest. */
export function holds(shape: FloatShape, scalar: boolean, mask: Expr): Expr {
  if (scalar) return mask.lane('i32x4', 0);
  return mask.vector(shape === 'f32x4' ? 'i32x4.all_true' : 'i64x2.all_true');
}

const abs = (shape: FloatShape, x: Expr) => x.vector(`${shape}.abs`);
const both = (...masks: Expr[]) => masks.reduce((a, b) => vector('v128.and', a, b));
const either = (...masks: Expr[]) => masks.reduce((a, b) => vector('v128.or', a, b));
const isZero = (shape: FloatShape, x: Expr) => vector(`${shape}.eq`, x, v128(0n));
const isBounded = (shape: FloatShape, x: Expr) =>
  vector(`${shape}.lt`, abs(shape, x), splat(shape, INFINITY[shape]));
const isNormalOrInfinite = (shape: FloatShape, x: Expr) =>
  vector(`${shape}.ge`, abs(shape, x), splat(shape, LEAST_NORMAL[shape]));
/** The smallest normal number may have been rounded to, from below. */
const isAboveTiny = (shape: FloatShape, x: Expr) =>
  vector(`${shape}.gt`, abs(shape, x), splat(shape, LEAST_NORMAL[shape]));

/** Neither denormal nor NaN. */
export function isOrdinary(shape: FloatShape, x: Local): Expr {
  return either(isNormalOrInfinite(shape, x), isZero(shape, x));
}

/** The least magnitude in each lane. */
function least(shape: FloatShape, ...values: Local[]): Expr {
  return values.map((x) => abs(shape, x)).reduce((a, b) => vector(`${shape}.pmin`, a, b));
}

/** The usual case in few instructions: normal operands, normal result. */
export function allNormal(shape: FloatShape, result: Local, ...operands: Local[]): Expr {
  const smallest = least(shape, result, ...operands);
  return both(vector(`${shape}.gt`, smallest, splat(shape, LEAST_NORMAL[shape])), isBounded(shape, result));
}

/** A sum or difference without any flag but PE. Where the result is zero it is exact. */
export function sumIsOrdinary(shape: FloatShape, r: Local, a: Local, b: Local): Expr {
  return both(isOrdinary(shape, a), isOrdinary(shape, b), isOrdinary(shape, r), isBounded(shape, r));
}
/** A product: zero only of a zero. */
export function productIsOrdinary(shape: FloatShape, r: Local, a: Local, b: Local): Expr {
  const exact = either(isAboveTiny(shape, r), isZero(shape, a), isZero(shape, b));
  return both(isOrdinary(shape, a), isOrdinary(shape, b), isBounded(shape, r), exact);
}
/** A quotient: zero only of a zero. */
export function quotientIsOrdinary(shape: FloatShape, r: Local, a: Local, b: Local): Expr {
  const exact = either(isAboveTiny(shape, r), isZero(shape, a));
  return both(isOrdinary(shape, a), isOrdinary(shape, b), isBounded(shape, r), exact);
}
/** A square root. */
export function rootIsOrdinary(shape: FloatShape, r: Local, b: Local): Expr {
  return both(isOrdinary(shape, b), isBounded(shape, r));
}
/** A number in single precision made of one in double; both have the shape of their kind. */
export function demotedIsOrdinary(r: Local, wasZero: Expr): Expr {
  return both(isBounded('f32x4', r), either(isAboveTiny('f32x4', r), wasZero));
}

/** Carries the instruction out in TypeScript. */
export function carryOut(c: Meaning, source: Expr, detail: number): void {
  c.setState('v128.store', S.SSE_SOURCE, source);
  c.system(SYSTEM.SSE_FLOAT, detail);
}
