/** Memory that an operation can reach at one host address: the soft TLB for what is written in TypeScript. */
import { ACCESS } from '../emit/access.ts';
import { PAGE, S, TLB_ADDEND, TLB_ENTRIES, TLB_ENTRY, TLB_READ, TLB_WRITE } from '../layout.ts';
import { WALK } from '../mmu/walk.ts';
import { GuestFault } from './fault.ts';
import type { Operation } from './operations.ts';

/** From a linear address to the offset of its entry. */
const INDEX_SHIFT = 12 - Math.log2(TLB_ENTRY);
const INDEX_MASK = (TLB_ENTRIES - 1) * TLB_ENTRY;

/**
 * The address in the memory of an operand with the current privilege. What is stored there has to be told by Mmu.touched.
 * @param access ACCESS.read or ACCESS.write
 * @returns -1 when there is no such address, or only with a fault: LinearMemory finds out
 * @throws GuestFault #AC
 */
export function directHost({ cpu, pc }: Operation, linear: bigint, bytes: number, access: number): number {
  const { state, mmu, map } = cpu;
  const low = Number(linear & 0xffff_ffffn) | 0;
  const high = Number(linear >> 32n) | 0;
  if ((low & (PAGE - 1)) + bytes > PAGE) return -1;
  const entry = (state.i32(S.TLB) + ((low >>> INDEX_SHIFT) & INDEX_MASK)) >> 2;
  const tag = entry + ((access === ACCESS.read ? TLB_READ : TLB_WRITE) >> 2);
  if (state.words[tag] === (low & -PAGE) && state.words[tag + 1] === high) {
    return (low + state.words[entry + (TLB_ADDEND >> 2)]) >>> 0;
  }
  if (mmu.breakpoints !== undefined) return -1;
  if (mmu.walker.walk(low, high, access, state.cpl === 3) !== WALK.ok) return -1;
  if (map.host(mmu.walker.physical, access === ACCESS.write) < 0) return -1;
  // Fills the TLB. Images of many bytes have rules of their own about alignment.
  const host = mmu.slow(low, high, (bytes > 16 ? 1 : bytes) | (access << 8), pc);
  if (host === 0) throw new GuestFault(state.i32(S.FAULT_VECTOR), state.i32(S.FAULT_ERROR));
  return host >>> 0;
}
