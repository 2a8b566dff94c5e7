/** Delivery of exceptions and interrupts through the IDT or the real-mode vector table, and IRET (SDM vol. 3A 6). */
import type { Cpu } from '../cpu.ts';
import { FLAG } from '../emit/rflags.ts';
import { S, SEG } from '../layout.ts';
import { GuestFault, hasErrorCode, VECTOR } from './fault.ts';
import type { LinearMemory } from './linear.ts';
import { dpl, RIGHTS, type Segments, SYSTEM_TYPE } from './segments.ts';

const RSP = 4;
const MASK64 = (1n << 64n) - 1n;

/** What is delivered: an exception of an instruction, INT n and its kin, or an interrupt from outside. */
export type EventKind = 'exception' | 'software' | 'external';

export class Delivery {
  readonly #cpu: Cpu;
  readonly #segments: Segments;
  readonly #memory: LinearMemory;

  constructor(cpu: Cpu, segments: Segments, memory: LinearMemory) {
    this.#cpu = cpu;
    this.#segments = segments;
    this.#memory = memory;
  }

  /**
   * Delivers an event; S.RIP is what the handler returns to.
   * @throws GuestFault when the delivery faults; no state has changed then
   */
  deliver(vector: number, error: number, kind: EventKind): void {
    if (this.#segments.isReal && (this.#cpu.state.eflags & FLAG.VM) === 0) this.#deliverReal(vector);
    else if (this.#segments.isLongMode) this.#deliverLong(vector, error, kind);
    else this.#deliverProtected(vector, error, kind);
    // Whatever waited for the instruction before is over.
    this.#cpu.state.setU64(S.SHADOW_RIP, MASK64);
  }

  #deliverReal(vector: number): void {
    const { state, rflags } = this.#cpu;
    const entry = BigInt(vector * 4);
    if (vector * 4 + 3 > state.i32(S.IDT_LIMIT)) throw new GuestFault(VECTOR.GP);
    const offset = this.#memory.get(state.u64(S.IDT_BASE) + entry, 2);
    const selector = Number(this.#memory.get(state.u64(S.IDT_BASE) + entry + 2n, 2));
    const base = this.#segments.base(SEG.SS);
    let sp = state.gpr(RSP) & 0xffffn;
    const words = [rflags & 0xffffn, BigInt(this.#segments.selector(SEG.CS)), state.rip & 0xffffn];
    for (const word of words) {
      sp = (sp - 2n) & 0xffffn;
      this.#memory.set(base + sp, word, 2);
    }
    state.setGpr(RSP, (state.gpr(RSP) & ~0xffffn) | sp);
    state.eflags &= ~(FLAG.IF | FLAG.TF | FLAG.AC);
    this.#segments.setReal(SEG.CS, selector);
    state.rip = offset;
  }

  #gateError(vector: number, kind: EventKind): number {
    return vector * 8 + 2 + (kind === 'software' ? 0 : 1);
  }

  #deliverLong(vector: number, error: number, kind: EventKind): void {
    const { state, rflags } = this.#cpu;
    const segments = this.#segments;
    const gateError = this.#gateError(vector, kind);
    if (vector * 16 + 15 > state.i32(S.IDT_LIMIT) >>> 0) throw new GuestFault(VECTOR.GP, gateError);
    const at = state.u64(S.IDT_BASE) + BigInt(vector * 16);
    const low = this.#memory.get(at, 8, true);
    const high = this.#memory.get(at + 8n, 8, true);
    const rights = Number((low >> 40n) & 0xffn);
    const type = rights & 0x1f;
    if (type !== SYSTEM_TYPE.INTERRUPT && type !== SYSTEM_TYPE.TRAP)
      throw new GuestFault(VECTOR.GP, gateError);
    if (kind === 'software' && dpl(rights) < state.cpl) throw new GuestFault(VECTOR.GP, gateError);
    if ((rights & RIGHTS.P) === 0) throw new GuestFault(VECTOR.NP, gateError);
    const offset = (low & 0xffffn) | ((low >> 32n) & 0xffff_0000n) | ((high & 0xffff_ffffn) << 32n);
    const selector = Number((low >> 16n) & 0xffffn);
    const ist = Number((low >> 32n) & 7n);
    const descriptor = segments.descriptor(selector);
    const conforming = (descriptor.rights & RIGHTS.EC) !== 0;
    const cpl = conforming ? state.cpl : dpl(descriptor.rights);
    const isCode = (descriptor.rights & (RIGHTS.S | RIGHTS.CODE)) === (RIGHTS.S | RIGHTS.CODE);
    if (!isCode || cpl > state.cpl || (descriptor.rights & (RIGHTS.L | RIGHTS.DB)) !== RIGHTS.L) {
      throw new GuestFault(VECTOR.GP, selector & 0xfffc);
    }
    if ((descriptor.rights & RIGHTS.P) === 0) throw new GuestFault(VECTOR.NP, selector & 0xfffc);

    let rsp: bigint;
    if (ist !== 0) rsp = this.#tss64(28 + ist * 8);
    else if (cpl < state.cpl) rsp = this.#tss64(4 + cpl * 8);
    else rsp = state.gpr(RSP);
    rsp &= ~15n;
    const frame = [
      BigInt(segments.selector(SEG.SS)),
      state.gpr(RSP),
      rflags,
      BigInt(segments.selector(SEG.CS)),
      state.rip,
    ];
    if (kind !== 'software' && hasErrorCode(vector)) frame.push(BigInt(error));
    const bytes = new Uint8Array(frame.length * 8);
    const view = new DataView(bytes.buffer);
    frame.forEach((value, i) => {
      view.setBigUint64((frame.length - 1 - i) * 8, value & MASK64, true);
    });
    const top = (rsp - BigInt(bytes.length)) & MASK64;
    this.#memory.write(top, bytes, cpl < 3);
    const changes = cpl !== state.cpl;
    state.setGpr(RSP, top);
    state.eflags &= ~(FLAG.TF | FLAG.NT | FLAG.RF | FLAG.VM | (type === SYSTEM_TYPE.INTERRUPT ? FLAG.IF : 0));
    segments.setCode(selector, descriptor, cpl);
    if (changes) segments.set(SEG.SS, cpl, 0n, 0, RIGHTS.UNUSABLE | (cpl << 5));
    state.rip = offset;
  }

  #tss64(offset: number): bigint {
    if (offset + 7 > this.#segments.limit(SEG.TR))
      throw new GuestFault(VECTOR.TS, this.#segments.selector(SEG.TR) & 0xfffc);
    return this.#memory.get(this.#segments.base(SEG.TR) + BigInt(offset), 8, true);
  }

  #deliverProtected(vector: number, error: number, kind: EventKind): void {
    const { state, rflags } = this.#cpu;
    const segments = this.#segments;
    const gateError = this.#gateError(vector, kind);
    if (vector * 8 + 7 > state.i32(S.IDT_LIMIT) >>> 0) throw new GuestFault(VECTOR.GP, gateError);
    const raw = this.#memory.get(state.u64(S.IDT_BASE) + BigInt(vector * 8), 8, true);
    const rights = Number((raw >> 40n) & 0xffn);
    const type = rights & 0x1f;
    // A task gate would switch tasks, which this CPU refuses.
    if (![6, 7, 14, 15].includes(type)) throw new GuestFault(VECTOR.GP, gateError);
    if (kind === 'software' && dpl(rights) < state.cpl) throw new GuestFault(VECTOR.GP, gateError);
    if ((rights & RIGHTS.P) === 0) throw new GuestFault(VECTOR.NP, gateError);
    const bytes = type >= 14 ? 4 : 2;
    const offset = (raw & 0xffffn) | (bytes === 4 ? (raw >> 32n) & 0xffff_0000n : 0n);
    const selector = Number((raw >> 16n) & 0xffffn);
    const descriptor = segments.descriptor(selector);
    const conforming = (descriptor.rights & RIGHTS.EC) !== 0;
    const wasVm = (state.eflags & FLAG.VM) !== 0;
    const from = wasVm ? 3 : state.cpl;
    const cpl = conforming ? from : dpl(descriptor.rights);
    const isCode = (descriptor.rights & (RIGHTS.S | RIGHTS.CODE)) === (RIGHTS.S | RIGHTS.CODE);
    if (!isCode || cpl > from || (wasVm && cpl !== 0)) throw new GuestFault(VECTOR.GP, selector & 0xfffc);
    if ((descriptor.rights & RIGHTS.P) === 0) throw new GuestFault(VECTOR.NP, selector & 0xfffc);
    const frame: bigint[] = [];
    let stack = {
      selector: segments.selector(SEG.SS),
      base: segments.base(SEG.SS),
      limit: 0,
      rights: segments.rights(SEG.SS),
    };
    let esp = state.gpr(RSP);
    if (cpl < from) {
      const wide = (segments.rights(SEG.TR) & 15) >= 9;
      const base = segments.base(SEG.TR);
      const slot = BigInt(wide ? 4 + cpl * 8 : 2 + cpl * 4);
      esp = this.#memory.get(base + slot, wide ? 4 : 2, true);
      const ss = Number(this.#memory.get(base + slot + (wide ? 4n : 2n), 2, true));
      const d = segments.descriptor(ss, VECTOR.TS);
      if ((ss & 3) !== cpl || dpl(d.rights) !== cpl || (d.rights & 0x1a) !== 0x12)
        throw new GuestFault(VECTOR.TS, ss & 0xfffc);
      if ((d.rights & RIGHTS.P) === 0) throw new GuestFault(VECTOR.SS, ss & 0xfffc);
      stack = { selector: ss, base: d.base, limit: d.limit, rights: d.rights };
      if (wasVm)
        for (const segment of [SEG.GS, SEG.FS, SEG.DS, SEG.ES])
          frame.push(BigInt(segments.selector(segment)));
      frame.push(BigInt(segments.selector(SEG.SS)), state.gpr(RSP));
    }
    frame.push(rflags, BigInt(segments.selector(SEG.CS)), state.rip);
    if (kind !== 'software' && hasErrorCode(vector)) frame.push(BigInt(error));
    const mask = stack.rights & RIGHTS.DB ? 0xffff_ffffn : 0xffffn;
    let at = esp & mask;
    for (const value of frame) {
      at = (at - BigInt(bytes)) & mask;
      this.#memory.set((stack.base + at) & 0xffff_ffffn, value, bytes, cpl < 3);
    }
    state.eflags &= ~(FLAG.TF | FLAG.NT | FLAG.RF | FLAG.VM | (type === 14 || type === 6 ? FLAG.IF : 0));
    segments.setCode(selector, descriptor, cpl);
    if (cpl < from) {
      segments.set(SEG.SS, stack.selector, stack.base, stack.limit, stack.rights | RIGHTS.ACCESSED);
      if (wasVm)
        for (const segment of [SEG.GS, SEG.FS, SEG.DS, SEG.ES])
          segments.set(segment, 0, 0n, 0, RIGHTS.UNUSABLE);
    }
    state.setGpr(RSP, (esp & ~mask) | at);
    state.rip = offset;
  }

  /** IRET with an operand size of 2, 4 or 8 bytes. @throws GuestFault */
  iret(bytes: number): void {
    const { state } = this.#cpu;
    const segments = this.#segments;
    const is64 = segments.is64;
    const mask = state.u64(S.STACK_MASK);
    const base = is64 ? 0n : segments.base(SEG.SS);
    let at = state.gpr(RSP) & mask;
    const pop = () => {
      const value = this.#memory.get(base + at, bytes);
      at = (at + BigInt(bytes)) & mask;
      return value;
    };
    const rip = pop();
    const cs = Number(pop() & 0xffffn);
    const flags = pop();
    if (segments.isReal) {
      state.setGpr(RSP, (state.gpr(RSP) & ~mask) | at);
      segments.setReal(SEG.CS, cs);
      state.rip = rip;
      this.setFlags(flags, bytes, 0);
      return;
    }
    if (state.eflags & FLAG.NT) throw new GuestFault(segments.isLongMode ? VECTOR.GP : VECTOR.TS);
    if (!segments.isLongMode && bytes === 4 && (Number(flags) & FLAG.VM) !== 0 && state.cpl === 0) {
      this.#iretToVirtual8086(rip, cs, flags, pop);
      return;
    }
    const rpl = cs & 3;
    if (rpl < state.cpl) throw new GuestFault(VECTOR.GP, cs & 0xfffc);
    const code = segments.code(cs, rpl);
    const oldCpl = state.cpl;
    const outward = rpl > oldCpl;
    if (outward || is64) {
      const rsp = pop();
      const ss = Number(pop() & 0xffffn);
      this.#checkStack(ss, rpl, code.rights);
      segments.setCode(cs, code, rpl);
      this.#loadStack(ss, rpl);
      const wide = state.u64(S.STACK_MASK);
      state.setGpr(
        RSP,
        segments.is64
          ? rsp
          : wide === 0xffffn
            ? (state.gpr(RSP) & ~0xffffn) | (rsp & 0xffffn)
            : rsp & 0xffff_ffffn,
      );
      if (outward) this.#dropSegments(rpl);
    } else {
      state.setGpr(RSP, (state.gpr(RSP) & ~mask) | at);
      segments.setCode(cs, code, rpl);
    }
    state.rip = rip;
    this.setFlags(flags, bytes, oldCpl);
  }

  #checkStack(ss: number, cpl: number, codeRights: number): void {
    const segments = this.#segments;
    if ((ss & 0xfffc) === 0) {
      if (!segments.isLongMode || (codeRights & RIGHTS.L) === 0 || cpl === 3 || (ss & 3) !== cpl)
        throw new GuestFault(VECTOR.GP);
      return;
    }
    const d = segments.descriptor(ss);
    if ((ss & 3) !== cpl || dpl(d.rights) !== cpl || (d.rights & 0x1a) !== 0x12)
      throw new GuestFault(VECTOR.GP, ss & 0xfffc);
    if ((d.rights & RIGHTS.P) === 0) throw new GuestFault(VECTOR.SS, ss & 0xfffc);
  }

  #loadStack(ss: number, cpl: number): void {
    const segments = this.#segments;
    if ((ss & 0xfffc) === 0) {
      segments.set(SEG.SS, ss, 0n, 0, RIGHTS.UNUSABLE | (cpl << 5));
      return;
    }
    const d = segments.descriptor(ss);
    segments.set(SEG.SS, ss, d.base, d.limit, d.rights | RIGHTS.ACCESSED);
  }

  /** Data segments that the outer level may not use become null (SDM vol. 2, IRET and RET). */
  #dropSegments(cpl: number): void {
    const segments = this.#segments;
    for (const segment of [SEG.ES, SEG.DS, SEG.FS, SEG.GS]) {
      const rights = segments.rights(segment);
      if (rights & RIGHTS.UNUSABLE) continue;
      const conforming = (rights & (RIGHTS.CODE | RIGHTS.EC)) === (RIGHTS.CODE | RIGHTS.EC);
      if (!conforming && dpl(rights) < cpl) segments.set(segment, 0, 0n, 0, RIGHTS.UNUSABLE);
    }
  }

  #iretToVirtual8086(rip: bigint, cs: number, flags: bigint, pop: () => bigint): void {
    const { state } = this.#cpu;
    const segments = this.#segments;
    const esp = pop();
    const selectors = [SEG.SS, SEG.ES, SEG.DS, SEG.FS, SEG.GS].map((segment) => [
      segment,
      Number(pop() & 0xffffn),
    ]);
    this.#cpu.rflags = flags;
    state.setI32(S.CPL, 3);
    segments.setReal(SEG.CS, cs);
    for (const [segment, selector] of selectors) segments.setReal(segment, selector);
    this.#cpu.mmu.selectTlb();
    state.setGpr(RSP, esp);
    state.rip = rip & 0xffffn;
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
    state.eflags = (old & ~mask & ~(popf ? FLAG.RF : 0)) | (Number(value & 0xffff_ffffn) & mask);
    this.#cpu.mmu.selectTlb();
    // run() comes back: to deliver the interrupt that waits, or to go on in single steps.
    const waits = (state.eflags & FLAG.IF) !== 0 && state.i32(S.IRQ_WAITING) !== 0;
    if (waits || state.eflags & FLAG.TF) state.setI32(S.ATTENTION, 1);
  }
}
