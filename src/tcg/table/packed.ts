/** Integer instructions that exist for XMM and for MMX registers, with one meaning for both (SDM vol. 2). */
import type { Meaning } from '../emit/meaning.ts';
import { R } from '../layout.ts';
import { type Expr, i32, i64, type Local, select, v128, vector } from '../wasm/index.ts';
import { Table } from './instruction.ts';
import { beginMmx, endMmx, readMmx, writeMmx } from './mmx-registers.ts';

export const packed = new Table();

type Binary = (a: Local, b: Local, c: Meaning) => Expr;

/** How the two forms of an instruction differ. */
interface Forms {
  /** CPUID features of each. */
  readonly xmm?: string;
  readonly mmx?: string;
  /** The result's halves come from one operand each: with MMX registers both are joined before. */
  readonly joins?: boolean;
  /** More encodings with XMM registers. */
  readonly also?: readonly string[];
  /** The meaning with MMX registers where it is another one. */
  readonly other?: Binary;
  /** Bytes that are read when an MMX source is in memory. */
  readonly source?: 'd' | 'q';
}

const SSE = { mmx: 'sse' };
const SSE2 = { mmx: 'sse2' };
const SSSE3 = { xmm: 'ssse3', mmx: 'ssse3' };

const HALF = [0, 1, 2, 3, 4, 5, 6, 7];
/** The low halves of two vectors. */
const BOTH_LOW = [...HALF, ...HALF.map((i) => i + 16)];

/** Adds both forms: a function of destination and source. The opcode stands in map 0F unless it names another. */
function add(name: string, opcode: string, meaning: Binary, forms: Forms = {}): void {
  const path = opcode.includes('.') ? opcode : `0f.${opcode}`;
  packed.add(name, [`66.${path} Vx,Wx`, ...(forms.also ?? [])], { feature: forms.xmm ?? 'sse2' }, (c) => {
    const a = c.let(c.readVector(0));
    const b = c.let(c.readVector(1));
    c.writeVector(0, meaning(a, b, c));
  });
  packed.add(`${name}_mm`, `np.${path} Pq,Q${forms.source ?? 'q'}`, { feature: forms.mmx ?? 'mmx' }, (c) => {
    beginMmx(c);
    let b = c.let(readMmx(c, 1));
    let a = c.let(readMmx(c, 0));
    if (forms.joins) a = b = c.let(a.shuffle(b, BOTH_LOW));
    writeMmx(c, 0, (forms.other ?? meaning)(a, b, c));
    endMmx(c);
  });
}

/** One WebAssembly operator. */
const direct = (name: string, opcode: string, op: string, forms?: Forms) =>
  add(name, opcode, (a, b) => vector(op, a, b), forms);

direct('pand', 'db', 'v128.and', { also: ['np.0f.54 Vx,Wx', '66.0f.54 Vx,Wx'] });
direct('por', 'eb', 'v128.or', { also: ['np.0f.56 Vx,Wx', '66.0f.56 Vx,Wx'] });
direct('pxor', 'ef', 'v128.xor', { also: ['np.0f.57 Vx,Wx', '66.0f.57 Vx,Wx'] });
add('pandn', 'df', (a, b) => vector('v128.andnot', b, a), { also: ['np.0f.55 Vx,Wx', '66.0f.55 Vx,Wx'] });

for (const [name, opcode, op, forms] of [
  ['paddb', 'fc', 'i8x16.add'],
  ['paddw', 'fd', 'i16x8.add'],
  ['paddd', 'fe', 'i32x4.add'],
  ['paddq', 'd4', 'i64x2.add', SSE2],
  ['psubb', 'f8', 'i8x16.sub'],
  ['psubw', 'f9', 'i16x8.sub'],
  ['psubd', 'fa', 'i32x4.sub'],
  ['psubq', 'fb', 'i64x2.sub', SSE2],
  ['paddsb', 'ec', 'i8x16.add_sat_s'],
  ['paddsw', 'ed', 'i16x8.add_sat_s'],
  ['paddusb', 'dc', 'i8x16.add_sat_u'],
  ['paddusw', 'dd', 'i16x8.add_sat_u'],
  ['psubsb', 'e8', 'i8x16.sub_sat_s'],
  ['psubsw', 'e9', 'i16x8.sub_sat_s'],
  ['psubusb', 'd8', 'i8x16.sub_sat_u'],
  ['psubusw', 'd9', 'i16x8.sub_sat_u'],
  ['pminub', 'da', 'i8x16.min_u', SSE],
  ['pmaxub', 'de', 'i8x16.max_u', SSE],
  ['pminsw', 'ea', 'i16x8.min_s', SSE],
  ['pmaxsw', 'ee', 'i16x8.max_s', SSE],
  ['pavgb', 'e0', 'i8x16.avgr_u', SSE],
  ['pavgw', 'e3', 'i16x8.avgr_u', SSE],
  ['pmullw', 'd5', 'i16x8.mul'],
  ['pmaddwd', 'f5', 'i32x4.dot_i16x8_s'],
  ['pcmpeqb', '74', 'i8x16.eq'],
  ['pcmpeqw', '75', 'i16x8.eq'],
  ['pcmpeqd', '76', 'i32x4.eq'],
  ['pcmpgtb', '64', 'i8x16.gt_s'],
  ['pcmpgtw', '65', 'i16x8.gt_s'],
  ['pcmpgtd', '66', 'i32x4.gt_s'],
  ['packsswb', '63', 'i8x16.narrow_i16x8_s', { joins: true }],
  ['packuswb', '67', 'i8x16.narrow_i16x8_u', { joins: true }],
  ['packssdw', '6b', 'i16x8.narrow_i32x4_s', { joins: true }],
] as const) {
  direct(name, opcode, op, forms);
}

/** The high halves of four products of 32 bits from each of two vectors. */
const ODD_WORDS = [2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27, 30, 31];
for (const [name, opcode, sign, forms] of [
  ['pmulhw', 'e5', 's', {}],
  ['pmulhuw', 'e4', 'u', SSE],
] as const) {
  const meaning: Binary = (a, b) => {
    const low = vector(`i32x4.extmul_low_i16x8_${sign}`, a, b);
    return low.shuffle(vector(`i32x4.extmul_high_i16x8_${sign}`, a, b), ODD_WORDS);
  };
  add(name, opcode, meaning, forms);
}
/** The even ones of four words of 32 bits. */
export const EVEN_WORDS = [0, 1, 2, 3, 8, 9, 10, 11, 0, 1, 2, 3, 8, 9, 10, 11];
add(
  'pmuludq',
  'f4',
  (a, b) => vector('i64x2.extmul_low_i32x4_u', a.shuffle(a, EVEN_WORDS), b.shuffle(b, EVEN_WORDS)),
  SSE2,
);
add(
  'psadbw',
  'f6',
  (a, b, c) => {
    const d = c.let(vector('v128.or', vector('i8x16.sub_sat_u', a, b), vector('i8x16.sub_sat_u', b, a)));
    const words = vector('i16x8.extadd_pairwise_i8x16_u', d);
    const longs = c.let(vector('i32x4.extadd_pairwise_i16x8_u', words));
    const swapped = vector('i64x2.shr_u', longs, i32(32));
    return vector('v128.and', vector('i32x4.add', longs, swapped), v128(0xffff_ffff_0000_0000_ffff_ffffn));
  },
  SSE,
);

/** Interleaves the elements of two vectors from a byte on. */
const interleave = (size: number, start: number) =>
  Array.from({ length: 8 / size }, (_, i) =>
    [start, start + 16].flatMap((from) => Array.from({ length: size }, (_, k) => from + i * size + k)),
  ).flat();
for (const [suffix, size, lowOpcode, highOpcode] of [
  ['bw', 1, '60', '68'],
  ['wd', 2, '61', '69'],
  ['dq', 4, '62', '6a'],
] as const) {
  const unpack =
    (start: number): Binary =>
    (a, b) =>
      a.shuffle(b, interleave(size, start));
  add(`punpckl${suffix}`, lowOpcode, unpack(0), { source: 'd' });
  add(`punpckh${suffix}`, highOpcode, unpack(8), { other: unpack(4) });
}

// SSSE3.
add(
  'pshufb',
  '0f38.00',
  // A set top bit gives zero, otherwise four bits count; swizzle gives zero for all indices above 15.
  (a, b) =>
    a.vector('i8x16.swizzle', vector('v128.and', b, v128(0x8f8f_8f8f_8f8f_8f8f_8f8f_8f8f_8f8f_8f8fn))),
  {
    ...SSSE3,
    // Of eight bytes three bits count.
    other: (a, b) => a.vector('i8x16.swizzle', vector('v128.and', b, v128(0x8787_8787_8787_8787n))),
  },
);
// The product of two words of 0x8000 is the only one that saturates in WebAssembly and does not on a processor.
add(
  'pmulhrsw',
  '0f38.0b',
  (a, b, c) => {
    const r = c.let(vector('i16x8.q15mulr_sat_s', a, b));
    const least = v128(BigInt(`0x${'8000'.repeat(8)}`));
    const both = vector('v128.and', vector('i16x8.eq', a, least), vector('i16x8.eq', b, least));
    return vector('v128.xor', r, both);
  },
  SSSE3,
);
add(
  'pmaddubsw',
  '0f38.04',
  (a, b) => {
    // Unsigned times signed: products fit 17 bits, so even and odd bytes are multiplied in words and added saturating.
    const even = (x: Expr, signed: boolean) =>
      vector(signed ? 'i16x8.shr_s' : 'i16x8.shr_u', vector('i16x8.shl', x, i32(8)), i32(8));
    const odd = (x: Expr, signed: boolean) => vector(signed ? 'i16x8.shr_s' : 'i16x8.shr_u', x, i32(8));
    return vector(
      'i16x8.add_sat_s',
      vector('i16x8.mul', even(a, false), even(b, true)),
      vector('i16x8.mul', odd(a, false), odd(b, true)),
    );
  },
  SSSE3,
);

const evens = (size: number) =>
  Array.from({ length: 16 / size }, (_, i) =>
    Array.from({ length: size }, (_, k) => i * 2 * size + k),
  ).flat();
const odds = (size: number) => evens(size).map((i) => i + size);
for (const [name, opcode, size, op] of [
  ['phaddw', '01', 2, 'i16x8.add'],
  ['phaddd', '02', 4, 'i32x4.add'],
  ['phaddsw', '03', 2, 'i16x8.add_sat_s'],
  ['phsubw', '05', 2, 'i16x8.sub'],
  ['phsubd', '06', 4, 'i32x4.sub'],
  ['phsubsw', '07', 2, 'i16x8.sub_sat_s'],
] as const) {
  add(name, `0f38.${opcode}`, (a, b) => vector(op, a.shuffle(b, evens(size)), a.shuffle(b, odds(size))), {
    ...SSSE3,
    joins: true,
  });
}
for (const [name, opcode, shape] of [
  ['b', 0, 'i8x16'],
  ['w', 1, 'i16x8'],
  ['d', 2, 'i32x4'],
] as const) {
  add(`pabs${name}`, `0f38.${(0x1c + opcode).toString(16)}`, (_a, b) => b.vector(`${shape}.abs`), SSSE3);
  add(
    `psign${name}`,
    `0f38.0${8 + opcode === 10 ? 'a' : 8 + opcode}`,
    (a, b, c) => {
      const negative = c.let(vector(`${shape}.lt_s`, b, v128(0n)));
      const r = vector(`${shape}.sub`, vector('v128.xor', a, negative), negative);
      return vector('v128.andnot', r, vector(`${shape}.eq`, b, v128(0n)));
    },
    SSSE3,
  );
}

// Shifts: counts beyond the element give zero, or the sign.
for (const [suffix, shape, width, first, group] of [
  ['w', 'i16x8', 16, 0xd1, 0x71],
  ['d', 'i32x4', 32, 0xd2, 0x72],
  ['q', 'i64x2', 64, 0xd3, 0x73],
] as const) {
  for (const [kind, op, more, extension] of [
    ['srl', 'shr_u', 0, 2],
    ['sra', 'shr_s', 0x10, 4],
    ['sll', 'shl', 0x20, 6],
  ] as const) {
    if (kind === 'sra' && suffix === 'q') continue;
    const name = `p${kind}${suffix}`;
    const shift = (value: Expr, count: Local) => {
      const most = i64(width - 1);
      const n = select(count.gt_u(most), most, count).wrap();
      const shifted = vector(`${shape}.${op}`, value, n);
      if (kind === 'sra') return shifted;
      return vector('v128.and', shifted, vector('i64x2.splat', select(count.gt_u(most), i64(0), i64(-1))));
    };
    add(name, (first + more).toString(16), (a, b, c) => shift(a, c.let(b.lane('i64x2', 0))));
    const immediate = `0f.${group.toString(16)}/${extension}r`;
    const byte = (c: Meaning) => c.let(c.record('i32.load8_u', R.IMMEDIATE).wide());
    packed.add(`${name}i`, `66.${immediate} Ux,Ib`, { feature: 'sse2' }, (c) => {
      c.writeVector(0, shift(c.readVector(0), byte(c)));
    });
    packed.add(`${name}i_mm`, `np.${immediate} Nq,Ib`, { feature: 'mmx' }, (c) => {
      beginMmx(c);
      writeMmx(c, 0, shift(readMmx(c, 0), byte(c)));
      endMmx(c);
    });
  }
}
