/**
 * SSE to SSE4.1 floating point (SDM vol. 2): arithmetic, comparisons, rounding. The ordinary case is WebAssembly's
 * arithmetic, the rest is src/tcg/sse/operations.ts.
 */
import type { Meaning } from '../emit/meaning.ts';
import { R, S } from '../layout.ts';
import {
  allNormal,
  carryOut,
  type FloatShape,
  holds,
  isOrdinary,
  isPlain,
  productIsOrdinary,
  quotientIsOrdinary,
  rootIsOrdinary,
  splat,
  sumIsOrdinary,
} from '../sse/checks.ts';
import {
  differenceIsExact,
  productIsExact,
  quotientIsExact,
  rootIsExact,
  roundsToNearest,
  sumIsExact,
} from '../sse/exact.ts';
import { DAZ, PE, PM } from '../sse/mxcsr.ts';
import { DOUBLE_PRECISION, FLOAT_OPERATION, PACKED } from '../sse/operation.ts';
import { type Expr, f32, f64, type Local, select, v128, vector } from '../wasm/index.ts';
import { Table, UNIT } from './instruction.ts';

export const vectorFloat = new Table();

const SSE2 = { feature: 'sse2' };
const SSE3 = { feature: 'sse3' };
const SSE41 = { feature: 'sse4_1' };

/** The four forms of an operation: packed and scalar, single and double. */
const FORMS = [
  { suffix: 'ps', prefix: 'np', operand: 'x', shape: 'f32x4', scalar: false },
  { suffix: 'pd', prefix: '66', operand: 'x', shape: 'f64x2', scalar: false },
  { suffix: 'ss', prefix: 'f3', operand: 'd', shape: 'f32x4', scalar: true },
  { suffix: 'sd', prefix: 'f2', operand: 'q', shape: 'f64x2', scalar: true },
] as const;

/** The low lane from one vector, the rest from another. */
function mergeLow(shape: FloatShape, low: Expr, rest: Expr): Expr {
  const lane = Array.from({ length: 16 }, (_, i) => (i < (shape === 'f32x4' ? 4 : 8) ? i : i + 16));
  return low.shuffle(rest, lane);
}

/** An operation of the table in src/tcg/sse/operation.ts, in one of its forms. */
function detail(operation: keyof typeof FLOAT_OPERATION, shape: FloatShape, scalar: boolean): number {
  return FLOAT_OPERATION[operation] | (shape === 'f64x2' ? DOUBLE_PRECISION : 0) | (scalar ? 0 : PACKED);
}

/** When a result that was rounded to nearest may be taken: masks of lanes. */
interface Conditions {
  /** A cheap condition that holds nearly always, if there is one. */
  readonly usual?: Expr;
  /** The result raises no flag but PE. */
  readonly ordinary: () => Expr;
  /** It does not raise PE either. */
  readonly exact: () => Expr;
}

/** Carries the instruction out in TypeScript unless MXCSR and the result let it be. */
function unlessOrdinaryResult(
  c: Meaning,
  shape: FloatShape,
  scalar: boolean,
  { usual, ordinary, exact }: Conditions,
  otherwise: () => void,
): void {
  const holdsFor = (mask: Expr) => holds(shape, scalar, mask);
  const unless = (condition: Expr, then: () => void) => c.f.if_(condition.eqz(), then);
  const unlessExact = () => {
    const mask = c.let(ordinary());
    unless(isPlain(c).and(holdsFor(mask)), () =>
      unless(roundsToNearest(c).and(holdsFor(vector('v128.and', mask, exact()))), otherwise),
    );
  };
  if (usual === undefined) unlessExact();
  else unless(isPlain(c).and(holdsFor(usual)), unlessExact);
}

for (const [name, opcode, operator, operation, isOrdinaryResult, isExact] of [
  ['add', '58', 'add', 'ADD', sumIsOrdinary, sumIsExact],
  ['mul', '59', 'mul', 'MUL', productIsOrdinary, productIsExact],
  ['sub', '5c', 'sub', 'SUB', sumIsOrdinary, differenceIsExact],
  ['div', '5e', 'div', 'DIV', quotientIsOrdinary, quotientIsExact],
] as const) {
  for (const { suffix, prefix, operand, shape, scalar } of FORMS) {
    vectorFloat.add(`${name}${suffix}`, `${prefix}.0f.${opcode} Vx,W${operand}`, SSE2, (c) => {
      const a = c.let(c.readVector(0));
      const b = c.let(c.readVector(1));
      const r = c.let(vector(`${shape}.${operator}`, a, b));
      const conditions = {
        usual: allNormal(shape, r, a, b),
        ordinary: () => isOrdinaryResult(shape, r, a, b),
        exact: () => isExact(c, shape, r, a, b),
      };
      unlessOrdinaryResult(c, shape, scalar, conditions, () =>
        carryOut(c, b, detail(operation, shape, scalar)),
      );
      c.writeVector(0, scalar ? mergeLow(shape, r, a) : r);
    });
  }
}
for (const { suffix, prefix, operand, shape, scalar } of FORMS) {
  vectorFloat.add(`sqrt${suffix}`, `${prefix}.0f.51 Vx,W${operand}`, SSE2, (c) => {
    const b = c.let(c.readVector(1));
    const r = c.let(b.vector(`${shape}.sqrt`));
    const conditions = {
      ordinary: () => rootIsOrdinary(shape, r, b),
      exact: () => rootIsExact(c, shape, r, b),
    };
    unlessOrdinaryResult(c, shape, scalar, conditions, () => carryOut(c, b, detail('SQRT', shape, scalar)));
    c.writeVector(0, scalar ? mergeLow(shape, r, c.readVector(0)) : r);
  });
}

/** Carries the instruction out in TypeScript if an operand is a denormal or a NaN: MXCSR does not matter else. */
function unlessOrdinary(
  c: Meaning,
  shape: FloatShape,
  scalar: boolean,
  operands: readonly Local[],
  operation: keyof typeof FLOAT_OPERATION,
): void {
  const ordinary = operands.map((x) => isOrdinary(shape, x)).reduce((x, y) => vector('v128.and', x, y));
  c.f.if_(holds(shape, scalar, ordinary).eqz(), () =>
    carryOut(c, operands[operands.length - 1], detail(operation, shape, scalar)),
  );
}

// The source, when the comparison is false or unordered: the pseudo-minimum with operands exchanged.
for (const [name, opcode, operator, operation] of [
  ['min', '5d', 'pmin', 'MIN'],
  ['max', '5f', 'pmax', 'MAX'],
] as const) {
  for (const { suffix, prefix, operand, shape, scalar } of FORMS) {
    vectorFloat.add(`${name}${suffix}`, `${prefix}.0f.${opcode} Vx,W${operand}`, SSE2, (c) => {
      const a = c.let(c.readVector(0));
      const b = c.let(c.readVector(1));
      unlessOrdinary(c, shape, scalar, [a, b], operation);
      const r = vector(`${shape}.${operator}`, b, a);
      c.writeVector(0, scalar ? mergeLow(shape, r, a) : r);
    });
  }
}

/** The eight predicates of CMPPS and its kin, for operands that are not NaN. */
function compare(shape: FloatShape, predicate: number, a: Local, b: Local): Expr {
  const positive = [
    vector(`${shape}.eq`, a, b),
    vector(`${shape}.lt`, a, b),
    vector(`${shape}.le`, a, b),
    v128(0n),
  ][predicate & 3];
  return predicate & 4 ? vector('v128.not', positive) : positive;
}
for (const { suffix, prefix, operand, shape, scalar } of FORMS) {
  vectorFloat.add(`cmp${suffix}`, `${prefix}.0f.c2 Vx,W${operand},Ib`, SSE2, (c) => {
    const a = c.let(c.readVector(0));
    const b = c.let(c.readVector(1));
    unlessOrdinary(c, shape, scalar, [a, b], 'CMP');
    const predicate = c.let(c.record('i32.load8_u', R.IMMEDIATE).and(7));
    const r = c.f.local('v128');
    c.f.set(r, compare(shape, 0, a, b));
    for (let k = 1; k < 8; k++) c.f.if_(predicate.eq(k), () => c.f.set(r, compare(shape, k, a, b)));
    c.writeVector(0, scalar ? mergeLow(shape, r, a) : r);
  });
}

for (const [name, opcode, operation] of [
  ['ucomis', '2e', 'UCOMI'],
  ['comis', '2f', 'COMI'],
] as const) {
  for (const [suffix, prefix, operand, shape] of [
    ['s', 'np', 'd', 'f32x4'],
    ['d', '66', 'q', 'f64x2'],
  ] as const) {
    vectorFloat.add(`${name}${suffix}`, `${prefix}.0f.${opcode} Vx,W${operand}`, SSE2, (c) => {
      const a = c.let(c.readVector(0));
      const b = c.let(c.readVector(1));
      unlessOrdinary(c, shape, true, [a, b], operation);
      const [x, y] = [a.lane(shape, 0), b.lane(shape, 0)];
      c.flags.load(c.let(x.lt(y).or(x.eq(y).shl(6)).wide()));
    });
  }
}

// Reciprocals. Their results are estimates (relative error below 1.5 * 2^-12) that differ between processors, and exact
// ones are allowed. They raise no exceptions and ignore MXCSR: denormals are zeros, results that would be denormal too.
for (const [name, opcode, root] of [
  ['rcp', '53', false],
  ['rsqrt', '52', true],
] as const) {
  for (const [suffix, prefix, operand, scalar] of [
    ['ps', 'np', 'x', false],
    ['ss', 'f3', 'd', true],
  ] as const) {
    vectorFloat.add(`${name}${suffix}`, `${prefix}.0f.${opcode} Vx,W${operand}`, SSE2, (c) => {
      const b = c.let(c.readVector(1));
      const r = c.let(estimate(c, b, root));
      c.writeVector(0, scalar ? mergeLow('f32x4', r, c.readVector(0)) : r);
    });
  }
}

/** 1/b, or 1/sqrt(b). */
function estimate(c: Meaning, b: Local, root: boolean): Expr {
  const choose = (mask: Expr, yes: Expr, no: Expr) => vector('v128.bitselect', yes, no, mask);
  const one = splat('f32x4', 0x3f80_0000n);
  const signs = splat('f32x4', 0x8000_0000n);
  const isTiny = (x: Expr) => vector('f32x4.lt', x.vector('f32x4.abs'), splat('f32x4', 0x0080_0000n));
  const x = c.let(choose(isTiny(b), vector('v128.and', b, signs), b));
  const exact = c.let(vector('f32x4.div', one, root ? x.vector('f32x4.sqrt') : x));
  const flushed = choose(isTiny(exact), vector('v128.and', exact, signs), exact);
  const quiet = vector('v128.or', b, splat('f32x4', 0x0040_0000n));
  const number = root
    ? choose(vector('f32x4.lt', x, v128(0n)), splat('f32x4', 0xffc0_0000n), flushed)
    : flushed;
  return choose(vector('f32x4.ne', b, b), quiet, number);
}

// SSE3: horizontal and alternating.
const SHUFFLE = {
  f32x4: {
    even: [0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27],
    odd: [4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31],
  },
  f64x2: {
    even: [0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23],
    odd: [8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31],
  },
} as const;
for (const [suffix, prefix, shape] of [
  ['ps', 'f2', 'f32x4'],
  ['pd', '66', 'f64x2'],
] as const) {
  for (const [name, opcode, operator, operation, isExact] of [
    ['hadd', '7c', 'add', 'HADD', sumIsExact],
    ['hsub', '7d', 'sub', 'HSUB', differenceIsExact],
  ] as const) {
    vectorFloat.add(`${name}${suffix}`, `${prefix}.0f.${opcode} Vx,Wx`, SSE3, (c) => {
      const a = c.let(c.readVector(0));
      const b = c.let(c.readVector(1));
      const even = c.let(a.shuffle(b, SHUFFLE[shape].even));
      const odd = c.let(a.shuffle(b, SHUFFLE[shape].odd));
      const r = c.let(vector(`${shape}.${operator}`, even, odd));
      const conditions = {
        ordinary: () => sumIsOrdinary(shape, r, even, odd),
        exact: () => isExact(c, shape, r, even, odd),
      };
      unlessOrdinaryResult(c, shape, false, conditions, () =>
        carryOut(c, b, detail(operation, shape, false)),
      );
      c.writeVector(0, r);
    });
  }
  vectorFloat.add(`addsub${suffix}`, `${prefix}.0f.d0 Vx,Wx`, SSE3, (c) => {
    const a = c.let(c.readVector(0));
    const b = c.let(c.readVector(1));
    const bytes = shape === 'f32x4' ? 4 : 8;
    // Even lanes are subtracted, odd ones added.
    const lanes = Array.from({ length: 16 }, (_, i) => (Math.floor(i / bytes) % 2 === 0 ? i : i + 16));
    const r = c.let(vector(`${shape}.sub`, a, b).shuffle(vector(`${shape}.add`, a, b), lanes));
    c.f.if_(
      isPlain(c)
        .and(holds(shape, false, sumIsOrdinary(shape, r, a, b)))
        .eqz(),
      () => carryOut(c, b, detail('ADDSUB', shape, false)),
    );
    c.writeVector(0, r);
  });
}

// SSE4.1: rounding, dot products.
for (const [suffix, opcode, operand, shape, scalar] of [
  ['ps', '08', 'x', 'f32x4', false],
  ['pd', '09', 'x', 'f64x2', false],
  ['ss', '0a', 'd', 'f32x4', true],
  ['sd', '0b', 'q', 'f64x2', true],
] as const) {
  vectorFloat.add(`round${suffix}`, `66.0f3a.${opcode} Vx,W${operand},Ib`, SSE41, (c) => {
    const b = c.let(c.readVector(1));
    const control = c.let(c.record('i32.load8_u', R.IMMEDIATE));
    const mxcsr = c.let(c.state('i32.load', S.MXCSR));
    // Bit 2: as MXCSR says.
    const mode = c.let(select(control.and(4), mxcsr.shr_u(13), control).and(3));
    const r = c.let(b.vector(`${shape}.nearest`));
    c.f.if_(mode.eq(1), () => c.f.set(r, b.vector(`${shape}.floor`)));
    c.f.if_(mode.eq(2), () => c.f.set(r, b.vector(`${shape}.ceil`)));
    c.f.if_(mode.eq(3), () => c.f.set(r, b.vector(`${shape}.trunc`)));
    // NaN is not equal to itself. Bit 3: a result that is not exact is not told.
    const exact = holds(shape, scalar, vector(`${shape}.eq`, r, b));
    const untold = control
      .and(8)
      .or(mxcsr.and(PE | PM).eq(PE | PM))
      .ne(0);
    const ordinary = holds(shape, scalar, vector(`${shape}.eq`, b, b)).ne(0);
    c.f.if_(exact.or(untold.and(ordinary)).ne(0).and(mxcsr.and(DAZ).eqz()).eqz(), () =>
      carryOut(c, b, detail('ROUND', shape, scalar)),
    );
    c.writeVector(0, scalar ? mergeLow(shape, r, c.readVector(0)) : r);
  });
}
for (const [name, opcode, shape, lanes] of [
  ['dpps', '40', 'f32x4', 4],
  ['dppd', '41', 'f64x2', 2],
] as const) {
  vectorFloat.add(name, `66.0f3a.${opcode} Vx,Wx,Ib`, SSE41, (c) => {
    const a = c.let(c.readVector(0));
    const b = c.let(c.readVector(1));
    const control = c.let(c.record('i32.load8_u', R.IMMEDIATE));
    const float = shape === 'f32x4' ? f32(0) : f64(0);
    const products = c.let(vector(`${shape}.mul`, a, b));
    const term = (i: number) => select(control.shr_u(4 + i).and(1), products.lane(shape, i), float);
    const pair = (i: number) => c.let(term(i).add(term(i + 1)));
    const [first, second] = [pair(0), lanes === 4 ? pair(2) : undefined];
    const sum = c.let(second === undefined ? first : first.add(second));
    const least = shape === 'f32x4' ? 2 ** -126 : 2 ** -1022;
    const normal = (x: Local) => x.abs().ge(least).and(x.abs().lt(Number.POSITIVE_INFINITY));
    const sums = [first, ...(second === undefined ? [] : [second]), sum];
    const ordinary = sums.map((x) => normal(x).or(x.eq(0))).reduce((x, y) => x.and(y));
    const productsAreOrdinary = holds(shape, false, productIsOrdinary(shape, products, a, b));
    c.f.if_(isPlain(c).and(productsAreOrdinary).and(ordinary).eqz(), () =>
      carryOut(c, b, detail('DP', shape, false)),
    );
    let r: Expr = v128(0n);
    for (let i = 0; i < lanes; i++) r = r.withLane(shape, i, select(control.shr_u(i).and(1), sum, float));
    c.writeVector(0, r);
  });
}

const MXCSR_VALID = 0xffff;
const MXCSR = { feature: 'sse2', units: UNIT.SSE };
vectorFloat.add('ldmxcsr', 'np.0f.ae/2m Md', MXCSR, (c) => {
  const value = c.let(c.read(0));
  c.f.if_(value.and(~MXCSR_VALID).ne(0), () => c.raise(13));
  c.setState('i32.store', S.MXCSR, value.wrap());
});
vectorFloat.add('stmxcsr', 'np.0f.ae/3m Md', MXCSR, (c) => c.write(0, c.state('i32.load', S.MXCSR).wide()));
