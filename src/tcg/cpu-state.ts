/** Typed access to a vCPU's state in the shared memory, for what is written in TypeScript. */
import { S } from './layout.ts';

/** A vCPU's area. 64-bit values are unsigned bigints; the hot paths use halves as 32-bit numbers. */
export class CpuState {
  readonly base: number;
  readonly bytes: Uint8Array;
  readonly view: DataView;
  /** The whole memory as words; index by (base + field) >> 2. */
  readonly words: Int32Array;

  constructor(memory: WebAssembly.Memory, base: number) {
    this.base = base;
    this.bytes = new Uint8Array(memory.buffer);
    this.view = new DataView(memory.buffer);
    this.words = new Int32Array(memory.buffer);
  }

  /** A 32-bit field, signed. */
  i32(field: number): number {
    return this.words[(this.base + field) >> 2];
  }
  setI32(field: number, value: number): void {
    this.words[(this.base + field) >> 2] = value;
  }
  u64(field: number): bigint {
    return this.view.getBigUint64(this.base + field, true);
  }
  setU64(field: number, value: bigint): void {
    // Only the low 64 bits are stored, of any value.
    this.view.setBigUint64(this.base + field, value, true);
  }

  gpr(number: number): bigint {
    return this.u64(S.GPR + number * 8);
  }
  setGpr(number: number, value: bigint): void {
    this.setU64(S.GPR + number * 8, value);
  }
  /** Low half of a general register, unsigned. */
  gpr32(number: number): number {
    return this.i32(S.GPR + number * 8) >>> 0;
  }
  /** Writes a register as a 32-bit operation does: the upper half is cleared. */
  setGpr32(number: number, value: number): void {
    this.setI32(S.GPR + number * 8, value);
    this.setI32(S.GPR + number * 8 + 4, 0);
  }

  /** Makes run() return at the end of the block. Other threads set bits of the same word. */
  attend(): void {
    Atomics.or(this.words, (this.base + S.ATTENTION) >> 2, 1);
  }

  get rip(): bigint {
    return this.u64(S.RIP);
  }
  set rip(value: bigint) {
    this.setU64(S.RIP, value);
  }
  get cpl(): number {
    return this.i32(S.CPL);
  }
  get eflags(): number {
    return this.i32(S.EFLAGS);
  }
  set eflags(value: number) {
    this.setI32(S.EFLAGS, value);
  }
  /** Low half of a control register. */
  get cr0(): number {
    return this.i32(S.CR0);
  }
  get cr4(): number {
    return this.i32(S.CR4);
  }
  get efer(): number {
    return this.i32(S.EFER);
  }
}
