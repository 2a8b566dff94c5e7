/** Far transfers: CALL, JMP and RET between segments (SDM vol. 2; vol. 3A 5.8). */
import type { Cpu } from '../cpu.ts';
import { GPR, SEG } from '../layout.ts';
import { GuestFault, VECTOR } from './fault.ts';
import type { LinearMemory } from './linear.ts';
import type { Privilege } from './privilege.ts';
import { type Descriptor, dpl, RIGHTS, type Segments, SYSTEM_TYPE } from './segments.ts';
import { Stack } from './stack.ts';

const { RSP } = GPR;
const CODE_SEGMENT = RIGHTS.S | RIGHTS.CODE;

/** An operand of 2, 4 or 8 bytes. */
export function truncate(value: bigint, bytes: number): bigint {
  return BigInt.asUintN(bytes * 8, value);
}

/** Far transfers of one vCPU. Task switches are refused with #GP. */
export class FarTransfers {
  readonly #cpu: Cpu;
  readonly #segments: Segments;
  readonly #memory: LinearMemory;
  readonly #privilege: Privilege;

  constructor(cpu: Cpu, segments: Segments, memory: LinearMemory, privilege: Privilege) {
    this.#cpu = cpu;
    this.#segments = segments;
    this.#memory = memory;
    this.#privilege = privilege;
  }

  /** @param next RIP after the instruction, to push for a call */
  transfer(selector: number, offset: bigint, bytes: number, call: boolean, next: bigint): void {
    const { state } = this.#cpu;
    const segments = this.#segments;
    const target = truncate(offset, bytes);
    if (segments.isReal) {
      if (target > BigInt(segments.limit(SEG.CS))) throw new GuestFault(VECTOR.GP);
      if (call) this.#pushReturn(bytes, next);
      segments.setReal(SEG.CS, selector);
      state.rip = target;
      return;
    }
    if ((selector & 0xfffc) === 0) throw new GuestFault(VECTOR.GP);
    const d = segments.descriptor(selector);
    if ((d.rights & RIGHTS.S) === 0) {
      this.#throughGate(selector, d, call, next);
      return;
    }
    const allowed = mayEnter(d, state.cpl, selector & 3);
    if (!allowed || (segments.isLongMode && (d.rights & (RIGHTS.L | RIGHTS.DB)) === (RIGHTS.L | RIGHTS.DB)))
      throw new GuestFault(VECTOR.GP, selector & 0xfffc);
    if ((d.rights & RIGHTS.P) === 0) throw new GuestFault(VECTOR.NP, selector & 0xfffc);
    this.#privilege.checkTarget(d, target);
    segments.markAccessed(selector, d);
    if (call) this.#pushReturn(bytes, next);
    segments.setCode(selector, d, state.cpl);
    state.rip = target;
  }

  #pushReturn(bytes: number, next: bigint): void {
    const stack = this.#privilege.stack();
    stack.push(BigInt(this.#segments.selector(SEG.CS)), bytes);
    stack.push(next, bytes);
    this.#cpu.state.setGpr(RSP, stack.pointer);
  }

  /** A call gate; TSS and task gates are refused. */
  #throughGate(selector: number, gate: Descriptor, call: boolean, next: bigint): void {
    const { state } = this.#cpu;
    const segments = this.#segments;
    const error = selector & 0xfffc;
    const type = gate.rights & 15;
    const long = segments.isLongMode;
    const isCallGate = type === SYSTEM_TYPE.CALL || (type === SYSTEM_TYPE.CALL16 && !long);
    const isTask = type === SYSTEM_TYPE.TSS || type === SYSTEM_TYPE.TSS16 || type === SYSTEM_TYPE.TASK_GATE;
    if (!isCallGate && !isTask) throw new GuestFault(VECTOR.GP, error);
    if (dpl(gate.rights) < state.cpl || dpl(gate.rights) < (selector & 3))
      throw new GuestFault(VECTOR.GP, error);
    if (isTask) throw this.#privilege.taskSwitch(selector);
    if ((gate.rights & RIGHTS.P) === 0) throw new GuestFault(VECTOR.NP, error);
    const destination = (gate.low >>> 16) & 0xffff;
    const wide = type === SYSTEM_TYPE.CALL;
    const low = BigInt(((gate.low & 0xffff) | (wide ? gate.high & 0xffff_0000 : 0)) >>> 0);
    const entry = long ? segments.upperAddress(selector, low) : low;
    if ((destination & 0xfffc) === 0) throw new GuestFault(VECTOR.GP);
    const code = segments.descriptor(destination);
    const codeError = destination & 0xfffc;
    const level = dpl(code.rights);
    const inner = call && (code.rights & RIGHTS.EC) === 0 && level < state.cpl;
    if ((code.rights & CODE_SEGMENT) !== CODE_SEGMENT || (!inner && !mayEnter(code, state.cpl, 0)))
      throw new GuestFault(VECTOR.GP, codeError);
    if (long && (code.rights & (RIGHTS.L | RIGHTS.DB)) !== RIGHTS.L)
      throw new GuestFault(VECTOR.GP, codeError);
    if ((code.rights & RIGHTS.P) === 0) throw new GuestFault(VECTOR.NP, codeError);
    this.#privilege.checkTarget(code, entry);
    segments.markAccessed(destination, code);
    const width = long ? 8 : wide ? 4 : 2;
    if (inner) this.#callInner(destination, code, entry, width, long ? 0 : gate.high & 31, next);
    else {
      if (call) this.#pushReturn(width, next);
      segments.setCode(destination, code, state.cpl);
      state.rip = entry;
    }
  }

  /** A call to an inner level: the stack is that level's, with the old one and the parameters on it. */
  #callInner(
    selector: number,
    code: Descriptor,
    entry: bigint,
    bytes: number,
    parameters: number,
    next: bigint,
  ): void {
    const { state } = this.#cpu;
    const segments = this.#segments;
    const cpl = dpl(code.rights);
    const inner = this.#privilege.innerStack(cpl);
    const outer = this.#privilege.stack();
    const values = Array.from({ length: parameters }, () => outer.pop(bytes));
    const stack = new Stack(this.#memory, inner.pointer, inner.segment, {
      error: inner.segment === undefined ? 0 : inner.selector & 0xfffc,
      system: true,
    });
    stack.push(BigInt(segments.selector(SEG.SS)), bytes);
    stack.push(state.gpr(RSP), bytes);
    for (const value of values.reverse()) stack.push(value, bytes);
    stack.push(BigInt(segments.selector(SEG.CS)), bytes);
    stack.push(next, bytes);
    segments.setCode(selector, code, cpl);
    this.#privilege.enterStack(inner, cpl);
    state.setGpr(RSP, stack.pointer);
    state.rip = entry;
  }

  /** RET far. @param drop bytes of arguments to release */
  return(bytes: number, drop: number): void {
    const { state } = this.#cpu;
    const segments = this.#segments;
    const stack = this.#privilege.stack();
    const rip = stack.pop(bytes);
    const cs = Number(stack.pop(bytes) & 0xffffn);
    stack.skip(drop);
    if (segments.isReal) {
      if (rip > BigInt(segments.limit(SEG.CS))) throw new GuestFault(VECTOR.GP);
      state.setGpr(RSP, stack.pointer);
      segments.setReal(SEG.CS, cs);
      state.rip = rip;
      return;
    }
    const rpl = cs & 3;
    if (rpl < state.cpl) throw new GuestFault(VECTOR.GP, cs & 0xfffc);
    const code = segments.code(cs, rpl);
    this.#privilege.checkTarget(code, rip);
    if (rpl === state.cpl) {
      segments.setCode(cs, code, rpl);
      state.setGpr(RSP, stack.pointer);
    } else {
      const pointer = stack.pop(bytes);
      const ss = Number(stack.pop(bytes) & 0xffffn);
      const d = this.#privilege.returnStack(ss, rpl, code.rights);
      segments.setCode(cs, code, rpl);
      this.#privilege.leaveStack(ss, d, rpl, truncate(pointer + BigInt(drop), segments.is64 ? 8 : 4));
      this.#privilege.dropSegments(rpl);
    }
    state.rip = rip;
  }
}

/** Whether a code segment may be entered without a change of level (SDM vol. 3A 5.8.1). */
function mayEnter(code: Descriptor, cpl: number, rpl: number): boolean {
  if ((code.rights & CODE_SEGMENT) !== CODE_SEGMENT) return false;
  const level = dpl(code.rights);
  return (code.rights & RIGHTS.EC) !== 0 ? level <= cpl : level === cpl && rpl <= cpl;
}
