/** What a disk device needs of the host, and what everything that stores a disk's content offers. */
import { diskRangeError, readOnlyError } from './errors.ts';

/** Bytes of a sector; sizes and requests of disks are multiples of it. */
export const SECTOR_SIZE = 512;

/**
 * Stores the content of a disk. Requests may overlap in time; two that touch the same bytes are in no particular
 * order unless the first had resolved before the second was made. An object of your own with this interface is as good
 * as an image file.
 *
 * Offsets and lengths are bytes. Buffers may be views of shared memory (guest RAM), and belong to the back end until
 * the promise settles. A rejected request has done any part of its work, or none.
 */
export interface BlockBackend extends AsyncDisposable {
  /** Bytes, a multiple of 512. */
  readonly size: number;
  /** True when write, discard and writeZeroes are refused. */
  readonly readOnly: boolean;
  /** Fills the buffers, one after the other, with the content from `offset` on. */
  read(offset: number, into: readonly Uint8Array[]): Promise<void>;
  /** Replaces the content from `offset` on by the buffers, one after the other. */
  write(offset: number, from: readonly Uint8Array[]): Promise<void>;
  /** Resolves when everything that was written before the call survives a crash of the host. */
  flush(): Promise<void>;
  /** Says that the range's content is no longer needed: it reads as zeros or as before, and may free host disk space. */
  discard?(offset: number, length: number): Promise<void>;
  /** Makes the range read as zeros. @param mayUnmap true when its host disk space may be freed */
  writeZeroes?(offset: number, length: number, mayUnmap: boolean): Promise<void>;
  /** Optional: how far from `offset` on the content is known to be zero, or has to be read. Lets copies skip. */
  extent?(offset: number): Promise<DiskExtent>;
}

/** A part of a disk. */
export interface DiskExtent {
  /** Bytes from the offset that was asked for; at least 1. */
  readonly length: number;
  /** True when all of it reads as zeros. */
  readonly zero: boolean;
}

/** @throws TSV_E_DISK_RANGE unless the range lies within the disk */
export function checkRange(disk: { readonly size: number }, offset: number, length: number): void {
  const sound = Number.isSafeInteger(offset) && Number.isSafeInteger(length) && offset >= 0 && length >= 0;
  if (!sound || length > disk.size - offset) throw diskRangeError(offset, length, disk.size);
}

/** @throws TSV_E_DISK_READ_ONLY or TSV_E_DISK_RANGE unless the range may be changed */
export function checkWritable(
  disk: { readonly size: number; readonly readOnly: boolean },
  offset: number,
  length: number,
): void {
  if (disk.readOnly) throw readOnlyError();
  checkRange(disk, offset, length);
}
