/** SSE to SSE4.1 moves, shuffles, packs and insertions (SDM vol. 2). */
import { ACCESS } from '../emit/access.ts';
import type { Meaning } from '../emit/meaning.ts';
import { R } from '../layout.ts';
import { type Expr, i32, i64, load, select, v128, vector } from '../wasm/index.ts';
import { Table } from './instruction.ts';

export const vectorMoves = new Table();

const SSE2 = { feature: 'sse2' };
const HOT = { feature: 'sse2', hot: true };
const SSE3 = { feature: 'sse3' };
const SSSE3 = { feature: 'ssse3' };
const SSE41 = { feature: 'sse4_1' };

vectorMoves.add(
  'movx',
  [
    'np.0f.28 Vx,Wx',
    '66.0f.28 Vx,Wx',
    '66.0f.6f Vx,Wx',
    'np.0f.29 Wx,Vx',
    '66.0f.29 Wx,Vx',
    '66.0f.7f Wx,Vx',
    'np.0f.2bm Wx,Vx',
    '66.0f.2bm Wx,Vx',
    '66.0f.e7m Wx,Vx',
  ],
  HOT,
  (c) => c.writeVector(0, c.readVector(1)),
);
vectorMoves.add(
  'movux',
  [
    'np.0f.10 Vx,Wx u',
    '66.0f.10 Vx,Wx u',
    'f3.0f.6f Vx,Wx u',
    'np.0f.11 Wx,Vx u',
    '66.0f.11 Wx,Vx u',
    'f3.0f.7f Wx,Vx u',
  ],
  HOT,
  (c) => c.writeVector(0, c.readVector(1)),
);

vectorMoves.add('movntdqa', '66.0f38.2am Vx,Wx', SSE41, (c) => c.writeVector(0, c.readVector(1)));
vectorMoves.add('lddqu', 'f2.0f.f0m Vx,Wx u', SSE3, (c) => c.writeVector(0, c.readVector(1)));

/** MOVSS, MOVSD: a load clears the rest, a register move keeps it. */
for (const [name, prefix, size, shape] of [
  ['movss', 'f3', 'd', 'i32x4'],
  ['movsd', 'f2', 'q', 'i64x2'],
] as const) {
  vectorMoves.add(name, [`${prefix}.0f.10 Vx,W${size}`], HOT, (c) => {
    const source = c.readVector(1);
    c.writeVector(0, c.isMemory(1) ? source : c.readVector(0).withLane(shape, 0, source.lane(shape, 0)));
  });
  vectorMoves.add(`${name}2`, [`${prefix}.0f.11 W${size},Vx`], HOT, (c) => {
    const lane = c.readVector(1).lane(shape, 0);
    if (c.isMemory(0)) c.write(0, size === 'd' ? lane.wide() : lane);
    else c.writeVector(0, c.readVector(0).withLane(shape, 0, lane));
  });
}

const low = (value: Expr) => value.lane('i64x2', 0);
const high = (value: Expr) => value.lane('i64x2', 1);

vectorMoves.add('movlp', ['np.0f.12 Vx,Wq', '66.0f.12m Vx,Wq'], SSE2, (c) => {
  // 0F 12 with a register is MOVHLPS.
  const source = c.readVector(1);
  c.writeVector(0, c.readVector(0).withLane('i64x2', 0, c.isMemory(1) ? low(source) : high(source)));
});
vectorMoves.add('movhp', ['np.0f.16 Vx,Wq', '66.0f.16m Vx,Wq'], SSE2, (c) =>
  c.writeVector(0, c.readVector(0).withLane('i64x2', 1, low(c.readVector(1)))),
);
vectorMoves.add('movlp2', ['np.0f.13m Mq,Vx', '66.0f.13m Mq,Vx'], SSE2, (c) =>
  c.write(0, low(c.readVector(1))),
);
vectorMoves.add('movhp2', ['np.0f.17m Mq,Vx', '66.0f.17m Mq,Vx'], SSE2, (c) =>
  c.write(0, high(c.readVector(1))),
);

vectorMoves.add('movd', '66.0f.6e Vx,Ey', SSE2, (c) =>
  c.writeVector(0, v128(0n).withLane('i64x2', 0, c.read(1))),
);
vectorMoves.add('movd2', '66.0f.7e Ey,Vx', SSE2, (c) => c.write(0, low(c.readVector(1))));
vectorMoves.add('movq', 'f3.0f.7e Vx,Wq', HOT, (c) => {
  const source = c.readVector(1);
  c.writeVector(0, c.isMemory(1) ? source : v128(0n).withLane('i64x2', 0, low(source)));
});
vectorMoves.add('movq2', '66.0f.d6 Wq,Vx', HOT, (c) => {
  const value = low(c.readVector(1));
  if (c.isMemory(0)) c.write(0, value);
  else c.writeVector(0, v128(0n).withLane('i64x2', 0, value));
});
vectorMoves.add('movddup', 'f2.0f.12 Vx,Wq', SSE3, (c) => {
  const x = c.let(low(c.readVector(1)));
  c.writeVector(0, vector('i64x2.splat', x));
});

const bytes = (...words: number[][]) => words.flat();
const word32 = (i: number) => [i * 4, i * 4 + 1, i * 4 + 2, i * 4 + 3];
const word64 = (i: number) => Array.from({ length: 8 }, (_, k) => i * 8 + k);

/** Rearrangements of one or two vectors by a fixed pattern: bytes 0 to 15 from the destination, 16 to 31 from the source. */
function pattern(name: string, encoding: string, lanes: number[], options = SSE2): void {
  vectorMoves.add(name, encoding, options, (c) => {
    const a = c.let(c.readVector(0));
    c.writeVector(0, a.shuffle(c.readVector(1), lanes));
  });
}
pattern('movsldup', 'f3.0f.12 Vx,Wx', bytes(word32(4), word32(4), word32(6), word32(6)), SSE3);
pattern('movshdup', 'f3.0f.16 Vx,Wx', bytes(word32(5), word32(5), word32(7), word32(7)), SSE3);
pattern('unpcklps', 'np.0f.14 Vx,Wx', bytes(word32(0), word32(4), word32(1), word32(5)));
pattern('unpcklpd', '66.0f.14 Vx,Wx', bytes(word64(0), word64(2)));
pattern('unpckhps', 'np.0f.15 Vx,Wx', bytes(word32(2), word32(6), word32(3), word32(7)));
pattern('unpckhpd', '66.0f.15 Vx,Wx', bytes(word64(1), word64(3)));
pattern('punpcklqdq', '66.0f.6c Vx,Wx', bytes(word64(0), word64(2)));
pattern('punpckhqdq', '66.0f.6d Vx,Wx', bytes(word64(1), word64(3)));

/** Splats a 32-bit index into byte indices for a swizzle: word `i` of the result comes from the selected word. */
export function swizzleBySelectors(c: Meaning, source: Expr, selectors: readonly Expr[], size: 2 | 4): Expr {
  // Byte indices, computed: selector * size + 0 .. size-1 in each byte of the word.
  let indices = v128(0n);
  const spread = size === 4 ? 0x0404_0404 : 0x0202;
  const ramp = size === 4 ? 0x0302_0100 : 0x0100;
  selectors.forEach((selector, i) => {
    const word = selector.mul(spread).add(ramp);
    indices = indices.withLane(size === 4 ? 'i32x4' : 'i16x8', i, word);
  });
  return c.let(source).vector('i8x16.swizzle', indices);
}

/** Two bits of the immediate. */
export function selector(c: Meaning, i: number): Expr {
  return c
    .record('i32.load8_u', R.IMMEDIATE)
    .shr_u(i * 2)
    .and(3);
}

vectorMoves.add('pshufd', '66.0f.70 Vx,Wx,Ib', SSE2, (c) =>
  c.writeVector(
    0,
    swizzleBySelectors(
      c,
      c.readVector(1),
      [0, 1, 2, 3].map((i) => selector(c, i)),
      4,
    ),
  ),
);
vectorMoves.add('pshuflw', 'f2.0f.70 Vx,Wx,Ib', SSE2, (c) => {
  const a = c.let(c.readVector(1));
  const shuffled = c.let(
    swizzleBySelectors(
      c,
      a,
      [0, 1, 2, 3].map((i) => selector(c, i)),
      2,
    ),
  );
  c.writeVector(0, shuffled.shuffle(a, bytes(word64(0), word64(3))));
});
vectorMoves.add('pshufhw', 'f3.0f.70 Vx,Wx,Ib', SSE2, (c) => {
  const a = c.let(c.readVector(1));
  const selectors = [0, 1, 2, 3].map((i) => selector(c, i).add(4));
  const shuffled = c.let(swizzleBySelectors(c, a, selectors, 2));
  c.writeVector(0, a.shuffle(shuffled, bytes(word64(0), word64(2))));
});
vectorMoves.add('shufps', 'np.0f.c6 Vx,Wx,Ib', SSE2, (c) => {
  const a = c.let(c.readVector(0));
  const b = c.let(c.readVector(1));
  const selectors = [0, 1, 2, 3].map((i) => selector(c, i));
  const fromA = c.let(swizzleBySelectors(c, a, selectors, 4));
  const fromB = c.let(swizzleBySelectors(c, b, selectors, 4));
  c.writeVector(0, fromA.shuffle(fromB, bytes(word64(0), word64(3))));
});
vectorMoves.add('shufpd', '66.0f.c6 Vx,Wx,Ib', SSE2, (c) => {
  const a = c.let(c.readVector(0));
  const b = c.let(c.readVector(1));
  const bit = (i: number) => c.record('i32.load8_u', R.IMMEDIATE).shr_u(i).and(1);
  const choose = (x: Expr, i: number) => select(bit(i), high(x), low(x));
  c.writeVector(0, a.withLane('i64x2', 0, choose(a, 0)).withLane('i64x2', 1, choose(b, 1)));
});

/** Shifts a whole vector by bytes. */
export function byteShift(value: Expr, count: Expr, left: boolean): Expr {
  const ramp = v128(0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100n);
  const n = vector('i8x16.splat', count);
  // Indices below 0 wrap to large ones, which give zero.
  return value.vector('i8x16.swizzle', ramp.vector(left ? 'i8x16.sub' : 'i8x16.add', n));
}
vectorMoves.add('pslldq', '66.0f.73/7r Ux,Ib', SSE2, (c) => {
  const n = c.let(clamp(c, 16));
  c.writeVector(0, byteShift(c.readVector(0), n, true));
});
vectorMoves.add('psrldq', '66.0f.73/3r Ux,Ib', SSE2, (c) => {
  const n = c.let(clamp(c, 16));
  c.writeVector(0, byteShift(c.readVector(0), n, false));
});
function clamp(c: Meaning, most: number): Expr {
  const n = c.let(c.record('i32.load8_u', R.IMMEDIATE));
  return select(n.gt_u(most), i32(most), n);
}

vectorMoves.add('palignr', '66.0f3a.0f Vx,Wx,Ib', SSSE3, (c) => {
  const n = c.let(clamp(c, 32));
  const a = c.let(c.readVector(0));
  const b = c.let(c.readVector(1));
  const right = c.let(select(n.gt_u(16), i32(16), n));
  // The destination moves in from above: left by 16 - n, or right by n - 16.
  const up = c.let(select(n.gt_u(16), i32(16), i32(16).sub(n)));
  const down = c.let(select(n.gt_u(16), n.sub(16), i32(0)));
  const fromB = byteShift(b, right, false);
  const fromA = byteShift(a, up, true);
  const beyond = byteShift(a, down, false);
  c.f.if_(
    n.gt_u(16),
    () => c.writeVector(0, beyond),
    () => c.writeVector(0, vector('v128.or', fromB, fromA)),
  );
});

// Masks to general registers.
vectorMoves.add('movmskps', 'np.0f.50r Gy,Ux', SSE2, (c) =>
  c.write(0, vector('i32x4.bitmask', c.readVector(1)).wide()),
);
vectorMoves.add('movmskpd', '66.0f.50r Gy,Ux', SSE2, (c) =>
  c.write(0, vector('i64x2.bitmask', c.readVector(1)).wide()),
);
vectorMoves.add('pmovmskb', '66.0f.d7r Gy,Ux', SSE2, (c) =>
  c.write(0, vector('i8x16.bitmask', c.readVector(1)).wide()),
);

/** Lane insertion and extraction: the lane number is an immediate, so it goes through memory of the register. */
function laneAddress(c: Meaning, i: number, size: number): Expr {
  const lane = c.record('i32.load8_u', R.IMMEDIATE).and(16 / size - 1);
  return c.pointer(i).add(lane.shl(Math.log2(size)));
}
const STORE = { 1: 'i64.store8', 2: 'i64.store16', 4: 'i64.store32', 8: 'i64.store' } as const;
const LOAD = { 1: 'i64.load8_u', 2: 'i64.load16_u', 4: 'i64.load32_u', 8: 'i64.load' } as const;
function insert(name: string, encoding: string, size: 1 | 2 | 4 | 8, options = SSE41): void {
  vectorMoves.add(name, encoding, options, (c) => {
    const value = c.let(c.read(1));
    c.f.store(STORE[size], laneAddress(c, 0, size), value);
  });
}
insert('pinsrw', '66.0f.c4 Vx,Ew,Ib', 2, SSE2);
insert('pinsrb', '66.0f3a.20r Vx,Ed,Ib', 1);
insert('pinsrbm', '66.0f3a.20m Vx,Eb,Ib', 1);
insert('pinsrd', '66.0f3a.22 Vx,Ed,Ib w0', 4);
insert('pinsrq', '66.0f3a.22 Vx,Eq,Ib w1', 8);
function extract(name: string, encoding: string, size: 1 | 2 | 4 | 8, options = SSE41): void {
  vectorMoves.add(name, encoding, options, (c) => {
    const value = c.let(load(LOAD[size], laneAddress(c, 1, size)));
    c.write(0, value);
  });
}
vectorMoves.add('pextrw', '66.0f.c5r Gd,Ux,Ib', SSE2, (c) =>
  c.write(0, load('i64.load16_u', laneAddress(c, 1, 2))),
);
extract('pextrb', '66.0f3a.14r Ed,Vx,Ib', 1);
extract('pextrbm', '66.0f3a.14m Eb,Vx,Ib', 1);
extract('pextrw2', '66.0f3a.15r Ed,Vx,Ib', 2);
extract('pextrwm', '66.0f3a.15m Ew,Vx,Ib', 2);
extract('pextrd', '66.0f3a.16 Ed,Vx,Ib w0', 4);
extract('pextrq', '66.0f3a.16 Eq,Vx,Ib w1', 8);
extract('extractps', '66.0f3a.17 Ed,Vx,Ib', 4);
vectorMoves.add('insertps', '66.0f3a.21 Vx,Wd,Ib', SSE41, (c) => {
  const control = c.let(c.record('i32.load8_u', R.IMMEDIATE));
  let value: Expr;
  if (c.isMemory(1)) value = c.read(1);
  else value = load('i64.load32_u', c.pointer(1).add(control.shr_u(6).shl(2)));
  const picked = c.let(value);
  c.f.store('i64.store32', c.pointer(0).add(control.shr_u(4).and(3).shl(2)), picked);
  for (let i = 0; i < 4; i++) {
    c.f.if_(control.shr_u(i).and(1), () => c.f.store('i64.store32', c.pointer(0), i64(0), i * 4));
  }
});

/** MASKMOVDQU and MASKMOVQ: bytes whose mask has its top bit set go to [RDI] in DS or another segment. */
export function maskedStore(c: Meaning, value: Expr, mask: Expr, size: 8 | 16): void {
  const offset = c.let(c.gpr(7).and(c.record('i64.load', R.IMMEDIATE)));
  const what = size | (ACCESS.modify << 8);
  const linear = c.f.call(
    c.site.helpers.segmentAddress,
    what,
    c.record('i32.load8_u', R.EXTRA),
    offset,
    c.site.pc,
  );
  const host = c.translate(c.let(linear), size, ACCESS.modify);
  const chosen = mask.vector('i8x16.shr_s', i32(7));
  const old = load(size === 8 ? 'v128.load64_zero' : 'v128.load', host);
  const result = vector('v128.bitselect', value, old, chosen);
  if (size === 16) c.storeVector(host, result);
  else c.storeHost(host, low(result), 8);
}
vectorMoves.add('maskmovdqu', '66.0f.f7r Vx,Ux', SSE2, (c) =>
  maskedStore(c, c.readVector(0), c.readVector(1), 16),
);

/** Sign and zero extensions. */
for (const [name, opcode, size, op] of [
  ['bw', 0x20, 'q', 'i16x8.extend_low_i8x16'],
  ['wd', 0x23, 'q', 'i32x4.extend_low_i16x8'],
  ['dq', 0x25, 'q', 'i64x2.extend_low_i32x4'],
] as const) {
  for (const sign of ['s', 'u'] as const) {
    const hex = (opcode + (sign === 'u' ? 0x10 : 0)).toString(16);
    vectorMoves.add(`pmov${sign}x${name}`, `66.0f38.${hex} Vx,W${size}`, SSE41, (c) =>
      c.writeVector(0, c.readVector(1).vector(`${op}_${sign}`)),
    );
  }
}
for (const sign of ['s', 'u'] as const) {
  const more = sign === 'u' ? 0x10 : 0;
  const hex = (opcode: number) => (opcode + more).toString(16);
  vectorMoves.add(`pmov${sign}xbd`, `66.0f38.${hex(0x21)} Vx,Wd`, SSE41, (c) =>
    c.writeVector(
      0,
      c.readVector(1).vector(`i16x8.extend_low_i8x16_${sign}`).vector(`i32x4.extend_low_i16x8_${sign}`),
    ),
  );
  vectorMoves.add(`pmov${sign}xbq`, `66.0f38.${hex(0x22)} Vx,Ww`, SSE41, (c) =>
    c.writeVector(
      0,
      narrowSource(c)
        .vector(`i16x8.extend_low_i8x16_${sign}`)
        .vector(`i32x4.extend_low_i16x8_${sign}`)
        .vector(`i64x2.extend_low_i32x4_${sign}`),
    ),
  );
  vectorMoves.add(`pmov${sign}xwq`, `66.0f38.${hex(0x24)} Vx,Wd`, SSE41, (c) =>
    c.writeVector(
      0,
      c.readVector(1).vector(`i32x4.extend_low_i16x8_${sign}`).vector(`i64x2.extend_low_i32x4_${sign}`),
    ),
  );
}
/** Two bytes of memory, or a register. */
function narrowSource(c: Meaning): Expr {
  return c.isMemory(1) ? v128(0n).withLane('i64x2', 0, c.read(1)) : c.readVector(1);
}
