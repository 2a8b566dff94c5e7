/** What a driver has said about one queue, before and while it is in use. */
import type { DeviceState } from '../../device.ts';
import type { SavedState } from '../../saved-state.ts';
import type { RingQueue } from '../queue/virtqueue.ts';

/** The three areas of a ring, as the registers are named. */
export type RingPart = 'desc' | 'driver' | 'device';

/** Set-up registers of one queue. */
export class QueueSetup {
  /** Largest size the device takes; a power of two. */
  readonly maxSize: number;
  size: number;
  isEnabled = false;
  /** MSI-X vector; only PCI has one. */
  vector: number;
  /** The queue itself, from DRIVER_OK to reset. */
  queue: RingQueue | undefined;
  readonly #noVector: number;
  /** Low and high halves of the addresses. */
  #words: Record<RingPart, [number, number]> = { desc: [0, 0], driver: [0, 0], device: [0, 0] };

  constructor(maxSize: number, noVector: number) {
    this.maxSize = maxSize;
    this.size = maxSize;
    this.vector = noVector;
    this.#noVector = noVector;
  }

  /** Half of an address: 0 low, 1 high. */
  word(part: RingPart, half: 0 | 1): number {
    return this.#words[part][half];
  }

  setWord(part: RingPart, half: 0 | 1, value: number): void {
    this.#words[part][half] = value;
  }

  address(part: RingPart): number {
    const [low, high] = this.#words[part];
    return high * 2 ** 32 + low;
  }

  /** The ring is the driver's again; the rest of the set-up stays. */
  disable(): void {
    this.queue?.close();
    this.queue = undefined;
    this.isEnabled = false;
  }

  reset(): void {
    this.disable();
    this.size = this.maxSize;
    this.vector = this.#noVector;
    this.#words = { desc: [0, 0], driver: [0, 0], device: [0, 0] };
  }

  save(): DeviceState {
    const { desc, driver, device } = this.#words;
    return {
      size: this.size,
      enabled: this.isEnabled,
      vector: this.vector,
      addresses: [...desc, ...driver, ...device],
      queue: this.queue?.save() ?? null,
    };
  }

  /** Registers only; the queue is for whoever creates it. @throws TSV_E_STATE */
  restore(saved: SavedState): void {
    const size = saved.int('size', 0xffff);
    const isEnabled = saved.bool('enabled');
    const vector = saved.int('vector', 0xffff);
    const [a, b, c, d, e, f] = saved.ints('addresses', 0xffffffff, 6, true);
    this.reset();
    this.size = size;
    this.isEnabled = isEnabled;
    this.vector = vector;
    this.#words = { desc: [a, b], driver: [c, d], device: [e, f] };
  }
}
