/** One vCPU's x87 registers as its instructions work on them: the stack, its faults, condition codes, the operand. */
import type { ImageFormat } from './environment.ts';
import { C1, Float80, FpuContext, IE, SF, setIndefinite } from './float80.ts';
import type { X87State } from './state.ts';

/** What `execute` returns. */
export const X87_RESULT = {
  DONE: 0,
  /** An unmasked exception forbids the store: the memory operand stays as it is. */
  NO_STORE: 1,
  /** An earlier exception is pending: nothing was done; #MF, or the external interrupt of CR0.NE = 0. */
  PENDING: 2,
  /** No such instruction: #UD. */
  UNDEFINED: 3,
} as const;

/** Room for the largest memory operand. */
const OPERANDS = 128;

/** Operands, register stack and status of the instruction under way. */
export class X87Unit implements ImageFormat {
  /** The memory operand, from `operandOffset` on: read by loads, written by stores. */
  readonly operand: DataView;
  readonly operandOffset: number;
  /** EFLAGS, read by FCMOVcc, written by FCOMI and kin. */
  eflags = 0;
  /** Written by FNSTSW AX. */
  ax = 0;
  /** Of FLDENV, FNSTENV, FRSTOR and FNSAVE: the operand size is 16 bits. */
  size16 = false;
  /** Of the same: not in real-address or virtual-8086 mode. */
  protectedMode = true;

  readonly state: X87State;
  readonly context = new FpuContext();
  readonly a = new Float80();
  readonly b = new Float80();
  readonly out = new Float80();
  /** Status word of the instruction under way, without its exceptions. */
  fsw = 0;
  /** Its abridged tags. */
  ftw = 0;

  constructor(
    state: X87State,
    operand: DataView = new DataView(new ArrayBuffer(OPERANDS)),
    operandOffset = 0,
  ) {
    this.state = state;
    this.operand = operand;
    this.operandOffset = operandOffset;
  }

  /** Number of ST(i). */
  physical(i: number): number {
    return ((this.fsw >> 11) + i) & 7;
  }

  /** Whether ST(i) is tagged empty. */
  empty(i: number): boolean {
    return (this.ftw & (1 << this.physical(i))) === 0;
  }

  /** Reads ST(i). */
  get(i: number, out: Float80): Float80 {
    this.state.readRegister(this.physical(i), out);
    return out;
  }

  /** Writes ST(i) and marks it valid. */
  set(i: number, value: Float80): void {
    const physical = this.physical(i);
    this.state.writeRegister(physical, value);
    this.ftw |= 1 << physical;
  }

  pop(): void {
    this.ftw &= ~(1 << this.physical(0));
    this.moveTop(1);
  }

  push(value: Float80): void {
    this.moveTop(-1);
    this.set(0, value);
  }

  moveTop(by: number): void {
    const fsw = this.fsw;
    this.fsw = (fsw & ~0x3800) | ((fsw + by * 0x800) & 0x3800);
  }

  /** Condition codes of the instruction; C1 says whether the result was rounded up. */
  conditions(clear: number, set: number): void {
    this.fsw = (this.fsw & ~clear) | set;
  }

  roundedC1(): void {
    this.conditions(C1, this.context.roundedUp ? C1 : 0);
  }

  /** Stack underflow (C1 clear) or overflow (set). Returns whether it is masked. */
  stackFault(overflow: boolean): boolean {
    this.conditions(C1, overflow ? C1 : 0);
    this.fsw |= SF;
    return this.context.raise(IE);
  }

  /** The masked response to underflow of an instruction that writes ST(i). */
  underflow(i: number, pops = 0): number {
    if (this.stackFault(false)) {
      setIndefinite(this.out);
      this.set(i, this.out);
      for (; pops > 0; pops--) this.pop();
    }
    return X87_RESULT.DONE;
  }

  /** Whether a push has room; the masked response to overflow pushes the indefinite. */
  room(): boolean {
    if (this.empty(7)) {
      this.conditions(C1, 0);
      return true;
    }
    if (this.stackFault(true)) {
      setIndefinite(this.out);
      this.push(this.out);
    }
    return false;
  }
}
