/** Guest-physical addresses to offsets in the shared memory. */
import type { RamRegion } from '../memory/guest-memory.ts';

/** RAM of the guest as the engine sees it. */
export class PhysicalMap {
  readonly #regions: readonly RamRegion[];

  /** @param regions all in memory 0 */
  constructor(regions: readonly RamRegion[]) {
    this.#regions = regions;
  }

  /** The offset of a guest-physical address in the memory, or -1 where there is no RAM. */
  host(gpa: number): number {
    for (const region of this.#regions) {
      const at = gpa - region.gpa;
      if (at >= 0 && at < region.size) return region.offset + at;
    }
    return -1;
  }
}
