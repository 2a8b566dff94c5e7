/** What changes of the privilege level have in common: far calls and returns, events and IRET (SDM vol. 3A 5.8, 6.12). */
import type { Cpu } from '../cpu.ts';
import { GPR, S, SEG } from '../layout.ts';
import { GuestFault, VECTOR } from './fault.ts';
import { isCanonical, type LinearMemory } from './linear.ts';
import { type Descriptor, dpl, RIGHTS, type Segments, SYSTEM_TYPE } from './segments.ts';
import { Stack, type StackOptions, type StackSegment } from './stack.ts';

const { RSP } = GPR;
/** Offsets in a TSS: of the stack of level 0, and of the interrupt stack table (SDM vol. 3A 8.2.1, 8.7). */
const TSS64 = { RSP0: 4, IST1: 36 } as const;
const TSS32_ESP0 = 4;
const TSS16_SP0 = 2;

/** The stack of an inner level as the TSS has it. */
export interface InnerStack {
  readonly selector: number;
  readonly segment: StackSegment | undefined;
  readonly pointer: bigint;
}

export class Privilege {
  readonly #cpu: Cpu;
  readonly #segments: Segments;
  readonly #memory: LinearMemory;

  constructor(cpu: Cpu, segments: Segments, memory: LinearMemory) {
    this.#cpu = cpu;
    this.#segments = segments;
    this.#memory = memory;
  }

  /** The stack in use. */
  stack(options?: StackOptions): Stack {
    const segments = this.#segments;
    const segment = segments.is64
      ? undefined
      : {
          base: segments.base(SEG.SS),
          limit: segments.limit(SEG.SS),
          rights: segments.rights(SEG.SS),
        };
    return new Stack(this.#memory, this.#cpu.state.gpr(RSP), segment, options);
  }

  /** Refuses a task switch, which long mode does not have and this CPU does nowhere. */
  taskSwitch(selector: number): GuestFault {
    if (!this.#segments.isLongMode) {
      this.#cpu.system.notices.say(
        'The guest asked for a hardware task switch, which the tcg engine refuses with #GP.',
      );
    }
    return new GuestFault(VECTOR.GP, selector & 0xfffc);
  }

  /** A word of the 64-bit TSS. @param ext the EXT bit of the error code */
  #tss64(offset: number, ext: number): bigint {
    const segments = this.#segments;
    if (offset + 7 > segments.limit(SEG.TR) || segments.rights(SEG.TR) & RIGHTS.UNUSABLE)
      throw new GuestFault(VECTOR.TS, (segments.selector(SEG.TR) & 0xfffc) | ext);
    return this.#memory.get(segments.base(SEG.TR) + BigInt(offset), 8, true);
  }

  /** RSP of the interrupt stack table, entry 1 to 7. */
  interruptStack(ist: number, ext: number): bigint {
    return this.#tss64(TSS64.IST1 + (ist - 1) * 8, ext);
  }

  /** The stack of an inner level (SDM vol. 3A 5.8.5). */
  innerStack(cpl: number, ext = 0): InnerStack {
    const segments = this.#segments;
    if (segments.isLongMode) {
      return { selector: cpl, segment: undefined, pointer: this.#tss64(TSS64.RSP0 + cpl * 8, ext) };
    }
    const wide = (segments.rights(SEG.TR) & 15) >= SYSTEM_TYPE.TSS;
    const at = wide ? TSS32_ESP0 + cpl * 8 : TSS16_SP0 + cpl * 4;
    if (at + (wide ? 5 : 3) > segments.limit(SEG.TR) || segments.rights(SEG.TR) & RIGHTS.UNUSABLE)
      throw new GuestFault(VECTOR.TS, (segments.selector(SEG.TR) & 0xfffc) | ext);
    const base = segments.base(SEG.TR) + BigInt(at);
    const pointer = this.#memory.get(base, wide ? 4 : 2, true);
    const selector = Number(this.#memory.get(base + (wide ? 4n : 2n), 2, true));
    const error = (selector & 0xfffc) | ext;
    if ((selector & 0xfffc) === 0) throw new GuestFault(VECTOR.TS, ext);
    const d = segments.descriptor(selector, VECTOR.TS, ext);
    if (!isStack(d, selector, cpl)) throw new GuestFault(VECTOR.TS, error);
    if ((d.rights & RIGHTS.P) === 0) throw new GuestFault(VECTOR.SS, error);
    segments.markAccessed(selector, d);
    return { selector, segment: d, pointer };
  }

  /** Makes the stack of an inner level the one in use. To be called after CS was set. */
  enterStack({ selector, segment }: InnerStack, cpl: number): void {
    if (segment === undefined) this.#segments.set(SEG.SS, selector, 0n, 0, RIGHTS.UNUSABLE | (cpl << 5));
    else this.#segments.set(SEG.SS, selector, segment.base, segment.limit, segment.rights | RIGHTS.ACCESSED);
  }

  /**
   * The stack segment that a return brings back, checked.
   * @returns undefined for a null selector, which 64-bit mode allows below CPL 3
   */
  returnStack(selector: number, cpl: number, codeRights: number): Descriptor | undefined {
    const segments = this.#segments;
    if ((selector & 0xfffc) === 0) {
      const allowed = segments.isLongMode && (codeRights & RIGHTS.L) !== 0 && cpl !== 3;
      if (!allowed || (selector & 3) !== cpl) throw new GuestFault(VECTOR.GP);
      return undefined;
    }
    const d = segments.descriptor(selector);
    if (!isStack(d, selector, cpl)) throw new GuestFault(VECTOR.GP, selector & 0xfffc);
    if ((d.rights & RIGHTS.P) === 0) throw new GuestFault(VECTOR.SS, selector & 0xfffc);
    segments.markAccessed(selector, d);
    return d;
  }

  /** Loads what {@link returnStack} gave, and the stack pointer as far as the new mode has it. */
  leaveStack(selector: number, d: Descriptor | undefined, cpl: number, pointer: bigint): void {
    const { state } = this.#cpu;
    if (d === undefined) this.#segments.set(SEG.SS, selector, 0n, 0, RIGHTS.UNUSABLE | (cpl << 5));
    else this.#segments.set(SEG.SS, selector, d.base, d.limit, d.rights | RIGHTS.ACCESSED);
    const narrow = state.u64(S.STACK_MASK) === 0xffffn;
    state.setGpr(RSP, narrow ? (state.gpr(RSP) & ~0xffffn) | (pointer & 0xffffn) : pointer);
  }

  /** Data segments that the outer level may not use become null (SDM vol. 2, IRET and RET). */
  dropSegments(cpl: number): void {
    const segments = this.#segments;
    for (const segment of [SEG.ES, SEG.DS, SEG.FS, SEG.GS]) {
      const rights = segments.rights(segment);
      if (rights & RIGHTS.UNUSABLE) continue;
      const conforming = (rights & (RIGHTS.CODE | RIGHTS.EC)) === (RIGHTS.CODE | RIGHTS.EC);
      if (!conforming && dpl(rights) < cpl) segments.set(segment, 0, 0n, 0, RIGHTS.UNUSABLE);
    }
  }

  /** @throws GuestFault #GP when a code segment does not have an address */
  checkTarget(code: Descriptor, rip: bigint, error = 0): void {
    const long = this.#segments.isLongMode && (code.rights & RIGHTS.L) !== 0;
    if (long ? !isCanonical(rip) : rip > BigInt(code.limit)) throw new GuestFault(VECTOR.GP, error);
  }
}

/** Whether a descriptor is a writable data segment of a level. */
function isStack(d: Descriptor, selector: number, cpl: number): boolean {
  const wanted = RIGHTS.S | RIGHTS.RW;
  return (
    (selector & 3) === cpl &&
    dpl(d.rights) === cpl &&
    (d.rights & (RIGHTS.S | RIGHTS.CODE | RIGHTS.RW)) === wanted
  );
}
