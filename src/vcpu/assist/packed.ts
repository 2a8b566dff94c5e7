/**
 * Packed-integer instructions with the form destination = f(first, second): SSE2 to SSE4.2, AES, PCLMULQDQ and,
 * lane by lane, their AVX and AVX2 forms (Intel SDM vol. 2).
 */
import { aesdec, aesdeclast, aesenc, aesenclast, pclmulqdq } from './aes.ts';
import type { OpcodeMap } from './decode.ts';
import { elements, mapElements, mapQuads, pack, quads, saturate, shuffle, unpack } from './lanes.ts';

/** A function of two 128-bit lanes, the immediate and the lane's number. */
export type LaneFunction = (a: Uint8Array, b: Uint8Array, immediate: number, lane: number) => Uint8Array;

/** A packed instruction, 66-prefixed. */
export interface PackedOperation {
  readonly mnemonic: string;
  readonly map: OpcodeMap;
  readonly opcode: number;
  readonly compute: LaneFunction;
  /** The second operand is a count of 128 bits that applies to all lanes. */
  readonly count?: boolean;
}

type Small = 'u8' | 's8' | 'u16' | 's16' | 'u32' | 's32';

const each =
  (element: Small, compute: (x: number, y: number) => number): LaneFunction =>
  (a, b) =>
    mapElements(element, a, b, compute);
const eachQuad =
  (compute: (x: bigint, y: bigint) => bigint): LaneFunction =>
  (a, b) =>
    mapQuads(a, b, compute);
const signed = (value: bigint): bigint => BigInt.asIntN(64, value);
const ALL64 = 0xffff_ffff_ffff_ffffn;

const add = (x: number, y: number) => x + y;
const subtract = (x: number, y: number) => x - y;
const equal = (x: number, y: number) => (x === y ? -1 : 0);
const greater = (x: number, y: number) => (x > y ? -1 : 0);
const average = (x: number, y: number) => (x + y + 1) >> 1;
const applySign = (x: number, y: number) => (y < 0 ? -x : y === 0 ? 0 : x);
const saturating = (element: 'u8' | 's8' | 'u16' | 's16', compute: (x: number, y: number) => number) =>
  each(element, (x, y) => saturate(compute(x, y), element));

/** Shift of every element by the low quadword of the second operand; beyond the width zero, or the sign. */
export function shift(bits: 16 | 32 | 64, kind: 'left' | 'right' | 'arithmetic'): LaneFunction {
  return (a, b) => {
    const count = quads(b)[0];
    const out = quads(a);
    const perQuad = 64 / bits;
    for (let q = 0; q < out.length; q++) {
      let result = 0n;
      for (let i = 0; i < perQuad; i++) {
        const at = BigInt(i * bits);
        const value = BigInt.asUintN(bits, out[q] >> at);
        result |= BigInt.asUintN(bits, shiftElement(value, count, bits, kind)) << at;
      }
      out[q] = result;
    }
    return new Uint8Array(out.buffer);
  };
}

function shiftElement(
  value: bigint,
  count: bigint,
  bits: number,
  kind: 'left' | 'right' | 'arithmetic',
): bigint {
  const over = count >= BigInt(bits);
  if (kind === 'arithmetic') return BigInt.asIntN(bits, value) >> (over ? BigInt(bits - 1) : count);
  if (over) return 0n;
  return kind === 'left' ? value << count : value >> count;
}

/** PHADD and PHSUB: neighbours of the first lane, then of the second. */
function horizontal(element: 's16' | 's32', compute: (x: number, y: number) => number): LaneFunction {
  return (a, b) => {
    const values = [...elements(a, element), ...elements(b, element)];
    const out = elements(new Uint8Array(16), element);
    for (let i = 0; i < out.length; i++) out[i] = compute(values[2 * i], values[2 * i + 1]);
    return new Uint8Array(out.buffer);
  };
}

/** PMADDWD. */
const multiplyAdd: LaneFunction = (a, b) => {
  const [x, y] = [elements(a, 's16'), elements(b, 's16')];
  const out = Int32Array.from({ length: 4 }, (_, i) => x[2 * i] * y[2 * i] + x[2 * i + 1] * y[2 * i + 1]);
  return new Uint8Array(out.buffer);
};

/** PMADDUBSW: unsigned bytes of the first by signed bytes of the second. */
const multiplyAddBytes: LaneFunction = (a, b) => {
  const [x, y] = [elements(a, 'u8'), elements(b, 's8')];
  const sum = (i: number) => saturate(x[2 * i] * y[2 * i] + x[2 * i + 1] * y[2 * i + 1], 's16');
  return new Uint8Array(Int16Array.from({ length: 8 }, (_, i) => sum(i)).buffer);
};

/** PSADBW. */
const sumOfDifferences: LaneFunction = (a, b) => {
  const out = new BigUint64Array(2);
  for (let i = 0; i < 16; i++) out[i >> 3] += BigInt(Math.abs(a[i] - b[i]));
  return new Uint8Array(out.buffer);
};

const pshufb: LaneFunction = (a, b) => b.map((index) => (index & 0x80 ? 0 : a[index & 15]));

const palignr: LaneFunction = (a, b, immediate) => {
  const both = new Uint8Array(32);
  both.set(b);
  both.set(a, 16);
  return Uint8Array.from({ length: 16 }, (_, i) => both[i + immediate] ?? 0);
};

const shufps: LaneFunction = (a, b, immediate) => {
  const pick = (lane: Uint8Array, at: number) =>
    shuffle(lane, 4, [(immediate >> at) & 3, (immediate >> (at + 2)) & 3]);
  return Uint8Array.of(...pick(a, 0), ...pick(b, 4));
};

const blendWords: LaneFunction = (a, b, immediate) =>
  a.map((byte, i) => ((immediate >> (i >> 1)) & 1 ? b[i] : byte));

const op = (
  mnemonic: string,
  opcode: number,
  compute: LaneFunction,
  map: OpcodeMap = 1,
): PackedOperation => ({
  mnemonic,
  map,
  opcode,
  compute,
});

const SSE2: readonly PackedOperation[] = [
  op('punpcklbw', 0x60, (a, b) => unpack(a, b, 1, false)),
  op('punpcklwd', 0x61, (a, b) => unpack(a, b, 2, false)),
  op('punpckldq', 0x62, (a, b) => unpack(a, b, 4, false)),
  op('punpcklqdq', 0x6c, (a, b) => unpack(a, b, 8, false)),
  op('punpckhbw', 0x68, (a, b) => unpack(a, b, 1, true)),
  op('punpckhwd', 0x69, (a, b) => unpack(a, b, 2, true)),
  op('punpckhdq', 0x6a, (a, b) => unpack(a, b, 4, true)),
  op('punpckhqdq', 0x6d, (a, b) => unpack(a, b, 8, true)),
  op('packsswb', 0x63, (a, b) => pack(a, b, 's16', 's8')),
  op('packuswb', 0x67, (a, b) => pack(a, b, 's16', 'u8')),
  op('packssdw', 0x6b, (a, b) => pack(a, b, 's32', 's16')),
  op('pcmpgtb', 0x64, each('s8', greater)),
  op('pcmpgtw', 0x65, each('s16', greater)),
  op('pcmpgtd', 0x66, each('s32', greater)),
  op('pcmpeqb', 0x74, each('u8', equal)),
  op('pcmpeqw', 0x75, each('u16', equal)),
  op('pcmpeqd', 0x76, each('u32', equal)),
  { ...op('psrlw', 0xd1, shift(16, 'right')), count: true },
  { ...op('psrld', 0xd2, shift(32, 'right')), count: true },
  { ...op('psrlq', 0xd3, shift(64, 'right')), count: true },
  { ...op('psraw', 0xe1, shift(16, 'arithmetic')), count: true },
  { ...op('psrad', 0xe2, shift(32, 'arithmetic')), count: true },
  { ...op('psllw', 0xf1, shift(16, 'left')), count: true },
  { ...op('pslld', 0xf2, shift(32, 'left')), count: true },
  { ...op('psllq', 0xf3, shift(64, 'left')), count: true },
  op('paddb', 0xfc, each('u8', add)),
  op('paddw', 0xfd, each('u16', add)),
  op('paddd', 0xfe, each('u32', add)),
  op(
    'paddq',
    0xd4,
    eachQuad((x, y) => x + y),
  ),
  op('psubb', 0xf8, each('u8', subtract)),
  op('psubw', 0xf9, each('u16', subtract)),
  op('psubd', 0xfa, each('u32', subtract)),
  op(
    'psubq',
    0xfb,
    eachQuad((x, y) => x - y),
  ),
  op('paddsb', 0xec, saturating('s8', add)),
  op('paddsw', 0xed, saturating('s16', add)),
  op('paddusb', 0xdc, saturating('u8', add)),
  op('paddusw', 0xdd, saturating('u16', add)),
  op('psubsb', 0xe8, saturating('s8', subtract)),
  op('psubsw', 0xe9, saturating('s16', subtract)),
  op('psubusb', 0xd8, saturating('u8', subtract)),
  op('psubusw', 0xd9, saturating('u16', subtract)),
  op('pminub', 0xda, each('u8', Math.min)),
  op('pmaxub', 0xde, each('u8', Math.max)),
  op('pminsw', 0xea, each('s16', Math.min)),
  op('pmaxsw', 0xee, each('s16', Math.max)),
  op('pavgb', 0xe0, each('u8', average)),
  op('pavgw', 0xe3, each('u16', average)),
  op('pmullw', 0xd5, each('s16', Math.imul)),
  op(
    'pmulhw',
    0xe5,
    each('s16', (x, y) => (x * y) >> 16),
  ),
  op(
    'pmulhuw',
    0xe4,
    each('u16', (x, y) => Math.floor((x * y) / 65536)),
  ),
  op(
    'pmuludq',
    0xf4,
    eachQuad((x, y) => (x & 0xffff_ffffn) * (y & 0xffff_ffffn)),
  ),
  op('pmaddwd', 0xf5, multiplyAdd),
  op('psadbw', 0xf6, sumOfDifferences),
  op(
    'pand',
    0xdb,
    each('u32', (x, y) => x & y),
  ),
  op(
    'pandn',
    0xdf,
    each('u32', (x, y) => ~x & y),
  ),
  op(
    'por',
    0xeb,
    each('u32', (x, y) => x | y),
  ),
  op(
    'pxor',
    0xef,
    each('u32', (x, y) => x ^ y),
  ),
  op(
    'andpd',
    0x54,
    each('u32', (x, y) => x & y),
  ),
  op(
    'andnpd',
    0x55,
    each('u32', (x, y) => ~x & y),
  ),
  op(
    'orpd',
    0x56,
    each('u32', (x, y) => x | y),
  ),
  op(
    'xorpd',
    0x57,
    each('u32', (x, y) => x ^ y),
  ),
  op('unpcklpd', 0x14, (a, b) => unpack(a, b, 8, false)),
  op('unpckhpd', 0x15, (a, b) => unpack(a, b, 8, true)),
];

/** SSE instructions of the same meaning without prefix. */
export const UNPREFIXED: readonly PackedOperation[] = [
  op(
    'andps',
    0x54,
    each('u32', (x, y) => x & y),
  ),
  op(
    'andnps',
    0x55,
    each('u32', (x, y) => ~x & y),
  ),
  op(
    'orps',
    0x56,
    each('u32', (x, y) => x | y),
  ),
  op(
    'xorps',
    0x57,
    each('u32', (x, y) => x ^ y),
  ),
  op('unpcklps', 0x14, (a, b) => unpack(a, b, 4, false)),
  op('unpckhps', 0x15, (a, b) => unpack(a, b, 4, true)),
  op('shufps', 0xc6, shufps),
];

const LATER: readonly PackedOperation[] = [
  op('pshufb', 0x00, pshufb, 2),
  op('phaddw', 0x01, horizontal('s16', add), 2),
  op('phaddd', 0x02, horizontal('s32', add), 2),
  op(
    'phaddsw',
    0x03,
    horizontal('s16', (x, y) => saturate(x + y, 's16')),
    2,
  ),
  op('pmaddubsw', 0x04, multiplyAddBytes, 2),
  op('phsubw', 0x05, horizontal('s16', subtract), 2),
  op('phsubd', 0x06, horizontal('s32', subtract), 2),
  op(
    'phsubsw',
    0x07,
    horizontal('s16', (x, y) => saturate(x - y, 's16')),
    2,
  ),
  op('psignb', 0x08, each('s8', applySign), 2),
  op('psignw', 0x09, each('s16', applySign), 2),
  op('psignd', 0x0a, each('s32', applySign), 2),
  op(
    'pmulhrsw',
    0x0b,
    each('s16', (x, y) => (((x * y) >> 14) + 1) >> 1),
    2,
  ),
  op(
    'pmuldq',
    0x28,
    eachQuad((x, y) => BigInt.asIntN(32, x) * BigInt.asIntN(32, y)),
    2,
  ),
  op(
    'pcmpeqq',
    0x29,
    eachQuad((x, y) => (x === y ? ALL64 : 0n)),
    2,
  ),
  op('packusdw', 0x2b, (a, b) => pack(a, b, 's32', 'u16'), 2),
  op(
    'pcmpgtq',
    0x37,
    eachQuad((x, y) => (signed(x) > signed(y) ? ALL64 : 0n)),
    2,
  ),
  op('pminsb', 0x38, each('s8', Math.min), 2),
  op('pminsd', 0x39, each('s32', Math.min), 2),
  op('pminuw', 0x3a, each('u16', Math.min), 2),
  op('pminud', 0x3b, each('u32', Math.min), 2),
  op('pmaxsb', 0x3c, each('s8', Math.max), 2),
  op('pmaxsd', 0x3d, each('s32', Math.max), 2),
  op('pmaxuw', 0x3e, each('u16', Math.max), 2),
  op('pmaxud', 0x3f, each('u32', Math.max), 2),
  op('pmulld', 0x40, each('s32', Math.imul), 2),
  op('aesenc', 0xdc, aesenc, 2),
  op('aesenclast', 0xdd, aesenclast, 2),
  op('aesdec', 0xde, aesdec, 2),
  op('aesdeclast', 0xdf, aesdeclast, 2),
  op('pblendw', 0x0e, blendWords, 3),
  op('palignr', 0x0f, palignr, 3),
  op('pclmulqdq', 0x44, pclmulqdq, 3),
];

/** All with the 66 prefix. */
export const PREFIXED: readonly PackedOperation[] = [
  ...SSE2,
  op('shufpd', 0xc6, (a, b, immediate, lane) => {
    const [low, high] = [(immediate >> (2 * lane)) & 1, (immediate >> (2 * lane + 1)) & 1];
    return Uint8Array.of(...shuffle(a, 8, [low]), ...shuffle(b, 8, [high]));
  }),
  ...LATER,
];
