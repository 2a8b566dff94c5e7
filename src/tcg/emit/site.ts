/** Where a meaning is emitted to: how control leaves it, and the functions and addresses it may use. */
import type { Expr, FunctionBuilder, FunctionRef } from '../wasm/index.ts';

/** Functions of the generated module, imported ones (written in TypeScript) and helpers. */
export interface Helpers {
  /** (linear i64, size | access << 8 i32, pc i32) → host address, 0 after a fault. */
  readonly translateSlow: FunctionRef;
  /** (pc, host, size) → 0, or not 0 when the store has to be left with an exit. */
  readonly afterStore: FunctionRef;
  /** (pc, size | access << 8) → linear address; a sentinel that never translates after a segment fault. */
  readonly address: FunctionRef;
  /** (pc) → effective address without segment. */
  readonly effectiveAddress: FunctionRef;
  /** (operation, pc) → STATUS. */
  readonly system: FunctionRef;
  /** (size | access << 8, segment, offset i64, pc) → linear address of a legacy-mode access. */
  readonly segmentAddress: FunctionRef;
  /** High half of a 64x64-bit product. */
  readonly mulHighUnsigned: FunctionRef;
  readonly mulHighSigned: FunctionRef;
}

/** The surroundings of a meaning. */
export interface Site {
  readonly f: FunctionBuilder;
  /** Address of the vCPU's area. */
  readonly base: Expr;
  /** Address of the record. */
  readonly pc: Expr;
  readonly helpers: Helpers;
  /** Leaves: the instruction has not completed. */
  leave(): void;
  /** Goes on at a RIP; ends the block. */
  jump(rip: Expr): void;
  /** Goes on with the next record before the end of the meaning. */
  next(): void;
  /** Ends with the STATUS of a system operation. */
  status(status: Expr): void;
  /** A direct branch to the record's target, or to what follows it. */
  branch(taken: boolean): void;
}
