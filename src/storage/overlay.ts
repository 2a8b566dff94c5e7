/** Overlays: a disk that may be written to over one that is left as it is. */
import { existsSync } from 'node:fs';
import { mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { TsvError } from '../errors.ts';
import type { BlockBackend } from './backend.ts';
import { createOverlay } from './create.ts';
import { ImageFile } from './file.ts';
import { diskInfo } from './info.ts';
import { backingPath, type DiskFormat, type OpenDiskOptions, openDisk } from './open.ts';
import { createQcow2 } from './qcow2/create.ts';
import { Qcow2Disk } from './qcow2/disk.ts';

/** Options of {@link openOverlay}. */
export interface OverlayOptions {
  /** Folder for the changes (default: that for temporary files). */
  readonly folder?: string;
  /** Bytes of L2 tables that are kept in memory. */
  readonly cacheSize?: number;
}

/**
 * Puts a temporary overlay over any disk: what is written goes to a qcow2 image that has no name any more, so that it
 * ends with the process, however that ends. {@link openNamedOverlay} keeps it.
 * @param base closed with the overlay, also when this fails
 * @throws TSV_E_FILE, TSV_E_DISK_FULL, TSV_E_DISK_IO
 */
export async function openOverlay(base: BlockBackend, options: OverlayOptions = {}): Promise<BlockBackend> {
  try {
    const file = await temporaryImage(base.size, options.folder ?? tmpdir());
    return await Qcow2Disk.open(file, { backing: base, cacheSize: options.cacheSize });
  } catch (error) {
    await base[Symbol.asyncDispose]();
    throw error;
  }
}

async function temporaryImage(size: number, parent: string): Promise<ImageFile> {
  const folder = await mkdtemp(join(parent, 'tsvisor-overlay-'));
  try {
    const path = join(folder, 'overlay.qcow2');
    await createQcow2(path, { size });
    // Nobody else can open it: there is nothing to lock.
    return await ImageFile.open(path, { readOnly: false, lock: false });
  } finally {
    await rm(folder, { recursive: true });
  }
}

/** Options of {@link openNamedOverlay}: as for `openDisk`, with what is said of format and backing files for the base. */
export type NamedOverlayOptions = Omit<OpenDiskOptions, 'readOnly' | 'lock'>;

/**
 * Opens a disk whose changes go to a qcow2 image that is kept. The image is made when it is not there.
 * @param path the image with the changes
 * @param base the image that is left as it is
 * @throws TSV_E_FILE, TSV_E_DISK_FORMAT or TSV_E_DISK_BACKING when the image holds no changes to the base, and what
 * `openDisk` and `createOverlay` throw
 */
export async function openNamedOverlay(
  path: string,
  base: string,
  options: NamedOverlayOptions = {},
): Promise<BlockBackend> {
  const { format, backing = 'none' } = options;
  if (!existsSync(path)) await createOverlay(path, base, { format, backing });
  const own = await backingOf(path, base, format);
  return openDisk(path, {
    ...options,
    format: 'qcow2',
    backing: (file) => file === own || (typeof backing === 'function' ? backing(file) : backing === 'any'),
  });
}

/** @returns the name that `path` has for its backing file. @throws unless that is `base` */
async function backingOf(path: string, base: string, format: DiskFormat | undefined): Promise<string> {
  // Opening tells best why it cannot be opened.
  await using file = await ImageFile.open(base, { readOnly: true, lock: false });
  const { qcow2 } = await diskInfo(path, { lock: false });
  if (qcow2 === undefined) {
    throw new TsvError('TSV_E_DISK_FORMAT', `"${path}" cannot hold changes to "${base}": it is no qcow2.`, {
      hint: 'Name a file that is not there yet; it is made.',
    });
  }
  const { backingFile, backingFormat } = qcow2;
  const hint = 'Name another file for the changes; one that is not there is made.';
  if (backingFile === undefined) {
    throw new TsvError(
      'TSV_E_DISK_BACKING',
      `"${path}" is a disk of its own, without changes to "${base}".`,
      {
        hint,
      },
    );
  }
  const own = backingPath(path, backingFile);
  const stats = await stat(own).catch(() => undefined);
  if (`${stats?.dev}:${stats?.ino}` !== file.identity) {
    throw new TsvError('TSV_E_DISK_BACKING', `"${path}" holds changes to "${own}", not to "${base}".`, {
      hint,
    });
  }
  if (format !== undefined && format !== backingFormat) {
    throw new TsvError(
      'TSV_E_DISK_FORMAT',
      `"${path}" takes "${base}" for ${backingFormat ?? 'an image of no known format'}, not ${format}.`,
      { hint: 'Leave the format out, or name another file for the changes.' },
    );
  }
  return own;
}
