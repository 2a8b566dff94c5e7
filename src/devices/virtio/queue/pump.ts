/** Works a queue off without letting one guest have the event loop to itself. */
import type { Clock, Timer } from '../../clock.ts';
import type { Chain, Virtqueue } from '../virtio-device.ts';

/** Chains handled before others get their turn. */
const BATCH = 64;

/** Hands the chains of a queue to a device, a batch at a time. */
export class ChainPump {
  readonly #clock: Clock;
  readonly #queue: Virtqueue;
  readonly #handle: (chain: Chain) => void;
  readonly #mayTake: () => boolean;
  #later: Timer | undefined;
  #isOpen = true;

  /**
   * @param handle called with each chain
   * @param mayTake false while the device can take no more; {@link run} again when it can
   */
  constructor(clock: Clock, queue: Virtqueue, handle: (chain: Chain) => void, mayTake = () => true) {
    this.#clock = clock;
    this.#queue = queue;
    this.#handle = handle;
    this.#mayTake = mayTake;
  }

  /** Handles what is available now; what is more than a batch later, in guest time. */
  run(): void {
    if (!this.#isOpen || this.#later !== undefined) return;
    for (let i = 0; i < BATCH; i++) {
      const chain = this.#mayTake() ? this.#queue.take() : undefined;
      if (chain === undefined) return;
      this.#handle(chain);
      // Handling may have ended in a reset.
      if (!this.#isOpen) return;
    }
    this.#later = this.#clock.setTimer(this.#clock.now(), () => {
      this.#later = undefined;
      this.run();
    });
  }

  stop(): void {
    this.#isOpen = false;
    this.#later?.cancel();
    this.#later = undefined;
  }
}
