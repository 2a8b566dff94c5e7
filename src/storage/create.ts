/** Makes disk images. */
import { rm } from 'node:fs/promises';
import { resolve } from 'node:path';
import { TsvError } from '../errors.ts';
import { ImageFile } from './file.ts';
import { type BackingPolicy, type DiskFormat, detectFormat, openDisk } from './open.ts';
import { type CreateQcow2Options, createQcow2 } from './qcow2/create.ts';

/**
 * Makes a raw image: all zeros, taking no space.
 * @param size bytes, a multiple of 512
 * @throws TSV_E_CONFIG, TSV_E_FILE when there is such a file already, TSV_E_DISK_FULL
 */
export async function createRaw(path: string, size: number): Promise<void> {
  if (!Number.isSafeInteger(size) || size < 0 || size % 512 !== 0) {
    throw new TsvError('TSV_E_CONFIG', `A disk cannot have ${size} bytes.`, {
      hint: 'Give a multiple of 512.',
    });
  }
  const file = await ImageFile.open(path, { readOnly: false, create: true });
  try {
    await file.truncate(size);
    await file.sync();
  } catch (error) {
    await rm(path, { force: true });
    throw error;
  } finally {
    await file.close();
  }
}

/** Options of {@link createOverlay}. */
export interface CreateOverlayOptions extends Omit<CreateQcow2Options, 'size' | 'backing'> {
  /** Size of the disk, bytes (default: that of the base). */
  readonly size?: number;
  /** Format of the base; found out when not given. */
  readonly format?: DiskFormat;
  /** Which backing files the base itself may name. */
  readonly backing?: BackingPolicy;
}

/**
 * Makes a qcow2 image for the changes to another image, which it names as its backing file.
 * @throws TSV_E_CONFIG, TSV_E_FILE, TSV_E_DISK_LOCKED and what opening the base throws
 */
export async function createOverlay(
  path: string,
  base: string,
  options: CreateOverlayOptions = {},
): Promise<void> {
  const { format: given, backing, ...rest } = options;
  const format = given ?? (await formatOf(base));
  const disk = await openDisk(base, { format, readOnly: true, backing });
  const { size } = disk;
  await disk[Symbol.asyncDispose]();
  await createQcow2(path, { size, ...rest, backing: { file: resolve(base), format } });
}

/** Finds out the format of an image by its path. @throws TSV_E_FILE, TSV_E_DISK_IO */
export async function formatOf(path: string): Promise<DiskFormat> {
  const file = await ImageFile.open(path, { readOnly: true, lock: false });
  try {
    return await detectFormat(file);
  } finally {
    await file.close();
  }
}
