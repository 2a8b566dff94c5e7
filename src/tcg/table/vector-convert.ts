/** SSE2 conversions between floats and integers, and of one precision to the other (SDM vol. 2). */
import type { Meaning } from '../emit/meaning.ts';
import { S } from '../layout.ts';
import {
  carryOut,
  demotedIsOrdinary,
  type FloatShape,
  holds,
  isOrdinary,
  isPlain,
  splat,
} from '../sse/checks.ts';
import { PE, PM } from '../sse/mxcsr.ts';
import { DOUBLE_PRECISION, FLOAT_OPERATION, PACKED } from '../sse/operation.ts';
import { type Expr, i32, type Local, v128, vector } from '../wasm/index.ts';
import { Table } from './instruction.ts';

export const vectorConvert = new Table();

const SSE2 = { feature: 'sse2' };

const DOUBLE = { f32x4: 0, f64x2: DOUBLE_PRECISION } as const;

/** Bytes of the two lanes' low or only words, next to each other, and zeros. */
const NARROW = [0, 1, 2, 3, 8, 9, 10, 11, 16, 16, 16, 16, 16, 16, 16, 16];

for (const [suffix, prefix, operand, shape] of [
  ['ss', 'f3', 'd', 'f32x4'],
  ['sd', 'f2', 'q', 'f64x2'],
] as const) {
  const float = shape === 'f32x4' ? 'f32' : 'f64';
  vectorConvert.add(`cvtsi2${suffix}`, `${prefix}.0f.2a Vx,Ey`, SSE2, (c) => {
    const { bytes } = c.form.slots[1];
    const value = c.let(c.readSigned(1));
    if (bytes === 8 || shape === 'f32x4') {
      // A number of 24 or 53 bits and a sign is exact.
      const spare = shape === 'f32x4' ? 39 : 10;
      const exact = value.shl(spare).shr_s(spare).eq(value);
      c.f.if_(isPlain(c).or(exact).eqz(), () =>
        carryOut(c, v128(0n).withLane('i64x2', 0, value), FLOAT_OPERATION.FROM_INTEGER | DOUBLE[shape]),
      );
    }
    const converted =
      bytes === 8 ? value.convert(`${float}.convert_i64_s`) : value.wrap().convert(`${float}.convert_i32_s`);
    c.writeVector(0, c.readVector(0).withLane(shape, 0, converted));
  });
  for (const truncates of [false, true]) {
    const name = truncates ? `cvtt${suffix}2si` : `cvt${suffix}2si`;
    vectorConvert.add(name, `${prefix}.0f.${truncates ? '2c' : '2d'} Gy,W${operand}`, SSE2, (c) => {
      const source = c.let(c.readVector(1));
      const x = c.let(source.lane(shape, 0));
      const rounded = c.let(truncates ? x.trunc() : x.nearest());
      const limit = c.size === 8 ? 2 ** 63 : 2 ** 31;
      const fits = rounded.lt(limit).and(rounded.ge(-limit));
      const quiet = truncates ? staysInexact(c) : isPlain(c);
      c.f.if_(fits.and(rounded.eq(x).or(quiet)).eqz(), () =>
        carryOut(c, source, FLOAT_OPERATION[truncates ? 'TRUNCATE' : 'TO_INTEGER'] | DOUBLE[shape]),
      );
      const r =
        c.size === 8
          ? rounded.convert(`i64.trunc_sat_${float}_s`)
          : rounded.convert(`i32.trunc_sat_${float}_s`).wide();
      c.write(0, r);
    });
  }
}

/** Whether an inexact result changes nothing. */
function staysInexact(c: Meaning): Expr {
  return c
    .state('i32.load', S.MXCSR)
    .and(PE | PM)
    .eq(PE | PM);
}

// Every single is a double; only NaN and denormals are told.
vectorConvert.add('cvtss2sd', 'f3.0f.5a Vx,Wd', SSE2, (c) => {
  const b = c.let(c.readVector(1));
  c.f.if_(holds('f32x4', true, isOrdinary('f32x4', b)).eqz(), () => carryOut(c, b, FLOAT_OPERATION.CONVERT));
  const converted = b.lane('f32x4', 0).convert('f64.promote_f32');
  c.writeVector(0, c.readVector(0).withLane('f64x2', 0, converted));
});
vectorConvert.add('cvtps2pd', 'np.0f.5a Vx,Wq', SSE2, (c) => {
  const b = c.let(c.readVector(1));
  const ordinary = isOrdinary('f32x4', b).lane('i64x2', 0).eq(-1);
  c.f.if_(ordinary.eqz(), () => carryOut(c, b, FLOAT_OPERATION.CONVERT | PACKED));
  c.writeVector(0, b.vector('f64x2.promote_low_f32x4'));
});
for (const [name, encoding, scalar] of [
  ['cvtsd2ss', 'f2.0f.5a Vx,Wq', true],
  ['cvtpd2ps', '66.0f.5a Vx,Wx', false],
] as const) {
  vectorConvert.add(name, encoding, SSE2, (c) => {
    const b = c.let(c.readVector(1));
    const r = c.let(b.vector('f32x4.demote_f64x2_zero'));
    const zero = vector('f64x2.eq', b, v128(0n)).shuffle(v128(0n), NARROW);
    const exact = vector('f64x2.eq', r.vector('f64x2.promote_low_f32x4'), b);
    const all = (mask: Expr) => (scalar ? mask.lane('i32x4', 0) : mask.lane('i64x2', 0).eq(-1)).ne(0);
    const isExact = holds('f64x2', scalar, exact).ne(0);
    c.f.if_(
      isPlain(c)
        .or(isExact)
        .and(all(demotedIsOrdinary(r, zero)))
        .eqz(),
      () => carryOut(c, b, FLOAT_OPERATION.CONVERT | DOUBLE_PRECISION | (scalar ? 0 : PACKED)),
    );
    c.writeVector(0, scalar ? c.readVector(0).withLane('i32x4', 0, r.lane('i32x4', 0)) : r);
  });
}

vectorConvert.add('cvtdq2ps', 'np.0f.5b Vx,Wx', SSE2, (c) => {
  const b = c.let(c.readVector(1));
  const exact = vector('i32x4.eq', b.vector('i32x4.shl', i32(7)).vector('i32x4.shr_s', i32(7)), b);
  c.f.if_(isPlain(c).or(exact.vector('i32x4.all_true')).eqz(), () =>
    carryOut(c, b, FLOAT_OPERATION.FROM_INTEGER | PACKED),
  );
  c.writeVector(0, b.vector('f32x4.convert_i32x4_s'));
});
vectorConvert.add('cvtdq2pd', 'f3.0f.e6 Vx,Wq', SSE2, (c) =>
  c.writeVector(0, c.readVector(1).vector('f64x2.convert_low_i32x4_s')),
);

/** Lanes that fit an integer of 32 bits. */
function fits(shape: FloatShape, x: Local): Expr {
  const [least, limit] =
    shape === 'f32x4' ? [0xcf00_0000n, 0x4f00_0000n] : [0xc1e0_0000_0000_0000n, 0x41e0_0000_0000_0000n];
  return vector(
    'v128.and',
    vector(`${shape}.lt`, x, splat(shape, limit)),
    vector(`${shape}.ge`, x, splat(shape, least)),
  );
}
for (const [name, encoding, shape, truncates] of [
  ['cvtps2dq', '66.0f.5b Vx,Wx', 'f32x4', false],
  ['cvttps2dq', 'f3.0f.5b Vx,Wx', 'f32x4', true],
  ['cvtpd2dq', 'f2.0f.e6 Vx,Wx', 'f64x2', false],
  ['cvttpd2dq', '66.0f.e6 Vx,Wx', 'f64x2', true],
] as const) {
  vectorConvert.add(name, encoding, SSE2, (c) => {
    const b = c.let(c.readVector(1));
    const rounded = c.let(b.vector(`${shape}.${truncates ? 'trunc' : 'nearest'}`));
    const exact = holds(shape, false, vector(`${shape}.eq`, rounded, b));
    const quiet = truncates ? staysInexact(c) : isPlain(c);
    c.f.if_(holds(shape, false, fits(shape, rounded)).and(exact.or(quiet)).eqz(), () =>
      carryOut(c, b, FLOAT_OPERATION[truncates ? 'TRUNCATE' : 'TO_INTEGER'] | DOUBLE[shape] | PACKED),
    );
    const operator = shape === 'f32x4' ? 'i32x4.trunc_sat_f32x4_s' : 'i32x4.trunc_sat_f64x2_s_zero';
    c.writeVector(0, rounded.vector(operator));
  });
}
