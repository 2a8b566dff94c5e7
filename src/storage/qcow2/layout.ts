/** What all parts of an open qcow2 image share. */
import { TsvError } from '../../errors.ts';
import type { ImageFile } from '../file.ts';
import { corruptError } from './errors.ts';
import * as q from './format.ts';
import type { Header } from './header.ts';

/** An image's file and its geometry. */
export class Layout {
  readonly file: ImageFile;
  readonly header: Header;
  readonly version: number;
  readonly clusterBits: number;
  /** Bytes. */
  readonly clusterSize: number;
  /** Entries of an L2 table. */
  readonly l2Entries: number;
  #damage: TsvError | undefined;
  #incompatible: bigint;

  constructor(file: ImageFile, header: Header) {
    this.file = file;
    this.header = header;
    this.version = header.version;
    this.clusterBits = header.clusterBits;
    this.clusterSize = 2 ** header.clusterBits;
    this.l2Entries = this.clusterSize / q.ENTRY_SIZE;
    this.#incompatible = header.incompatible;
  }

  /** What has been found wrong; the image is not written any more. */
  get damage(): TsvError | undefined {
    return this.#damage;
  }

  /** @throws TSV_E_DISK_CORRUPT unless it can be the offset of a cluster in this file */
  checkCluster(offset: number, what: string): void {
    if (offset === 0 || offset % this.clusterSize !== 0 || offset >= this.file.length) {
      throw this.corrupt(`${what} is said to be at offset ${offset}`);
    }
  }

  /**
   * The error for something impossible in the image. From then on it is not written to, and marked as corrupt where
   * the format has a bit for that.
   */
  corrupt(problem: string): TsvError {
    const error = corruptError(this.file.path, problem);
    if (this.#damage === undefined && !this.file.readOnly) {
      this.#damage = error;
      // The mark is a courtesy: the error itself is what counts.
      this.setIncompatible(this.#incompatible | q.INCOMPATIBLE_CORRUPT).catch(() => {});
    }
    return error;
  }

  /** Writes the incompatible feature bits; version 2 has none. */
  async setIncompatible(bits: bigint): Promise<void> {
    if (this.version < 3) return;
    this.#incompatible = bits;
    await this.#writeFeatures(q.INCOMPATIBLE_FEATURES_OFFSET, bits);
  }

  /** Takes bits away, durably. */
  clearIncompatible(bits: bigint): Promise<void> {
    return this.setIncompatible(this.#incompatible & ~bits);
  }

  /** Says that what the autoclear features stand for is out of date, durably, as the first writer must. */
  async clearAutoclear(): Promise<void> {
    if (this.version >= 3 && this.header.autoclear !== 0n) {
      await this.#writeFeatures(q.AUTOCLEAR_FEATURES_OFFSET, 0n);
    }
  }

  async #writeFeatures(offset: number, bits: bigint): Promise<void> {
    const bytes = new Uint8Array(8);
    new DataView(bytes.buffer).setBigUint64(0, bits);
    await this.file.write(offset, [bytes]);
    await this.file.sync();
  }
}

/** True for the error that says that the image is damaged. */
export function isCorrupt(error: unknown): boolean {
  return error instanceof TsvError && error.code === 'TSV_E_DISK_CORRUPT';
}
