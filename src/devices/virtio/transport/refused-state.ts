import { TsvError } from '../../../errors.ts';

/** The error for a saved state that is well-formed and still cannot be this device's. */
export function refusedState(name: string, what: string): TsvError {
  return new TsvError('TSV_E_STATE', `The saved state of ${name} ${what}.`, {
    hint: 'Restore into a new machine of the same configuration, with the memory of the same moment.',
  });
}
