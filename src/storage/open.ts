/** Opens disk images by path: the format, and the files an image is based on. */
import { stat } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { TsvError } from '../errors.ts';
import type { BlockBackend } from './backend.ts';
import { canPunchHoles, ImageFile } from './file.ts';
import { Qcow2Disk } from './qcow2/disk.ts';
import * as q from './qcow2/format.ts';
import { type Header, readHeader } from './qcow2/header.ts';
import { RawDisk } from './raw.ts';

/** Formats of disk images. */
export type DiskFormat = 'raw' | 'qcow2';

/**
 * Which backing files an image may name. An image can name any file of the host, and a guest with a raw disk can make
 * it an image; so the default is `none`.
 */
export type BackingPolicy = 'none' | 'any' | ((path: string) => boolean);

/** Options of {@link openDisk}. */
export interface OpenDiskOptions {
  /** Found out from the file's start when not given. */
  readonly format?: DiskFormat;
  /** Open it for reading alone; several may do so. */
  readonly readOnly?: boolean;
  /** False leaves files unlocked: the caller knows that nobody else has them. */
  readonly lock?: boolean;
  /** Which files it may be based on; default `none`. */
  readonly backing?: BackingPolicy;
  /** Bytes of L2 tables that are kept in memory for each qcow2 image. */
  readonly cacheSize?: number;
  /** Told what is worth knowing, one sentence each. */
  readonly warn?: (message: string) => void;
}

/** Files in a chain of backing files, the image itself included. */
const MAX_CHAIN = 32;

/**
 * Opens an image and the files it is based on, which are read only.
 * @throws TSV_E_FILE, TSV_E_DISK_LOCKED, TSV_E_DISK_BACKING, and what the format throws
 */
export function openDisk(path: string, options: OpenDiskOptions = {}): Promise<BlockBackend> {
  return open(path, options, []);
}

/** Finds out the format of an image. Everything that is not qcow2 is raw. */
export async function detectFormat(file: ImageFile): Promise<DiskFormat> {
  if (file.length < q.V2_HEADER_LENGTH) return 'raw';
  const start = new DataView((await file.readBytes(0, 4)).buffer);
  return start.getUint32(0) === q.MAGIC ? 'qcow2' : 'raw';
}

/** @param above device and inode of the images that lead here */
async function open(path: string, options: OpenDiskOptions, above: readonly string[]): Promise<BlockBackend> {
  const { readOnly = false, lock, cacheSize, warn } = options;
  const file = await ImageFile.open(path, { readOnly, lock });
  try {
    const format = options.format ?? (await detectFormat(file));
    if (!readOnly && !canPunchHoles()) {
      warn?.(`What is discarded of "${path}" is not given back to the host: that needs the native addon.`);
    }
    if (format === 'raw') return new RawDisk(file);
    const header = await readHeader(file);
    const backing = await openBacking(path, header, options, [...above, file.identity]);
    try {
      return await Qcow2Disk.open(file, { backing, cacheSize, warn });
    } catch (error) {
      await backing?.[Symbol.asyncDispose]();
      throw error;
    }
  } catch (error) {
    await file.close();
    throw error;
  }
}

async function openBacking(
  path: string,
  header: Header,
  options: OpenDiskOptions,
  chain: readonly string[],
): Promise<BlockBackend | undefined> {
  if (header.backingFile === undefined) return undefined;
  const target = backingPath(path, header.backingFile);
  const { backing: policy = 'none' } = options;
  const allowed = typeof policy === 'function' ? policy(target) : policy === 'any';
  if (!allowed) {
    throw backingError(
      `"${path}" is based on "${target}", which is not allowed.`,
      'Allow backing files if you trust the image: "backing" of --disk and openDisk, or --allow-backing.',
    );
  }
  const format = backingFormat(path, header);
  if (chain.length >= MAX_CHAIN) {
    throw backingError(
      `"${path}" is the last of ${MAX_CHAIN} images that are based on each other.`,
      'Convert it to one.',
    );
  }
  const stats = await stat(target).catch((cause: unknown) => {
    const { code } = cause as NodeJS.ErrnoException;
    throw backingError(
      `"${path}" is based on "${target}", which cannot be opened (${code}).`,
      'Put it there, or say where it is with "qemu-img rebase -u -F FORMAT -b FILE".',
    );
  });
  if (chain.includes(`${stats.dev}:${stats.ino}`)) {
    throw backingError(
      `"${path}" is based on itself, by way of "${target}".`,
      'The image is damaged; restore a backup.',
    );
  }
  return open(target, { ...options, format, readOnly: true }, chain);
}

function backingFormat(path: string, header: Header): DiskFormat {
  const { backingFormat: format } = header;
  if (format === 'raw' || format === 'qcow2') return format;
  const problem = format === undefined ? 'does not say the format' : `says that the format is "${format}"`;
  throw backingError(
    `"${path}" ${problem} of its backing file.`,
    'Say raw or qcow2 with "qemu-img rebase -u -F FORMAT -b FILE".',
  );
}

/** A name in an image is relative to the image. */
export function backingPath(path: string, name: string): string {
  const protocol = /^([A-Za-z][\w+.-]*):/.exec(name);
  if (protocol !== null && protocol[1] !== 'file') {
    throw backingError(
      `"${path}" is based on "${name}", which is not a file.`,
      'Convert it with "qemu-img convert".',
    );
  }
  return resolve(dirname(path), protocol === null ? name : name.slice('file:'.length));
}

function backingError(message: string, hint: string): TsvError {
  return new TsvError('TSV_E_DISK_BACKING', message, { hint });
}
