/** AES-NI and PCLMULQDQ (SDM vol. 2; FIPS 197). Byte i of a vector is row i mod 4, column i div 4 of AES's state. */
import type { Meaning } from '../emit/meaning.ts';
import { R } from '../layout.ts';
import { type Expr, i32, type Local, select, v128, vector } from '../wasm/index.ts';
import { Table } from './instruction.ts';

export const aes = new Table();

const AES = { feature: 'aes' };

const splat = (byte: number) => v128(BigInt(`0x${byte.toString(16).padStart(2, '0').repeat(16)}`));

/** Multiplication by x in GF(2^8) modulo x^8 + x^4 + x^3 + x + 1 (FIPS 197, 4.2.1). */
const doubled = (a: number) => ((a << 1) ^ (a & 0x80 ? 0x11b : 0)) & 0xff;

/** The substitution table and its inverse: the inverse in GF(2^8), then an affine map (FIPS 197, 5.1.1). */
function substitutions(): { forward: Uint8Array; backward: Uint8Array } {
  const forward = new Uint8Array(256);
  const backward = new Uint8Array(256);
  // 3 generates the multiplicative group, so exponents 0 to 254 reach every element but zero.
  const powers: number[] = [];
  for (let k = 0, a = 1; k < 255; k++, a ^= doubled(a)) powers.push(a);
  for (let a = 0; a < 256; a++) {
    const inverse = a === 0 ? 0 : powers[(255 - powers.indexOf(a)) % 255];
    let image = 0x63;
    for (let k = 0; k < 5; k++) image ^= ((inverse << k) | (inverse >> (8 - k))) & 0xff;
    forward[a] = image;
    backward[image] = a;
  }
  return { forward, backward };
}
const TABLES = substitutions();

/** Replaces each byte by its entry: a swizzle for each sixteen entries, which gives zero for indices of the others. */
function substitute(c: Meaning, value: Expr, table: Uint8Array): Local {
  const index = c.let(value);
  const result = c.let(v128(0n));
  for (let row = 0; row < 256; row += 16) {
    let entries = 0n;
    for (let i = 15; i >= 0; i--) entries = (entries << 8n) | BigInt(table[row + i]);
    if (row > 0) c.f.set(index, vector('i8x16.sub', index, splat(16)));
    c.f.set(result, vector('v128.or', result, vector('i8x16.swizzle', v128(entries), index)));
  }
  return result;
}

const BYTES = Array.from({ length: 16 }, (_, i) => i);
/** Row r moves r columns to the left, or back. */
const SHIFT_ROWS = BYTES.map((i) => (i + 4 * (i & 3)) & 15);
const SHIFT_ROWS_BACK = BYTES.map((i) => (i - 4 * (i & 3)) & 15);
/** Rotates the rows of each column. */
const rotated = (a: Local, rows: number) =>
  a.shuffle(
    a,
    BYTES.map((i) => (i & 12) | ((i + rows) & 3)),
  );

/** Doubles each byte in GF(2^8). */
function double(c: Meaning, value: Expr): Expr {
  const a = c.let(value);
  const reduction = vector('v128.and', vector('i8x16.shr_s', a, i32(7)), splat(0x1b));
  return vector('v128.xor', vector('i8x16.add', a, a), reduction);
}

const xor = (a: Expr, ...others: Expr[]) => others.reduce((sum, b) => vector('v128.xor', sum, b), a);

/** MixColumns: 2, 3, 1, 1 (FIPS 197, 5.1.3). */
function mixColumns(c: Meaning, value: Expr): Expr {
  const a = c.let(value);
  const next = c.let(rotated(a, 1));
  return xor(double(c, xor(a, next)), next, rotated(a, 2), rotated(a, 3));
}

/** InvMixColumns: 14, 11, 13, 9 is 2, 3, 1, 1 after 5, 0, 4, 0. */
function mixColumnsBack(c: Meaning, value: Expr): Expr {
  const a = c.let(value);
  return mixColumns(c, xor(a, double(c, double(c, xor(a, rotated(a, 2))))));
}

/** A round: the rows of the destination shifted, substituted, perhaps mixed, and the round key added. */
function round(name: string, opcode: string, back: boolean, last: boolean): void {
  aes.add(name, `66.0f38.${opcode} Vx,Wx`, AES, (c) => {
    const key = c.let(c.readVector(1));
    const state = c.let(c.readVector(0));
    const shifted = state.shuffle(state, back ? SHIFT_ROWS_BACK : SHIFT_ROWS);
    const replaced = substitute(c, shifted, back ? TABLES.backward : TABLES.forward);
    const mixed = last ? replaced : back ? mixColumnsBack(c, replaced) : mixColumns(c, replaced);
    c.writeVector(0, xor(mixed, key));
  });
}
round('aesenc', 'dc', false, false);
round('aesenclast', 'dd', false, true);
round('aesdec', 'de', true, false);
round('aesdeclast', 'df', true, true);

aes.add('aesimc', '66.0f38.db Vx,Wx', AES, (c) => c.writeVector(0, mixColumnsBack(c, c.readVector(1))));

aes.add('aeskeygenassist', '66.0f3a.df Vx,Wx,Ib', AES, (c) => {
  const replaced = substitute(c, c.readVector(1), TABLES.forward);
  // Words 1 and 3, each as it is and rotated by a byte.
  const words = replaced.shuffle(replaced, [4, 5, 6, 7, 5, 6, 7, 4, 12, 13, 14, 15, 13, 14, 15, 12]);
  const constant = vector('i32x4.splat', c.record('i32.load8_u', R.IMMEDIATE));
  const rotatedOnes = v128(0xffff_ffff_0000_0000_ffff_ffff_0000_0000n);
  c.writeVector(0, xor(words, vector('v128.and', constant, rotatedOnes)));
});

/**
 * Carry-less product of two 32-bit numbers. With only every fourth bit set, no more than eight bits are added up at a
 * place of an ordinary product, so sums do not reach the next place in use: its lowest bit is the parity.
 */
function carryLess32(c: Meaning, a: Local, b: Local): Local {
  const parts = (x: Local) => [0, 1, 2, 3].map((k) => c.let(x.and(0x1111_1111n << BigInt(k))));
  const [as, bs] = [parts(a), parts(b)];
  let product: Expr | undefined;
  for (let k = 0; k < 4; k++) {
    const terms = as.map((part, i) => part.mul(bs[(k - i) & 3]));
    const sum = terms.reduce((x, y) => x.xor(y)).and(0x1111_1111_1111_1111n << BigInt(k));
    product = product === undefined ? sum : product.or(sum);
  }
  return c.let(product!);
}

aes.add('pclmulqdq', '66.0f3a.44 Vx,Wx,Ib', { feature: 'pclmulqdq' }, (c) => {
  const control = c.let(c.record('i32.load8_u', R.IMMEDIATE));
  const half = (value: Expr, bit: number) => {
    const v = c.let(value);
    return c.let(select(control.shr_u(bit).and(1), v.lane('i64x2', 1), v.lane('i64x2', 0)));
  };
  const b = half(c.readVector(1), 4);
  const a = half(c.readVector(0), 0);
  // Karatsuba's three products of halves.
  const [al, ah, bl, bh] = [a.low(4), a.shr_u(32), b.low(4), b.shr_u(32)].map((x) => c.let(x));
  const low = carryLess32(c, al, bl);
  const high = carryLess32(c, ah, bh);
  const middle = c.let(
    carryLess32(c, c.let(al.xor(ah)), c.let(bl.xor(bh)))
      .xor(low)
      .xor(high),
  );
  c.writeVector(
    0,
    v128(0n)
      .withLane('i64x2', 0, low.xor(middle.shl(32)))
      .withLane('i64x2', 1, high.xor(middle.shr_u(32))),
  );
});
