/** Numbers of the floating-point operations: the detail of the system operation SSE_FLOAT. */

/** What is computed: bits 0 to 4. */
export const FLOAT_OPERATION = {
  ADD: 0,
  SUB: 1,
  MUL: 2,
  DIV: 3,
  SQRT: 4,
  MIN: 5,
  MAX: 6,
  CMP: 7,
  COMI: 8,
  UCOMI: 9,
  ADDSUB: 10,
  HADD: 11,
  HSUB: 12,
  ROUND: 13,
  DP: 14,
  /** To the other format. */
  CONVERT: 15,
  FROM_INTEGER: 16,
  TO_INTEGER: 17,
  /** To an integer by truncation. */
  TRUNCATE: 18,
} as const;

/** The source's format, or with FROM_INTEGER the result's, is double precision. */
export const DOUBLE_PRECISION = 0x20;
/** All lanes; else the lowest. */
export const PACKED = 0x40;
/** One of the operands is an MMX register: two lanes. */
export const HALF = 0x80;
