/** A queue over either ring format: keeps account of the chains in the device's hands. */
import type { DeviceState } from '../../device.ts';
import type { SavedState } from '../../saved-state.ts';
import type { Chain, Virtqueue } from '../virtio-device.ts';
import { DescriptorChain, RingError } from './chain.ts';
import { PackedRing } from './packed.ts';
import type { Ring, RingConfig } from './ring.ts';
import { SplitRing } from './split.ts';

/** Numbers that describe a buffer in a saved state: address, length, writable. */
const SEGMENT_FIELDS = 3;

/** What a queue tells its transport. */
export interface QueueEvents {
  /** The driver wants an interrupt for what was used. */
  interrupt(): void;
  /** The ring is malformed; the queue has stopped. */
  fail(reason: string): void;
}

/** The device's side of an enabled queue. */
export class RingQueue implements Virtqueue {
  readonly size: number;
  readonly #config: RingConfig;
  readonly #ring: Ring;
  readonly #events: QueueEvents;
  /** In the device's hands, in the order in which they were taken. */
  readonly #taken = new Set<Chain>();
  /** Were in the device's hands when the state was saved that this queue continues from. */
  #again: DescriptorChain[] = [];
  #isOpen = true;

  /** @throws RingError when size or addresses cannot be */
  constructor(config: RingConfig, isPacked: boolean, events: QueueEvents) {
    this.size = config.size;
    this.#config = config;
    this.#ring = isPacked ? new PackedRing(config) : new SplitRing(config);
    this.#events = events;
  }

  take(): Chain | undefined {
    if (!this.#isOpen) return undefined;
    try {
      const chain = this.#again.shift() ?? this.#ring.next();
      if (chain !== undefined) this.#taken.add(chain);
      return chain;
    } catch (error) {
      if (!(error instanceof RingError)) throw error;
      this.#events.fail(error.message);
      return undefined;
    }
  }

  push(chain: Chain, written: number): void {
    // Gone when the queue has stopped, or the chain is of a life before a reset.
    if (!this.#isOpen || !(chain instanceof DescriptorChain) || !this.#taken.delete(chain)) return;
    chain.wrote();
    if (this.#ring.use(chain, Math.min(written, chain.writableLength, 0xffffffff))) this.#events.interrupt();
  }

  /** Ends all use of the ring. What the device may have written so far is made known. */
  close(): void {
    this.#isOpen = false;
    for (const chain of this.#taken) (chain as DescriptorChain).wrote();
    this.#taken.clear();
    this.#again = [];
  }

  /** Positions, and the chains in the device's hands. */
  save(): DeviceState {
    const taken = [...(this.#taken as Set<DescriptorChain>), ...this.#again];
    return {
      ring: this.#ring.save(),
      count: taken.length,
      taken: taken.map((chain) => ({ head: chain.head, slots: chain.slots, buffers: chain.flatten() })),
    };
  }

  /** {@link take} then gives the unfinished chains first. @throws TSV_E_STATE, RingError */
  restore(saved: SavedState): void {
    const { memory, size, maxChain } = this.#config;
    this.#ring.restore(saved.object('ring'));
    this.#again = saved.list('taken', saved.int('count', size)).map((entry) => {
      const chain = new DescriptorChain(memory, entry.int('head', 0xffff));
      chain.slots = entry.int('slots', size, 1);
      const limit = (maxChain + 1) * SEGMENT_FIELDS;
      const buffers = entry.ints('buffers', Number.MAX_SAFE_INTEGER, limit);
      if (buffers.length % SEGMENT_FIELDS !== 0) throw new RingError('a saved chain is cut short');
      for (let i = 0; i < buffers.length; i += SEGMENT_FIELDS) {
        chain.add(buffers[i], buffers[i + 1], buffers[i + 2] === 1);
      }
      this.#ring.adopt(chain);
      return chain;
    });
  }
}
