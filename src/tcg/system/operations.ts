/**
 * The import `system`: instructions whose meaning is written in TypeScript, and the delivery of what they and the
 * generated code raise.
 */
import type { Cpu, Outcome } from '../cpu.ts';
import type { CpuState } from '../cpu-state.ts';
import { FLAG } from '../emit/rflags.ts';
import { PAGE, R, S, SEG, STATUS } from '../layout.ts';
import { SYSTEM_NAMES } from '../table/system-operations.ts';
import { DebugRegisters, DR6 } from './debug.ts';
import { Delivery, type EventKind } from './delivery.ts';
import { Events, interruptShadow, SHADOW } from './events.ts';
import { FarTransfers } from './far.ts';
import { DeviceExit, GuestFault, VECTOR } from './fault.ts';
import { OPERATIONS } from './instructions.ts';
import { InterruptReturn } from './iret.ts';
import { LinearMemory } from './linear.ts';
import { Notices } from './notices.ts';
import { Privilege } from './privilege.ts';
import { SystemRegisters } from './registers.ts';
import { Segments } from './segments.ts';

const MASK64 = (1n << 64n) - 1n;
const NO_SHADOW = MASK64;
/** Instruction prefixes but for REP and REX (SDM vol. 2A 2.1.1). */
const OTHER_PREFIXES = new Set([0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0]);
const MAX_PREFIXES = 14n;
/**
 * So many events are delivered in a row at most. An alignment check whose frame is not aligned either never ends, as on a
 * processor: run() comes back meanwhile, so that the vCPU can be stopped.
 */
const MAX_NESTING = 8;
/** After so many operations, each of which may take microseconds, run() comes back to look at the time. */
const OPERATIONS_AT_ONCE = 512;
const CONTRIBUTORY = new Set<number>([VECTOR.DE, VECTOR.TS, VECTOR.NP, VECTOR.SS, VECTOR.GP]);

/** One operation being carried out. */
export interface Operation {
  readonly cpu: Cpu;
  readonly system: SystemOperations;
  /** Address of the record. */
  readonly pc: number;
  /** Operand size in bytes. */
  readonly size: number;
  /** Whether there is a memory operand. */
  readonly memory: boolean;
  readonly detail: number;
}

/** Carries an operation out: gives true when it has set S.RIP itself, anything else when the next record follows. */
export type OperationFunction = (o: Operation) => unknown;

/** System operations of one vCPU. */
export class SystemOperations {
  readonly segments: Segments;
  readonly linear: LinearMemory;
  readonly delivery: Delivery;
  readonly privilege: Privilege;
  readonly interruptReturn: InterruptReturn;
  readonly far: FarTransfers;
  readonly registers: SystemRegisters;
  readonly debug: DebugRegisters;
  readonly events: Events;
  readonly notices = new Notices();
  /** Single-stepping for a debugger, besides TF. */
  debugStep = false;
  /** Told of everything that is delivered, before it is. */
  onEvent: ((vector: number, error: number, kind: EventKind) => void) | undefined;
  /** The next instruction has to be executed alone. */
  stepOnce = false;
  #outcome: Outcome = 'continue';
  #operations = 0;
  /** Where to go on after an instruction that has left run() but is complete. */
  #resume: bigint | undefined;
  #trapArmed = false;
  /** DR6 bits of traps that MOV SS has put off. */
  #held = 0;
  /** The instruction to be executed was begun in an interrupt shadow. */
  #inShadow = false;
  /** Low half of RIP of the instruction to be executed. */
  #begunAt = 0;
  readonly #cpu: Cpu;
  readonly #byNumber = SYSTEM_NAMES.map((name) => OPERATIONS[name]);

  constructor(cpu: Cpu) {
    this.#cpu = cpu;
    this.events = new Events(cpu.state);
    this.linear = new LinearMemory(cpu);
    this.segments = new Segments(cpu, this.linear);
    this.privilege = new Privilege(cpu, this.segments, this.linear);
    this.delivery = new Delivery(cpu, this.segments, this.linear, this.privilege);
    this.interruptReturn = new InterruptReturn(cpu, this.segments, this.privilege);
    this.far = new FarTransfers(cpu, this.segments, this.linear, this.privilege);
    this.registers = new SystemRegisters(cpu, this.segments);
    this.debug = new DebugRegisters(cpu);
    cpu.blocks.guard = {
      allows: (low, high) => this.#guardFetch(low, high),
      fits: (length) => this.#fits(length),
    };
  }

  /** Whether run() must come back after each instruction. */
  get singleStep(): boolean {
    return this.debugStep || this.stepOnce || (this.#cpu.state.eflags & FLAG.TF) !== 0;
  }

  /**
   * To be called before each instruction or run of them, but not when one is executed again: delivers what waits, and
   * looks for an instruction breakpoint.
   * @returns how run() ends at once; undefined when the instruction is to be executed
   */
  begin(): Outcome | undefined {
    const { state } = this.#cpu;
    const { events, debug } = this;
    if (events.tripleFault) return 'shutdown';
    this.#inShadow = interruptShadow(this.#cpu) !== 0;
    this.#begunAt = state.i32(S.RIP);
    const event = events.take(!this.#inShadow);
    if (event !== undefined)
      return this.raise(event.vector, event.error, event.kind) ? 'continue' : 'shutdown';
    // What waits is to be looked for right behind the shadow.
    if (this.#inShadow) {
      if (events.nmiWaits || state.i32(S.IRQ_WAITING) !== 0) this.stepOnce = true;
      else state.setU64(S.SHADOW_RIP, NO_SHADOW);
    }
    const resumes = (state.eflags & FLAG.RF) !== 0;
    state.eflags &= ~FLAG.RF;
    if (debug.hasCode) {
      const linear = this.#linearRip();
      const hits = resumes ? 0 : debug.codeAt(linear);
      if (hits !== 0) {
        debug.report(hits);
        return this.raise(VECTOR.DB, 0, 'exception') ? 'continue' : 'shutdown';
      }
      if (debug.isCodePage(Number(linear & 0xffff_ffffn) | 0, Number(linear >> 32n) | 0))
        this.stepOnce = true;
    }
    debug.takeHits();
    this.#trapArmed = (state.eflags & FLAG.TF) !== 0;
    return undefined;
  }

  /** RIP as a linear address. */
  #linearRip(): bigint {
    const { state } = this.#cpu;
    if (this.segments.is64) return state.rip;
    return (state.rip + state.u64(S.SEGMENT_BASE + SEG.CS * 8)) & 0xffff_ffffn;
  }

  /**
   * Asked by the block cache before it looks code up, with the linear address in halves.
   * @returns false when the code must not be executed so: a fault was raised, or single steps are due
   */
  #guardFetch(low: number, high: number): boolean {
    const { state, blocks } = this.#cpu;
    if (!this.segments.is64 && !this.#withinLimit(state)) return false;
    if (blocks.single || !this.debug.hasCode || !this.debug.isCodePage(low, high)) return true;
    this.stepOnce = true;
    return false;
  }

  /** CS limit: near it instructions are looked at one by one (SDM vol. 3A 5.3). */
  #withinLimit(state: CpuState): boolean {
    const limit = state.i32(S.LIMIT + SEG.CS * 4);
    if (limit === -1) return true;
    const left = (limit >>> 0) - (state.i32(S.RIP) >>> 0);
    if (left < 0) {
      state.setI32(S.FAULT_VECTOR, VECTOR.GP);
      state.setI32(S.FAULT_ERROR, 0);
      return false;
    }
    if (left >= PAGE || this.#cpu.blocks.single) return true;
    this.stepOnce = true;
    return false;
  }

  /**
   * Asked before a block of one instruction is entered.
   * @returns false when the instruction does not lie within the CS limit: the fault was raised
   */
  #fits(length: number): boolean {
    const { state } = this.#cpu;
    const limit = state.i32(S.LIMIT + SEG.CS * 4) >>> 0;
    if (this.segments.is64 || (state.i32(S.RIP) >>> 0) + length - 1 <= limit) return true;
    state.setI32(S.FAULT_VECTOR, VECTOR.GP);
    state.setI32(S.FAULT_ERROR, 0);
    return false;
  }

  /** The import: see Helpers.system. */
  execute(code: number, pc: number): number {
    const { state } = this.#cpu;
    if (++this.#operations === OPERATIONS_AT_ONCE) {
      this.#operations = 0;
      state.attend();
    }
    const operation: Operation = {
      cpu: this.#cpu,
      system: this,
      pc,
      size: (code >> 8) & 0x7f,
      memory: (code & 0x8000) !== 0,
      detail: code >>> 16,
    };
    try {
      const handler = this.#byNumber[code & 0xff];
      if (handler === undefined) throw new GuestFault(VECTOR.UD);
      if (handler(operation) === true) return STATUS.JUMP;
      return STATUS.NEXT;
    } catch (error) {
      if (error instanceof DeviceExit) return STATUS.LEAVE;
      if (error instanceof Leave) {
        this.#outcome = error.outcome;
        this.#resume = error.rip;
        return STATUS.LEAVE;
      }
      if (!(error instanceof GuestFault)) throw error;
      state.setI32(S.FAULT_VECTOR, error.vector);
      state.setI32(S.FAULT_ERROR, error.error);
      return STATUS.LEAVE;
    }
  }

  /** RIP of an instruction's record, and of the one after it. */
  rip(pc: number): bigint {
    const { state } = this.#cpu;
    return (state.u64(S.BLOCK_RIP) + BigInt(state.view.getUint16(pc + R.OFFSET, true))) & MASK64;
  }
  nextRip(pc: number): bigint {
    return (this.rip(pc) + BigInt(this.#cpu.state.view.getUint8(pc + R.LENGTH))) & MASK64;
  }

  /** What a leave without a fault means; once. */
  takeOutcome(): Outcome {
    const outcome = this.#outcome;
    this.#outcome = 'continue';
    if (this.#resume === undefined) return outcome;
    this.#cpu.state.rip = this.#resume;
    this.#resume = undefined;
    // A single-step trap comes before the halt.
    return this.afterStep() ? 'continue' : outcome;
  }

  /** The instruction is not followed by a single-step trap: it began an event of its own (SDM vol. 3B 17.3.1.4). */
  noTrap(): void {
    this.#trapArmed = false;
  }

  /** After run() came to an end between two instructions: the traps of the one before. @returns whether one was delivered */
  afterStep(): boolean {
    const { state, blocks } = this.#cpu;
    if (!blocks.single) return false;
    this.stepOnce = false;
    const shadow = interruptShadow(this.#cpu);
    const begun = shadow !== 0 && !(this.#inShadow && state.i32(S.SHADOW_RIP) === this.#begunAt);
    if (this.#inShadow && !begun) state.setU64(S.SHADOW_RIP, NO_SHADOW);
    // After MOV SS traps wait for the next instruction, whose own they become; a single-step trap is lost.
    if (begun && this.events.shadowKind === SHADOW.MOV_SS) {
      this.#held = this.debug.takeHits();
      this.stepOnce = this.#held !== 0;
      return false;
    }
    const bits = this.#held | this.debug.takeHits() | (this.#trapArmed ? DR6.BS : 0);
    this.#held = 0;
    if (bits === 0) return false;
    this.debug.report(bits);
    // Between iterations the trap's image of RF is set: the instruction's own breakpoint was met (SDM vol. 3B 17.3.1.1).
    if (this.#isRepeating()) state.eflags |= FLAG.RF;
    this.raise(VECTOR.DB, 0, 'exception');
    return true;
  }

  /** Whether the instruction that was begun goes on with another iteration. */
  #isRepeating(): boolean {
    if (this.#cpu.state.i32(S.RIP) !== this.#begunAt) return false;
    this.linear.withoutDevices = true;
    try {
      return this.#hasRepeatPrefix();
    } catch (error) {
      // It may have unmapped itself.
      if (error instanceof GuestFault) return false;
      throw error;
    } finally {
      this.linear.withoutDevices = false;
    }
  }

  #hasRepeatPrefix(): boolean {
    const linear = this.#linearRip();
    for (let i = 0n; i < MAX_PREFIXES; i++) {
      const byte = Number(this.linear.get(linear + i, 1, true));
      if (byte === 0xf2 || byte === 0xf3) return true;
      const isRex = this.segments.is64 && byte >> 4 === 4;
      if (!isRex && !OTHER_PREFIXES.has(byte)) return false;
    }
    return false;
  }

  /** Delivers the fault the generated code raised. @returns false after a triple fault */
  deliverFault(): boolean {
    const { state } = this.#cpu;
    const vector = state.i32(S.FAULT_VECTOR);
    state.setI32(S.FAULT_VECTOR, -1);
    return this.raise(vector, state.i32(S.FAULT_ERROR), 'exception');
  }

  /** Delivers an event at S.RIP, with double and triple faults (SDM vol. 3A 6.15). @returns false after a triple fault */
  raise(vector: number, error: number, kind: EventKind): boolean {
    this.linear.withoutDevices = true;
    try {
      return this.#deliver(vector, error, kind);
    } finally {
      this.linear.withoutDevices = false;
    }
  }

  #deliver(vector: number, error: number, kind: EventKind): boolean {
    const { state } = this.#cpu;
    let [v, e, k] = [vector, error, kind];
    for (let nesting = 0; nesting < MAX_NESTING; nesting++) {
      try {
        this.onEvent?.(v, e, k);
        this.delivery.deliver(v, e, k);
        if (v === VECTOR.DB) this.debug.entered();
        return true;
      } catch (nested) {
        if (!(nested instanceof GuestFault)) throw nested;
        state.setI32(S.FAULT_VECTOR, -1);
        const both =
          k === 'exception' &&
          ((CONTRIBUTORY.has(v) && CONTRIBUTORY.has(nested.vector)) ||
            (v === VECTOR.PF && (nested.vector === VECTOR.PF || CONTRIBUTORY.has(nested.vector))));
        if (v === VECTOR.DF && k === 'exception') return false;
        [v, e, k] = both ? [VECTOR.DF, 0, 'exception'] : [nested.vector, nested.error, 'exception'];
      }
    }
    this.events.injected = { vector: v, error: e, kind: k };
    return true;
  }

  /** Whether an interrupt from outside can be taken now. */
  get acceptsInterrupt(): boolean {
    const { state } = this.#cpu;
    return (state.eflags & FLAG.IF) !== 0 && state.u64(S.SHADOW_RIP) !== state.rip;
  }

  /** No interrupt is taken before the next instruction is complete. @param kind one of SHADOW */
  shadow(pc: number, kind: number): void {
    this.#cpu.state.setU64(S.SHADOW_RIP, this.nextRip(pc));
    this.events.shadowKind = kind;
  }
}

/** Thrown by operations that end run() after they have completed. */
export class Leave {
  readonly outcome: Outcome;
  /** RIP after the instruction. */
  readonly rip: bigint;
  constructor(outcome: Outcome, rip: bigint) {
    this.outcome = outcome;
    this.rip = rip;
  }
}
