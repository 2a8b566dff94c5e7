/** Limits how much a disk is used, by bytes and by operations a second (token buckets). */
import type { Clock } from '../devices/clock.ts';
import { TsvError } from '../errors.ts';
import type { BlockBackend, DiskExtent } from './backend.ts';
import { totalLength } from './buffers.ts';

/** Limits of a disk; one that is not given does not limit. */
export interface ThrottleLimits {
  /** Bytes a second that are read and written. */
  readonly bytesPerSecond?: number;
  /** Reads, writes, flushes, discards and zeroings a second. */
  readonly opsPerSecond?: number;
  /** Bytes that may be transferred at once after a pause (default: those of a second). */
  readonly bytesBurst?: number;
  /** Operations that may be done at once after a pause (default: those of a second). */
  readonly opsBurst?: number;
}

/** What a throttle needs of a clock. */
export type ThrottleClock = Pick<Clock, 'now' | 'setTimer'>;

const NS_PER_SECOND = 1e9;

/** What rounding may be off by. */
const EPSILON = 1e-6;

/**
 * Tokens come at a rate and are kept up to a number. Who needs more than can be kept waits for a full bucket and takes
 * them all the same; those after it wait longer then.
 */
class TokenBucket {
  readonly #perNs: number;
  readonly #capacity: number;
  #tokens: number;
  #updated: number;

  constructor(perSecond: number, capacity: number, now: number) {
    this.#perNs = perSecond / NS_PER_SECOND;
    this.#capacity = capacity;
    this.#tokens = capacity;
    this.#updated = now;
  }

  /** When there will be enough tokens, ns; not after `now` when there are. */
  readyAt(now: number, tokens: number): number {
    this.#tokens = Math.min(this.#capacity, this.#tokens + (now - this.#updated) * this.#perNs);
    this.#updated = now;
    const missing = Math.min(tokens, this.#capacity) - this.#tokens;
    return missing <= EPSILON ? now : now + Math.ceil(missing / this.#perNs);
  }

  take(tokens: number): void {
    this.#tokens -= tokens;
  }
}

/** A disk whose requests wait for their turn, in the order they came. */
export class ThrottledDisk implements BlockBackend {
  /** {@link BlockBackend.discard}, when the disk can. */
  readonly discard?: (offset: number, length: number) => Promise<void>;
  /** {@link BlockBackend.writeZeroes}, when the disk can. */
  readonly writeZeroes?: (offset: number, length: number, mayUnmap: boolean) => Promise<void>;
  /** {@link BlockBackend.extent}, when the disk can. */
  readonly extent?: (offset: number) => Promise<DiskExtent>;
  readonly #disk: BlockBackend;
  readonly #clock: ThrottleClock;
  readonly #bytes: TokenBucket | undefined;
  readonly #ops: TokenBucket | undefined;
  #waiting: { bytes: number; start: () => void }[] = [];
  #timed = false;

  /**
   * @param disk is closed with the throttle
   * @throws TSV_E_CONFIG for a limit that would stop the disk
   */
  constructor(disk: BlockBackend, limits: ThrottleLimits, clock: ThrottleClock) {
    this.#disk = disk;
    this.#clock = clock;
    const bucket = (perSecond?: number, burst = perSecond) => {
      if (perSecond === undefined) return undefined;
      checkLimit(perSecond);
      checkLimit(burst!);
      return new TokenBucket(perSecond, burst!, clock.now());
    };
    this.#bytes = bucket(limits.bytesPerSecond, limits.bytesBurst);
    this.#ops = bucket(limits.opsPerSecond, limits.opsBurst);
    // Only what the disk itself can do.
    if (disk.discard) {
      this.discard = async (offset, length) => {
        await this.#turn(0);
        await disk.discard!(offset, length);
      };
    }
    if (disk.writeZeroes) {
      this.writeZeroes = async (offset, length, mayUnmap) => {
        await this.#turn(0);
        await disk.writeZeroes!(offset, length, mayUnmap);
      };
    }
    if (disk.extent) this.extent = (offset) => disk.extent!(offset);
  }

  /** {@link BlockBackend.size}. */
  get size(): number {
    return this.#disk.size;
  }

  /** {@link BlockBackend.readOnly}. */
  get readOnly(): boolean {
    return this.#disk.readOnly;
  }

  /** {@link BlockBackend.read}, when its turn comes. */
  async read(offset: number, into: readonly Uint8Array[]): Promise<void> {
    await this.#turn(totalLength(into));
    await this.#disk.read(offset, into);
  }

  /** {@link BlockBackend.write}, when its turn comes. */
  async write(offset: number, from: readonly Uint8Array[]): Promise<void> {
    await this.#turn(totalLength(from));
    await this.#disk.write(offset, from);
  }

  /** {@link BlockBackend.flush}, when its turn comes. */
  async flush(): Promise<void> {
    await this.#turn(0);
    await this.#disk.flush();
  }

  /** Lets what waits go at once, and closes the disk. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (const { start } of this.#waiting.splice(0)) start();
    await this.#disk[Symbol.asyncDispose]();
  }

  /** Waits until an operation may start. */
  #turn(bytes: number): Promise<void> {
    return new Promise((start) => {
      this.#waiting.push({ bytes, start });
      if (!this.#timed) this.#admit();
    });
  }

  #admit(): void {
    while (this.#waiting.length > 0) {
      const now = this.#clock.now();
      const { bytes, start } = this.#waiting[0];
      const ready = Math.max(this.#bytes?.readyAt(now, bytes) ?? now, this.#ops?.readyAt(now, 1) ?? now);
      if (ready > now) {
        this.#timed = true;
        this.#clock.setTimer(ready, () => {
          this.#timed = false;
          this.#admit();
        });
        return;
      }
      this.#waiting.shift();
      this.#bytes?.take(bytes);
      this.#ops?.take(1);
      start();
    }
  }
}

function checkLimit(limit: number): void {
  if (limit > 0 && Number.isFinite(limit)) return;
  throw new TsvError('TSV_E_CONFIG', `A disk cannot be limited to ${limit}.`, {
    hint: 'Give a number above zero, or no limit.',
  });
}
