/** Opens files for what a run puts out. */
import { constants as O, openSync } from 'node:fs';
import { TsvError } from '../errors.ts';

/**
 * Creates or empties a file for output.
 * @param what what it is for, as messages call it
 * @throws TSV_E_FILE
 */
export function openOutput(path: string, what: string): number {
  try {
    // Without O_NONBLOCK a FIFO that nobody reads would hold up the program here.
    return openSync(path, O.O_WRONLY | O.O_CREAT | O.O_TRUNC | O.O_NONBLOCK, 0o666);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new TsvError('TSV_E_FILE', `The ${what} cannot go to ${path}: ${code}.`, {
      hint: OUTPUT_HINTS[code ?? ''] ?? 'Choose another file.',
      cause: error,
    });
  }
}

const OUTPUT_HINTS: Readonly<Record<string, string>> = {
  ENOENT: 'The directory does not exist; create it first.',
  ENOTDIR: 'A part of the path is not a directory.',
  EISDIR: 'It is a directory; name a file in it.',
  EACCES: 'This user may not write there; choose another place.',
  EROFS: 'The file system is read-only; choose another place.',
  ENXIO: 'It is a FIFO without a reader; start the reader first.',
};
