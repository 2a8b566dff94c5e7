/**
 * Tells vCPUs that bytes of guest RAM were changed, so that they drop what they have decoded from them: for threads
 * without a vCPU (device DMA, a debugger), and for a vCPU to tell the others.
 *
 * The page map says who has decoded what. A vCPU sets its bit before it reads a page's bytes, a store looks at the map
 * after it has changed them.
 */
import type { HostMemory, RamRegion } from '../../memory/guest-memory.ts';
import { areaBase, codeBit, ENGINE, PAGE, PAGE_CLEAN, PAGE_CODE } from '../layout.ts';
import type { MemorySlots } from '../memory-slots.ts';
import { PhysicalMap } from '../physical.ts';
import { InvalidationQueue } from './invalidation-queue.ts';

/** Announces stores to guest RAM. */
export class CodeWatch {
  readonly #bytes: Uint8Array;
  readonly #words: Int32Array;
  readonly #map: PhysicalMap;
  readonly #queues: readonly { bit: number; queue: InvalidationQueue }[];

  /**
   * @param memory the memory with the engine's areas and guest RAM
   * @param vcpus how many vCPUs the machine has
   * @param except index of a vCPU that need not be told: the one that stores
   * @param slots memory besides RAM that {@link wroteGuest} may be told of
   */
  constructor(
    memory: HostMemory,
    regions: readonly RamRegion[],
    vcpus: number,
    except?: number,
    slots?: MemorySlots,
  ) {
    this.#bytes = new Uint8Array(memory.buffer);
    const words = new Int32Array(memory.buffer);
    this.#words = words;
    this.#map = new PhysicalMap(regions, slots);
    this.#queues = Array.from({ length: vcpus }, (_, index) => ({
      bit: index === except ? 0 : codeBit(index),
      queue: new InvalidationQueue(words, areaBase(index)),
    })).filter(({ bit }) => bit !== 0);
  }

  /** Whether there is anybody to tell. */
  get hasOthers(): boolean {
    return this.#queues.length > 0;
  }

  /** Bytes at an offset in the memory were changed: their pages are dirty, and code made of them is void. */
  wrote(host: number, length: number): void {
    if (length <= 0) return;
    // The bytes are in memory before the page map is read: a vCPU that marks the page later decodes the new ones.
    Atomics.or(this.#words, ENGINE.EXCLUSIVE >> 2, 0);
    const end = host + length;
    for (let at = host; at < end; at = at - (at % PAGE) + PAGE) {
      const page = Math.floor(at / PAGE);
      const bits = this.#bytes[page];
      if (bits & PAGE_CLEAN) Atomics.and(this.#bytes, page, ~PAGE_CLEAN);
      if (bits & PAGE_CODE) this.tell(bits, at, Math.min(end - at, PAGE - (at % PAGE)));
    }
  }

  /** Like {@link wrote}, by guest-physical address; where there is no memory it is passed over. */
  wroteGuest(gpa: number, length: number): void {
    this.#map.update();
    for (let done = 0; done < length; ) {
      const at = gpa + done;
      const piece = Math.min(length - done, PAGE - (at % PAGE));
      const host = this.#map.host(at);
      if (host >= 0) this.wrote(host, piece);
      done += piece;
    }
  }

  /** Tells the vCPUs whose bits are in a page's byte of the page map; the bytes lie in this page. */
  tell(bits: number, host: number, length: number): void {
    for (const { bit, queue } of this.#queues) if (bits & bit) queue.post(host, length);
  }
}
