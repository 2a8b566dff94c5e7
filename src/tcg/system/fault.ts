/** Exceptions raised by operations written in TypeScript. */

/** Vectors (SDM vol. 3A 6.3.1). */
export const VECTOR = {
  DE: 0,
  DB: 1,
  NMI: 2,
  BP: 3,
  OF: 4,
  BR: 5,
  UD: 6,
  NM: 7,
  DF: 8,
  TS: 10,
  NP: 11,
  SS: 12,
  GP: 13,
  PF: 14,
  MF: 16,
  AC: 17,
  XM: 19,
} as const;

/** Vectors that push an error code. */
const WITH_ERROR = new Set<number>([
  VECTOR.DF,
  VECTOR.TS,
  VECTOR.NP,
  VECTOR.SS,
  VECTOR.GP,
  VECTOR.PF,
  VECTOR.AC,
]);

export function hasErrorCode(vector: number): boolean {
  return WITH_ERROR.has(vector);
}

/** Thrown to abandon an instruction with an exception; never leaves the engine. */
export class GuestFault {
  readonly vector: number;
  readonly error: number;
  constructor(vector: number, error = 0) {
    this.vector = vector;
    this.error = error;
  }
}

/** Thrown to abandon an instruction with a device access: it is executed again when the access is done. */
export class DeviceExit {}
