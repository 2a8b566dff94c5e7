/** Overlays: a disk that may be written to over one that is left as it is. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { BlockBackend } from './backend.ts';
import { ImageFile } from './file.ts';
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
 * ends with the process, however that ends. For an overlay that is kept, make a qcow2 image with a backing file
 * ({@link createOverlay}) and open it.
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
