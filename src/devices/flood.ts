/**
 * When posted writes are worth collecting.
 *
 * Waking the thread that owns the devices costs a vCPU several times what posting a write does. Where writes come in a
 * flood that nobody waits for, as from a kernel's console, the owner is not woken for each of them but looks every
 * {@link COLLECT_MS}. Writes whose effect the guest waits for are no flood: its driver reads registers in between, which
 * ends the flood at once, or it stops writing, which makes the next flood harder to believe.
 */

/** How often the owner looks during a flood, ms: as often as the console hands its output on. */
export const COLLECT_MS = 1;
/** An owner that sleeps for less than this, ms, between posted writes might as well not sleep. */
const SHORT_SLEEP_MS = 0.1;
/** So many short sleeps in a row, each ended by posted writes alone, begin a flood. */
const WAKES = 16;
const MAX_WAKES = 4096;
/** With fewer writes than this in one collection the flood is over. */
const WRITES = 16;

/** Watches one bus. */
export class Flood {
  #wakes = 0;
  #needed = WAKES;
  #collecting = false;
  #posted = 0;
  #called = 0;

  /**
   * After the owner has looked at every channel.
   * @param posted posted writes carried out so far
   * @param called accesses so far that a vCPU waited for
   * @returns whether to collect from now on
   */
  rises(posted: number, called: number): boolean {
    const writes = posted - this.#posted;
    if (called !== this.#called) this.#wakes = 0;
    else if (this.#collecting && writes < WRITES) {
      this.#wakes = 0;
      this.#needed = Math.min(this.#needed * 2, MAX_WAKES);
    } else if (this.#collecting) this.#needed = WAKES;
    this.#collecting = false;
    this.#posted = posted;
    this.#called = called;
    return this.#wakes >= this.#needed;
  }

  /** The owner has slept for `ms`, collecting or not. */
  woken(collecting: boolean, ms: number): void {
    this.#collecting = collecting;
    if (!collecting) this.#wakes = ms < SHORT_SLEEP_MS ? this.#wakes + 1 : 0;
  }
}
