/** The entropy device (virtio 1.2 section 5.4): one queue of buffers that come back filled with random bytes. */

import type { DeviceState } from '../../device.ts';
import { SavedState } from '../../saved-state.ts';
import { VIRTIO_ID } from '../abi.ts';
import { ChainPump } from '../queue/pump.ts';
import type { Chain, VirtioDevice, VirtioHost } from '../virtio-device.ts';
import { hostEntropy, type RandomSource, seededEntropy } from './random-source.ts';

/** A buffer may come back filled in part (section 5.4.6.1): one request gets at most this many bytes. */
const MOST = 65536;
const QUEUE_SIZE = 64;

/** Options of {@link VirtioRng}. */
export interface RngOptions {
  name?: string;
  /** Whole number to repeat a run with; the host's entropy when absent. */
  seed?: number;
}

/** The entropy device. */
export class VirtioRng implements VirtioDevice {
  readonly name: string;
  readonly type = VIRTIO_ID.ENTROPY;
  readonly features = 0n;
  readonly queueSizes = [QUEUE_SIZE] as const;
  readonly config = { size: 0, read: () => 0 };
  readonly #source: RandomSource;
  #pump: ChainPump | undefined;

  constructor({ name = 'virtio-rng0', seed }: RngOptions = {}) {
    this.name = name;
    this.#source = seed === undefined ? hostEntropy() : seededEntropy(seed);
  }

  start(host: VirtioHost): void {
    const queue = host.queue(0);
    if (queue === undefined) return;
    this.#pump = new ChainPump(host.clock, queue, (chain) => queue.push(chain, this.#fill(chain)));
  }

  #fill(chain: Chain): number {
    let written = 0;
    for (const view of chain.writable) {
      const piece = view.subarray(0, MOST - written);
      this.#source.fill(piece);
      written += piece.length;
    }
    return written;
  }

  notify(): void {
    this.#pump?.run();
  }

  stop(): void {
    this.#pump?.stop();
    this.#pump = undefined;
  }

  save(): DeviceState {
    return { position: this.#source.position };
  }

  /** @throws TSV_E_STATE */
  restore(state: DeviceState): void {
    this.#source.position = new SavedState(this.name, state).int('position', Number.MAX_SAFE_INTEGER);
  }
}
