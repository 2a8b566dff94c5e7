/** Software-interrupt delivery through IVT or IDT (Intel SDM vol. 3A 6.12 and 6.14, vol. 2A INT n). */
import { decodeDescriptor, SYSTEM_TYPE } from '../../memory/segments.ts';
import type { Segment } from '../state.ts';
import { type AssistContext, FLAG } from './context.ts';
import { GuestFault, generalProtection, Unsupported, VECTOR } from './fault.ts';

/** Bit of an exception's error code: the index refers to the IDT (SDM vol. 3A 6.13). */
const ERROR_IDT = 2;
/** Flags that every gate clears; an interrupt gate clears IF too. */
const CLEARED = FLAG.TF | FLAG.NT | FLAG.RF | FLAG.VM;
/** Offsets in a TSS (SDM vol. 3A figures 8-2 and 8-11). */
const TSS64_RSP0 = 4;
const TSS64_IST1 = 36;
const TSS32_ESP0 = 4;

interface Gate {
  selector: number;
  offset: bigint;
  type: number;
  dpl: number;
  present: boolean;
  ist: number;
}

/**
 * Enters the handler of `vector` as INT n does; `returnRip` is pushed.
 * @throws GuestFault with the state unchanged
 */
export function deliverSoftwareInterrupt(context: AssistContext, vector: number, returnRip: bigint): void {
  if ((context.regs.rflags & FLAG.VM) !== 0n) throw new Unsupported('virtual-8086 mode');
  if (context.realMode) deliverReal(context, vector, returnRip);
  else deliverProtected(context, vector, returnRip);
}

function deliverReal(context: AssistContext, vector: number, returnRip: bigint): void {
  const { regs, sregs } = context;
  if (vector * 4 + 3 > sregs.idt.limit) throw generalProtection();
  const entry = context.readInt(sregs.idt.base + BigInt(vector * 4), 4, 0);
  const sp = BigInt.asUintN(16, regs.rsp - 6n);
  const frame = [returnRip, BigInt(sregs.cs.selector), regs.rflags];
  for (const [i, value] of frame.entries()) {
    const offset = BigInt.asUintN(16, sp + BigInt(2 * i));
    context.writeInt(BigInt.asUintN(32, sregs.ss.base + offset), 2, value);
  }
  regs.rsp = (regs.rsp & ~0xffffn) | sp;
  regs.rip = entry & 0xffffn;
  regs.rflags &= ~(FLAG.IF | FLAG.TF | FLAG.AC);
  const selector = Number(entry >> 16n);
  sregs.cs = { ...sregs.cs, selector, base: BigInt(selector) << 4n };
  context.sregsChanged = true;
}

function deliverProtected(context: AssistContext, vector: number, returnRip: bigint): void {
  const { regs, sregs, cpl } = context;
  const long = context.longMode;
  const gate = readGate(context, vector, long);
  const idtError = vector * 8 + ERROR_IDT;
  const interrupt = gate.type === SYSTEM_TYPE.INTERRUPT_GATE || gate.type === SYSTEM_TYPE.INTERRUPT_GATE_16;
  const trap = gate.type === SYSTEM_TYPE.TRAP_GATE || gate.type === SYSTEM_TYPE.TRAP_GATE_16;
  const narrow = gate.type === SYSTEM_TYPE.INTERRUPT_GATE_16 || gate.type === SYSTEM_TYPE.TRAP_GATE_16;
  if (!long && gate.type === SYSTEM_TYPE.TASK_GATE) throw new Unsupported('task gate');
  if ((!interrupt && !trap) || (long && narrow)) throw generalProtection(idtError);
  if (gate.dpl < cpl) throw generalProtection(idtError);
  if (!gate.present) throw new GuestFault(VECTOR.NP, idtError);

  const code = readDescriptor(context, gate.selector, (error) => generalProtection(error));
  const error = gate.selector & 0xfffc;
  if (code.s === 0 || (code.type & 8) === 0 || code.dpl > cpl) throw generalProtection(error);
  if (code.present === 0) throw new GuestFault(VECTOR.NP, error);
  if (long && (code.l === 0 || code.db === 1)) throw generalProtection(error);
  const target = (code.type & 4) !== 0 ? cpl : code.dpl;

  const size = long ? 8 : narrow ? 2 : 4;
  const stack = chooseStack(context, gate, target, long);
  const frame = [returnRip, BigInt(sregs.cs.selector), regs.rflags];
  if (long || target !== cpl) frame.push(regs.rsp, BigInt(sregs.ss.selector));
  const wrap = long ? 64 : stack.ss.db === 1 ? 32 : 16;
  const rsp = BigInt.asUintN(wrap, stack.rsp - BigInt(size * frame.length));
  const bytes = new Uint8Array(size * frame.length);
  for (const [i, value] of frame.entries()) {
    for (let byte = 0; byte < size; byte++)
      bytes[i * size + byte] = Number((value >> BigInt(byte * 8)) & 0xffn);
  }
  if (!long && rsp + BigInt(bytes.length) - 1n > BigInt(stack.ss.limit)) throw new GuestFault(VECTOR.SS, 0);
  context.write(long ? rsp : BigInt.asUintN(32, stack.ss.base + rsp), bytes, target);

  regs.rsp = wrap === 16 ? (regs.rsp & ~0xffffn) | rsp : rsp;
  regs.rip = BigInt.asUintN(long ? 64 : narrow ? 16 : 32, gate.offset);
  regs.rflags &= ~(CLEARED | (interrupt ? FLAG.IF : 0n));
  sregs.ss = stack.ss;
  sregs.cs = { ...code, selector: (gate.selector & 0xfffc) | target, dpl: target, type: code.type | 1 };
  context.sregsChanged = true;
}

function readGate(context: AssistContext, vector: number, long: boolean): Gate {
  const { idt } = context.sregs;
  const size = long ? 16 : 8;
  if (vector * size + size - 1 > idt.limit) throw generalProtection(vector * 8 + ERROR_IDT);
  const bytes = context.read(idt.base + BigInt(vector * size), size, 0);
  const view = new DataView(bytes.buffer);
  const narrow = !long && (bytes[5] & 8) === 0;
  const low = view.getUint16(0, true) | (narrow ? 0 : view.getUint16(6, true) << 16);
  const high = long ? view.getUint32(8, true) : 0;
  return {
    selector: view.getUint16(2, true),
    offset: (BigInt(high) << 32n) | BigInt(low >>> 0),
    type: bytes[5] & 0x1f,
    dpl: (bytes[5] >> 5) & 3,
    present: (bytes[5] & 0x80) !== 0,
    ist: long ? bytes[4] & 7 : 0,
  };
}

/**
 * The descriptor of a selector.
 * @param refuse makes the fault for a null selector or one outside its table
 */
export function readDescriptor(
  context: AssistContext,
  selector: number,
  refuse: (errorCode: number) => GuestFault,
): Segment {
  if ((selector & 0xfffc) === 0) throw refuse(0);
  const { gdt, ldt } = context.sregs;
  const local = (selector & 4) !== 0;
  const index = selector & 0xfff8;
  const limit = local ? (ldt.unusable === 1 ? -1 : ldt.limit) : gdt.limit;
  if (index + 7 > limit) throw refuse(selector & 0xfffc);
  return decodeDescriptor(context.read((local ? ldt.base : gdt.base) + BigInt(index), 8, 0), selector);
}

/** Where the frame goes: IST, the inner level's stack of the TSS, or the current stack. */
function chooseStack(
  context: AssistContext,
  gate: Gate,
  target: number,
  long: boolean,
): { ss: Segment; rsp: bigint } {
  const { regs, sregs, cpl } = context;
  if (long) {
    const inner = target !== cpl;
    let { rsp } = regs;
    if (gate.ist !== 0) rsp = readTss(context, TSS64_IST1 + 8 * (gate.ist - 1), 8);
    else if (inner) rsp = readTss(context, TSS64_RSP0 + 8 * target, 8);
    const width = 48;
    if (BigInt.asUintN(64, BigInt.asIntN(width, rsp)) !== rsp) throw new GuestFault(VECTOR.SS, 0);
    // A change of level loads SS with a null selector whose RPL is the new level (SDM vol. 3A 6.14.2).
    const ss = inner ? { ...sregs.ss, selector: target, dpl: target, base: 0n, unusable: 1 } : sregs.ss;
    return { ss, rsp: rsp & ~0xfn };
  }
  if (target === cpl) return { ss: sregs.ss, rsp: regs.rsp };
  if ((sregs.tr.type & 8) === 0) throw new Unsupported('16-bit TSS');
  const rsp = readTss(context, TSS32_ESP0 + 8 * target, 4);
  const selector = Number(readTss(context, TSS32_ESP0 + 4 + 8 * target, 4) & 0xffffn);
  const invalid = (errorCode: number) => new GuestFault(VECTOR.TS, errorCode);
  const ss = readDescriptor(context, selector, invalid);
  const error = selector & 0xfffc;
  const writable = ss.s === 1 && (ss.type & 0xa) === 2;
  if (!writable || ss.dpl !== target || (selector & 3) !== target) throw invalid(error);
  if (ss.present === 0) throw new GuestFault(VECTOR.SS, error);
  return { ss: { ...ss, type: ss.type | 1 }, rsp };
}

function readTss(context: AssistContext, offset: number, size: number): bigint {
  const { tr } = context.sregs;
  if (offset + size - 1 > tr.limit) throw new GuestFault(VECTOR.TS, tr.selector & 0xfffc);
  return context.readInt(tr.base + BigInt(offset), size, 0);
}
