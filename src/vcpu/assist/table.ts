/** The instructions the assist completes, found by their encoding. */
import { AVX } from './avx.ts';
import { BITS } from './bits.ts';
import { CMPXCHG } from './cmpxchg.ts';
import type { Instruction } from './decode.ts';
import { DESCRIPTORS } from './descriptors.ts';
import { HINTS } from './hints.ts';
import { MOVES } from './moves.ts';
import { matches, type Operation } from './operation.ts';
import { SYSTEM } from './system.ts';
import { TRAPS } from './traps.ts';
import { VECTORS } from './vectors.ts';
import { EXTENDED_STATE } from './xsave.ts';

/** Every instruction the assist completes. */
export const OPERATIONS: readonly Operation[] = [
  ...TRAPS,
  ...HINTS,
  ...SYSTEM,
  ...CMPXCHG,
  ...DESCRIPTORS,
  ...EXTENDED_STATE,
  ...BITS,
  ...MOVES,
  ...VECTORS,
  ...AVX,
];

/** Operations by opcode map and opcode. */
const BY_OPCODE = new Map<number, Operation[]>();
for (const operation of OPERATIONS) {
  const key = (operation.map << 8) | operation.opcode;
  BY_OPCODE.set(key, [...(BY_OPCODE.get(key) ?? []), operation]);
}

/** The operation an instruction is, if the assist knows it. */
export function findOperation(instruction: Instruction): Operation | undefined {
  const candidates = BY_OPCODE.get((instruction.map << 8) | instruction.opcode) ?? [];
  return candidates.find((operation) => matches(operation, instruction));
}
