/** Seeded operands that reach the corners of the x87 formats. */
import { Float80 } from '../../../src/tcg/fpu/float80.ts';

/** A small generator with a seed (mulberry32), so that a failing run repeats. */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed;
  }

  /** 32 random bits, signed. */
  bits(): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0;
    let t = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return (t ^ (t >>> 14)) | 0;
  }

  /** An integer from 0 to `limit - 1`. */
  below(limit: number): number {
    return (this.bits() >>> 0) % limit;
  }

  pick<T>(from: readonly T[]): T {
    return from[this.below(from.length)];
  }
}

/** Sign and exponent words at the borders of the formats: zero, one, the single and double ranges, infinity. */
const EXPONENTS = [
  0, 1, 2, 3, 0x3fff, 0x3ffe, 0x4000, 0x3fbf, 0x3fc0, 0x3f81, 0x3f80, 0x3f6a, 0x3f69, 0x407e, 0x407f, 0x3c01,
  0x3c00, 0x3bcd, 0x3bcc, 0x43fe, 0x43ff, 0x400d, 0x400e, 0x401d, 0x401e, 0x403d, 0x403e, 0x403f, 0x403a,
  0x403b, 0x7ffd, 0x7ffe, 0x7fff, 0x5fff, 0x1fff, 0x2000, 0x6000,
];
const HIGHS = [
  0x8000_0000, 0xffff_ffff, 0xc000_0000, 0x8000_0001, 0xffff_ff00, 0xffff_ff80, 0x8000_0080, 0x8000_0100,
  0x8000_0180, 0, 1, 0x4000_0000, 0x7fff_ffff, 0xa000_0000,
];
const LOWS = [
  0, 1, 0xffff_ffff, 0x400, 0x800, 0xc00, 0xffff_f800, 0xffff_fc00, 0x8000_0000, 0x7fff_ffff, 2, 3, 0x7ff,
  0x401,
];

/** A register value: special, near a border, of middling size, or any bits. */
export function extended(r: Random): Float80 {
  const out = new Float80();
  const sign = r.below(2) << 15;
  switch (r.below(8)) {
    case 0:
      return out.set(sign, 0, 0);
    case 1:
    case 2:
    case 3:
      return out.set(sign | r.pick(EXPONENTS), r.pick(HIGHS), r.pick(LOWS));
    case 4:
      return out.set(sign | r.pick(EXPONENTS), r.bits() | 0x8000_0000, r.bits());
    case 5:
      return out.set(
        sign | (0x3fff - 40 + r.below(80)),
        r.bits() | 0x8000_0000,
        r.pick([r.bits(), 0, r.bits() & ~0x7ff]),
      );
    case 6:
      return out.set(sign | (0x3fff - 4 + r.below(70)), r.pick(HIGHS) | 0x8000_0000, r.pick(LOWS));
    default:
      return out.set(r.below(0x10000), r.bits(), r.bits());
  }
}

/** A memory operand of sixteen bytes that is of interest in any format. */
export function memoryOperand(r: Random, bytes: number): Uint8Array {
  const out = new Uint8Array(16);
  const view = new DataView(out.buffer);
  const sign = r.below(2);
  if (bytes === 4 && r.below(3) > 0) {
    const exponent = r.pick([0, 0, 1, 2, 126, 127, 128, 254, 255, 255, r.below(256)]);
    const fraction = r.pick([0, 1, 0x40_0000, 0x7f_ffff, 0x3f_ffff, r.below(0x80_0000)]);
    view.setUint32(0, (sign << 31) | (exponent << 23) | fraction, true);
  } else if (bytes === 8 && r.below(3) > 0) {
    const exponent = r.pick([0, 0, 1, 2, 1022, 1023, 1024, 2046, 2047, 2047, r.below(2048)]);
    view.setUint32(
      4,
      (sign << 31) | (exponent << 20) | r.pick([0, 1, 0x8_0000, 0xf_ffff, r.below(0x10_0000)]),
      true,
    );
    view.setUint32(0, r.pick([0, 1, 0xffff_ffff, r.bits()]), true);
  } else if (r.below(2) === 0) {
    const value = BigInt(
      r.pick([0, 1, -1, 2, 100, -100, 0x7fff, -0x8000, 0x7fff_ffff, -0x8000_0000, r.bits()]),
    );
    view.setBigInt64(0, r.below(4) === 0 ? 1n << 63n : value, true);
  } else {
    extended(r).write(view, 0);
  }
  return out;
}

/** Packed BCD with digits from 0 to 9. */
export function bcd(r: Random): Uint8Array {
  const out = new Uint8Array(16);
  for (let i = 0; i < 9; i++) out[i] = r.below(4) === 0 ? 0x99 : (r.below(10) << 4) | r.below(10);
  out[9] = r.pick([0, 0x80, 0x7f, 0xff]);
  return out;
}
