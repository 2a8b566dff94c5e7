/**
 * The native addon: its types and its loader. The addon is loaded lazily in every thread that needs it; where it is
 * missing, {@link loadNative} throws TSV_E_ADDON_MISSING with every path it tried and nothing else breaks.
 *
 * Every function is one system call and answers its result or -errno, never throws for a failed call.
 */
import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { getSystemErrorName } from 'node:util';
import { TsvError } from '../errors.ts';

/** A range of an MSR filter (struct kvm_msr_filter_range); bit n of the bitmap stands for MSR base+n. */
export interface MsrFilterRange {
  flags: number;
  base: number;
  nmsrs: number;
  bitmap: Uint8Array;
}

/** Version of the addon that this code was written for; the addon's sources have the same number. */
const NATIVE_VERSION = 2;

/** The addon's exports. Byte arrays are Uint8Arrays and may view shared memory. */
export interface Native {
  /** Must be {@link NATIVE_VERSION}. */
  readonly version: number;
  /** open(2) with O_CLOEXEC. @returns fd or -errno */
  open(path: string, flags: number): number;
  close(fd: number): number;
  /**
   * ioctl(2). A request that carries a structure takes a byte array at least as long as the kernel will access (else
   * -EINVAL); one without takes a number. Requests whose structures hold pointers have functions of their own.
   */
  ioctl(fd: number, request: number, arg?: number | Uint8Array): number;
  /** A non-blocking eventfd. */
  eventfd(initial: number): number;
  eventfdRead(fd: number): number;
  eventfdWrite(fd: number, count: number): number;
  /** KVM_RUN. @returns 0 on an exit, -EINTR after a kick, or another -errno */
  run(vcpuFd: number): number;
  /** KVM_SET_USER_MEMORY_REGION; the array stays pinned while the slot points at it. An empty array deletes the slot. */
  setUserMemoryRegion(vmFd: number, slot: number, flags: number, gpa: number, bytes: Uint8Array): number;
  /** KVM_GET_DIRTY_LOG into a bitmap of whole 64-bit words; `pages` is the length of the slot. */
  getDirtyLog(vmFd: number, slot: number, bitmap: Uint8Array, pages: number): number;
  /** KVM_CLEAR_DIRTY_LOG for `numPages` pages from `firstPage` (a multiple of 64). */
  clearDirtyLog(vmFd: number, slot: number, firstPage: number, numPages: number, bitmap: Uint8Array): number;
  /** KVM_X86_SET_MSR_FILTER. */
  setMsrFilter(vmFd: number, defaultDeny: boolean, ranges: MsrFilterRange[]): number;
  /** The host virtual address of the array's first byte. */
  addressOf(bytes: Uint8Array): bigint;
  /** mmap(MAP_FIXED) over a page-aligned array; fd -1 maps fresh anonymous memory. */
  mapFixed(bytes: Uint8Array, fd: number, fileOffset: number, flags: number): number;
  madvise(bytes: Uint8Array, advice: number): number;
  memfdCreate(name: string, flags: number): number;
  ftruncate(fd: number, length: number): number;
  fallocate(fd: number, mode: number, offset: number, length: number): number;
  /** The calling thread's id. */
  gettid(): number;
  /** Installs the handler of the kick signal and unblocks it in the calling thread. */
  enableKick(): number;
  /** Interrupts a system call of the thread (tgkill). */
  kick(tid: number): number;
  /** sched_setaffinity; tid 0 is the calling thread. */
  setAffinity(tid: number, cpus: number[]): number;
  getAffinity(tid: number): number[] | number;
  /** Sleeps while the word is `value`; may return early. @returns 0, -EAGAIN or -EINTR */
  futexWait(words: Int32Array, index: number, value: number): number;
  /** Wakes one thread that sleeps on the word. */
  futexWake(words: Int32Array, index: number): number;
  /** An eventfd that calls back on this thread's event loop, without keeping it alive; -errno when there is none. */
  watchEvent(callback: () => void): { fd: number; close(): void } | number;
  signalEvent(fd: number): number;
}

/** The part of the addon that memory back ends use, on whole buffers. */
export interface NativeMemory {
  addressOf(buffer: SharedArrayBuffer): bigint;
  mapFixed(
    buffer: SharedArrayBuffer,
    offset: number,
    length: number,
    fd: number,
    fileOffset: number,
    flags: number,
  ): number;
  madvise(buffer: SharedArrayBuffer, offset: number, length: number, advice: number): number;
  memfdCreate(name: string, flags: number): number;
  ftruncate(fd: number, length: number): number;
  fallocate(fd: number, mode: number, offset: number, length: number): number;
  open(path: string, flags: number): number;
  close(fd: number): number;
}

const ROOT = fileURLToPath(new URL('../../', import.meta.url));

/** Where the addon may be, best first. `TSVISOR_ADDON` names another build, for example one with a sanitizer. */
function candidates(): string[] {
  const named = process.env.TSVISOR_ADDON;
  return named ? [named] : [`${ROOT}build/Release/tsvisor.node`, `${ROOT}build/Debug/tsvisor.node`];
}

let loaded: Native | TsvError | undefined;

/**
 * The addon.
 * @throws TSV_E_ADDON_MISSING when it was not built or does not load
 */
export function loadNative(): Native {
  loaded ??= tryLoad();
  if (loaded instanceof TsvError) throw loaded;
  return loaded;
}

/** The reason why the addon cannot be used, or undefined when it can. */
export function nativeProblem(): TsvError | undefined {
  loaded ??= tryLoad();
  return loaded instanceof TsvError ? loaded : undefined;
}

function tryLoad(): Native | TsvError {
  const require = createRequire(import.meta.url);
  const tried: string[] = [];
  for (const path of candidates()) {
    if (!existsSync(path)) {
      tried.push(`${path} (not there)`);
      continue;
    }
    try {
      const native = require(path) as Native;
      if (native.version === NATIVE_VERSION) return native;
      tried.push(`${path} (version ${native.version}, not ${NATIVE_VERSION})`);
    } catch (error) {
      tried.push(`${path} (${(error as Error).message})`);
    }
  }
  return new TsvError(
    'TSV_E_ADDON_MISSING',
    `The native addon is missing${buildReport()}. Tried: ${tried.join(', ')}.`,
    {
      hint: 'Install a C++ compiler, make and python3, then run "npm rebuild tsvisor" (in a checkout: "npm run build:native").',
    },
  );
}

function buildReport(): string {
  try {
    return `: ${readFileSync(`${ROOT}build/addon-missing.txt`, 'utf8').trim()}`;
  } catch {
    return '';
  }
}

/** The addon's memory calls on whole shared buffers. */
export function nativeMemory(native: Native): NativeMemory {
  return {
    addressOf: (buffer) => native.addressOf(new Uint8Array(buffer)),
    mapFixed: (buffer, offset, length, fd, fileOffset, flags) =>
      native.mapFixed(new Uint8Array(buffer, offset, length), fd, fileOffset, flags),
    madvise: (buffer, offset, length, advice) =>
      native.madvise(new Uint8Array(buffer, offset, length), advice),
    memfdCreate: native.memfdCreate,
    ftruncate: native.ftruncate,
    fallocate: native.fallocate,
    open: native.open,
    close: native.close,
  };
}

/** "ENOENT" for -2; used in messages. */
export function errnoName(result: number): string {
  return getSystemErrorName(result);
}
