/** Raw images: byte n of the file is byte n of the disk. */
import { type BlockBackend, checkRange, checkWritable, SECTOR_SIZE } from './backend.ts';
import { fillZeros, slice, totalLength, zeros } from './buffers.ts';
import type { ImageFile } from './file.ts';

/** Bytes of zeros that are written at once where holes cannot be punched. */
const ZERO_CHUNK = 2 ** 20;

/** A disk in a raw image file or on a block device of the host. */
export class RawDisk implements BlockBackend {
  readonly size: number;
  readonly #file: ImageFile;

  /** @param file is closed with the disk */
  constructor(file: ImageFile) {
    this.#file = file;
    this.size = Math.ceil(file.length / SECTOR_SIZE) * SECTOR_SIZE;
  }

  get readOnly(): boolean {
    return this.#file.readOnly;
  }

  async read(offset: number, into: readonly Uint8Array[]): Promise<void> {
    const length = totalLength(into);
    checkRange(this, offset, length);
    // A file that does not end with a sector is continued by zeros; one that was cut off meanwhile is an error.
    const inside = Math.max(0, Math.min(length, this.#file.length - offset));
    await this.#file.read(offset, inside === length ? into : slice(into, 0, inside));
    if (inside < length) fillZeros(slice(into, inside, length - inside));
  }

  async write(offset: number, from: readonly Uint8Array[]): Promise<void> {
    checkWritable(this, offset, totalLength(from));
    await this.#file.write(offset, from);
  }

  flush(): Promise<void> {
    return this.#file.sync();
  }

  /** Frees the range's space on the host where the host can; elsewhere nothing happens. */
  async discard(offset: number, length: number): Promise<void> {
    checkWritable(this, offset, length);
    this.#file.punchHole(offset, length);
  }

  async writeZeroes(offset: number, length: number, mayUnmap: boolean): Promise<void> {
    checkWritable(this, offset, length);
    if (mayUnmap && offset + length <= this.#file.length && this.#file.punchHole(offset, length)) return;
    for (let done = 0; done < length; done += ZERO_CHUNK) {
      await this.#file.write(offset + done, zeros(Math.min(ZERO_CHUNK, length - done)));
    }
  }

  /** Closes the file; what was not flushed is left to the host. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.#file.close();
  }
}
