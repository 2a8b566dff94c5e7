/**
 * The import `system`: instructions whose meaning is written in TypeScript, and the delivery of what they and the
 * generated code raise.
 */
import type { Cpu, Outcome } from '../cpu.ts';
import { FLAG } from '../emit/rflags.ts';
import { R, S, STATUS } from '../layout.ts';
import { SYSTEM_NAMES } from '../table/system-operations.ts';
import { Delivery, type EventKind } from './delivery.ts';
import { FarTransfers } from './far.ts';
import { DeviceExit, GuestFault, VECTOR } from './fault.ts';
import { OPERATIONS } from './instructions.ts';
import { LinearMemory } from './linear.ts';
import { SystemRegisters } from './registers.ts';
import { Segments } from './segments.ts';

const MASK64 = (1n << 64n) - 1n;
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

/** An instruction that is not implemented, reported once for each. */
export type UndefinedListener = (rip: bigint, bytes: Uint8Array) => void;

/** System operations of one vCPU. */
export class SystemOperations {
  readonly segments: Segments;
  readonly linear: LinearMemory;
  readonly delivery: Delivery;
  readonly far: FarTransfers;
  readonly registers: SystemRegisters;
  /** Single-stepping for a debugger, besides TF. */
  debugStep = false;
  #outcome: Outcome = 'continue';
  /** Where to go on after an instruction that has left run() but is complete. */
  #resume: bigint | undefined;
  #trapArmed = false;
  readonly #cpu: Cpu;

  constructor(cpu: Cpu) {
    this.#cpu = cpu;
    this.linear = new LinearMemory(cpu);
    this.segments = new Segments(cpu, this.linear);
    this.delivery = new Delivery(cpu, this.segments, this.linear);
    this.far = new FarTransfers(cpu, this.segments, this.linear);
    this.registers = new SystemRegisters(cpu, this.segments);
  }

  /** Whether run() must come back after each instruction. */
  get singleStep(): boolean {
    return this.debugStep || (this.#cpu.state.eflags & FLAG.TF) !== 0;
  }

  /** To be called before each run(): TF counts as it was before the instruction. */
  beforeStep(): void {
    this.#trapArmed = (this.#cpu.state.eflags & FLAG.TF) !== 0;
  }

  /** The import: see Helpers.system. */
  execute(code: number, pc: number): number {
    const { state } = this.#cpu;
    const operation: Operation = {
      cpu: this.#cpu,
      system: this,
      pc,
      size: (code >> 8) & 0x7f,
      memory: (code & 0x8000) !== 0,
      detail: code >>> 16,
    };
    try {
      const handler = OPERATIONS[SYSTEM_NAMES[code & 0xff]];
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
    if (this.#resume !== undefined) this.#cpu.state.rip = this.#resume;
    this.#resume = undefined;
    return outcome;
  }

  /** After a block of one instruction with TF: the trap. @returns whether something was delivered */
  afterStep(): boolean {
    const { state } = this.#cpu;
    // An instruction that sets TF is not trapped itself.
    if ((state.eflags & FLAG.TF) === 0 || !this.#trapArmed) return false;
    state.setU64(S.DR + 6 * 8, state.u64(S.DR + 6 * 8) | 0x4000n);
    this.raise(VECTOR.DB, 0, 'exception');
    return true;
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
    for (;;) {
      try {
        // A fault's image of RF is set (SDM vol. 3A 17.3.1.1), a trap's is not.
        this.delivery.deliver(v, e, k);
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
  }

  /** Whether an interrupt from outside can be taken now. */
  get acceptsInterrupt(): boolean {
    const { state } = this.#cpu;
    return (state.eflags & FLAG.IF) !== 0 && state.u64(S.SHADOW_RIP) !== state.rip;
  }

  /** No interrupt is taken before the next instruction. */
  shadow(pc: number): void {
    this.#cpu.state.setU64(S.SHADOW_RIP, this.nextRip(pc));
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
