/**
 * Which blocks a translator should take on. Nothing is counted while guest code runs: where run() comes back because its
 * budget is used up is a sample of what is executed, and a block that is met again and again is hot.
 */

/** Samples after which a block is hot. At some half a millisecond each, it is then good for more than a translation. */
export const HOT_SAMPLES = 4;
/** Blocks that are remembered; beyond, those that were met once are forgotten. */
const MOST = 4096;

/** The samples of one vCPU, by the address of a block's first record. */
export class HotBlocks {
  readonly #samples = new Map<number, number>();
  /** Blocks that are marked for the translator, by record, in the order they became hot. */
  readonly marked = new Set<number>();

  /** The block is what is executed now. */
  sample(record: number): void {
    const samples = (this.#samples.get(record) ?? 0) + 1;
    if (samples === HOT_SAMPLES) this.marked.add(record);
    if (samples > HOT_SAMPLES) return;
    this.#samples.set(record, samples);
    if (this.#samples.size > MOST) this.#forgetCold();
  }

  /** The block is no more. */
  drop(record: number): void {
    if (this.#samples.delete(record)) this.marked.delete(record);
  }

  clear(): void {
    this.#samples.clear();
    this.marked.clear();
  }

  #forgetCold(): void {
    for (const [record, samples] of this.#samples) if (samples === 1) this.#samples.delete(record);
    // Not worth going through again and again for a few.
    if (this.#samples.size > MOST / 2) this.clear();
  }
}
