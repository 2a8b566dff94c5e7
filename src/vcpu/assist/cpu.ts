/** What the assist needs of an engine, and what it says of an instruction. */
import type { EngineVcpu } from '../engine.ts';

/** The part of a vCPU the assist works on. */
export type AssistCpu = Pick<EngineVcpu, 'get' | 'set' | 'getMsrs'>;

/** Options of `assistInstruction`. */
export interface AssistOptions {
  /**
   * One word of shared memory, zero at first, the same for all vCPUs of a machine: locked operations wider than the
   * host's atomics exclude each other through it. Without it only one vCPU may be assisted at a time.
   */
  readonly lock?: Int32Array;
}

/** An exception the instruction ends in. */
export interface AssistException {
  readonly kind: 'exception';
  readonly vector: number;
  readonly errorCode?: number;
  /** The faulting linear address of a page fault. */
  readonly cr2?: bigint;
}

/** What became of an instruction. */
export type AssistResult =
  /** Done: registers and memory are those after the instruction. */
  | { readonly kind: 'completed'; readonly mnemonic: string }
  /** It raises an exception, which is still to be injected with `injectException`. */
  | (AssistException & { readonly mnemonic: string })
  /** It cannot be completed; nothing has changed. */
  | {
      readonly kind: 'unsupported';
      readonly mnemonic: string;
      readonly bytes: Uint8Array;
      readonly reason: string;
    };
