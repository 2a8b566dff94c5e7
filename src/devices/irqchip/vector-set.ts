/** A set of interrupt vectors, 0 to 255, as the local APIC's registers hold them: eight words, lowest vectors first. */
import { VECTOR_WORDS } from './apic-mailbox.ts';

/** Vectors in service. */
export class VectorSet {
  readonly #words = new Int32Array(VECTOR_WORDS);

  add(vector: number): void {
    this.#words[vector >> 5] |= 1 << (vector & 31);
  }

  delete(vector: number): void {
    this.#words[vector >> 5] &= ~(1 << (vector & 31));
  }

  clear(): void {
    this.#words.fill(0);
  }

  /** The highest member, or -1. */
  highest(): number {
    for (let word = VECTOR_WORDS - 1; word >= 0; word--) {
      const bits = this.#words[word];
      if (bits !== 0) return word * 32 + 31 - Math.clz32(bits);
    }
    return -1;
  }

  /** One of the eight words, unsigned. */
  word(index: number): number {
    return this.#words[index] >>> 0;
  }

  /** Replaces one of the eight words. */
  setWord(index: number, bits: number): void {
    this.#words[index] = bits;
  }
}
