/** How failures of the host's files become TsvErrors. */
import { TsvError } from '../errors.ts';

/** Error codes of system calls that mean that there is no room. */
const FULL = new Set(['ENOSPC', 'EDQUOT', 'EFBIG']);

/** What the host said to a request for an image file. */
export function hostFileError(path: string, doing: string, cause: unknown): TsvError {
  if (cause instanceof TsvError) return cause;
  const code = (cause as NodeJS.ErrnoException).code ?? 'unknown error';
  if (FULL.has(code)) {
    return new TsvError('TSV_E_DISK_FULL', `The host has no room for ${doing} "${path}" (${code}).`, {
      hint: 'Free space on the file system of the image, or raise its quota.',
      cause,
    });
  }
  return new TsvError('TSV_E_DISK_IO', `The host failed at ${doing} "${path}" (${code}).`, {
    hint: "Check the host's disk and the image's file system.",
    cause,
  });
}

/** A file is shorter than it was. */
export function truncatedError(path: string, offset: number): TsvError {
  return new TsvError('TSV_E_DISK_IO', `"${path}" ends before offset ${offset}: something has cut it off.`, {
    hint: 'No other program may change an image that is in use.',
  });
}

export function diskRangeError(offset: number, length: number, size: number): TsvError {
  return new TsvError(
    'TSV_E_DISK_RANGE',
    `${length} bytes at offset ${offset} do not lie within the disk of ${size} bytes.`,
    { hint: 'Ask for bytes between 0 and the size of the disk.' },
  );
}

export function readOnlyError(): TsvError {
  return new TsvError('TSV_E_DISK_READ_ONLY', 'The disk is read-only.', {
    hint: 'Open it for writing, or put an overlay over it.',
  });
}

export function closedError(path: string): TsvError {
  return new TsvError('TSV_E_DISK_IO', `"${path}" has been closed.`, { hint: 'Open the disk again.' });
}
