/**
 * The bus's address map in shared memory: written by the thread that owns the devices, read by every vCPU thread.
 *
 * Writers bump `version` to odd, change, bump to even; a reader copies and tries again when the version moved (a
 * seqlock). Readers rebuild their own lookup tables only when the version changed, so a look-up costs no atomics
 * beyond one load.
 */
import { TsvError } from '../errors.ts';

/** Address spaces of the bus. */
export const SPACE = { pio: 1, mmio: 2 } as const;
/** `pio`: the 64 Ki I/O ports. `mmio`: guest-physical addresses that are not RAM. */
export type Space = keyof typeof SPACE;

export const READ_SYNC = 0;
export const READ_LATCHED = 1;
export const WRITE_SYNC = 0;
export const WRITE_POSTED = 1;
export const WRITE_W1C = 2;

/** How accesses to `size` bytes from `offset` (within the region) travel; latches are indices, -1 for none. */
export interface TableMode {
  offset: number;
  size: number;
  read: number;
  write: number;
  readLatch: number;
  w1cLatch: number;
}

/** One mounted range. */
export interface TableRegion {
  /** Index by which accesses name the region. */
  id: number;
  space: number;
  base: number;
  size: number;
  maxAccess: number;
  modes: TableMode[];
}

const MAX_REGIONS = 512;
const MAX_MODES = 2048;
const MAX_LATCHES = 1024;
const REGION_WORDS = 8;
const MODE_WORDS = 6;
const HEADER_WORDS = 4;
const VERSION = 0;
const COUNT = 1;
const REGIONS = HEADER_WORDS;
const MODES = REGIONS + MAX_REGIONS * REGION_WORDS;
const LATCHES = MODES + MAX_MODES * MODE_WORDS;

/** The address map and the latches in one shared buffer. */
export class BusTable {
  readonly shared: SharedArrayBuffer;
  /** The words behind latched and w1c registers. */
  readonly latches: Int32Array;
  readonly #words: Int32Array;

  constructor(shared = new SharedArrayBuffer((LATCHES + MAX_LATCHES) * 4)) {
    this.shared = shared;
    this.#words = new Int32Array(shared);
    this.latches = new Int32Array(shared, LATCHES * 4, MAX_LATCHES);
  }

  /** Changes with every {@link publish}. */
  get version(): number {
    return Atomics.load(this.#words, VERSION);
  }

  /** Replaces the map. Only the owning thread may call this. @throws TSV_E_BUS_RANGE when it does not fit */
  publish(regions: readonly TableRegion[]): void {
    const modes = regions.reduce((sum, region) => sum + region.modes.length, 0);
    if (regions.length > MAX_REGIONS || modes > MAX_MODES) {
      throw new TsvError(
        'TSV_E_BUS_RANGE',
        `The bus holds at most ${MAX_REGIONS} ranges and ${MAX_MODES} register modes.`,
        {
          hint: 'Mount fewer, larger ranges.',
        },
      );
    }
    const words = this.#words;
    Atomics.add(words, VERSION, 1);
    let nextMode = 0;
    regions.forEach((region, i) => {
      const at = REGIONS + i * REGION_WORDS;
      words[at] = region.id;
      words[at + 1] = region.space;
      words[at + 2] = region.base % 2 ** 32;
      words[at + 3] = Math.floor(region.base / 2 ** 32);
      words[at + 4] = region.size % 2 ** 32;
      words[at + 5] = Math.floor(region.size / 2 ** 32);
      words[at + 6] = region.maxAccess;
      words[at + 7] = (nextMode << 16) | region.modes.length;
      for (const mode of region.modes) {
        const to = MODES + nextMode++ * MODE_WORDS;
        words[to] = mode.offset;
        words[to + 1] = mode.size;
        words[to + 2] = mode.read;
        words[to + 3] = mode.write;
        words[to + 4] = mode.readLatch;
        words[to + 5] = mode.w1cLatch;
      }
    });
    words[COUNT] = regions.length;
    Atomics.add(words, VERSION, 1);
  }

  /** A consistent copy of the map and its version. */
  snapshot(): { version: number; regions: TableRegion[] } {
    const words = this.#words;
    for (;;) {
      const version = Atomics.load(words, VERSION);
      if (version & 1) continue;
      const regions: TableRegion[] = [];
      for (let i = 0; i < words[COUNT]; i++) regions.push(this.#region(i));
      if (Atomics.load(words, VERSION) === version) return { version, regions };
    }
  }

  #region(index: number): TableRegion {
    const words = this.#words;
    const at = REGIONS + index * REGION_WORDS;
    const first = words[at + 7] >>> 16;
    const modes: TableMode[] = [];
    for (let m = first; m < first + (words[at + 7] & 0xffff); m++) {
      const from = MODES + m * MODE_WORDS;
      modes.push({
        offset: words[from],
        size: words[from + 1],
        read: words[from + 2],
        write: words[from + 3],
        readLatch: words[from + 4],
        w1cLatch: words[from + 5],
      });
    }
    return {
      id: words[at],
      space: words[at + 1],
      base: (words[at + 2] >>> 0) + words[at + 3] * 2 ** 32,
      size: (words[at + 4] >>> 0) + words[at + 5] * 2 ** 32,
      maxAccess: words[at + 6],
      modes,
    };
  }
}

/** How many latches a bus can hold. */
export const LATCH_CAPACITY = MAX_LATCHES;
