/** Loading and examining segments (SDM vol. 2). */
import { FLAG } from '../emit/rflags.ts';
import { GPR, SEG } from '../layout.ts';
import { SHADOW } from './events.ts';
import { GuestFault, VECTOR } from './fault.ts';
import {
  address,
  type Operations,
  privileged,
  readOperand,
  readRegister,
  registerNumber,
  umip,
  writeOperand,
  writeRegister,
} from './operands.ts';
import type { Operation } from './operations.ts';
import { type Descriptor, dpl, RIGHTS, SYSTEM_TYPE } from './segments.ts';

const { RSP } = GPR;

function setZero({ cpu }: Operation, zero: boolean): void {
  const flags = cpu.exports.getFlags() & ~BigInt(FLAG.ZF);
  cpu.exports.setFlags(flags | (zero ? BigInt(FLAG.ZF) : 0n));
}

/** The descriptor when the selector is visible at this privilege level (SDM vol. 3A 5.10.2). */
function visible(o: Operation, selector: number): Descriptor | undefined {
  if ((selector & 0xfffc) === 0) return undefined;
  try {
    const d = o.system.segments.descriptor(selector);
    const isConforming =
      (d.rights & (RIGHTS.S | RIGHTS.CODE | RIGHTS.EC)) === (RIGHTS.S | RIGHTS.CODE | RIGHTS.EC);
    const level = Math.max(o.cpu.state.cpl, selector & 3);
    return isConforming || dpl(d.rights) >= level ? d : undefined;
  } catch (error) {
    if (error instanceof GuestFault && error.vector === VECTOR.GP) return undefined;
    throw error;
  }
}

/** System descriptors that LAR and LSL know, in long mode and outside. */
const LAR_TYPES = { long: [2, 9, 11, 12], legacy: [1, 2, 3, 4, 5, 9, 11, 12] };
const LSL_TYPES = { long: [2, 9, 11], legacy: [1, 2, 3, 9, 11] };

function examine(
  o: Operation,
  types: { long: number[]; legacy: number[] },
  value: (d: Descriptor) => number,
): void {
  protectedMode(o);
  const d = visible(o, Number(readOperand(o, 1, 2)));
  const known = types[o.system.segments.isLongMode ? 'long' : 'legacy'];
  const found = d !== undefined && ((d.rights & RIGHTS.S) !== 0 || known.includes(d.rights & 15));
  if (found) writeRegister(o, 0, BigInt(value(d) >>> 0));
  setZero(o, found);
}

function protectedMode(o: Operation): void {
  if (o.system.segments.isReal) throw new GuestFault(VECTOR.UD);
}

function storeSelector(o: Operation, segment: number): void {
  protectedMode(o);
  umip(o);
  const selector = BigInt(o.system.segments.selector(segment));
  if (o.memory) writeOperand(o, selector, 2);
  else writeRegister(o, 0, selector);
}

/** A segment register was loaded: the next instruction is in a new block, which sees it. */
function continueAfter(o: Operation): true {
  o.cpu.state.rip = o.system.nextRip(o.pc);
  return true;
}

export const SEGMENT_OPERATIONS: Operations = {
  MOV_TO_SEG(o) {
    const segment = registerNumber(o, 0);
    if (segment === SEG.CS || segment > SEG.GS) throw new GuestFault(VECTOR.UD);
    o.system.segments.load(segment, Number(readOperand(o, 1, 2)));
    if (segment === SEG.SS) o.system.shadow(o.pc, SHADOW.MOV_SS);
    return continueAfter(o);
  },
  POP_SEG(o) {
    const stack = o.system.privilege.stack();
    const selector = Number(stack.pop(2));
    stack.skip(o.size - 2);
    o.system.segments.load(o.detail, selector);
    o.cpu.state.setGpr(RSP, stack.pointer);
    if (o.detail === SEG.SS) o.system.shadow(o.pc, SHADOW.MOV_SS);
    return continueAfter(o);
  },
  LOAD_FAR_POINTER(o) {
    const at = address(o, o.size + 2);
    const offset = o.system.linear.get(at, o.size);
    o.system.segments.load(o.detail, Number(o.system.linear.get(at + BigInt(o.size), 2)));
    writeRegister(o, 0, offset);
    return continueAfter(o);
  },
  SLDT: (o) => storeSelector(o, SEG.LDT),
  STR: (o) => storeSelector(o, SEG.TR),
  LLDT(o) {
    protectedMode(o);
    privileged(o);
    const { segments } = o.system;
    const selector = Number(readOperand(o, 0, 2));
    if ((selector & 0xfffc) === 0) {
      segments.set(SEG.LDT, selector, 0n, 0, RIGHTS.UNUSABLE);
      return;
    }
    const error = selector & 0xfffc;
    const d = segments.descriptor(selector);
    if (selector & 4 || (d.rights & 0x1f) !== SYSTEM_TYPE.LDT) throw new GuestFault(VECTOR.GP, error);
    if ((d.rights & RIGHTS.P) === 0) throw new GuestFault(VECTOR.NP, error);
    const base = segments.isLongMode ? segments.upperAddress(selector, d.base) : d.base;
    segments.set(SEG.LDT, selector, base, d.limit, d.rights);
  },
  LTR(o) {
    protectedMode(o);
    privileged(o);
    const { segments } = o.system;
    const selector = Number(readOperand(o, 0, 2));
    const error = selector & 0xfffc;
    if (error === 0 || selector & 4) throw new GuestFault(VECTOR.GP, error);
    const d = segments.descriptor(selector);
    const type = d.rights & 0x1f;
    const available = type === SYSTEM_TYPE.TSS || (type === SYSTEM_TYPE.TSS16 && !segments.isLongMode);
    if (!available) throw new GuestFault(VECTOR.GP, error);
    if ((d.rights & RIGHTS.P) === 0) throw new GuestFault(VECTOR.NP, error);
    const base = segments.isLongMode ? segments.upperAddress(selector, d.base) : d.base;
    segments.mark(selector, 2);
    segments.set(SEG.TR, selector, base, d.limit, d.rights | 2);
  },
  VERR(o) {
    protectedMode(o);
    const d = visible(o, Number(readOperand(o, 0, 2)));
    const isData = d !== undefined && (d.rights & RIGHTS.CODE) === 0;
    setZero(o, d !== undefined && (d.rights & RIGHTS.S) !== 0 && (isData || (d.rights & RIGHTS.RW) !== 0));
  },
  VERW(o) {
    protectedMode(o);
    const d = visible(o, Number(readOperand(o, 0, 2)));
    setZero(
      o,
      d !== undefined && (d.rights & (RIGHTS.S | RIGHTS.CODE | RIGHTS.RW)) === (RIGHTS.S | RIGHTS.RW),
    );
  },
  LAR: (o) => examine(o, LAR_TYPES, (d) => d.high & 0x00ff_ff00),
  LSL: (o) => examine(o, LSL_TYPES, (d) => d.limit),
  ARPL(o) {
    protectedMode(o);
    const a = Number(readOperand(o, 0, 2));
    const rpl = Number(readRegister(o, 1, 2)) & 3;
    const lower = (a & 3) < rpl;
    if (lower) writeOperand(o, BigInt((a & ~3) | rpl), 2);
    setZero(o, lower);
  },
};
