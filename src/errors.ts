/**
 * The one error class of tsvisor and its stable codes.
 *
 * A message is one sentence that says what happened; `hint` is one sentence that says what to do about it.
 * Codes never change meaning between versions: scripts and tests match on them, not on messages.
 */

/** Every code, grouped by what went wrong; the value is the exit status the CLI ends with. */
const EXIT_STATUS = {
  // The caller's input: options, files, configuration (exit status 2).
  TSV_E_USAGE: 2,
  TSV_E_CONFIG: 2,
  TSV_E_MEMORY_SIZE: 2,
  TSV_E_CPU_COUNT: 2,
  TSV_E_CPU_MODEL: 2,
  TSV_E_CMDLINE_TOO_LONG: 2,
  TSV_E_FILE: 2,
  TSV_E_KERNEL_FORMAT: 2,
  TSV_E_KERNEL_ARCH: 2,
  TSV_E_KERNEL_TRUNCATED: 2,
  TSV_E_KERNEL_LAYOUT: 2,
  TSV_E_INITRD: 2,
  TSV_E_INITRAMFS: 2,
  TSV_E_BUS_OVERLAP: 2,
  TSV_E_BUS_RANGE: 2,
  TSV_E_IRQ: 2,
  TSV_E_STATE: 2,
  TSV_E_DISK_FORMAT: 2,
  TSV_E_DISK_FEATURE: 2,
  TSV_E_DISK_BACKING: 2,
  TSV_E_DISK_RANGE: 2,
  TSV_E_DISK_READ_ONLY: 2,
  // The host: what it lacks, refuses or cannot do (exit status 4).
  TSV_E_ADDON_MISSING: 4,
  TSV_E_KVM_MISSING: 4,
  TSV_E_KVM_PERMISSION: 4,
  TSV_E_KVM_BUSY: 4,
  TSV_E_KVM_CAPABILITY: 4,
  TSV_E_ENGINE: 4,
  TSV_E_IOCTL: 4,
  TSV_E_HOST_MEMORY: 4,
  TSV_E_HOST_IO: 4,
  TSV_E_DISK_IO: 4,
  TSV_E_DISK_FULL: 4,
  TSV_E_DISK_LOCKED: 4,
  TSV_E_DISK_CORRUPT: 4,
  TSV_E_FETCH: 4,
  TSV_E_IMAGE: 4,
  TSV_E_DEVICE: 4,
  TSV_E_DEVICE_TIMEOUT: 4,
  TSV_E_INTERNAL: 4,
  // The guest: it did something that ends the run (exit status 6).
  TSV_E_GUEST_ADDRESS: 6,
  TSV_E_GUEST_PANIC: 6,
  TSV_E_GUEST_TRIPLE_FAULT: 6,
  TSV_E_GUEST_ENTRY: 6,
  TSV_E_GUEST_INSTRUCTION: 6,
  // Time ran out (the status of timeout(1)).
  TSV_E_TIMEOUT: 124,
  TSV_E_CONSOLE_TIMEOUT: 124,
} as const;

/** A stable error code, `TSV_E_...`. */
export type TsvErrorCode = keyof typeof EXIT_STATUS;

/** Options of {@link TsvError}. */
export interface TsvErrorOptions {
  /** One sentence: what the reader can do about it. */
  hint?: string;
  /** The error underneath, kept and not repeated in the message. */
  cause?: unknown;
}

/** Every failure tsvisor reports is one of these. */
export class TsvError extends Error {
  /** Always "TsvError". */
  override readonly name = 'TsvError';
  /** Stable code; match on this. */
  readonly code: TsvErrorCode;
  /** What to do about it, one sentence; empty when there is nothing to advise. */
  readonly hint: string;

  /**
   * @param code stable code
   * @param message one sentence that says what happened, without a code prefix
   */
  constructor(code: TsvErrorCode, message: string, options: TsvErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.hint = options.hint ?? '';
  }

  /** Exit status of the CLI for this error: 2 bad input, 4 host, 6 guest, 124 time-out. */
  get exitStatus(): number {
    return EXIT_STATUS[this.code];
  }
}

/** All codes with their exit statuses, for documentation and tests. */
export const ERROR_CODES: Readonly<Record<TsvErrorCode, number>> = EXIT_STATUS;

/** Wraps anything thrown into a TsvError, leaving TsvErrors as they are. */
export function toTsvError(error: unknown, code: TsvErrorCode, message: string, hint?: string): TsvError {
  return error instanceof TsvError ? error : new TsvError(code, message, { hint, cause: error });
}
