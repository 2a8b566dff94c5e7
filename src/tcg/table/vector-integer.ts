/** SSE4.1 and SSE4.2 integer arithmetic (SDM vol. 2); what is older has an MMX form too and is in packed.ts. */
import type { Meaning } from '../emit/meaning.ts';
import { R, S } from '../layout.ts';
import { type Expr, i32, type Local, load, v128, vector } from '../wasm/index.ts';
import { Table } from './instruction.ts';
import { EVEN_WORDS } from './packed.ts';
import { SYSTEM } from './system-operations.ts';

export const vectorInteger = new Table();

const SSE41 = { feature: 'sse4_1' };
const SSE42 = { feature: 'sse4_2' };

/** An instruction whose result is a function of destination and source. */
function binary(
  name: string,
  encoding: string | string[],
  meaning: (a: Local, b: Local, c: Meaning) => Expr,
  options = SSE41,
): void {
  vectorInteger.add(name, encoding, options, (c) => {
    const a = c.let(c.readVector(0));
    const b = c.let(c.readVector(1));
    c.writeVector(0, meaning(a, b, c));
  });
}
/** One WebAssembly operator. */
const direct = (name: string, encoding: string | string[], op: string, options = SSE41) =>
  binary(name, encoding, (a, b) => vector(op, a, b), options);

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

binary(
  'pmuldq',
  '66.0f38.28 Vx,Wx',
  (a, b) => vector('i64x2.extmul_low_i32x4_s', a.shuffle(a, EVEN_WORDS), b.shuffle(b, EVEN_WORDS)),
  SSE41,
);
// SSE4.1: blends, tests.
const XMM0 = (c: Meaning) => load('v128.load', c.site.base, S.XMM);
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
