/** Far transfers: CALL, JMP and RET between segments (SDM vol. 2; vol. 3A 5.8). */
import type { Cpu } from '../cpu.ts';
import { S, SEG } from '../layout.ts';
import { GuestFault, VECTOR } from './fault.ts';
import type { LinearMemory } from './linear.ts';
import { dpl, RIGHTS, type Segments } from './segments.ts';

const RSP = 4;

/** Far transfers of one vCPU. Task switches are refused with #GP; call gates to the same level only. */
export class FarTransfers {
  readonly #cpu: Cpu;
  readonly #segments: Segments;
  readonly #memory: LinearMemory;

  constructor(cpu: Cpu, segments: Segments, memory: LinearMemory) {
    this.#cpu = cpu;
    this.#segments = segments;
    this.#memory = memory;
  }

  #push(values: bigint[], bytes: number): bigint {
    const { state } = this.#cpu;
    const mask = state.u64(S.STACK_MASK);
    const base = this.#segments.is64 ? 0n : this.#segments.base(SEG.SS);
    let at = state.gpr(RSP) & mask;
    for (const value of values) {
      at = (at - BigInt(bytes)) & mask;
      this.#memory.set(base + at, value, bytes);
    }
    return (state.gpr(RSP) & ~mask) | at;
  }

  /** @param next RIP after the instruction, to push for a call */
  transfer(selector: number, offset: bigint, bytes: number, call: boolean, next: bigint): void {
    const { state } = this.#cpu;
    const segments = this.#segments;
    const target = bytes === 2 ? offset & 0xffffn : bytes === 4 ? offset & 0xffff_ffffn : offset;
    const frame = [BigInt(segments.selector(SEG.CS)), next];
    if (segments.isReal) {
      if (call) state.setGpr(RSP, this.#push(frame, bytes));
      segments.setReal(SEG.CS, selector);
      state.rip = target;
      return;
    }
    if ((selector & 0xfffc) === 0) throw new GuestFault(VECTOR.GP);
    let code = segments.descriptor(selector);
    let destination = selector;
    let entry = target;
    let width = bytes;
    if ((code.rights & RIGHTS.S) === 0) {
      const type = code.rights & 15;
      const isGate = type === 12 || (type === 4 && !segments.isLongMode);
      if (!isGate || dpl(code.rights) < state.cpl || dpl(code.rights) < (selector & 3)) {
        throw new GuestFault(VECTOR.GP, selector & 0xfffc);
      }
      if ((code.rights & RIGHTS.P) === 0) throw new GuestFault(VECTOR.NP, selector & 0xfffc);
      destination = (code.low >>> 16) & 0xffff;
      entry = BigInt((code.low & 0xffff) | (type === 12 ? code.high & 0xffff_0000 : 0)) & 0xffff_ffffn;
      width = type === 12 ? (segments.isLongMode ? 8 : 4) : 2;
      if (segments.isLongMode) entry |= segments.upperBase(selector);
      code = segments.descriptor(destination);
    }
    const conforming = (code.rights & RIGHTS.EC) !== 0;
    const isCode = (code.rights & (RIGHTS.S | RIGHTS.CODE)) === (RIGHTS.S | RIGHTS.CODE);
    const level = dpl(code.rights);
    const allowed = conforming ? level <= state.cpl : level === state.cpl && (destination & 3) <= state.cpl;
    if (!isCode || !allowed) throw new GuestFault(VECTOR.GP, destination & 0xfffc);
    if ((code.rights & RIGHTS.P) === 0) throw new GuestFault(VECTOR.NP, destination & 0xfffc);
    if (call) state.setGpr(RSP, this.#push(frame, width));
    segments.setCode(destination, code, state.cpl);
    state.rip = entry;
  }

  /** RET far. @param drop bytes of arguments to release */
  return(bytes: number, drop: number): void {
    const { state } = this.#cpu;
    const segments = this.#segments;
    const mask = state.u64(S.STACK_MASK);
    const base = segments.is64 ? 0n : segments.base(SEG.SS);
    let at = state.gpr(RSP) & mask;
    const pop = () => {
      const value = this.#memory.get(base + at, bytes);
      at = (at + BigInt(bytes)) & mask;
      return value;
    };
    const rip = pop();
    const cs = Number(pop() & 0xffffn);
    at = (at + BigInt(drop)) & mask;
    if (segments.isReal) {
      state.setGpr(RSP, (state.gpr(RSP) & ~mask) | at);
      segments.setReal(SEG.CS, cs);
      state.rip = rip;
      return;
    }
    const rpl = cs & 3;
    if (rpl < state.cpl) throw new GuestFault(VECTOR.GP, cs & 0xfffc);
    const code = segments.code(cs, rpl);
    if (rpl === state.cpl) {
      segments.setCode(cs, code, rpl);
      state.setGpr(RSP, (state.gpr(RSP) & ~mask) | at);
    } else {
      const rsp = pop();
      const ss = Number(pop() & 0xffffn);
      const d = segments.descriptor(ss);
      if ((ss & 3) !== rpl || dpl(d.rights) !== rpl || (d.rights & 0x1a) !== 0x12)
        throw new GuestFault(VECTOR.GP, ss & 0xfffc);
      segments.setCode(cs, code, rpl);
      segments.set(SEG.SS, ss, d.base, d.limit, d.rights | RIGHTS.ACCESSED);
      state.setGpr(RSP, rsp + BigInt(drop));
    }
    state.rip = rip;
  }
}
