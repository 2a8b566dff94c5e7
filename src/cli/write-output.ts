/** Writes a result file so that a failure leaves no half of it. */

import { lstatSync } from 'node:fs';
import { rename, rm, writeFile } from 'node:fs/promises';
import { TsvError } from '../errors.ts';

/**
 * Writes a file, replacing an older one in one step.
 * @param what what the file is, as messages call it
 * @throws TSV_E_FILE
 */
export async function writeOutput(path: string, bytes: Uint8Array, what: string): Promise<void> {
  // A device or FIFO (-o /dev/stdout) is written to, not replaced.
  const inPlace = lstatSync(path, { throwIfNoEntry: false })?.isFile() === false;
  const partial = `${path}.${process.pid}.part`;
  try {
    if (inPlace) await writeFile(path, bytes);
    else {
      await writeFile(partial, bytes);
      await rename(partial, path);
    }
  } catch (error) {
    await rm(partial, { force: true });
    const { code } = error as NodeJS.ErrnoException;
    throw new TsvError('TSV_E_FILE', `The ${what} cannot be written to ${path}: ${code}.`, {
      hint: 'Check the directory, its permissions and its free space.',
      cause: error,
    });
  }
}
