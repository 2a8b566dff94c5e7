/**
 * Operations that must be atomic but are too wide or too crooked for a WebAssembly atomic.
 *
 * A locked access across 8-byte words runs alone: its vCPU stops all others outside of run(), which they leave at the
 * end of the block, and where everything that may take long (device accesses, HLT, pauses) happens anyway. Whoever
 * wants to run alone counts as stopped while it waits for its turn, so that two of them never wait for each other.
 *
 * LOCK CMPXCHG16B cannot afford that: Linux does one for each object that is freed on another CPU. It is atomic
 * against other LOCK CMPXCHG16B, by a lock of their own, and each half is replaced by a compare-and-exchange, so
 * that no store of 8 bytes or less to a half is ever lost or overwritten. What differs from a processor: the halves
 * change one after the other, low first, so two loads of 8 bytes may see the new low half with the old high one.
 */
import { ATTENTION_ENGINE, areaBase, ENGINE, INVALIDATIONS, S } from './layout.ts';

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

/** One vCPU's part. */
export class Rendezvous {
  readonly #words: Int32Array;
  readonly #id: number;
  readonly #running: number;
  readonly #others: readonly { running: number; attention: number }[];
  #isAlone = false;

  /** @param words the whole memory */
  constructor(words: Int32Array, index: number, vcpus: number) {
    this.#words = words;
    this.#id = index + 1;
    this.#running = runningWord(index);
    this.#others = Array.from({ length: vcpus }, (_, i) => i)
      .filter((i) => i !== index)
      .map((i) => ({ running: runningWord(i), attention: (areaBase(i) + S.ATTENTION) >> 2 }));
  }

  /** To be called by whoever ends a vCPU's thread by force, when it is gone: the others do not wait for it. */
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
    while (Atomics.load(words, EXCLUSIVE) !== 0) {
      this.#stopped();
      this.#wait(EXCLUSIVE, Atomics.load(words, EXCLUSIVE));
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

  /** Calls `exchange` while no other vCPU is in one: LOCK CMPXCHG16B. */
  pair(exchange: () => void): void {
    if (this.#others.length === 0) {
      exchange();
      return;
    }
    const words = this.#words;
    for (;;) {
      const holder = Atomics.compareExchange(words, PAIR, 0, this.#id);
      if (holder === 0) break;
      this.#wait(PAIR, holder);
    }
    try {
      exchange();
    } finally {
      Atomics.store(words, PAIR, 0);
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
