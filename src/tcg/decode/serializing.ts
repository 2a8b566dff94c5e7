/** Which system operations are serializing instructions (SDM vol. 3A 8.3). */
import { SYSTEM, type SystemOperation } from '../table/system-operations.ts';

const NAMES: readonly SystemOperation[] = [
  'CPUID',
  'IRET',
  'INVD',
  'INVLPG',
  'INVPCID',
  'LGDT',
  'LIDT',
  'LLDT',
  'LMSW',
  'LTR',
  'MOV_TO_CR',
  'MOV_TO_DR',
  'WBINVD',
  'WRMSR',
  'XSETBV',
];

const numbers = new Set(NAMES.map((name) => SYSTEM[name]));

/** By operation number: whether what others have stored to code must count behind it. */
export const SERIALIZES: readonly boolean[] = Array.from({ length: 256 }, (_, number) => numbers.has(number));
