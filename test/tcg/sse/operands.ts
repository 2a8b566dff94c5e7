/** Random operands of floating-point instructions, biased to what is special, and random MXCSR. */
import { ALL_EXCEPTIONS, MASK_SHIFT, PLAIN } from '../../../src/tcg/sse/mxcsr.ts';
import type { Random } from '../generate-cases.ts';

/** What an operand is made of: floats, or signed integers. */
export type Lanes = 'f32' | 'f64' | 'i32' | 'i64';

const SPECIAL: Readonly<Record<'f32' | 'f64', readonly bigint[]>> = {
  f32: [
    // Zero, least and largest denormal, least normal and its neighbour, one and its neighbours, largest, infinity.
    0x0000_0000n,
    0x0000_0001n,
    0x007f_ffffn,
    0x0080_0000n,
    0x0080_0001n,
    0x3f7f_ffffn,
    0x3f80_0000n,
    0x3f80_0001n,
    0x7f7f_ffffn,
    0x7f80_0000n,
    // Signaling and quiet NaN.
    0x7f80_0001n,
    0x7fbf_ffffn,
    0x7fc0_0000n,
    0x7fc1_2345n,
    // Limits of integers: 2^31 and 2^63, their lower neighbours; halves.
    0x4f00_0000n,
    0x4eff_ffffn,
    0x5f00_0000n,
    0x5eff_ffffn,
    0x3f00_0000n,
    0x3fc0_0000n,
    0x4020_0000n,
  ],
  f64: [
    0n,
    1n,
    0x000f_ffff_ffff_ffffn,
    0x0010_0000_0000_0000n,
    0x0010_0000_0000_0001n,
    0x3fef_ffff_ffff_ffffn,
    0x3ff0_0000_0000_0000n,
    0x3ff0_0000_0000_0001n,
    0x7fef_ffff_ffff_ffffn,
    0x7ff0_0000_0000_0000n,
    0x7ff0_0000_0000_0001n,
    0x7ff7_ffff_ffff_ffffn,
    0x7ff8_0000_0000_0000n,
    0x7ff8_1234_5678_9abcn,
    // 2^31, 2^31 - 1/2, 2^31 - 1, 2^63 and its lower neighbour; halves; the range of single precision.
    0x41e0_0000_0000_0000n,
    0x41df_ffff_ffe0_0000n,
    0x41df_ffff_ffc0_0000n,
    0x43e0_0000_0000_0000n,
    0x43df_ffff_ffff_ffffn,
    0x3fe0_0000_0000_0000n,
    0x3ff8_0000_0000_0000n,
    0x4004_0000_0000_0000n,
    0x47ef_ffff_e000_0000n,
    0x47ef_ffff_f000_0000n,
    0x3810_0000_0000_0000n,
    0x380f_ffff_ffff_ffffn,
    0x3690_0000_0000_0000n,
    0x36a0_0000_0000_0000n,
  ],
};
const FIELDS = { f32: { exponent: 8, fraction: 23 }, f64: { exponent: 11, fraction: 52 } } as const;

/** A bit pattern. */
export function floatBits(r: Random, kind: 'f32' | 'f64'): bigint {
  const { exponent, fraction } = FIELDS[kind];
  const sign = BigInt(r.below(2)) << BigInt(exponent + fraction);
  if (r.chance(25)) return sign | r.pick(SPECIAL[kind]);
  const bias = (1 << (exponent - 1)) - 1;
  const largest = 2 * bias + 1;
  let e = r.below(largest + 1);
  switch (r.below(8)) {
    case 0:
    case 1:
    case 2:
      e = bias + r.below(6) - 3;
      break;
    case 3:
      // Integers of 32 and 64 bits.
      e = bias + r.below(66) - 1;
      break;
    case 4:
      // Their squares and products are near the limits.
      e = bias + r.pick([-1, 1]) * (bias >> 1) + r.below(8) - 4 - r.below(fraction);
      break;
    case 5:
      e = r.below(5);
      break;
    case 6:
      e = largest - 1 - r.below(4);
      break;
  }
  if (kind === 'f64' && r.chance(15)) e = bias + r.pick([-150, -127, 127]) + r.below(28) - 2;
  const bits = BigInt(fraction);
  let significand = r.u64() & ((1n << bits) - 1n);
  // Few bits at the upper end: exact results and ties; ones: carries; few bits anywhere.
  const shape = r.below(10);
  if (shape < 4) significand = (significand >> (bits - 5n)) << (bits - 5n);
  else if (shape === 4) significand |= ((1n << bits) - 1n) & ~0x3n;
  else if (shape === 5) significand &= 0x1fn << BigInt(r.below(fraction - 4));
  return sign | (BigInt(e) << bits) | significand;
}

/** An integer: of few bits, or near a number that a format does not have. */
function integer(r: Random): bigint {
  const bits = BigInt(1 + r.below(64));
  const value = r.chance(30) ? (1n << bits) + BigInt(r.below(9) - 4) : r.u64() >> (64n - bits);
  return BigInt.asUintN(64, r.chance(50) ? -value : value);
}

/** Sixteen bytes. */
export function vectorOf(r: Random, lanes: Lanes): Uint8Array {
  const bytes = new Uint8Array(16);
  const view = new DataView(bytes.buffer);
  const size = lanes === 'f32' || lanes === 'i32' ? 4 : 8;
  for (let at = 0; at < 16; at += size) {
    const value = lanes === 'f32' || lanes === 'f64' ? floatBits(r, lanes) : integer(r);
    if (size === 4) view.setUint32(at, Number(value & 0xffff_ffffn), true);
    else view.setBigUint64(at, value, true);
  }
  return bytes;
}

/** Every rounding mode, sticky flags, masks, DAZ and FTZ; often the usual state of programs. */
export function randomMxcsr(r: Random): number {
  if (r.chance(40)) return (ALL_EXCEPTIONS << MASK_SHIFT) | (PLAIN & r.pick([-1, 0]));
  const masks = r.chance(60) ? ALL_EXCEPTIONS : r.u32() & ALL_EXCEPTIONS;
  const sticky = r.chance(50) ? 0 : r.u32() & ALL_EXCEPTIONS;
  const daz = r.chance(30) ? 0x40 : 0;
  const ftz = r.chance(30) ? 0x8000 : 0;
  return (masks << MASK_SHIFT) | sticky | daz | ftz | (r.below(4) << 13);
}
