/** Numbers of the interpreter's handlers, which the records carry. */

/** Handlers that no instruction has. */
export const SPECIAL = { STALE: 0, GOTO: 1 } as const;
/** Id of the first inline handler. */
export const FIRST_INLINE = 2;

const KEY = 65536;

/** Key of a pair of handler ids. */
export function fusedKey(first: number, second: number): number {
  return first * KEY + second;
}

/** The first id of a pair by its key. */
export function firstOf(key: number): number {
  return Math.floor(key / KEY);
}
