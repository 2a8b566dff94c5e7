/** LAR, LSL, VERR and VERW (Intel SDM vol. 2A, tables 3-52 and 3-58; vol. 2B). */
import { SYSTEM_TYPE } from '../../memory/segments.ts';
import type { Segment } from '../state.ts';
import type { AssistContext } from './context.ts';
import type { Instruction } from './decode.ts';
import { GuestFault, undefinedOpcode } from './fault.ts';
import { readDescriptor } from './interrupt.ts';
import type { Operation } from './operation.ts';

/** System types LAR accepts outside long mode; long mode leaves LDT, TSS, busy TSS and call gate. */
const CALL_GATE = 0xc;
const LAR_TYPES = [1, 2, 3, 4, 5, 9, 0xb, 0xc];
const LAR_TYPES_LONG: readonly number[] = [SYSTEM_TYPE.LDT, SYSTEM_TYPE.TSS, SYSTEM_TYPE.TSS_BUSY, CALL_GATE];
const LSL_TYPES = [1, 2, 3, 9, 0xb];
const LSL_TYPES_LONG: readonly number[] = [SYSTEM_TYPE.LDT, SYSTEM_TYPE.TSS, SYSTEM_TYPE.TSS_BUSY];

/** The descriptor of the r/m operand's selector when the current level may see it. */
function visible(context: AssistContext, instruction: Instruction): Segment | undefined {
  if (context.realMode) throw undefinedOpcode();
  const selector = Number(context.rm(instruction, 2));
  let segment: Segment;
  try {
    segment = readDescriptor(context, selector, () => new GuestFault(-1));
  } catch (error) {
    if (error instanceof GuestFault && error.vector === -1) return undefined;
    throw error;
  }
  const conforming = segment.s === 1 && (segment.type & 0xc) === 0xc;
  const seen = conforming || segment.dpl >= Math.max(context.cpl, selector & 3);
  return seen ? segment : undefined;
}

/** Bits 8 to 23 of a descriptor's second word, without the limit's: what LAR returns. */
function accessRights(segment: Segment): bigint {
  const { type, s, dpl, present, avl, l, db, g, limit } = segment;
  const scaled = g === 1 ? Math.floor(limit / 4096) : limit;
  const low = (type << 8) | (s << 12) | (dpl << 13) | (present << 15);
  return BigInt(low | (scaled & 0xf0000) | (avl << 20) | (l << 21) | (db << 22) | (g << 23));
}

function load(
  mnemonic: string,
  opcode: number,
  types: readonly number[],
  longTypes: readonly number[],
  value: (segment: Segment) => bigint,
): Operation {
  return {
    mnemonic,
    map: 1,
    opcode,
    run(context, instruction) {
      const segment = visible(context, instruction);
      const allowed = context.longMode ? longTypes : types;
      const valid = segment !== undefined && (segment.s === 1 || allowed.includes(segment.type));
      if (valid) context.setGpr(instruction.reg, instruction.operandSize, value(segment));
      context.setFlags({ ZF: valid });
      return undefined;
    },
  };
}

function verify(mnemonic: string, group: number, allows: (type: number) => boolean): Operation {
  return {
    mnemonic,
    map: 1,
    opcode: 0x00,
    group,
    run(context, instruction) {
      const segment = visible(context, instruction);
      context.setFlags({ ZF: segment !== undefined && segment.s === 1 && allows(segment.type) });
      return undefined;
    },
  };
}

export const DESCRIPTORS: readonly Operation[] = [
  load('lar', 0x02, LAR_TYPES, LAR_TYPES_LONG, accessRights),
  load('lsl', 0x03, LSL_TYPES, LSL_TYPES_LONG, (segment) => BigInt(segment.limit)),
  verify('verr', 4, (type) => (type & 8) === 0 || (type & 2) !== 0),
  verify('verw', 5, (type) => (type & 0xa) === 2),
];
