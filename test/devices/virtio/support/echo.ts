/** A device for tests of rings and transports: answers a request with its own bytes, in any order it is told. */
import type { DeviceState } from '../../../../src/devices/device.ts';
import type { Chain, VirtioDevice, VirtioHost } from '../../../../src/devices/virtio/virtio-device.ts';

export class Echo implements VirtioDevice {
  readonly name = 'echo';
  readonly type = 42;
  readonly features = 1n;
  readonly queueSizes: readonly number[];
  readonly config = {
    size: 6,
    read: (offset: number, size: 1 | 2 | 4) => {
      let value = 0;
      for (let i = 0; i < size; i++) value += this.settings[offset + i] * 2 ** (8 * i);
      return value;
    },
    write: (offset: number, size: 1 | 2 | 4, value: number) => {
      for (let i = 0; i < size; i++) this.settings[offset + i] = value >>> (8 * i);
    },
  };
  readonly settings = Uint8Array.of(1, 2, 3, 4, 5, 6);
  /** Taken and not answered. */
  held: { queue: number; chain: Chain }[] = [];
  /** Answers come at once. */
  isPrompt = true;
  host: VirtioHost | undefined;
  /** What {@link stop} gives. */
  stopped: Promise<void> | undefined;

  constructor(queueSizes: readonly number[] = [64]) {
    this.queueSizes = queueSizes;
  }

  start(host: VirtioHost): void {
    this.host = host;
  }

  notify(queue: number): void {
    for (;;) {
      const chain = this.host?.queue(queue)?.take();
      if (chain === undefined) return;
      this.held.push({ queue, chain });
      if (this.isPrompt) this.answer(0);
    }
  }

  /** Answers the n-th held request: the readable bytes, as far as they fit. */
  answer(n: number): void {
    const [{ queue, chain }] = this.held.splice(n, 1);
    const sent = Buffer.concat(chain.readable.map((view) => Uint8Array.from(view)));
    let done = 0;
    for (const view of chain.writable) {
      const piece = sent.subarray(done, done + view.length);
      view.set(piece);
      done += piece.length;
    }
    this.host?.queue(queue)?.push(chain, done);
  }

  stop(): void | Promise<void> {
    this.host = undefined;
    this.held = [];
    return this.stopped;
  }

  save(): DeviceState {
    return { settings: [...this.settings] };
  }

  restore(state: DeviceState): void {
    this.settings.set(state.settings as number[]);
  }
}
