/** Random numbers of the host, for RDRAND and RDSEED. */
import { randomFillSync } from 'node:crypto';

/** Asking for one number costs as much as asking for many. */
const numbers = new BigUint64Array(512);
let left = 0;

/** 64 bits that nobody has seen. */
export function hostRandom(): bigint {
  if (left === 0) {
    randomFillSync(numbers);
    left = numbers.length;
  }
  left--;
  const number = numbers[left];
  numbers[left] = 0n;
  return number;
}
