/** One port of the console device: a stream of bytes in each direction. */
import { gather, scatter, slice } from '../../../storage/buffers.ts';
import type { Timer } from '../../clock.ts';
import type { DeviceState } from '../../device.ts';
import type { SavedState } from '../../saved-state.ts';
import type { Chain, VirtioHost, Virtqueue } from '../virtio-device.ts';

/** What is on the host's side of a port. */
export interface ConsolePortOptions {
  /** Below /dev/virtio-ports in a Linux guest. */
  name?: string;
  /** A terminal (hvc0, hvc1, ...) instead of a plain stream. Default true for port 0. */
  isConsole?: boolean;
  /**
   * Someone is on the host's side from the start. Until then a Linux guest's programs wait before they write, and find no
   * more to read. Default true, and always so for a terminal.
   */
  isConnected?: boolean;
  /** Bytes from the guest; a promise holds back its next ones until it settles. */
  onOutput(bytes: Uint8Array): void | Promise<void>;
  /** The guest can take more input than it last could. */
  onInputSpace?(): void;
  /** A guest's program has opened or closed the port; only with several ports. */
  onOpen?(isOpen: boolean): void;
}

/** Bytes given to the host at once: a guest may describe 4 GiB by one request. */
const MAX_OUTPUT = 65536;
/** Requests handled before others get their turn. */
const BATCH = 64;

/** A port, with its queues while the device runs. */
export class ConsolePort {
  readonly options: ConsolePortOptions;
  /** Someone in the guest listens. */
  isOpen = false;
  /** The driver is ready for messages about the port. */
  isKnown = false;
  /** Someone on the host listens. */
  isConnected: boolean;
  #host: VirtioHost | undefined;
  #input: Virtqueue | undefined;
  #output: Virtqueue | undefined;
  /** An output request of which `#done` bytes have been given out. */
  #current: Chain | undefined;
  #done = 0;
  /** The host takes its time with what it was given. */
  #isBusy = false;
  #later: Timer | undefined;

  constructor(options: ConsolePortOptions) {
    this.options = options;
    this.isConnected = options.isConnected ?? true;
  }

  start(host: VirtioHost, input: Virtqueue | undefined, output: Virtqueue | undefined): void {
    this.#host = host;
    this.#input = input;
    this.#output = output;
  }

  stop(): void {
    this.#host = undefined;
    this.#input = undefined;
    this.#output = undefined;
    this.#current = undefined;
    this.#done = 0;
    this.#later?.cancel();
    this.#later = undefined;
    this.isOpen = false;
    this.isKnown = false;
  }

  /** @returns how many bytes the guest had room for; {@link ConsolePortOptions.onInputSpace} tells when it has more */
  receive(bytes: Uint8Array): number {
    const queue = this.#input;
    let done = 0;
    for (let i = 0; queue !== undefined && this.isOpen && done < bytes.length && i < queue.size; i++) {
      const chain = queue.take();
      if (chain === undefined) break;
      const piece = bytes.subarray(done, done + chain.writableLength);
      scatter(piece, chain.writable);
      queue.push(chain, piece.length);
      done += piece.length;
    }
    return done;
  }

  /** Gives out what the guest has written. */
  transmit(): void {
    if (this.#isBusy || this.#later !== undefined) return;
    for (let i = 0; i < BATCH; i++) {
      const piece = this.#next();
      if (piece === undefined) return;
      const done = piece.length === 0 ? undefined : this.options.onOutput(piece);
      if (done === undefined) continue;
      this.#isBusy = true;
      const goOn = () => {
        this.#isBusy = false;
        this.transmit();
      };
      done.then(goOn, (error) => {
        this.#host?.log('error', `console output failed: ${String(error)}`);
        goOn();
      });
      return;
    }
    const clock = this.#host?.clock;
    this.#later = clock?.setTimer(clock.now(), () => {
      this.#later = undefined;
      this.transmit();
    });
  }

  /** A copy of the next bytes; the request goes back to the guest with its last ones. */
  #next(): Uint8Array | undefined {
    const queue = this.#output;
    const chain = this.#current ?? queue?.take();
    if (queue === undefined || chain === undefined) return undefined;
    // After a restore the request is the one that was under way.
    const piece = new Uint8Array(Math.min(MAX_OUTPUT, Math.max(0, chain.readableLength - this.#done)));
    gather(slice(chain.readable, this.#done, piece.length), piece);
    this.#done += piece.length;
    this.#current = chain;
    if (this.#done >= chain.readableLength) {
      queue.push(chain, 0);
      this.#current = undefined;
      this.#done = 0;
    }
    return piece;
  }

  save(): DeviceState {
    return { open: this.isOpen, known: this.isKnown, done: this.#done };
  }

  /** @throws TSV_E_STATE */
  restore(saved: SavedState): void {
    const done = saved.int('done', 2 ** 32);
    const isKnown = saved.bool('known');
    this.isOpen = saved.bool('open');
    this.isKnown = isKnown;
    this.#done = done;
  }
}
