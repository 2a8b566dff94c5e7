/** A KVM file descriptor with checked ioctls. */
import { TsvError } from '../errors.ts';
import * as abi from './abi/index.ts';
import { errnoName, type Native } from './native.ts';

/** Room for CPUID leaves: more than any kernel has asked for; it answers E2BIG when that is not enough. */
export const MAX_CPUID_ENTRIES = 256;

/** Request names by number, for messages; made from the constants so that they cannot disagree. */
const NAMES = new Map<number, string>(
  Object.entries(abi as Record<string, unknown>)
    .filter((entry): entry is [string, number] => typeof entry[1] === 'number' && entry[1] > 0xffff)
    .filter(([, value]) => ((value >>> 8) & 0xff) === 0xae)
    .map(([name, value]) => [value, name]),
);
for (const [name, value] of Object.entries(abi as Record<string, unknown>)) {
  // Requests without an argument have small numbers, which other constants share.
  if (typeof value === 'number' && value >= 0xae00 && value <= 0xaeff && name.startsWith('KVM_'))
    NAMES.set(value, name);
}

/** The name of an ioctl request, "KVM_CREATE_VM" for 0xae01. */
export function requestName(request: number): string {
  return NAMES.get(request) ?? `ioctl 0x${request.toString(16)}`;
}

/** The error for a failed KVM call. */
export function ioctlError(what: string, result: number): TsvError {
  const errno = errnoName(result);
  return new TsvError('TSV_E_IOCTL', `${what} failed with ${errno}.`, {
    hint: ADVICE[errno] ?? 'Run "tsvisor doctor" to see what this host\'s KVM can do.',
  });
}

const ADVICE: Record<string, string> = {
  ENOMEM: 'The host is short of memory, or a locked-memory limit applies (ulimit -l).',
  EMFILE: 'Raise the limit of open files (ulimit -n).',
  EBUSY: "Another program uses the processor's virtualisation extensions; stop the other hypervisor.",
  EPERM: 'The host refuses this to the current user; run "tsvisor doctor".',
};

/** An open file descriptor of /dev/kvm, a VM or a vCPU. */
export class KvmFd {
  readonly native: Native;
  readonly fd: number;
  #open = true;

  constructor(native: Native, fd: number) {
    this.native = native;
    this.fd = fd;
  }

  /** An ioctl that must succeed. @returns its result, 0 or more @throws TSV_E_IOCTL naming request and errno */
  ioctl(request: number, arg?: number | Uint8Array): number {
    const result = this.tryIoctl(request, arg);
    if (result < 0) throw ioctlError(requestName(request), result);
    return result;
  }

  /** An ioctl whose failure is an answer. @returns its result or -errno */
  tryIoctl(request: number, arg?: number | Uint8Array): number {
    return arg === undefined ? this.native.ioctl(this.fd, request) : this.native.ioctl(this.fd, request, arg);
  }

  /** Checks the result of one of the addon's special calls. */
  check(what: string, result: number): number {
    if (result < 0) throw ioctlError(what, result);
    return result;
  }

  /** KVM_CHECK_EXTENSION: 0 when absent, else the capability's value. */
  extension(capability: number): number {
    return Math.max(0, this.tryIoctl(abi.KVM_CHECK_EXTENSION, capability));
  }

  /** Closes the descriptor; harmless when done twice. */
  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.native.close(this.fd);
  }
}
