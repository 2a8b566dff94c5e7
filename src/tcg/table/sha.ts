/**
 * SHA extensions (SDM vol. 2; FIPS 180-4). The word that the SDM calls first is the highest of a vector for SHA-1.
 * Memory operands need no alignment, as on AMD's processors.
 */
import type { Meaning } from '../emit/meaning.ts';
import { R, S } from '../layout.ts';
import { type Expr, i32, type Local, select, v128, vector } from '../wasm/index.ts';
import { Table } from './instruction.ts';

export const sha = new Table();

const SHA = { feature: 'sha_ni' };

/** The words of a vector, from the lowest. */
const words = (c: Meaning, value: Expr) => {
  const v = c.let(value);
  return [0, 1, 2, 3].map((i) => c.let(v.lane('i32x4', i)));
};
const fromWords = (...lanes: Expr[]) => lanes.reduce((v, lane, i) => v.withLane('i32x4', i, lane), v128(0n));
const rotated = (x: Expr, n: number) => x.rotl(n);

const choose = (b: Expr, c: Expr, d: Expr) => b.and(c).xor(b.not().and(d));
const parity = (b: Expr, c: Expr, d: Expr) => b.xor(c).xor(d);
const majority = (b: Expr, c: Expr, d: Expr) => b.and(c).xor(b.and(d)).xor(c.and(d));

/** FIPS 180-4, 4.2.1. */
const SHA1_CONSTANTS = [0x5a82_7999, 0x6ed9_eba1, 0x8f1b_bcdc, 0xca62_c1d6];

sha.add('sha1rnds4', 'np.0f3a.cc Vx,Wx,Ib u', SHA, (m) => {
  const schedule = words(m, m.readVector(1)).reverse();
  let [d, c, b, a] = words(m, m.readVector(0));
  const kind = m.let(m.record('i32.load8_u', R.IMMEDIATE).and(3));
  const k = m.let(i32(SHA1_CONSTANTS[3]));
  for (let i = 0; i < 3; i++) m.f.if_(kind.eq(i), () => m.f.set(k, SHA1_CONSTANTS[i]));
  let e: Local | undefined;
  for (const word of schedule) {
    const f = select(kind.and(1), parity(b, c, d), select(kind, majority(b, c, d), choose(b, c, d)));
    const sum = f.add(rotated(a, 5)).add(word).add(k);
    const next = m.let(e === undefined ? sum : sum.add(e));
    [a, b, c, d, e] = [next, a, m.let(rotated(b, 30)), c, d];
  }
  m.writeVector(0, fromWords(d, c, b, a));
});

sha.add('sha1nexte', 'np.0f38.c8 Vx,Wx u', SHA, (c) => {
  const source = c.let(c.readVector(1));
  const e = rotated(c.readVector(0).lane('i32x4', 3), 30);
  c.writeVector(0, source.withLane('i32x4', 3, source.lane('i32x4', 3).add(e)));
});

sha.add('sha1msg1', 'np.0f38.c9 Vx,Wx u', SHA, (c) => {
  const source = c.let(c.readVector(1));
  const a = c.let(c.readVector(0));
  // Each word with the one two further on; the last two of these are the source's first.
  const later = source.shuffle(
    a,
    Array.from({ length: 16 }, (_, i) => i + 8),
  );
  c.writeVector(0, vector('v128.xor', a, later));
});

sha.add('sha1msg2', 'np.0f38.ca Vx,Wx u', SHA, (c) => {
  const [w15, w14, w13] = words(c, c.readVector(1));
  const [a3, a2, a1, a0] = words(c, c.readVector(0));
  const w16 = c.let(rotated(a0.xor(w13), 1));
  const w17 = rotated(a1.xor(w14), 1);
  const w18 = rotated(a2.xor(w15), 1);
  const w19 = rotated(a3.xor(w16), 1);
  c.writeVector(0, fromWords(w19, w18, w17, w16));
});

/** FIPS 180-4, 4.1.2: three rotations. */
const sigma = (x: Local, n: number, o: number, p: number) => x.rotr(n).xor(x.rotr(o)).xor(x.rotr(p));

sha.add('sha256rnds2', 'np.0f38.cb Vx,Wx u', SHA, (m) => {
  const keys = words(m, m.state('v128.load', S.XMM));
  let [f, e, b, a] = words(m, m.readVector(1));
  let [h, g, d, c] = words(m, m.readVector(0));
  for (const key of keys.slice(0, 2)) {
    const t1 = m.let(
      choose(e, f, g)
        .add(sigma(e, 6, 11, 25))
        .add(key)
        .add(h),
    );
    const t2 = majority(a, b, c).add(sigma(a, 2, 13, 22));
    const [nextA, nextE] = [m.let(t1.add(t2)), m.let(t1.add(d))];
    [a, b, c, d, e, f, g, h] = [nextA, a, b, c, nextE, e, f, g];
  }
  m.writeVector(0, fromWords(f, e, b, a));
});

sha.add('sha256msg1', 'np.0f38.cc Vx,Wx u', SHA, (c) => {
  const source = c.let(c.readVector(1));
  const a = c.let(c.readVector(0));
  const next = c.let(
    a.shuffle(
      source,
      Array.from({ length: 16 }, (_, i) => i + 4),
    ),
  );
  const turned = (n: number) =>
    vector('v128.or', vector('i32x4.shr_u', next, i32(n)), vector('i32x4.shl', next, i32(32 - n)));
  const sum = vector(
    'v128.xor',
    vector('v128.xor', turned(7), turned(18)),
    vector('i32x4.shr_u', next, i32(3)),
  );
  c.writeVector(0, vector('i32x4.add', a, sum));
});

sha.add('sha256msg2', 'np.0f38.cd Vx,Wx u', SHA, (c) => {
  const [, , w14, w15] = words(c, c.readVector(1));
  const a = words(c, c.readVector(0));
  const small = (x: Local) => x.rotr(17).xor(x.rotr(19)).xor(x.shr_u(10));
  const w16 = c.let(a[0].add(small(w14)));
  const w17 = c.let(a[1].add(small(w15)));
  c.writeVector(0, fromWords(w16, w17, a[2].add(small(w16)), a[3].add(small(w17))));
});
