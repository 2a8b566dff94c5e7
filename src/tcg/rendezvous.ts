/**
 * Operations that must be atomic but are too wide or too crooked for a WebAssembly atomic.
 *
 * A locked access across 8-byte words runs alone: its vCPU stops all others outside of run(), which they leave at the
 * end of the block, and where everything that may take long (device accesses, HLT, pauses) happens anyway. Whoever
 * wants to run alone counts as stopped while it waits for its turn, so that two of them never wait for each other.
 *
 * LOCK CMPXCHG16B cannot afford that: Linux does one for many an object that is freed on another CPU. It is atomic
 * against other LOCK CMPXCHG16B, by a lock of their own. Each half is replaced by a compare-and-exchange, so that a
 * store or LOCK of 8 bytes or less to a half by another vCPU is not overwritten. What differs from a processor: the
 * halves change one after the other, low first, so loads of 8 bytes may see the new low half with the old high one,
 * also when the exchange then fails because of a store to the high half; and such a store that comes together with
 * one to the low half, both within that moment, may leave the low half with what was stored last of the two.
 */
import { ATTENTION_ENGINE, areaBase, attentionWord, ENGINE, INVALIDATIONS } from './layout.ts';

/** In the place that layout.ts keeps for the invalidation queue: not 0 while the vCPU is in run(). */
const RUNNING = 0x80;
/** How often a word is read before the thread sleeps: a stop takes some microseconds, a sleep takes more. */
const SPINS = 2000;
/** Longest sleep, ms: a wake-up that came before the sleep is noticed after it. */
const SLEEP = 1;

const EXCLUSIVE = ENGINE.EXCLUSIVE >> 2;
const PAIR = ENGINE.PAIR >> 2;

function runningWord(index: number): number {
  return (areaBase(index) + INVALIDATIONS + RUNNING) >> 2;
}

/** Two 64-bit halves. */
export interface Pair {
  readonly low: bigint;
  readonly high: bigint;
}

/** One vCPU's part. */
export class Rendezvous {
  readonly #words: Int32Array;
  /** The memory by 64-bit words. */
  readonly #halves: BigUint64Array;
  readonly #id: number;
  readonly #running: number;
  readonly #others: readonly { running: number; attention: number }[];
  #isAlone = false;

  /** @param words the whole memory */
  constructor(words: Int32Array, index: number, vcpus: number) {
    this.#words = words;
    this.#halves = new BigUint64Array(words.buffer);
    this.#id = index + 1;
    this.#running = runningWord(index);
    this.#others = Array.from({ length: vcpus }, (_, i) => i)
      .filter((i) => i !== index)
      .map((i) => ({ running: runningWord(i), attention: attentionWord(i) }));
  }

  /** To be called when a vCPU's thread is gone, by force or for want of memory: the others do not wait for it. */
  static retire(words: Int32Array, index: number): void {
    Atomics.store(words, runningWord(index), 0);
    for (const lock of [EXCLUSIVE, PAIR]) {
      if (Atomics.compareExchange(words, lock, index + 1, 0) === index + 1) Atomics.notify(words, lock);
    }
  }

  /** The vCPU goes into run(); waits while another runs alone. */
  enter(): void {
    if (this.#others.length === 0) return;
    const words = this.#words;
    Atomics.store(words, this.#running, 1);
    for (;;) {
      const holder = Atomics.load(words, EXCLUSIVE);
      if (holder === 0) return;
      this.#stopped();
      this.#wait(EXCLUSIVE, holder);
      Atomics.store(words, this.#running, 1);
    }
  }

  /** The vCPU has left run(). Also ends {@link alone}, should an exception have passed it by. */
  leave(): void {
    if (this.#others.length === 0) return;
    this.together();
    this.#stopped();
  }

  /** Stops the others until {@link together}. To be called in run(), before the access has read anything. */
  alone(): void {
    if (this.#others.length === 0 || this.#isAlone) return;
    const words = this.#words;
    this.#stopped();
    for (;;) {
      const holder = Atomics.compareExchange(words, EXCLUSIVE, 0, this.#id);
      if (holder === 0) break;
      this.#wait(EXCLUSIVE, holder);
    }
    this.#isAlone = true;
    Atomics.store(words, this.#running, 1);
    for (const { running, attention } of this.#others) {
      while (Atomics.load(words, running) !== 0) {
        Atomics.or(words, attention, ATTENTION_ENGINE);
        this.#wait(running, 1);
      }
    }
  }

  /** Lets the others run again. */
  together(): void {
    if (!this.#isAlone) return;
    this.#isAlone = false;
    Atomics.store(this.#words, EXCLUSIVE, 0);
    Atomics.notify(this.#words, EXCLUSIVE);
  }

  /**
   * LOCK CMPXCHG16B.
   * @param host address, a multiple of 16
   * @returns what was there; the exchange took place if that is `expected`
   */
  exchange(host: number, expected: Pair, replacement: Pair): Pair {
    const words = this.#words;
    for (;;) {
      const holder = Atomics.compareExchange(words, PAIR, 0, this.#id);
      if (holder === 0) break;
      this.#wait(PAIR, holder);
    }
    try {
      return this.#exchange(host / 8, expected, replacement);
    } finally {
      Atomics.store(words, PAIR, 0);
    }
  }

  #exchange(at: number, expected: Pair, replacement: Pair): Pair {
    const halves = this.#halves;
    for (;;) {
      const low = Atomics.load(halves, at);
      const high = Atomics.load(halves, at + 1);
      // Both at one moment, whatever others store to the halves.
      if (Atomics.load(halves, at) !== low) continue;
      if (low !== expected.low || high !== expected.high) return { low, high };
      if (Atomics.compareExchange(halves, at, low, replacement.low) !== low) continue;
      if (Atomics.compareExchange(halves, at + 1, high, replacement.high) === high) return expected;
      // Somebody stored to the high half just now: this must fail, so the low one is taken back.
      Atomics.compareExchange(halves, at, replacement.low, low);
    }
  }

  #stopped(): void {
    Atomics.store(this.#words, this.#running, 0);
    if (Atomics.load(this.#words, EXCLUSIVE) !== 0) Atomics.notify(this.#words, this.#running);
  }

  /** Waits, not for long, until a word has another value. */
  #wait(word: number, value: number): void {
    const words = this.#words;
    for (let i = 0; i < SPINS; i++) if (Atomics.load(words, word) !== value) return;
    Atomics.wait(words, word, value, SLEEP);
  }
}
