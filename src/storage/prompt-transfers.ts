/**
 * Small reads and writes that the host's page cache takes are done in some microseconds; handing them to the thread pool and
 * back costs ten times that, and two changes of threads. So they are done at once, on the event loop, as long as that is quick:
 * where one has to wait for a disk, the next go to the thread pool, for a longer time whenever it happens again.
 */

/** Bytes up to which a transfer may be done at once. */
const MOST_BYTES = 65536;
/** A transfer that takes longer has waited for something, ms. */
const SLOW = 0.5;
/** How long the thread pool is used after a slow transfer, ms, and at most after many. */
const FIRST_PAUSE = 20;
const LONGEST_PAUSE = 2000;

/** What is known of one file. */
export class PromptTransfers {
  readonly #now: () => number;
  #resumesAt = 0;
  #pause = FIRST_PAUSE;

  /** @param now milliseconds */
  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  /** Whether a transfer of so many bytes is better done at once. */
  accepts(bytes: number): boolean {
    return bytes <= MOST_BYTES && this.#now() >= this.#resumesAt;
  }

  /** Carries a transfer out, and takes its time. */
  run(transfer: () => number): number {
    const start = this.#now();
    const bytes = transfer();
    const end = this.#now();
    if (end - start < SLOW) {
      this.#pause = Math.max(FIRST_PAUSE, this.#pause / 2);
    } else {
      this.#resumesAt = end + this.#pause;
      this.#pause = Math.min(this.#pause * 2, LONGEST_PAUSE);
    }
    return bytes;
  }
}
