/** IRET, and what it shares with POPF: loading flags (SDM vol. 2, IRET and POPF). */
import type { Cpu } from '../cpu.ts';
import { FLAG } from '../emit/rflags.ts';
import { GPR, S, SEG } from '../layout.ts';
import { GuestFault, VECTOR } from './fault.ts';
import type { Privilege } from './privilege.ts';
import type { Segments } from './segments.ts';
import type { Stack } from './stack.ts';

const { RSP } = GPR;

export class InterruptReturn {
  readonly #cpu: Cpu;
  readonly #segments: Segments;
  readonly #privilege: Privilege;

  constructor(cpu: Cpu, segments: Segments, privilege: Privilege) {
    this.#cpu = cpu;
    this.#segments = segments;
    this.#privilege = privilege;
  }

  /** IRET with an operand size of 2, 4 or 8 bytes. @throws GuestFault */
  iret(bytes: number): void {
    const { state, system } = this.#cpu;
    const segments = this.#segments;
    const stack = this.#privilege.stack();
    // Also an IRET that faults ends the blocking of NMIs (SDM vol. 3A 6.7.1 says "the execution of IRET").
    system.events.nmiMasked = false;
    if (segments.isReal) this.#iretReal(stack, bytes);
    else if (state.eflags & FLAG.NT)
      throw segments.isLongMode ? new GuestFault(VECTOR.GP) : this.#privilege.taskSwitch(0);
    else this.#iretProtected(stack, bytes);
  }

  /** In real mode, and in virtual-8086 mode with I/O privilege. */
  #iretReal(stack: Stack, bytes: number): void {
    const { state } = this.#cpu;
    const segments = this.#segments;
    if (state.eflags & FLAG.VM && (state.eflags & FLAG.IOPL) !== FLAG.IOPL) throw new GuestFault(VECTOR.GP);
    const rip = stack.pop(bytes);
    const cs = Number(stack.pop(bytes) & 0xffffn);
    const flags = stack.pop(bytes);
    if (rip > BigInt(segments.limit(SEG.CS))) throw new GuestFault(VECTOR.GP);
    state.setGpr(RSP, stack.pointer);
    segments.setReal(SEG.CS, cs);
    state.rip = rip;
    this.setFlags(flags, bytes, state.cpl);
  }

  #iretProtected(stack: Stack, bytes: number): void {
    const { state } = this.#cpu;
    const segments = this.#segments;
    const { is64 } = segments;
    const frame = is64 ? stack.popAll(5, bytes) : [stack.pop(bytes), stack.pop(bytes), stack.pop(bytes)];
    const [rip, selector, flags] = frame;
    const cs = Number(selector & 0xffffn);
    const oldCpl = state.cpl;
    if (!segments.isLongMode && bytes === 4 && oldCpl === 0 && (Number(flags) & FLAG.VM) !== 0) {
      this.#iretToVirtual8086(stack, rip, cs, flags);
      return;
    }
    const rpl = cs & 3;
    if (rpl < oldCpl) throw new GuestFault(VECTOR.GP, cs & 0xfffc);
    const code = segments.code(cs, rpl);
    this.#privilege.checkTarget(code, rip);
    if (rpl > oldCpl || is64) {
      const pointer = is64 ? frame[3] : stack.pop(bytes);
      const ss = Number((is64 ? frame[4] : stack.pop(bytes)) & 0xffffn);
      const d = this.#privilege.returnStack(ss, rpl, code.rights);
      segments.setCode(cs, code, rpl);
      this.#privilege.leaveStack(ss, d, rpl, segments.is64 ? pointer : pointer & 0xffff_ffffn);
      if (rpl > oldCpl) this.#privilege.dropSegments(rpl);
    } else {
      segments.setCode(cs, code, rpl);
      state.setGpr(RSP, stack.pointer);
    }
    state.rip = rip;
    this.setFlags(flags, bytes, oldCpl);
  }

  /** SDM vol. 3B 21.2.5. */
  #iretToVirtual8086(stack: Stack, rip: bigint, cs: number, flags: bigint): void {
    const { state } = this.#cpu;
    const segments = this.#segments;
    const pop = () => stack.pop(4);
    const pointer = pop();
    const selectors = [SEG.SS, SEG.ES, SEG.DS, SEG.FS, SEG.GS].map(
      (segment) => [segment, Number(pop() & 0xffffn)] as const,
    );
    if (rip > 0xffffn) throw new GuestFault(VECTOR.GP);
    this.setFlags(flags, 4, 0);
    state.eflags |= FLAG.VM;
    state.setI32(S.CPL, 3);
    segments.setReal(SEG.CS, cs);
    for (const [segment, selector] of selectors) segments.setReal(segment, selector);
    this.#cpu.mmu.selectTlb();
    state.setGpr(RSP, pointer);
    state.rip = rip;
  }

  /** Loads flags as POPF and IRET may at a privilege level (SDM vol. 2, POPF). */
  setFlags(value: bigint, bytes: number, cpl: number, popf = false): void {
    const { state } = this.#cpu;
    const iopl = (state.eflags & FLAG.IOPL) >> 12;
    let mask = FLAG.TF | FLAG.DF | FLAG.NT | (bytes === 2 ? 0 : FLAG.AC | FLAG.ID | (popf ? 0 : FLAG.RF));
    if (cpl === 0) mask |= FLAG.IOPL;
    if (cpl <= iopl) mask |= FLAG.IF;
    const old = state.eflags;
    this.#cpu.exports.setFlags(value);
    // POPF clears RF; that of before an IRET counted for the IRET alone.
    state.eflags = (old & ~mask & ~FLAG.RF) | (Number(value & 0xffff_ffffn) & mask);
    // RF matters only where an instruction breakpoint can be; without one the next instruction would just clear it.
    if (state.eflags & FLAG.RF && !this.#cpu.system.debug.hasCode) state.eflags &= ~FLAG.RF;
    this.#cpu.mmu.selectTlb();
    // run() comes back: to deliver the interrupt that waits, or to go on in single steps.
    const { nmiWaits } = this.#cpu.system.events;
    const waits = nmiWaits || ((state.eflags & FLAG.IF) !== 0 && state.i32(S.IRQ_WAITING) !== 0);
    if (waits || state.eflags & (FLAG.TF | FLAG.RF)) state.attend();
  }
}
