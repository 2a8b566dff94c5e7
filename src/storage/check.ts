/** Checks images and repairs them. */
import { TsvError } from '../errors.ts';
import { ImageFile } from './file.ts';
import { detectFormat } from './open.ts';
import { readHeader } from './qcow2/header.ts';
import type { WalkOptions } from './qcow2/references.ts';
import { checkImage, type RepairMode, type RepairResult } from './qcow2/repair.ts';

/** Options of {@link checkDisk}. */
export interface CheckOptions extends WalkOptions {
  /** `leaks` gives lost space back; `all` corrects refcounts and flags too. Without it nothing is written. */
  readonly repair?: RepairMode;
}

/**
 * Checks a qcow2 image's refcounts, flags and offsets.
 * @throws TSV_E_DISK_FORMAT when the header is too damaged for that, or it is not qcow2; TSV_E_DISK_LOCKED
 */
export async function checkDisk(path: string, options: CheckOptions = {}): Promise<RepairResult> {
  const { repair } = options;
  const file = await ImageFile.open(path, { readOnly: repair === undefined });
  try {
    if ((await detectFormat(file)) !== 'qcow2') {
      throw new TsvError(
        'TSV_E_DISK_FORMAT',
        `"${path}" is not a qcow2 image; others have nothing to check.`,
        {
          hint: 'Check the file systems on it in a guest.',
        },
      );
    }
    return await checkImage(file, await readHeader(file), repair, options);
  } finally {
    await file.close();
  }
}
