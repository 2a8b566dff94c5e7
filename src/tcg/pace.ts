/** How many instructions a vCPU may run before it must look at the time again. */

/** Longest time between two looks, nanoseconds: how late a timer may be. */
const SLICE_NS = 500_000;
const LEAST = 500;
/** Without a look at other things for longer, deterministic or not. */
const MOST = 200_000;
/** Instructions a nanosecond to begin with. */
const FIRST_RATE = 0.05;

/** Learns how fast instructions are executed. */
export class Pace {
  #rate = FIRST_RATE;

  /** @param until nanoseconds until something is due @returns instructions */
  budget(until: number): number {
    const instructions = Math.min(until, SLICE_NS) * this.#rate;
    return instructions < LEAST ? LEAST : instructions > MOST ? MOST : Math.floor(instructions);
  }

  /** Says how long a run took. */
  took(instructions: number, nanoseconds: number): void {
    if (instructions < LEAST || nanoseconds <= 0) return;
    const rate = instructions / nanoseconds;
    // What has become slower is believed at once: the next timer shall not be as late.
    this.#rate = rate < this.#rate ? rate : this.#rate + (rate - this.#rate) / 8;
  }
}
