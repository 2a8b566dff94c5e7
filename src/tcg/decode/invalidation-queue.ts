/**
 * Stores to decoded bytes, told to the vCPU that has decoded them: a ring in its area that every other thread writes
 * and it alone reads. What does not fit makes it drop everything.
 *
 * A store is posted after its bytes are in memory, and the vCPU takes what is posted before it executes anything behind
 * a serializing instruction or an interrupt (SDM vol. 3A 8.1.3, cross-modifying code); S.ATTENTION makes it do so soon
 * in any case.
 */
import { ATTENTION_ENGINE, INVALIDATIONS, INVALIDATIONS_SIZE, S } from '../layout.ts';

/** Byte offsets in the queue. */
const HEAD = 0;
const TAIL = 4;
const OVERFLOW = 8;
const SLOT_WORDS = 64;
/** Entries; a power of two. */
const SLOTS = 2048;
/** Unit of what is told; a page has 64, so that a start and a length fit into one word. */
const CHUNK = 64;
/** A slot that was read while one before it is still being written. No store covers it: it would end behind 4 GiB. */
const TAKEN = -1;

if (SLOT_WORDS * 4 + SLOTS * 4 > INVALIDATIONS_SIZE)
  throw new RangeError('The queue does not fit its place.');

/** The queue of one vCPU. Any thread may post; the vCPU's own drains. */
export class InvalidationQueue {
  readonly #words: Int32Array;
  readonly #head: number;
  readonly #tail: number;
  readonly #overflow: number;
  readonly #slots: number;
  readonly #attention: number;

  /**
   * @param words the whole memory
   * @param base the vCPU's area
   */
  constructor(words: Int32Array, base: number) {
    this.#words = words;
    const start = base + INVALIDATIONS;
    this.#head = (start + HEAD) >> 2;
    this.#tail = (start + TAIL) >> 2;
    this.#overflow = (start + OVERFLOW) >> 2;
    this.#slots = (start >> 2) + SLOT_WORDS;
    this.#attention = (base + S.ATTENTION) >> 2;
  }

  /** Tells that bytes within one page were stored. */
  post(host: number, length: number): void {
    const words = this.#words;
    const first = Math.floor(host / CHUNK);
    const last = Math.floor((host + length - 1) / CHUNK);
    const value = (first << 6) | (last - first);
    // The bytes are in memory before anything is read here: whoever takes an entry later decodes what was stored.
    Atomics.or(words, this.#overflow, 0);
    for (;;) {
      const head = Atomics.load(words, this.#head);
      const waiting = (head - Atomics.load(words, this.#tail)) >>> 0;
      // A run of small stores: the same entry is still there.
      if (waiting > 0 && Atomics.load(words, this.#slot(head - 1)) === value) return;
      if (waiting >= SLOTS) {
        Atomics.store(words, this.#overflow, 1);
        break;
      }
      if (Atomics.compareExchange(words, this.#head, head, (head + 1) | 0) !== head) continue;
      Atomics.store(words, this.#slot(head), value);
      break;
    }
    Atomics.or(words, this.#attention, ATTENTION_ENGINE);
  }

  /** Whether {@link drain} would find nothing. */
  get isEmpty(): boolean {
    const words = this.#words;
    return Atomics.load(words, this.#head) === words[this.#tail] && Atomics.load(words, this.#overflow) === 0;
  }

  /**
   * Takes what was posted, in whole chunks.
   * @returns false when more was posted than the queue holds: anything may have been stored to
   */
  drain(visit: (host: number, length: number) => void): boolean {
    const words = this.#words;
    const complete = Atomics.exchange(words, this.#overflow, 0) === 0;
    const head = Atomics.load(words, this.#head);
    let isContiguous = true;
    for (let at = words[this.#tail]; at !== head; at = (at + 1) | 0) {
      const slot = this.#slot(at);
      const value = Atomics.load(words, slot);
      // Taken by another thread that has not written it yet. Those behind it may be waited for already.
      if (value === 0) isContiguous = false;
      else if (value !== TAKEN) visit((value >>> 6) * CHUNK, ((value & (CHUNK - 1)) + 1) * CHUNK);
      if (isContiguous) {
        Atomics.store(words, slot, 0);
        Atomics.store(words, this.#tail, (at + 1) | 0);
      } else if (value !== 0) Atomics.store(words, slot, TAKEN);
    }
    return complete;
  }

  #slot(position: number): number {
    return this.#slots + (position & (SLOTS - 1));
  }
}
