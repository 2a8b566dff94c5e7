/** A descriptor chain as it is read out of a ring, with every rule checked on the way. */
import type { GuestMemory } from '../../../memory/guest-memory.ts';
import { DESC_F, DESC_SIZE } from '../abi.ts';
import type { Chain } from '../virtio-device.ts';
import { RingArea } from './ring-area.ts';

/** The driver broke a rule of the rings; the message says which. */
export class RingError extends Error {
  override readonly name = 'RingError';
}

/** Bytes a chain may describe (virtio 1.2 sections 2.7.5.3.1 and 2.8.6: no more than 2^32). */
const MAX_CHAIN_LENGTH = 2 ** 32;

/** One buffer of a chain. */
interface Segment {
  readonly gpa: number;
  readonly length: number;
  readonly isWritable: boolean;
}

/** A chain on its way from the ring through the device and back. */
export class DescriptorChain implements Chain {
  readonly head: number;
  /** Descriptors of the ring itself that it takes; those of an indirect table do not count. */
  slots = 1;
  readonly readable: Uint8Array[] = [];
  readonly writable: Uint8Array[] = [];
  readableLength = 0;
  writableLength = 0;
  readonly #memory: GuestMemory;
  readonly #segments: Segment[] = [];

  constructor(memory: GuestMemory, head: number) {
    this.#memory = memory;
    this.head = head;
  }

  /** Adds a buffer. @throws RingError when it is not RAM, readable after writable, or too much */
  add(gpa: number, length: number, isWritable: boolean): void {
    if (!isWritable && this.writable.length > 0) {
      throw new RingError('a readable descriptor follows a writable one');
    }
    if (this.readableLength + this.writableLength + length > MAX_CHAIN_LENGTH) {
      throw new RingError('a chain describes more than 4 GiB');
    }
    // Also for an empty buffer the address must make sense.
    const pieces = this.#memory.dma(gpa, length, isWritable);
    if (pieces === undefined) {
      throw new RingError(`a descriptor points at 0x${gpa.toString(16)}+0x${length.toString(16)}, not RAM`);
    }
    this.#segments.push({ gpa, length, isWritable });
    if (length === 0) return;
    const views = isWritable ? this.writable : this.readable;
    for (const piece of pieces) views.push(piece);
    if (isWritable) this.writableLength += length;
    else this.readableLength += length;
  }

  /** Tells the memory that the writable buffers have changed. */
  wrote(): void {
    for (const { gpa, length, isWritable } of this.#segments) {
      if (isWritable && length > 0) this.#memory.wrote(gpa, length);
    }
  }

  /** The buffers as a flat list: address, length, 1 if writable. */
  flatten(): number[] {
    return this.#segments.flatMap(({ gpa, length, isWritable }) => [gpa, length, isWritable ? 1 : 0]);
  }
}

/** A descriptor's fields, each read once: the guest may change them meanwhile. */
export interface Descriptor {
  readonly gpa: number;
  readonly length: number;
  /** The two words behind the length: flags and next of a split ring, buffer ID and flags of a packed one. */
  readonly word12: number;
  readonly word14: number;
}

/** Reads a descriptor; both formats begin with address and length. */
export function readDescriptor(area: RingArea, index: number): Descriptor {
  const at = index * DESC_SIZE;
  return {
    gpa: area.u32(at + 4) * 2 ** 32 + area.u32(at),
    length: area.u32(at + 8),
    word12: area.u16(at + 12),
    word14: area.u16(at + 14),
  };
}

/** The table that an indirect descriptor points at. @throws RingError */
export function indirectTable(
  memory: GuestMemory,
  { gpa, length }: Descriptor,
  flags: number,
): { area: RingArea; entries: number } {
  if (flags & DESC_F.NEXT) throw new RingError('an indirect descriptor has a next one');
  if (length === 0 || length % DESC_SIZE !== 0) {
    throw new RingError(`an indirect table has ${length} bytes, not a multiple of ${DESC_SIZE}`);
  }
  // Section 2.7.5.3 does not say how it is aligned; its fields must be.
  const area = RingArea.at(memory, gpa, length, 8);
  if (area === undefined) {
    throw new RingError(`an indirect table lies at 0x${gpa.toString(16)}+0x${length.toString(16)}`);
  }
  return { area, entries: length / DESC_SIZE };
}
