/** Exceptions an assisted instruction raises (Intel SDM vol. 3A chapter 6). */

/** Exception vectors. */
export const VECTOR = {
  DE: 0,
  DB: 1,
  BP: 3,
  UD: 6,
  NM: 7,
  TS: 10,
  NP: 11,
  SS: 12,
  GP: 13,
  PF: 14,
  MF: 16,
  AC: 17,
} as const;

/** Page-fault error code bits (SDM vol. 3A 4.7). */
export const PF_ERROR = { P: 1, W: 2, U: 4, RSVD: 8 } as const;

/** Thrown by an instruction that ends in an exception; the guest's state is as before the instruction. */
export class GuestFault extends Error {
  readonly vector: number;
  readonly errorCode: number | undefined;
  /** Faulting linear address of a page fault. */
  readonly cr2: bigint | undefined;

  constructor(vector: number, errorCode?: number, cr2?: bigint) {
    super(`exception ${vector}`);
    this.vector = vector;
    this.errorCode = errorCode;
    this.cr2 = cr2;
  }
}

/** Thrown when an instruction is one the assist cannot complete. */
export class Unsupported extends Error {}

export const undefinedOpcode = (): GuestFault => new GuestFault(VECTOR.UD);
export const generalProtection = (errorCode = 0): GuestFault => new GuestFault(VECTOR.GP, errorCode);
