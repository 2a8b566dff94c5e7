/** Errors about qcow2 images. */
import { TsvError } from '../../errors.ts';

/** The image cannot be opened: what it says is against the format. */
export function formatError(path: string, problem: string): TsvError {
  return new TsvError('TSV_E_DISK_FORMAT', `"${path}" is not a sound qcow2 image: ${problem}.`, {
    hint: 'The file is cut off, damaged or something else; copy it again or restore a backup.',
  });
}

/** A table of an open image says something impossible. */
export function corruptError(path: string, problem: string): TsvError {
  return new TsvError('TSV_E_DISK_CORRUPT', `The qcow2 image "${path}" is damaged: ${problem}.`, {
    hint: 'Look at it with "tsvisor disk check", and restore a backup if that cannot repair it.',
  });
}

/** The image needs something that tsvisor does not have. */
export function featureError(path: string, feature: string, hint: string): TsvError {
  return new TsvError('TSV_E_DISK_FEATURE', `"${path}" uses ${feature}, which is not supported.`, { hint });
}
