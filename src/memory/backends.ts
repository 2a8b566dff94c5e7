/**
 * What guest RAM is made of on the host.
 *
 * - `anonymous`: the pages of the WebAssembly memories themselves.
 * - `thp`: the same with transparent huge pages asked for.
 * - `memfd`: shared memory without a name in the file system.
 * - `hugepages` (`hugepages:2M`, `hugepages:1G`): pages of the host's hugetlb pool.
 * - `file:PATH`: a file, created or extended to the size of RAM, that keeps what the guest writes.
 * - `file-private:PATH`: a file whose contents the guest starts with; its writes stay in this process and the file is
 *   never changed. RAM beyond the end of the file is zero.
 *
 * A file must not be truncated by others while it is mapped: the host kernel answers an access past its end with
 * SIGBUS.
 */
import { closeSync, fstatSync, ftruncateSync, constants as O, openSync, unlinkSync } from 'node:fs';
import { getSystemErrorName } from 'node:util';
import { TsvError, type TsvErrorCode } from '../errors.ts';
import type { NativeMemory } from '../kvm/native.ts';
import { PAGE_SIZE } from './layout.ts';

/** What guest RAM is made of. */
export type MemoryBackend =
  | { readonly kind: 'anonymous' }
  | { readonly kind: 'thp' }
  | { readonly kind: 'memfd' }
  | { readonly kind: 'hugepages'; readonly pageSize: number }
  | { readonly kind: 'file'; readonly path: string; readonly share: boolean };

/** A slice of a buffer that is to become RAM. */
export interface RamSlice {
  readonly buffer: SharedArrayBuffer;
  /** Offset in the buffer, bytes, aligned to the back end's page size. */
  readonly offset: number;
  readonly length: number;
}

const SIZE_2M = 2 ** 21;
const SIZE_1G = 2 ** 30;

// <sys/mman.h>, Linux x86-64.
const MAP_SHARED = 0x01;
const MAP_PRIVATE = 0x02;
const MADV_MERGEABLE = 12;
const MADV_HUGEPAGE = 14;
const MADV_POPULATE_WRITE = 23;
const MFD_CLOEXEC = 0x1;
const MFD_HUGETLB = 0x4;
/** log2 of the page size sits in these bits of memfd_create's flags (MFD_HUGE_2MB, MFD_HUGE_1GB). */
const MFD_HUGE_SHIFT = 26;

/**
 * Reads a back end as written on the command line.
 * @throws TSV_E_CONFIG
 */
export function parseBackend(text: string): MemoryBackend {
  const colon = text.indexOf(':');
  const kind = colon < 0 ? text : text.slice(0, colon);
  const rest = colon < 0 ? undefined : text.slice(colon + 1);
  if ((kind === 'anonymous' || kind === 'memfd' || kind === 'thp') && rest === undefined) return { kind };
  if (kind === 'hugepages' && (rest === undefined || rest === '2M')) return { kind, pageSize: SIZE_2M };
  if (kind === 'hugepages' && rest === '1G') return { kind, pageSize: SIZE_1G };
  if ((kind === 'file' || kind === 'file-private') && rest !== undefined && rest !== '') {
    return { kind: 'file', path: rest, share: kind === 'file' };
  }
  throw new TsvError('TSV_E_CONFIG', `"${text}" is not a memory back end.`, {
    hint: 'Use anonymous, thp, memfd, hugepages[:2M|:1G], file:PATH or file-private:PATH.',
  });
}

/** What the host address of RAM must be a multiple of, bytes: 2 MiB so that KVM can map it with large pages. */
export function backendAlignment(backend: MemoryBackend): number {
  return backend.kind === 'hugepages' ? backend.pageSize : SIZE_2M;
}

/**
 * Puts a back end under slices of RAM, which are consecutive in its file.
 * @throws TSV_E_HOST_MEMORY, TSV_E_FILE
 */
export function mapBackend(backend: MemoryBackend, slices: readonly RamSlice[], native: NativeMemory): void {
  switch (backend.kind) {
    case 'anonymous':
      break;
    case 'thp': {
      const hint = 'See /sys/kernel/mm/transparent_hugepage.';
      advise(slices, native, MADV_HUGEPAGE, 'transparent huge pages', hint);
      break;
    }
    case 'memfd':
      mapMemfd(slices, native, 0, 'Give the machine less memory or use the anonymous back end.');
      break;
    case 'hugepages': {
      const flags = MFD_HUGETLB | (Math.log2(backend.pageSize) << MFD_HUGE_SHIFT);
      const pool = `/sys/kernel/mm/hugepages/hugepages-${backend.pageSize / 1024}kB/nr_hugepages`;
      const pages = total(slices) / backend.pageSize;
      mapMemfd(slices, native, flags, `Reserve ${pages} free huge pages in ${pool}, or use thp.`);
      break;
    }
    case 'file':
      if (backend.share) mapShared(backend.path, slices, native);
      else mapPrivate(backend.path, slices, native);
      break;
  }
}

/** Lets the host merge equal pages of guests (KSM). @throws TSV_E_HOST_MEMORY */
export function makeMergeable(slices: readonly RamSlice[], native: NativeMemory): void {
  advise(slices, native, MADV_MERGEABLE, 'merging of equal pages', 'The host kernel needs CONFIG_KSM.');
}

/**
 * Makes the host provide every page now instead of at the guest's first access. Contents are kept.
 * @throws TSV_E_HOST_MEMORY
 */
export function prefault(slices: readonly RamSlice[], native: NativeMemory | undefined): void {
  for (const { buffer, offset, length } of slices) {
    const result = native?.madvise(buffer, offset, length, MADV_POPULATE_WRITE) ?? -1;
    if (result === 0) continue;
    if (native !== undefined && systemError(result) !== 'EINVAL') {
      throw hostError(
        'TSV_E_HOST_MEMORY',
        'The host cannot provide all pages of guest RAM',
        result,
        'Prefault less memory.',
      );
    }
    // Linux before 5.14 lacks MADV_POPULATE_WRITE: write to each page what it holds.
    const words = new Int32Array(buffer, offset, length / 4);
    for (let i = 0; i < words.length; i += PAGE_SIZE / 4) Atomics.or(words, i, 0);
  }
}

function mapMemfd(slices: readonly RamSlice[], native: NativeMemory, flags: number, hint: string): void {
  const what = flags === 0 ? 'shared memory' : 'huge pages';
  const fd = native.memfdCreate('tsvisor-ram', MFD_CLOEXEC | flags);
  if (fd < 0) throw hostError('TSV_E_HOST_MEMORY', `The host has no ${what} for guest RAM`, fd, hint);
  try {
    const result = native.ftruncate(fd, total(slices));
    if (result < 0)
      throw hostError('TSV_E_HOST_MEMORY', `The host has too little ${what} for guest RAM`, result, hint);
    mapFile(
      fd,
      slices,
      native,
      MAP_SHARED,
      'TSV_E_HOST_MEMORY',
      `The host has too little ${what} for guest RAM`,
      hint,
    );
  } finally {
    native.close(fd);
  }
}

function mapShared(path: string, slices: readonly RamSlice[], native: NativeMemory): void {
  const { fd, created } = openOrCreate(path);
  let before = 0;
  let mapped = false;
  try {
    before = regularFileSize(fd, path);
    // Reserving the blocks now turns a full disk into an error here instead of a SIGBUS in the guest's face.
    const result = native.fallocate(fd, 0, 0, total(slices));
    if (result < 0) {
      const hint = 'Free space on its file system, or put the file on one that supports fallocate.';
      throw hostError('TSV_E_FILE', `No space can be reserved for guest RAM in "${path}"`, result, hint);
    }
    mapFile(fd, slices, native, MAP_SHARED, 'TSV_E_FILE', `"${path}" cannot be mapped as guest RAM`, '');
    mapped = true;
  } finally {
    if (!mapped && created) unlinkSync(path);
    else if (!mapped && fstatSync(fd).size > before) ftruncateSync(fd, before);
    closeSync(fd);
  }
}

function mapPrivate(path: string, slices: readonly RamSlice[], native: NativeMemory): void {
  const fd = open(path, O.O_RDONLY | O.O_NONBLOCK);
  try {
    let left = regularFileSize(fd, path);
    const pieces: RamSlice[] = [];
    for (const slice of slices) {
      const length = Math.min(slice.length, Math.ceil(left / PAGE_SIZE) * PAGE_SIZE);
      if (length > 0) pieces.push({ ...slice, length });
      left = Math.max(0, left - slice.length);
    }
    mapFile(fd, pieces, native, MAP_PRIVATE, 'TSV_E_FILE', `"${path}" cannot be mapped as guest RAM`, '');
  } finally {
    closeSync(fd);
  }
}

function mapFile(
  fd: number,
  slices: readonly RamSlice[],
  native: NativeMemory,
  flags: number,
  code: TsvErrorCode,
  message: string,
  hint: string,
): void {
  let fileOffset = 0;
  for (const { buffer, offset, length } of slices) {
    const result = native.mapFixed(buffer, offset, length, fd, fileOffset, flags);
    if (result < 0) throw hostError(code, message, result, hint);
    fileOffset += length;
  }
}

function openOrCreate(path: string): { fd: number; created: boolean } {
  try {
    return { fd: openSync(path, O.O_RDWR | O.O_CREAT | O.O_EXCL, 0o600), created: true };
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw fileError(path, error);
    return { fd: open(path, O.O_RDWR | O.O_NONBLOCK), created: false };
  }
}

function open(path: string, flags: number): number {
  try {
    return openSync(path, flags);
  } catch (error) {
    throw fileError(path, error);
  }
}

function fileError(path: string, cause: unknown): TsvError {
  return new TsvError(
    'TSV_E_FILE',
    `The memory file "${path}" cannot be opened (${(cause as Error).message}).`,
    {
      hint: 'Check the path and its permissions.',
      cause,
    },
  );
}

function regularFileSize(fd: number, path: string): number {
  const status = fstatSync(fd);
  if (status.isFile()) return status.size;
  throw new TsvError('TSV_E_FILE', `The memory file "${path}" is not a regular file.`, {
    hint: 'Name a file that holds, or is to hold, the contents of guest RAM.',
  });
}

function advise(
  slices: readonly RamSlice[],
  native: NativeMemory,
  advice: number,
  what: string,
  hint: string,
): void {
  for (const { buffer, offset, length } of slices) {
    const result = native.madvise(buffer, offset, length, advice);
    if (result < 0)
      throw hostError('TSV_E_HOST_MEMORY', `The host refuses ${what} for guest RAM`, result, hint);
  }
}

function total(slices: readonly RamSlice[]): number {
  return slices.reduce((sum, slice) => sum + slice.length, 0);
}

function hostError(code: TsvErrorCode, message: string, result: number, hint: string): TsvError {
  return new TsvError(code, `${message} (${systemError(result)}).`, { hint });
}

function systemError(result: number): string {
  return getSystemErrorName(result);
}
