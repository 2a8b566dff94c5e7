/** Delivery of exceptions and interrupts through the IDT or the real-mode vector table (SDM vol. 3A 6). */
import type { Cpu } from '../cpu.ts';
import { FLAG } from '../emit/rflags.ts';
import { GPR, S, SEG } from '../layout.ts';
import { GuestFault, hasErrorCode, VECTOR } from './fault.ts';
import { isCanonical, type LinearMemory } from './linear.ts';
import type { InnerStack, Privilege } from './privilege.ts';
import { type Descriptor, dpl, RIGHTS, type Segments, SYSTEM_TYPE } from './segments.ts';
import { Stack } from './stack.ts';

const { RSP } = GPR;
const MASK64 = (1n << 64n) - 1n;
const CODE_SEGMENT = RIGHTS.S | RIGHTS.CODE;
/** Error code bits: the event came from outside the program; the rest indexes the IDT (SDM vol. 3A 6.13). */
const ERROR = { EXT: 1, IDT: 2 } as const;
/** A clear of EFLAGS by every delivery through a gate. */
const CLEARED = FLAG.TF | FLAG.NT | FLAG.RF | FLAG.VM;

/** What is delivered: an exception of an instruction, INT n and its kin, or an interrupt from outside. */
export type EventKind = 'exception' | 'software' | 'external';

/** A gate of the IDT. */
interface Gate {
  readonly type: number;
  readonly selector: number;
  readonly offset: bigint;
  readonly ist: number;
}

export class Delivery {
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

  /**
   * Delivers an event; S.RIP is what the handler returns to.
   * @throws GuestFault when the delivery faults; no state has changed then
   */
  deliver(vector: number, error: number, kind: EventKind): void {
    const { state } = this.#cpu;
    const segments = this.#segments;
    if (segments.isReal && (state.eflags & FLAG.VM) === 0) this.#deliverReal(vector);
    else if (segments.isLongMode) this.#deliverLong(vector, error, kind);
    else this.#deliverProtected(vector, error, kind);
    // Whatever waited for the instruction before is over.
    state.setU64(S.SHADOW_RIP, MASK64);
  }

  /** RFLAGS as pushed: faults set RF, so that an instruction breakpoint does not hit again (SDM vol. 3B 17.3.1.1). */
  #image(vector: number, kind: EventKind): bigint {
    const isFault = kind === 'exception' && vector !== VECTOR.DB && vector !== VECTOR.DF;
    return this.#cpu.rflags | BigInt(isFault ? FLAG.RF : 0);
  }

  #deliverReal(vector: number): void {
    const { state, rflags } = this.#cpu;
    const segments = this.#segments;
    if (vector * 4 + 3 > state.i32(S.IDT_LIMIT)) throw new GuestFault(VECTOR.GP);
    const entry = state.u64(S.IDT_BASE) + BigInt(vector * 4);
    const offset = this.#memory.get(entry, 2);
    const selector = Number(this.#memory.get(entry + 2n, 2));
    const stack = this.#privilege.stack();
    stack.push(rflags & 0xffffn, 2);
    stack.push(BigInt(segments.selector(SEG.CS)), 2);
    stack.push(state.rip & 0xffffn, 2);
    state.setGpr(RSP, stack.pointer);
    state.eflags &= ~(FLAG.IF | FLAG.TF | FLAG.AC);
    segments.setReal(SEG.CS, selector);
    state.rip = offset;
  }

  /** Reads and checks the gate of a vector. */
  #gate(vector: number, kind: EventKind, ext: number): Gate {
    const { state } = this.#cpu;
    const long = this.#segments.isLongMode;
    const size = long ? 16 : 8;
    const error = vector * 8 + (ERROR.IDT | ext);
    if (vector * size + size - 1 > state.i32(S.IDT_LIMIT) >>> 0) throw new GuestFault(VECTOR.GP, error);
    const at = state.u64(S.IDT_BASE) + BigInt(vector * size);
    const low = this.#memory.get(at, 8, true);
    const high = long ? this.#memory.get(at + 8n, 8, true) : 0n;
    const rights = Number((low >> 40n) & 0xffn);
    const type = rights & 0x1f;
    const wide = type === SYSTEM_TYPE.INTERRUPT || type === SYSTEM_TYPE.TRAP;
    const narrow = type === SYSTEM_TYPE.INTERRUPT16 || type === SYSTEM_TYPE.TRAP16;
    const task = type === SYSTEM_TYPE.TASK_GATE && !long;
    if (!wide && !(narrow && !long) && !task) throw new GuestFault(VECTOR.GP, error);
    if (kind === 'software' && dpl(rights) < state.cpl) throw new GuestFault(VECTOR.GP, error);
    if ((rights & RIGHTS.P) === 0) throw new GuestFault(VECTOR.NP, error);
    const selector = Number((low >> 16n) & 0xffffn);
    if (task) {
      const refused = this.#privilege.taskSwitch(selector);
      throw new GuestFault(refused.vector, refused.error | ext);
    }
    const upper = wide ? (low >> 32n) & 0xffff_0000n : 0n;
    const offset = (low & 0xffffn) | upper | ((high & 0xffff_ffffn) << 32n);
    return { type, selector, offset, ist: long ? Number((low >> 32n) & 7n) : 0 };
  }

  /** The handler's code segment, checked. */
  #handler(selector: number, ext: number): Descriptor {
    if ((selector & 0xfffc) === 0) throw new GuestFault(VECTOR.GP, ext);
    const error = (selector & 0xfffc) | ext;
    const d = this.#segments.descriptor(selector, VECTOR.GP, ext);
    const from = this.#cpu.state.cpl;
    if ((d.rights & CODE_SEGMENT) !== CODE_SEGMENT || dpl(d.rights) > from)
      throw new GuestFault(VECTOR.GP, error);
    const long = this.#segments.isLongMode;
    if (long && (d.rights & (RIGHTS.L | RIGHTS.DB)) !== RIGHTS.L) throw new GuestFault(VECTOR.GP, error);
    if ((d.rights & RIGHTS.P) === 0) throw new GuestFault(VECTOR.NP, error);
    this.#segments.markAccessed(selector, d);
    return d;
  }

  #deliverLong(vector: number, error: number, kind: EventKind): void {
    const { state } = this.#cpu;
    const segments = this.#segments;
    const ext = kind === 'software' ? 0 : ERROR.EXT;
    const { type, selector, offset, ist } = this.#gate(vector, kind, ext);
    const code = this.#handler(selector, ext);
    const conforming = (code.rights & RIGHTS.EC) !== 0;
    const cpl = conforming ? state.cpl : dpl(code.rights);
    const changes = cpl !== state.cpl;
    if (!isCanonical(offset)) throw new GuestFault(VECTOR.GP, ext);
    let rsp = state.gpr(RSP);
    if (ist !== 0) rsp = this.#privilege.interruptStack(ist, ext);
    else if (changes) rsp = this.#privilege.innerStack(cpl, ext).pointer;
    rsp &= ~15n;
    const frame = [
      BigInt(segments.selector(SEG.SS)),
      state.gpr(RSP),
      this.#image(vector, kind),
      BigInt(segments.selector(SEG.CS)),
      state.rip,
    ];
    if (kind === 'exception' && hasErrorCode(vector)) frame.push(BigInt(error));
    const bytes = new Uint8Array(frame.length * 8);
    const view = new DataView(bytes.buffer);
    frame.forEach((value, i) => {
      view.setBigUint64((frame.length - 1 - i) * 8, value & MASK64, true);
    });
    const top = (rsp - BigInt(bytes.length)) & MASK64;
    if (!isCanonical(top) || !isCanonical((rsp - 1n) & MASK64)) throw new GuestFault(VECTOR.SS, ext);
    this.#memory.write(top, bytes, cpl < 3);
    state.setGpr(RSP, top);
    state.eflags &= ~(CLEARED | (type === SYSTEM_TYPE.INTERRUPT ? FLAG.IF : 0));
    segments.setCode(selector, code, cpl);
    if (changes) segments.set(SEG.SS, cpl, 0n, 0, RIGHTS.UNUSABLE | (cpl << 5));
    state.rip = offset;
  }

  #deliverProtected(vector: number, error: number, kind: EventKind): void {
    const { state } = this.#cpu;
    const segments = this.#segments;
    const ext = kind === 'software' ? 0 : ERROR.EXT;
    const { type, selector, offset } = this.#gate(vector, kind, ext);
    const code = this.#handler(selector, ext);
    const from = state.cpl;
    const wasVm = (state.eflags & FLAG.VM) !== 0;
    const cpl = (code.rights & RIGHTS.EC) !== 0 ? from : dpl(code.rights);
    // From virtual-8086 mode events lead to level 0 only (SDM vol. 3B 21.3.1).
    if (wasVm && cpl !== 0) throw new GuestFault(VECTOR.GP, (selector & 0xfffc) | ext);
    this.#privilege.checkTarget(code, offset, ext);
    const wide = type === SYSTEM_TYPE.INTERRUPT || type === SYSTEM_TYPE.TRAP;
    const bytes = wide ? 4 : 2;
    let inner: InnerStack | undefined;
    let stack = this.#privilege.stack({ error: ext });
    if (cpl < from) {
      inner = this.#privilege.innerStack(cpl, ext);
      stack = new Stack(this.#memory, inner.pointer, inner.segment, {
        error: (inner.selector & 0xfffc) | ext,
        system: true,
      });
      if (wasVm)
        for (const segment of [SEG.GS, SEG.FS, SEG.DS, SEG.ES])
          stack.push(BigInt(segments.selector(segment)), bytes);
      stack.push(BigInt(segments.selector(SEG.SS)), bytes);
      stack.push(state.gpr(RSP), bytes);
    }
    stack.push(this.#image(vector, kind), bytes);
    stack.push(BigInt(segments.selector(SEG.CS)), bytes);
    stack.push(state.rip, bytes);
    if (kind === 'exception' && hasErrorCode(vector)) stack.push(BigInt(error), bytes);
    const masks = type === SYSTEM_TYPE.INTERRUPT || type === SYSTEM_TYPE.INTERRUPT16;
    state.eflags &= ~(CLEARED | (masks ? FLAG.IF : 0));
    segments.setCode(selector, code, cpl);
    if (inner !== undefined) {
      this.#privilege.enterStack(inner, cpl);
      if (wasVm)
        for (const segment of [SEG.GS, SEG.FS, SEG.DS, SEG.ES])
          segments.set(segment, 0, 0n, 0, RIGHTS.UNUSABLE);
    }
    state.setGpr(RSP, stack.pointer);
    state.rip = offset;
  }
}
