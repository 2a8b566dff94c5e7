/** Where the entropy device's bytes come from. */
import { randomFillSync } from 'node:crypto';

/** A sequence of random bytes. */
export interface RandomSource {
  /** 64-bit numbers given out so far, for a sequence that repeats; else 0. */
  position: number;
  fill(bytes: Uint8Array): void;
}

/** The host's entropy. */
export function hostEntropy(): RandomSource {
  // The host's generator does not write to shared memory.
  const buffer = new Uint8Array(4096);
  return {
    position: 0,
    fill(bytes) {
      for (let at = 0; at < bytes.length; at += buffer.length) {
        const piece = buffer.subarray(0, Math.min(buffer.length, bytes.length - at));
        randomFillSync(piece);
        bytes.set(piece, at);
      }
      buffer.fill(0);
    },
  };
}

const MASK64 = (1n << 64n) - 1n;
/** Constants of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014). */
const GAMMA = 0x9e37_79b9_7f4a_7c15n;
const MIX1 = 0xbf58_476d_1ce4_e5b9n;
const MIX2 = 0x94d0_49bb_1331_11ebn;

/** A sequence that is the same for the same seed and the same requests. Not for secrets. */
export function seededEntropy(seed: number): RandomSource {
  const number = new DataView(new ArrayBuffer(8));
  const octets = new Uint8Array(number.buffer);
  return {
    position: 0,
    fill(bytes) {
      for (let at = 0; at < bytes.length; at += 8) {
        this.position++;
        let z = (BigInt(seed) + BigInt(this.position) * GAMMA) & MASK64;
        z = ((z ^ (z >> 30n)) * MIX1) & MASK64;
        z = ((z ^ (z >> 27n)) * MIX2) & MASK64;
        number.setBigUint64(0, z ^ (z >> 31n), true);
        bytes.set(octets.subarray(0, Math.min(8, bytes.length - at)), at);
      }
    },
  };
}
