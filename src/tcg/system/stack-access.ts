/** Which accesses of the generated code are to the stack: where not canonical they raise #SS, others #GP (SDM vol. 1 3.3.7.1). */
import type { CpuState } from '../cpu-state.ts';
import type { DecodeTable } from '../interp/decode-table.ts';
import { firstOf } from '../interp/ids.ts';
import { GPR, R, SEG } from '../layout.ts';

const { RSP, RBP } = GPR;
/** Instructions that use the stack without naming it, by the register that points to it. */
const IMPLICIT = [
  [/^(push|pop|call|ret)/, RSP],
  [/^leave/, RBP],
] as const;
/** How far from the stack pointer such an instruction reaches. */
const REACH = 8n;

/**
 * @param table what records are of
 * @returns whether the access of a record to a linear address, given in halves, is one to the stack
 */
export function stackAccesses(
  state: CpuState,
  table: DecodeTable,
): (pc: number, low: number, high: number) => boolean {
  let pointers: Map<number, number> | undefined;
  return (pc, low, high) => {
    if (state.view.getUint8(pc + R.EXTRA) === SEG.SS) return true;
    pointers ??= stackHandlers(table);
    const register = pointers.get(state.view.getUint16(pc, true));
    if (register === undefined) return false;
    // PUSH and CALL may have another memory operand.
    const linear = (BigInt(high >>> 0) << 32n) | BigInt(low >>> 0);
    const distance = BigInt.asIntN(64, linear - state.gpr(register));
    return distance >= -REACH && distance <= REACH;
  };
}

/** The register by the ids of such instructions' handlers, and of those that do one of them and then another. */
function stackHandlers({ instructions, fused }: DecodeTable): Map<number, number> {
  const pointers = new Map(
    IMPLICIT.flatMap(([names, register]) =>
      instructions
        .filter(({ name }) => names.test(name))
        .flatMap(({ encodings }) => encodings.flatMap(({ handlers }) => [...handlers]))
        .map((id) => [id, register] as const),
    ),
  );
  for (const [key, both] of fused) {
    const register = pointers.get(firstOf(key));
    if (register !== undefined) pointers.set(both, register);
  }
  return pointers;
}
