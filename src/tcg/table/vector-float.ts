/**
 * SSE to SSE4.1 floating point (SDM vol. 2). Arithmetic is WebAssembly's, which is IEEE 754 with round to nearest, as
 * MXCSR has it after reset; other rounding modes, flush to zero and the sticky exception flags are not there yet.
 */
import type { Meaning } from '../emit/meaning.ts';
import { R, S } from '../layout.ts';
import { type Expr, f32, f64, i32, i64, type Local, select, v128, vector } from '../wasm/index.ts';
import { Table } from './instruction.ts';

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
type FloatShape = 'f32x4' | 'f64x2';

/** The low lane from one vector, the rest from another. */
function mergeLow(shape: FloatShape, low: Expr, rest: Expr): Expr {
  const lane = Array.from({ length: 16 }, (_, i) => (i < (shape === 'f32x4' ? 4 : 8) ? i : i + 16));
  return low.shuffle(rest, lane);
}

function arithmetic(
  name: string,
  opcode: string,
  meaning: (shape: FloatShape, a: Expr, b: Expr) => Expr,
): void {
  for (const { suffix, prefix, operand, shape, scalar } of FORMS) {
    vectorFloat.add(`${name}${suffix}`, `${prefix}.0f.${opcode} Vx,W${operand}`, SSE2, (c) => {
      const a = c.let(c.readVector(0));
      const b = c.let(c.readVector(1));
      const r = meaning(shape, a, b);
      c.writeVector(0, scalar ? mergeLow(shape, r, a) : r);
    });
  }
}
arithmetic('add', '58', (shape, a, b) => vector(`${shape}.add`, a, b));
arithmetic('mul', '59', (shape, a, b) => vector(`${shape}.mul`, a, b));
arithmetic('sub', '5c', (shape, a, b) => vector(`${shape}.sub`, a, b));
arithmetic('div', '5e', (shape, a, b) => vector(`${shape}.div`, a, b));
arithmetic('sqrt', '51', (shape, _a, b) => vector(`${shape}.sqrt`, b));
// The source, when the comparison is false or unordered: the pseudo-minimum with operands exchanged.
arithmetic('min', '5d', (shape, a, b) => vector(`${shape}.pmin`, b, a));
arithmetic('max', '5f', (shape, a, b) => vector(`${shape}.pmax`, b, a));

/** The eight predicates of CMPPS and its kin. */
function compare(shape: FloatShape, predicate: number, a: Local, b: Local): Expr {
  const unordered = vector('v128.or', vector(`${shape}.ne`, a, a), vector(`${shape}.ne`, b, b));
  const positive = [
    vector(`${shape}.eq`, a, b),
    vector(`${shape}.lt`, a, b),
    vector(`${shape}.le`, a, b),
    unordered,
  ][predicate & 3];
  return predicate & 4 ? vector('v128.not', positive) : positive;
}
for (const { suffix, prefix, operand, shape, scalar } of FORMS) {
  vectorFloat.add(`cmp${suffix}`, `${prefix}.0f.c2 Vx,W${operand},Ib`, SSE2, (c) => {
    const a = c.let(c.readVector(0));
    const b = c.let(c.readVector(1));
    const predicate = c.let(c.record('i32.load8_u', R.IMMEDIATE).and(7));
    const r = c.f.local('v128');
    c.f.set(r, compare(shape, 0, a, b));
    for (let k = 1; k < 8; k++) c.f.if_(predicate.eq(k), () => c.f.set(r, compare(shape, k, a, b)));
    c.writeVector(0, scalar ? mergeLow(shape, r, a) : r);
  });
}

for (const [name, opcode] of [
  ['ucomis', '2e'],
  ['comis', '2f'],
] as const) {
  for (const [suffix, prefix, operand, shape] of [
    ['s', 'np', 'd', 'f32x4'],
    ['d', '66', 'q', 'f64x2'],
  ] as const) {
    vectorFloat.add(`${name}${suffix}`, `${prefix}.0f.${opcode} Vx,W${operand}`, SSE2, (c) => {
      const a = c.let(c.readVector(0).lane(shape, 0));
      const b = c.let(c.readVector(1).lane(shape, 0));
      const unordered = c.let(a.ne(a).or(b.ne(b)));
      const carry = a.lt(b).or(unordered);
      const zero = a.eq(b).or(unordered);
      c.flags.load(c.let(carry.or(unordered.shl(2)).or(zero.shl(6)).wide()));
    });
  }
}

// Conversions. A value that does not fit gives the integer indefinite, the most negative number.
const INDEFINITE32 = 0x8000_0000;
const INDEFINITE64 = 1n << 63n;

/** Float (f32 or f64, rounded already) to a signed integer of 4 or 8 bytes, as i64 (zero-extended from 4). */
function toInteger(c: Meaning, value: Expr, bytes: number): Expr {
  const x = c.let(value);
  const from = x.type as 'f32' | 'f64';
  const limit = bytes === 8 ? 2 ** 63 : 2 ** 31;
  // Everything above the largest is saturated by WebAssembly, NaN becomes 0: both are indefinite here.
  const fits = x.lt(limit).and(x.ge(-limit));
  if (bytes === 8) return select(fits, x.convert(`i64.trunc_sat_${from}_s`), i64(INDEFINITE64));
  return select(fits, x.convert(`i32.trunc_sat_${from}_s`), i32(INDEFINITE32)).wide();
}

for (const [suffix, prefix, operand, shape] of [
  ['ss', 'f3', 'd', 'f32x4'],
  ['sd', 'f2', 'q', 'f64x2'],
] as const) {
  const float = shape === 'f32x4' ? 'f32' : 'f64';
  vectorFloat.add(`cvtsi2${suffix}`, `${prefix}.0f.2a Vx,Ey`, SSE2, (c) => {
    const bytes = c.form.slots[1].bytes;
    const value = c.readSigned(1);
    const converted =
      bytes === 8 ? value.convert(`${float}.convert_i64_s`) : value.wrap().convert(`${float}.convert_i32_s`);
    c.writeVector(0, c.readVector(0).withLane(shape, 0, converted));
  });
  vectorFloat.add(`cvtt${suffix}2si`, `${prefix}.0f.2c Gy,W${operand}`, SSE2, (c) =>
    c.write(0, toInteger(c, c.readVector(1).lane(shape, 0).trunc(), c.size)),
  );
  vectorFloat.add(`cvt${suffix}2si`, `${prefix}.0f.2d Gy,W${operand}`, SSE2, (c) =>
    c.write(0, toInteger(c, c.readVector(1).lane(shape, 0).nearest(), c.size)),
  );
}
vectorFloat.add('cvtss2sd', 'f3.0f.5a Vx,Wd', SSE2, (c) =>
  c.writeVector(
    0,
    c.readVector(0).withLane('f64x2', 0, c.readVector(1).lane('f32x4', 0).convert('f64.promote_f32')),
  ),
);
vectorFloat.add('cvtsd2ss', 'f2.0f.5a Vx,Wq', SSE2, (c) =>
  c.writeVector(
    0,
    c.readVector(0).withLane('f32x4', 0, c.readVector(1).lane('f64x2', 0).convert('f32.demote_f64')),
  ),
);
vectorFloat.add('cvtps2pd', 'np.0f.5a Vx,Wq', SSE2, (c) =>
  c.writeVector(0, c.readVector(1).vector('f64x2.promote_low_f32x4')),
);
vectorFloat.add('cvtpd2ps', '66.0f.5a Vx,Wx', SSE2, (c) =>
  c.writeVector(0, c.readVector(1).vector('f32x4.demote_f64x2_zero')),
);
vectorFloat.add('cvtdq2ps', 'np.0f.5b Vx,Wx', SSE2, (c) =>
  c.writeVector(0, c.readVector(1).vector('f32x4.convert_i32x4_s')),
);
vectorFloat.add('cvtdq2pd', 'f3.0f.e6 Vx,Wq', SSE2, (c) =>
  c.writeVector(0, c.readVector(1).vector('f64x2.convert_low_i32x4_s')),
);

/** Packed floats to integers: lanes that do not fit, and NaN, become the indefinite. */
function packedToInteger(c: Meaning, shape: FloatShape, value: Expr): Expr {
  const x = c.let(value);
  if (shape === 'f32x4') {
    const limit = v128(BigInt(`0x${'4f000000'.repeat(4)}`));
    const fits = vector('f32x4.lt', x, limit);
    const indefinite = v128(BigInt(`0x${'80000000'.repeat(4)}`));
    return vector('v128.bitselect', vector('i32x4.trunc_sat_f32x4_s', x), indefinite, fits);
  }
  const limit = v128(BigInt(`0x${'41e0000000000000'.repeat(2)}`));
  const fits = c.let(vector('f64x2.lt', x, limit));
  const indefinite = v128(BigInt(`0x${'80000000'.repeat(2)}`));
  const narrow = fits.shuffle(v128(0n), [0, 1, 2, 3, 8, 9, 10, 11, 16, 16, 16, 16, 16, 16, 16, 16]);
  return vector(
    'v128.or',
    vector('v128.and', vector('i32x4.trunc_sat_f64x2_s_zero', x), narrow),
    vector('v128.andnot', indefinite, narrow),
  );
}
vectorFloat.add('cvtps2dq', '66.0f.5b Vx,Wx', SSE2, (c) =>
  c.writeVector(0, packedToInteger(c, 'f32x4', c.readVector(1).vector('f32x4.nearest'))),
);
vectorFloat.add('cvttps2dq', 'f3.0f.5b Vx,Wx', SSE2, (c) =>
  c.writeVector(0, packedToInteger(c, 'f32x4', c.readVector(1))),
);
vectorFloat.add('cvtpd2dq', 'f2.0f.e6 Vx,Wx', SSE2, (c) =>
  c.writeVector(0, packedToInteger(c, 'f64x2', c.readVector(1).vector('f64x2.nearest'))),
);
vectorFloat.add('cvttpd2dq', '66.0f.e6 Vx,Wx', SSE2, (c) =>
  c.writeVector(0, packedToInteger(c, 'f64x2', c.readVector(1).vector('f64x2.trunc'))),
);

// Reciprocals: an estimate is allowed to be exact (relative error below 1.5 * 2^-12).
for (const [name, opcode, root] of [
  ['rcp', '53', false],
  ['rsqrt', '52', true],
] as const) {
  for (const [suffix, prefix, operand, scalar] of [
    ['ps', 'np', 'x', false],
    ['ss', 'f3', 'd', true],
  ] as const) {
    vectorFloat.add(`${name}${suffix}`, `${prefix}.0f.${opcode} Vx,W${operand}`, SSE2, (c) => {
      const b = c.readVector(1);
      const one = v128(BigInt(`0x${'3f800000'.repeat(4)}`));
      const r = vector('f32x4.div', one, root ? b.vector('f32x4.sqrt') : b);
      c.writeVector(0, scalar ? mergeLow('f32x4', r, c.readVector(0)) : r);
    });
  }
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
  for (const [name, opcode, op] of [
    ['hadd', '7c', 'add'],
    ['hsub', '7d', 'sub'],
  ] as const) {
    vectorFloat.add(`${name}${suffix}`, `${prefix}.0f.${opcode} Vx,Wx`, SSE3, (c) => {
      const a = c.let(c.readVector(0));
      const b = c.let(c.readVector(1));
      c.writeVector(
        0,
        vector(`${shape}.${op}`, a.shuffle(b, SHUFFLE[shape].even), a.shuffle(b, SHUFFLE[shape].odd)),
      );
    });
  }
  vectorFloat.add(`addsub${suffix}`, `${prefix}.0f.d0 Vx,Wx`, SSE3, (c) => {
    const a = c.let(c.readVector(0));
    const b = c.let(c.readVector(1));
    const bytes = shape === 'f32x4' ? 4 : 8;
    // Even lanes are subtracted, odd ones added.
    const lanes = Array.from({ length: 16 }, (_, i) => (Math.floor(i / bytes) % 2 === 0 ? i : i + 16));
    c.writeVector(0, vector(`${shape}.sub`, a, b).shuffle(vector(`${shape}.add`, a, b), lanes));
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
    // Bit 2: as MXCSR says.
    const fromMxcsr = c.state('i32.load', S.MXCSR).shr_u(13);
    const mode = c.let(select(control.and(4), fromMxcsr, control).and(3));
    const r = c.let(b.vector(`${shape}.nearest`));
    c.f.if_(mode.eq(1), () => c.f.set(r, b.vector(`${shape}.floor`)));
    c.f.if_(mode.eq(2), () => c.f.set(r, b.vector(`${shape}.ceil`)));
    c.f.if_(mode.eq(3), () => c.f.set(r, b.vector(`${shape}.trunc`)));
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
    const term = (i: number) => c.let(select(control.shr_u(4 + i).and(1), products.lane(shape, i), float));
    const terms = Array.from({ length: lanes }, (_, i) => term(i));
    const sum = c.let(
      lanes === 4 ? terms[0].add(terms[1]).add(terms[2].add(terms[3])) : terms[0].add(terms[1]),
    );
    let r: Expr = v128(0n);
    for (let i = 0; i < lanes; i++) r = r.withLane(shape, i, select(control.shr_u(i).and(1), sum, float));
    c.writeVector(0, r);
  });
}

const MXCSR_VALID = 0xffff;
vectorFloat.add('ldmxcsr', 'np.0f.ae/2m Md', SSE2, (c) => {
  const value = c.let(c.read(0));
  c.f.if_(value.and(~MXCSR_VALID).ne(0), () => c.raise(13));
  c.setState('i32.store', S.MXCSR, value.wrap());
});
vectorFloat.add('stmxcsr', 'np.0f.ae/3m Md', SSE2, (c) => c.write(0, c.state('i32.load', S.MXCSR).wide()));
