/** Which accesses of the generated code are to the stack: where not canonical they raise #SS, others #GP (SDM vol. 1 3.3.7.1). */
import type { CpuState } from '../cpu-state.ts';
import type { DecodeTable } from '../interp/decode-table.ts';
import { R, SEG } from '../layout.ts';

const RSP = 4;
const RBP = 5;
/** Instructions that use the stack without naming it. */
const IMPLICIT = /^(push|pop|call|ret|leave)/;
/** How far from the stack pointer such an instruction reaches. */
const REACH = 8n;

/**
 * @param instructions what records are of
 * @returns whether the access of a record to a linear address, given in halves, is one to the stack
 */
export function stackAccesses(
  state: CpuState,
  { instructions }: DecodeTable,
): (pc: number, low: number, high: number) => boolean {
  let ids: Set<number> | undefined;
  return (pc, low, high) => {
    if (state.view.getUint8(pc + R.EXTRA) === SEG.SS) return true;
    ids ??= new Set(
      instructions
        .filter(({ name }) => IMPLICIT.test(name))
        .flatMap(({ encodings }) => encodings.flatMap(({ handlers }) => [...handlers])),
    );
    if (!ids.has(state.view.getUint16(pc, true))) return false;
    // PUSH and CALL may have another memory operand; LEAVE goes by RBP.
    const linear = (BigInt(high >>> 0) << 32n) | BigInt(low >>> 0);
    const isNear = (register: number) => {
      const distance = BigInt.asIntN(64, linear - state.gpr(register));
      return distance >= -REACH && distance <= REACH;
    };
    return isNear(RSP) || isNear(RBP);
  };
}
