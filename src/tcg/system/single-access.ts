/**
 * Instructions that access memory once, and nothing after that access can fault or leave: moves to and from memory. What a
 * device answers on the spot they may take from it at once, for they are never executed again.
 */
import type { CpuState } from '../cpu-state.ts';
import type { DecodeTable } from '../interp/decode-table.ts';
import { firstOf } from '../interp/ids.ts';

const MOVES = new Set(['mov', 'movzx', 'movsx', 'movsxd']);

/** @returns whether a record is such an instruction, or does one and then another */
export function singleAccesses(state: CpuState, table: DecodeTable): (pc: number) => boolean {
  let ids: Set<number> | undefined;
  return (pc) => {
    ids ??= moveHandlers(table);
    return ids.has(state.view.getUint16(pc, true));
  };
}

function moveHandlers({ instructions, fused }: DecodeTable): Set<number> {
  const ids = new Set(
    instructions
      .filter(({ name }) => MOVES.has(name))
      .flatMap(({ encodings }) => encodings.flatMap(({ handlers }) => [...handlers])),
  );
  for (const [key, both] of fused) if (ids.has(firstOf(key))) ids.add(both);
  return ids;
}
