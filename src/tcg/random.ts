/** What RDRAND and RDSEED give when a run shall repeat: a pseudo-random sequence from a seed. */

const MASK64 = (1n << 64n) - 1n;
/** Constants of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014). */
const GAMMA = 0x9e37_79b9_7f4a_7c15n;
const MIX1 = 0xbf58_476d_1ce4_e5b9n;
const MIX2 = 0x94d0_49bb_1331_11ebn;

/** A source of 64-bit numbers. Not for secrets. @param seed any whole number; @param stream another for each vCPU */
export function seededRandom(seed: number, stream: number): () => bigint {
  let state = (BigInt(seed) + BigInt(stream) * (GAMMA >> 1n)) & MASK64;
  return () => {
    state = (state + GAMMA) & MASK64;
    let z = state;
    z = ((z ^ (z >> 30n)) * MIX1) & MASK64;
    z = ((z ^ (z >> 27n)) * MIX2) & MASK64;
    return z ^ (z >> 31n);
  };
}
