/** Messages between a vCPU's thread and the thread that created the machine. Nothing else crosses, but shared memory. */
import type { SharedGuestMemory } from '../memory/guest-memory.ts';
import type { GuestDebug, IrqchipMode, StateKey, VcpuPort } from './engine.ts';
import type { VcpuState } from './state.ts';

/** What can be traced. */
export type TraceTopic = 'exits' | 'io' | 'mmio' | 'assist' | 'insn' | 'block' | 'exc' | 'irq';

/** Topics that only an engine which executes the guest's instructions itself can trace. */
export const TCG_TOPICS: readonly TraceTopic[] = ['insn', 'block', 'exc', 'irq'];

/** Everything a vCPU's thread starts with. */
export interface VcpuInit {
  port: VcpuPort;
  memory: SharedGuestMemory;
  control: SharedArrayBuffer;
  busTable: SharedArrayBuffer;
  channel: SharedArrayBuffer;
  doorbell: SharedArrayBuffer;
  /** One word that the emulation assists of all vCPUs lock. */
  assistLock: SharedArrayBuffer;
  irqchip: IrqchipMode;
  /** Every device access is waited for: the run shall repeat exactly. */
  synchronous?: boolean;
  trace: readonly TraceTopic[];
  /** Host CPUs the thread may run on; empty for any. */
  affinity: readonly number[];
}

/** Operations on a vCPU that is not running. */
export interface VcpuCalls {
  get(keys: readonly StateKey[]): Partial<VcpuState>;
  set(state: Partial<VcpuState>): void;
  translate(linear: bigint): VcpuTranslation;
  setGuestDebug(debug: GuestDebug): void;
  interrupt(vector: number): void;
  nmi(): void;
}
type VcpuTranslation = import('./state.ts').Translation;

/** A request to a vCPU's thread. */
export type VcpuRequest =
  | { type: 'run' }
  | { type: 'call'; id: number; method: keyof VcpuCalls; args: unknown[] }
  | { type: 'close' };

/** An error on its way between threads: structured clone keeps no class. */
export interface ErrorMessage {
  code: string;
  message: string;
  hint: string;
  stack: string | undefined;
}

/** Why a vCPU's run loop ended. */
export type RunOutcome =
  | { kind: 'paused' }
  | { kind: 'stopped' }
  /** HLT with no interrupt controller that could wake it. */
  | { kind: 'halted' }
  | { kind: 'shutdown' }
  | { kind: 'system-event'; event: number; data: bigint[] }
  | { kind: 'debug'; exception: number; pc: bigint; dr6: bigint; dr7: bigint }
  | { kind: 'error'; error: ErrorMessage };

/** A report from a vCPU's thread. */
export type VcpuReport =
  | { type: 'ready' }
  | { type: 'ended'; outcome: RunOutcome }
  | { type: 'reply'; id: number; value?: unknown; error?: ErrorMessage }
  | { type: 'eoi'; vector: number }
  | { type: 'trace'; lines: string[] }
  | { type: 'log'; level: 'info' | 'warn'; message: string };
