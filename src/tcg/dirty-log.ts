/**
 * Which pages of guest RAM were written: by the guest, whose stores all look at the page map and clear PAGE_CLEAN
 * there (Mmu.touched), and by whoever announces stores with CodeWatch.wrote().
 */
import { DirtyBitmap } from '../memory/dirty-bitmap.ts';
import type { HostMemory, RamRegion } from '../memory/guest-memory.ts';
import { ENGINE, PAGE, PAGE_CLEAN } from './layout.ts';

const ALL_CLEAN = 0x0101_0101 * PAGE_CLEAN;
/**
 * How long {@link DirtyLog.take} waits in the end, ms. A processor may keep a store to itself while it already reads
 * the page map, and so find a page dirty that was marked clean before its bytes appear: they do in less than a
 * microsecond. The page is in the log that is taken, and whoever reads it finds these bytes.
 */
const SETTLING = 0.1;

/** The dirty log of a machine's RAM. While there is none, nothing is recorded and stores cost nothing. */
export class DirtyLog {
  readonly #regions: readonly RamRegion[];
  readonly #map: Uint8Array;
  /** The memory as words; the page map by four pages. */
  readonly #words: Int32Array;

  /**
   * Begins to record.
   * @param memory the memory with the engine's areas and guest RAM
   * @param regions RAM, page-aligned
   */
  constructor(memory: HostMemory, regions: readonly RamRegion[]) {
    this.#regions = regions;
    this.#map = new Uint8Array(memory.buffer);
    this.#words = new Int32Array(memory.buffer);
    for (const region of regions) this.#take(region);
  }

  /** Pages written since the last call, one bitmap for each region, and starts anew. vCPUs may run meanwhile. */
  take(): DirtyBitmap[] {
    const bitmaps = this.#regions.map((region) => this.#take(region));
    Atomics.wait(this.#words, ENGINE.NEVER >> 2, 0, SETTLING);
    return bitmaps;
  }

  #take({ offset, size }: RamRegion): DirtyBitmap {
    const first = offset / PAGE;
    const pages = Math.ceil(size / PAGE);
    const bitmap = new DirtyBitmap(pages);
    const map = this.#map;
    for (let i = 0; i < pages; ) {
      const page = first + i;
      if (page % 4 === 0 && (this.#words[page / 4] & ALL_CLEAN) === ALL_CLEAN) {
        i += 4;
        continue;
      }
      // The mark comes first: what is written behind it is in the next log.
      if ((Atomics.or(map, page, PAGE_CLEAN) & PAGE_CLEAN) === 0) bitmap.add(i);
      i++;
    }
    return bitmap;
  }
}
