/**
 * Bounds-checked little-endian reads of an image file. The file is hostile: every offset in it may lie.
 */
import { TsvError } from '../errors.ts';

/** A kernel file (or a part of one) as bytes with checked accessors. */
export class ImageBytes {
  readonly bytes: Uint8Array;
  /** What the bytes are, for error messages, such as `the kernel image`. */
  readonly what: string;
  readonly #view: DataView;

  constructor(bytes: Uint8Array, what: string) {
    this.bytes = bytes;
    this.what = what;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  /** Length in bytes. */
  get size(): number {
    return this.bytes.length;
  }

  /** True when `length` bytes at `offset` are inside the file. */
  has(offset: number, length: number): boolean {
    return offset >= 0 && length >= 0 && offset + length <= this.bytes.length;
  }

  /**
   * Demands that `length` bytes at `offset` are inside the file.
   * @param part what lies there, for the message
   * @throws TSV_E_KERNEL_TRUNCATED
   */
  need(offset: number, length: number, part: string): void {
    if (this.has(offset, length)) return;
    throw new TsvError(
      'TSV_E_KERNEL_TRUNCATED',
      `${capitalise(this.what)} has ${this.bytes.length} bytes, but its ${part} ends at byte ${offset + length}.`,
      { hint: 'The file is cut off or damaged; copy, download or build it again.' },
    );
  }

  /** A view of part of the file. @throws TSV_E_KERNEL_TRUNCATED */
  slice(offset: number, length: number, part: string): Uint8Array {
    this.need(offset, length, part);
    return this.bytes.subarray(offset, offset + length);
  }

  u8(offset: number, part = 'header'): number {
    this.need(offset, 1, part);
    return this.#view.getUint8(offset);
  }
  u16(offset: number, part = 'header'): number {
    this.need(offset, 2, part);
    return this.#view.getUint16(offset, true);
  }
  u32(offset: number, part = 'header'): number {
    this.need(offset, 4, part);
    return this.#view.getUint32(offset, true);
  }
  u64(offset: number, part = 'header'): bigint {
    this.need(offset, 8, part);
    return this.#view.getBigUint64(offset, true);
  }

  /** True when the bytes at `offset` are `magic`; false also where the file is too short. */
  startsWith(magic: readonly number[], offset = 0): boolean {
    return this.has(offset, magic.length) && magic.every((byte, i) => this.bytes[offset + i] === byte);
  }

  /** A NUL-terminated string of printable ASCII at `offset`, or undefined when there is none. */
  text(offset: number, limit: number): string | undefined {
    if (!this.has(offset, 1)) return undefined;
    const area = this.bytes.subarray(offset, offset + limit);
    const end = area.indexOf(0);
    if (end <= 0) return undefined;
    const text = Buffer.from(area.buffer, area.byteOffset, end).toString('latin1');
    return /^[\x20-\x7e]+$/.test(text) ? text : undefined;
  }
}

/** `0x` and the number in hexadecimal. */
export function hex(value: number | bigint): string {
  return `0x${value.toString(16)}`;
}

/** A half-open address range as messages write it. */
export function hexRange(start: number, size: number): string {
  return `${hex(start)}-${hex(start + size)}`;
}

function capitalise(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
