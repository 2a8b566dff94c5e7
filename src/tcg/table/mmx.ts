/** MMX instructions without a counterpart of the same form for XMM registers, and those between both (SDM vol. 2). */
import type { Meaning } from '../emit/meaning.ts';
import { R } from '../layout.ts';
import { carryOut } from '../sse/checks.ts';
import { DOUBLE_PRECISION, FLOAT_OPERATION, HALF, PACKED } from '../sse/operation.ts';
import { type Expr, i32, load, select, v128, vector } from '../wasm/index.ts';
import { Table, UNIT } from './instruction.ts';
import { beginMmx, endMmx, readMmx, writeMmx } from './mmx-registers.ts';
import { byteShift, maskedStore, selector, swizzleBySelectors } from './vector-moves.ts';

export const mmx = new Table();

/** An instruction that uses MMX registers. */
function add(
  name: string,
  encoding: string | string[],
  feature: string,
  meaning: (c: Meaning) => void,
): void {
  mmx.add(name, encoding, { feature }, (c) => {
    beginMmx(c);
    meaning(c);
    endMmx(c);
  });
}

const low = (value: Expr) => value.lane('i64x2', 0);
const fromLow = (value: Expr) => v128(0n).withLane('i64x2', 0, value);

mmx.add('emms', 'np.0f.77', { feature: 'mmx', units: UNIT.MMX }, (c) => {
  beginMmx(c);
  endMmx(c, 0);
});

add('movd_mm', 'np.0f.6e Pq,Ey', 'mmx', (c) => writeMmx(c, 0, fromLow(c.read(1))));
add('movd2_mm', 'np.0f.7e Ey,Pq', 'mmx', (c) => c.write(0, low(readMmx(c, 1))));
add('movq_mm', 'np.0f.6f Pq,Qq', 'mmx', (c) => writeMmx(c, 0, readMmx(c, 1)));
add('movq2_mm', 'np.0f.7f Qq,Pq', 'mmx', (c) => {
  const value = c.let(readMmx(c, 1));
  if (c.isMemory(0)) c.write(0, low(value));
  else writeMmx(c, 0, value);
});
add('movntq', 'np.0f.e7m Qq,Pq', 'sse', (c) => c.write(0, low(readMmx(c, 1))));
add('movq2dq', 'f3.0f.d6r Vx,Nq', 'sse2', (c) => c.writeVector(0, readMmx(c, 1)));
add('movdq2q', 'f2.0f.d6r Pq,Ux', 'sse2', (c) => writeMmx(c, 0, c.readVector(1)));

add('pmovmskb_mm', 'np.0f.d7r Gy,Nq', 'sse', (c) =>
  c.write(0, vector('i8x16.bitmask', readMmx(c, 1)).wide()),
);
const lane = (c: Meaning, i: number) => c.pointer(i).add(c.record('i32.load8_u', R.IMMEDIATE).and(3).shl(1));
add('pinsrw_mm', 'np.0f.c4 Pq,Ew,Ib', 'sse', (c) => {
  const value = c.let(c.read(1));
  c.f.store('i64.store16', lane(c, 0), value);
  writeMmx(c, 0, readMmx(c, 0));
});
add('pextrw_mm', 'np.0f.c5r Gd,Nq,Ib', 'sse', (c) => c.write(0, load('i64.load16_u', lane(c, 1))));
add('pshufw', 'np.0f.70 Pq,Qq,Ib', 'sse', (c) => {
  const words = [0, 1, 2, 3].map((i) => selector(c, i));
  writeMmx(c, 0, swizzleBySelectors(c, readMmx(c, 1), words, 2));
});
add('palignr_mm', 'np.0f3a.0f Pq,Qq,Ib', 'ssse3', (c) => {
  const n = c.let(c.record('i32.load8_u', R.IMMEDIATE));
  const b = c.let(readMmx(c, 1));
  const joined = b.withLane('i64x2', 1, low(readMmx(c, 0)));
  writeMmx(c, 0, byteShift(joined, select(n.gt_u(16), i32(16), n), false));
});
add('maskmovq', 'np.0f.f7r Pq,Nq', 'sse', (c) => maskedStore(c, readMmx(c, 0), readMmx(c, 1), 8));

// Conversions are rare enough to be carried out in TypeScript whatever their operands, transition included.
const { FROM_INTEGER, TO_INTEGER, TRUNCATE } = FLOAT_OPERATION;
for (const [name, encoding, feature, operation] of [
  ['cvtpi2ps', 'np.0f.2a Vx,Qq', 'sse', FROM_INTEGER],
  ['cvtps2pi', 'np.0f.2d Pq,Wq', 'sse', TO_INTEGER],
  ['cvttps2pi', 'np.0f.2c Pq,Wq', 'sse', TRUNCATE],
  ['cvtpi2pd', '66.0f.2a Vx,Qq', 'sse2', FROM_INTEGER | DOUBLE_PRECISION],
  ['cvtpd2pi', '66.0f.2d Pq,Wx', 'sse2', TO_INTEGER | DOUBLE_PRECISION],
  ['cvttpd2pi', '66.0f.2c Pq,Wx', 'sse2', TRUNCATE | DOUBLE_PRECISION],
] as const) {
  mmx.add(name, encoding, { feature }, (c) => {
    beginMmx(c);
    const source = encoding.includes('Q') ? readMmx(c, 1) : c.readVector(1);
    carryOut(c, source, operation | PACKED | HALF);
  });
}
