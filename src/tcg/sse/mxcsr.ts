/** The SSE control and status register (SDM vol. 1, 10.2.3). */

/** Exception flags; sticky. Their masks are the same bits shifted by {@link MASK_SHIFT}. */
export const IE = 0x01;
export const DE = 0x02;
export const ZE = 0x04;
export const OE = 0x08;
export const UE = 0x10;
export const PE = 0x20;
/** Exceptions that are found before anything is computed: invalid operation, denormal operand, division by zero. */
export const BEFORE_COMPUTATION = IE | DE | ZE;
export const ALL_EXCEPTIONS = 0x3f;
/** Denormal operands are zeros. */
export const DAZ = 0x40;
export const MASK_SHIFT = 7;
/** Mask of the inexact result. */
export const PM = PE << MASK_SHIFT;
/** Rounding control, two bits. */
export const RC_SHIFT = 13;
export const RC = 3 << RC_SHIFT;
/** Tiny results are zeros. */
export const FTZ = 0x8000;

/** Values of the rounding control; ROUNDPS and its kin have the same in their immediate. */
export const ROUND = { NEAREST: 0, DOWN: 1, UP: 2, ZERO: 3 } as const;

/**
 * MXCSR has this under {@link PLAIN_MASK} when WebAssembly's arithmetic is the processor's but for results and operands
 * that are not ordinary: round to nearest, and an inexact result changes nothing because its flag is set and masked.
 * The other masks, FTZ and DAZ matter only where the operands or the result are not ordinary.
 */
export const PLAIN = PM | PE;
export const PLAIN_MASK = RC | PM | PE;
