/** SSE2 to SSE4.2 integer arithmetic (SDM vol. 2). */
import type { Meaning } from '../emit/meaning.ts';
import { R, S } from '../layout.ts';
import { type Expr, i32, i64, type Local, load, select, v128, vector } from '../wasm/index.ts';
import { Table } from './instruction.ts';
import { SYSTEM } from './system-operations.ts';

export const vectorInteger = new Table();

const SSE2 = { feature: 'sse2' };
const SSSE3 = { feature: 'ssse3' };
const SSE41 = { feature: 'sse4_1' };
const SSE42 = { feature: 'sse4_2' };

/** An instruction whose result is a function of destination and source. */
function binary(
  name: string,
  encoding: string | string[],
  meaning: (a: Local, b: Local, c: Meaning) => Expr,
  options = SSE2,
): void {
  vectorInteger.add(name, encoding, options, (c) => {
    const a = c.let(c.readVector(0));
    const b = c.let(c.readVector(1));
    c.writeVector(0, meaning(a, b, c));
  });
}
/** One WebAssembly operator. */
const direct = (name: string, encoding: string | string[], op: string, options = SSE2) =>
  binary(name, encoding, (a, b) => vector(op, a, b), options);

direct('pand', ['66.0f.db Vx,Wx', 'np.0f.54 Vx,Wx', '66.0f.54 Vx,Wx'], 'v128.and');
direct('por', ['66.0f.eb Vx,Wx', 'np.0f.56 Vx,Wx', '66.0f.56 Vx,Wx'], 'v128.or');
direct('pxor', ['66.0f.ef Vx,Wx', 'np.0f.57 Vx,Wx', '66.0f.57 Vx,Wx'], 'v128.xor');
binary('pandn', ['66.0f.df Vx,Wx', 'np.0f.55 Vx,Wx', '66.0f.55 Vx,Wx'], (a, b) =>
  vector('v128.andnot', b, a),
);

for (const [name, opcode, op] of [
  ['paddb', 'fc', 'i8x16.add'],
  ['paddw', 'fd', 'i16x8.add'],
  ['paddd', 'fe', 'i32x4.add'],
  ['paddq', 'd4', 'i64x2.add'],
  ['psubb', 'f8', 'i8x16.sub'],
  ['psubw', 'f9', 'i16x8.sub'],
  ['psubd', 'fa', 'i32x4.sub'],
  ['psubq', 'fb', 'i64x2.sub'],
  ['paddsb', 'ec', 'i8x16.add_sat_s'],
  ['paddsw', 'ed', 'i16x8.add_sat_s'],
  ['paddusb', 'dc', 'i8x16.add_sat_u'],
  ['paddusw', 'dd', 'i16x8.add_sat_u'],
  ['psubsb', 'e8', 'i8x16.sub_sat_s'],
  ['psubsw', 'e9', 'i16x8.sub_sat_s'],
  ['psubusb', 'd8', 'i8x16.sub_sat_u'],
  ['psubusw', 'd9', 'i16x8.sub_sat_u'],
  ['pminub', 'da', 'i8x16.min_u'],
  ['pmaxub', 'de', 'i8x16.max_u'],
  ['pminsw', 'ea', 'i16x8.min_s'],
  ['pmaxsw', 'ee', 'i16x8.max_s'],
  ['pavgb', 'e0', 'i8x16.avgr_u'],
  ['pavgw', 'e3', 'i16x8.avgr_u'],
  ['pmullw', 'd5', 'i16x8.mul'],
  ['pmaddwd', 'f5', 'i32x4.dot_i16x8_s'],
  ['pcmpeqb', '74', 'i8x16.eq'],
  ['pcmpeqw', '75', 'i16x8.eq'],
  ['pcmpeqd', '76', 'i32x4.eq'],
  ['pcmpgtb', '64', 'i8x16.gt_s'],
  ['pcmpgtw', '65', 'i16x8.gt_s'],
  ['pcmpgtd', '66', 'i32x4.gt_s'],
  ['packsswb', '63', 'i8x16.narrow_i16x8_s'],
  ['packuswb', '67', 'i8x16.narrow_i16x8_u'],
  ['packssdw', '6b', 'i16x8.narrow_i32x4_s'],
] as const) {
  direct(name, `66.0f.${opcode} Vx,Wx`, op);
}
for (const [name, opcode, op] of [
  ['pminsb', '38', 'i8x16.min_s'],
  ['pminsd', '39', 'i32x4.min_s'],
  ['pminuw', '3a', 'i16x8.min_u'],
  ['pminud', '3b', 'i32x4.min_u'],
  ['pmaxsb', '3c', 'i8x16.max_s'],
  ['pmaxsd', '3d', 'i32x4.max_s'],
  ['pmaxuw', '3e', 'i16x8.max_u'],
  ['pmaxud', '3f', 'i32x4.max_u'],
  ['pmulld', '40', 'i32x4.mul'],
  ['pcmpeqq', '29', 'i64x2.eq'],
  ['packusdw', '2b', 'i16x8.narrow_i32x4_u'],
] as const) {
  direct(name, `66.0f38.${opcode} Vx,Wx`, op, SSE41);
}
direct('pcmpgtq', '66.0f38.37 Vx,Wx', 'i64x2.gt_s', SSE42);

/** The high halves of the four products of 32 bits at each half. */
const ODD_WORDS = [2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27, 30, 31];
for (const [name, opcode, sign] of [
  ['pmulhw', 'e5', 's'],
  ['pmulhuw', 'e4', 'u'],
] as const) {
  binary(name, `66.0f.${opcode} Vx,Wx`, (a, b) => {
    const low = vector(`i32x4.extmul_low_i16x8_${sign}`, a, b);
    return low.shuffle(vector(`i32x4.extmul_high_i16x8_${sign}`, a, b), ODD_WORDS);
  });
}
const EVEN = [0, 1, 2, 3, 8, 9, 10, 11, 0, 1, 2, 3, 8, 9, 10, 11];
binary('pmuludq', '66.0f.f4 Vx,Wx', (a, b) =>
  vector('i64x2.extmul_low_i32x4_u', a.shuffle(a, EVEN), b.shuffle(b, EVEN)),
);
binary(
  'pmuldq',
  '66.0f38.28 Vx,Wx',
  (a, b) => vector('i64x2.extmul_low_i32x4_s', a.shuffle(a, EVEN), b.shuffle(b, EVEN)),
  SSE41,
);
binary('psadbw', '66.0f.f6 Vx,Wx', (a, b, c) => {
  const d = c.let(vector('v128.or', vector('i8x16.sub_sat_u', a, b), vector('i8x16.sub_sat_u', b, a)));
  const words = vector('i16x8.extadd_pairwise_i8x16_u', d);
  const longs = c.let(vector('i32x4.extadd_pairwise_i16x8_u', words));
  const swapped = vector('i64x2.shr_u', longs, i32(32));
  return vector('v128.and', vector('i32x4.add', longs, swapped), v128(0xffff_ffff_0000_0000_ffff_ffffn));
});
// The product of two words of 0x8000 is the only one that saturates in WebAssembly and does not on a processor.
binary(
  'pmulhrsw',
  '66.0f38.0b Vx,Wx',
  (a, b, c) => {
    const r = c.let(vector('i16x8.q15mulr_sat_s', a, b));
    const least = v128(BigInt(`0x${'8000'.repeat(8)}`));
    const both = vector('v128.and', vector('i16x8.eq', a, least), vector('i16x8.eq', b, least));
    return vector('v128.xor', r, both);
  },
  SSSE3,
);
binary(
  'pmaddubsw',
  '66.0f38.04 Vx,Wx',
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
  binary(
    name,
    `66.0f38.${opcode} Vx,Wx`,
    (a, b) => vector(op, a.shuffle(b, evens(size)), a.shuffle(b, odds(size))),
    SSSE3,
  );
}
for (const [name, opcode, shape] of [
  ['b', 0, 'i8x16'],
  ['w', 1, 'i16x8'],
  ['d', 2, 'i32x4'],
] as const) {
  vectorInteger.add(`pabs${name}`, `66.0f38.${(0x1c + opcode).toString(16)} Vx,Wx`, SSSE3, (c) =>
    c.writeVector(0, c.readVector(1).vector(`${shape}.abs`)),
  );
  binary(
    `psign${name}`,
    `66.0f38.${(0x08 + opcode).toString(16).padStart(2, '0')} Vx,Wx`,
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
  for (const [kind, op, add, extension] of [
    ['srl', 'shr_u', 0, 2],
    ['sra', 'shr_s', 0x10, 4],
    ['sll', 'shl', 0x20, 6],
  ] as const) {
    if (kind === 'sra' && suffix === 'q') continue;
    const shift = (value: Expr, count: Local) => {
      const most = i64(width - 1);
      const n = select(count.gt_u(most), most, count).wrap();
      const shifted = vector(`${shape}.${op}`, value, n);
      if (kind === 'sra') return shifted;
      return vector('v128.and', shifted, vector('i64x2.splat', select(count.gt_u(most), i64(0), i64(-1))));
    };
    vectorInteger.add(`p${kind}${suffix}`, `66.0f.${(first + add).toString(16)} Vx,Wx`, SSE2, (c) => {
      const count = c.let(c.readVector(1).lane('i64x2', 0));
      c.writeVector(0, shift(c.readVector(0), count));
    });
    vectorInteger.add(`p${kind}${suffix}i`, `66.0f.${group.toString(16)}/${extension}r Ux,Ib`, SSE2, (c) => {
      const count = c.let(c.record('i32.load8_u', R.IMMEDIATE).wide());
      c.writeVector(0, shift(c.readVector(0), count));
    });
  }
}

// SSE4.1: blends, tests.
const XMM0 = (c: Meaning) => load('v128.load', c.site.base + S.XMM);
for (const [name, opcode, shape] of [
  ['pblendvb', '10', 'i8x16'],
  ['blendvps', '14', 'i32x4'],
  ['blendvpd', '15', 'i64x2'],
] as const) {
  binary(
    name,
    `66.0f38.${opcode} Vx,Wx`,
    (a, b, c) => {
      const bits = { i8x16: 7, i32x4: 31, i64x2: 63 }[shape];
      return vector('v128.bitselect', b, a, vector(`${shape}.shr_s`, XMM0(c), i32(bits)));
    },
    SSE41,
  );
}
/** The immediate's bits spread over the lanes, as a mask. */
function immediateMask(c: Meaning, shape: 'i16x8' | 'i32x4' | 'i64x2'): Expr {
  const lanes = { i16x8: 8, i32x4: 4, i64x2: 2 }[shape];
  const bits = 128 / lanes;
  let select_ = 0n;
  for (let i = 0; i < lanes; i++) select_ |= (1n << BigInt(i)) << BigInt(i * bits);
  const byte = c.record('i32.load8_u', R.IMMEDIATE);
  const splat = vector(`${shape}.splat`, shape === 'i64x2' ? byte.wide() : byte);
  const one = v128(select_);
  return vector(`${shape}.eq`, vector('v128.and', splat, one), one);
}
for (const [name, opcode, shape] of [
  ['blendps', '0c', 'i32x4'],
  ['blendpd', '0d', 'i64x2'],
  ['pblendw', '0e', 'i16x8'],
] as const) {
  vectorInteger.add(name, `66.0f3a.${opcode} Vx,Wx,Ib`, SSE41, (c) => {
    const a = c.let(c.readVector(0));
    const b = c.let(c.readVector(1));
    c.writeVector(0, vector('v128.bitselect', b, a, immediateMask(c, shape)));
  });
}
vectorInteger.add('ptest', '66.0f38.17 Vx,Wx', SSE41, (c) => {
  const a = c.let(c.readVector(0));
  const b = c.let(c.readVector(1));
  const zero = vector('v128.any_true', vector('v128.and', a, b)).eqz();
  const carry = vector('v128.any_true', vector('v128.andnot', b, a)).eqz();
  const image = c.let(zero.shl(6).or(carry).wide());
  c.flags.load(image);
});
vectorInteger.add('phminposuw', '66.0f38.41 Vx,Wx', SSE41, (c) => {
  const b = c.let(c.readVector(1));
  const best = c.let(i32(0xffff));
  const at = c.let(i32(0));
  for (let i = 7; i >= 0; i--) {
    const word = c.let(b.lane('i16x8', i));
    c.f.if_(word.le_u(best), () => {
      c.f.set(best, word);
      c.f.set(at, i);
    });
  }
  c.writeVector(0, v128(0n).withLane('i32x4', 0, best.or(at.shl(16))));
});
vectorInteger.add('mpsadbw', '66.0f3a.42 Vx,Wx,Ib', SSE41, (c) => {
  const a = c.let(c.readVector(0));
  const b = c.let(c.readVector(1));
  const control = c.let(c.record('i32.load8_u', R.IMMEDIATE));
  const ramp = v128(0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100n);
  const from = c.let(
    a.vector('i8x16.swizzle', vector('i8x16.add', ramp, vector('i8x16.splat', control.and(4)))),
  );
  const block = c.let(control.and(3).shl(2));
  const sum = c.let(v128(0n));
  for (let k = 0; k < 4; k++) {
    const byte = c.let(b.vector('i8x16.swizzle', vector('i8x16.splat', block.add(k))));
    const shifted = c.let(
      from.vector('i8x16.swizzle', vector('i8x16.add', ramp, v128(BigInt(`0x${`0${k}`.repeat(16)}`)))),
    );
    const difference = vector(
      'v128.or',
      vector('i8x16.sub_sat_u', shifted, byte),
      vector('i8x16.sub_sat_u', byte, shifted),
    );
    c.f.set(sum, vector('i16x8.add', sum, difference.vector('i16x8.extend_low_i8x16_u')));
  }
  c.writeVector(0, sum);
});

/** The string compares are TypeScript; the detail is REX.W, which makes the explicit lengths 64 bits wide. */
for (const w of [0, 1] as const) {
  for (const [name, opcode] of [
    ['PCMPESTRM', '60'],
    ['PCMPESTRI', '61'],
    ['PCMPISTRM', '62'],
    ['PCMPISTRI', '63'],
  ] as const) {
    vectorInteger.add(`${name.toLowerCase()}${w}`, `66.0f3a.${opcode} Vx,Wx,Ib w${w} u`, SSE42, (c) =>
      c.system(SYSTEM[name], w),
    );
  }
}
