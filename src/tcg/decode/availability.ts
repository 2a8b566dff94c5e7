/**
 * Which instructions the control registers forbid: SSE and MMX (SDM vol. 3A 2.5, tables 23-22 to 23-27 of vol. 2A 2.4).
 * They are decoded to what raises the exception, so that those which are allowed check nothing.
 */
import type { CpuState } from '../cpu-state.ts';
import { UNIT } from '../table/instruction.ts';
import { DECODE } from './decoder.ts';

const CR0_EM = 4;
const CR0_TS = 8;
const CR4_OSFXSR = 0x200;

/** How many values {@link availability} has. */
export const AVAILABILITIES = 8;

/** A number that is different whenever other instructions are allowed; 0 when all are. */
export function availability(state: CpuState): number {
  const { cr0, cr4 } = state;
  return ((cr0 & (CR0_EM | CR0_TS)) >> 2) | (cr4 & CR4_OSFXSR ? 0 : 4);
}

/**
 * What an instruction raises because of the control registers.
 * @param units of its encoding
 * @returns 0: nothing; DECODE.forbidden: #UD; DECODE.unavailable: #NM
 */
export function refusal(units: number, state: CpuState): number {
  const { cr0, cr4 } = state;
  if (units === 0) return 0;
  if (cr0 & CR0_EM || (units & UNIT.SSE && !(cr4 & CR4_OSFXSR))) return DECODE.forbidden;
  return cr0 & CR0_TS ? DECODE.unavailable : 0;
}
