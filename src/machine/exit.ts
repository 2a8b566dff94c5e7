/** How a machine's run ended. */
import type { TsvError } from '../errors.ts';
import type { Regs, Sregs } from '../vcpu/state.ts';

/**
 * Why a run ended.
 * - `poweroff`: ACPI S5 or its like. `reset`: the guest asked for a reboot; tsvisor ends instead.
 * - `exit`: the exit device was written. `halt`: every vCPU halted with nothing that could wake it.
 * - `panic`: the guest's kernel panicked. `triple-fault`: a vCPU shut down.
 * - `stopped`: the host asked. `timeout`: the caller's time limit. `error`: see {@link VmExit.error}.
 */
export type ExitReason =
  | 'poweroff'
  | 'reset'
  | 'exit'
  | 'halt'
  | 'panic'
  | 'triple-fault'
  | 'stopped'
  | 'timeout'
  | 'error';

/** The registers of one vCPU when the run ended. */
export interface RegisterDump {
  /** Index of the vCPU. */
  vcpu: number;
  /** General registers. */
  regs: Regs;
  /** Segment and control registers. */
  sregs: Sregs;
  /** Bytes at RIP, as far as they can be read. */
  code: Uint8Array;
  /** Kernel symbol of RIP, "name+0x12", when the kernel image has symbols. */
  symbol?: string;
}

/** How a run ended. */
export interface VmExit {
  /** Why it ended. */
  reason: ExitReason;
  /**
   * Exit status for a process: 0 for poweroff, reset, halt and stopped; the exit device's value ((v << 1) | 1, always
   * odd); 6 for panic and triple fault; 124 for a timeout; the error's own status for an error. Only the exit device
   * makes odd statuses.
   */
  status: number;
  /** Which device or mechanism ended it. */
  by: string;
  /** What went wrong, when something did. */
  error?: TsvError;
  /** Registers of every vCPU, when the run ended badly. */
  registers?: RegisterDump[];
}

/** Exit status of a guest that crashed. */
export const STATUS_GUEST_CRASH = 6;
/** Exit status when time ran out; that of timeout(1). */
export const STATUS_TIMEOUT = 124;

/** The status that belongs to a reason; `exit` and `error` carry their own. */
export function statusOf(reason: ExitReason): number {
  switch (reason) {
    case 'panic':
    case 'triple-fault':
      return STATUS_GUEST_CRASH;
    case 'timeout':
      return STATUS_TIMEOUT;
    default:
      return 0;
  }
}
