/** Control messages of a console device with several ports (virtio 1.2 section 5.3.6.2). */
import { gather, scatter, slice } from '../../../storage/buffers.ts';
import type { DeviceState } from '../../device.ts';
import type { SavedState } from '../../saved-state.ts';
import type { Chain, Virtqueue } from '../virtio-device.ts';
import { CONTROL_SIZE } from './abi.ts';

/** A message. */
export interface ControlMessage {
  readonly port: number;
  readonly event: number;
  readonly value: number;
}

/** Messages that wait for a driver that takes none; a sane one has a handful for each port. */
const MAX_PENDING = 512;
/** Most bytes behind the fixed part: a port's name. */
const MAX_EXTRA = 256;

/** The message in a chain; undefined when it is too short to be one. */
export function parseControl({ readable, readableLength }: Chain): ControlMessage | undefined {
  if (readableLength < CONTROL_SIZE) return undefined;
  const view = new DataView(new ArrayBuffer(CONTROL_SIZE));
  gather(slice(readable, 0, CONTROL_SIZE), new Uint8Array(view.buffer));
  return { port: view.getUint32(0, true), event: view.getUint16(4, true), value: view.getUint16(6, true) };
}

/** Messages to the driver, which wait until it provides buffers for them. */
export class ControlOutbox {
  #pending: Uint8Array[] = [];

  /** @returns false when the driver takes none and they have become too many */
  add({ port, event, value }: ControlMessage, extra = new Uint8Array(0)): boolean {
    if (this.#pending.length === MAX_PENDING) return false;
    const body = extra.subarray(0, MAX_EXTRA);
    const message = new Uint8Array(CONTROL_SIZE + body.length);
    const view = new DataView(message.buffer);
    view.setUint32(0, port, true);
    view.setUint16(4, event, true);
    view.setUint16(6, value, true);
    message.set(body, CONTROL_SIZE);
    this.#pending.push(message);
    return true;
  }

  /** Hands over what there are buffers for. */
  flush(queue: Virtqueue | undefined): void {
    while (this.#pending.length > 0) {
      const chain = queue?.take();
      if (chain === undefined) return;
      const message = this.#pending.shift()!.subarray(0, chain.writableLength);
      scatter(message, chain.writable);
      queue?.push(chain, message.length);
    }
  }

  clear(): void {
    this.#pending = [];
  }

  save(): DeviceState {
    return {
      pendingCount: this.#pending.length,
      pending: this.#pending.map((message) => ({ bytes: [...message] })),
    };
  }

  /** @throws TSV_E_STATE */
  restore(saved: SavedState): void {
    const count = saved.int('pendingCount', MAX_PENDING);
    const messages = saved.list('pending', count);
    this.#pending = messages.map((message) =>
      Uint8Array.from(message.ints('bytes', 0xff, CONTROL_SIZE + MAX_EXTRA)),
    );
  }
}
