/** Allocates guest RAM: shared WebAssembly memories laid out as the memory map plans it. */
import { TsvError } from '../errors.ts';
import type { NativeMemory } from '../kvm/native.ts';
import {
  backendAlignment,
  type MemoryBackend,
  makeMergeable,
  mapBackend,
  parseBackend,
  prefault,
  type RamSlice,
} from './backends.ts';
import { GuestMemory, type RamRegion } from './guest-memory.ts';
import { hostMemory } from './host-memory.ts';
import { type PhysicalRange, planRam } from './layout.ts';

/** Bytes a WebAssembly page. */
const WASM_PAGE = 65536;
/** Largest WebAssembly memory with 32-bit addresses, bytes. */
const MAX_WASM_MEMORY = 65536 * WASM_PAGE;
/** Largest piece of RAM in a memory of its own; leaves room to align it even to 1 GiB. */
const MAX_PIECE = 3 * 2 ** 30;

/** Options of {@link allocateRam}. */
export interface AllocateRamOptions {
  /** Bytes, a multiple of 4 KiB. */
  readonly size: number;
  /** What RAM is made of, parsed or as written on the command line; `anonymous` when absent. */
  readonly backend?: MemoryBackend | string;
  /** Let the host merge equal pages of guests (KSM). */
  readonly mergeable?: boolean;
  /** Make the host provide every page now. */
  readonly prefault?: boolean;
  /** Allow more RAM than the host has available. */
  readonly overcommit?: boolean;
  /**
   * Bytes at the start of the first memory that are not RAM: an engine that runs guests inside a WebAssembly memory keeps
   * its own state there. All RAM then lies in that memory. Default 0.
   */
  readonly reserve?: number;
  /** Bytes of address space behind RAM in that memory, for what comes later. Default 0; only with `reserve`. */
  readonly spare?: number;
  /** The addon; every back end but `anonymous`, and `mergeable`, need it. */
  readonly native?: NativeMemory;
}

/**
 * Allocates RAM for a guest.
 *
 * All of it lies in one WebAssembly memory when it fits there (just below 4 GiB), otherwise in one memory for at most
 * 3 GiB each. With the addon the host address of every piece is a multiple of 2 MiB.
 *
 * @throws TSV_E_MEMORY_SIZE for a size that makes no sense, or that the host does not have
 * @throws TSV_E_HOST_MEMORY when the host refuses
 * @throws TSV_E_ADDON_MISSING when the back end needs the addon
 * @throws TSV_E_CONFIG, TSV_E_FILE for a back end that does not exist or cannot be used
 */
export function allocateRam(options: AllocateRamOptions): GuestMemory {
  const { size, native } = options;
  const backend = typeof options.backend === 'string' ? parseBackend(options.backend) : options.backend;
  const kind = backend?.kind ?? 'anonymous';
  const plan = planRam(size);
  const alignment = backendAlignment(backend ?? { kind: 'anonymous' });
  if (native === undefined && (kind !== 'anonymous' || options.mergeable)) {
    const what = kind === 'anonymous' ? 'Page merging' : `The memory back end "${kind}"`;
    throw new TsvError('TSV_E_ADDON_MISSING', `${what} needs the native addon.`, {
      hint: 'Run `tsvisor doctor` to see why the addon is missing, or use the anonymous back end.',
    });
  }
  if (backend?.kind === 'hugepages') checkHugePages(size, backend.pageSize);
  const usesOwnPages = kind === 'hugepages' || (backend?.kind === 'file' && backend.share);
  if (!options.overcommit && !usesOwnPages) checkHost(size);

  const placed = place(plan, alignment, options.reserve ?? 0, options.spare ?? 0);
  const memories = placed.lengths.map((length) => allocate(length));
  const bases = memories.map(({ buffer }) =>
    native === undefined ? 0 : align(native.addressOf(buffer), alignment),
  );
  const regions = placed.regions.map((region) => ({
    ...region,
    offset: region.offset + bases[region.memory],
  }));
  const slices = regions.map((region) => slice(region, memories));
  if (backend !== undefined && native !== undefined) mapBackend(backend, slices, native);
  if (options.mergeable) makeMergeable(slices, native!);
  if (options.prefault) prefault(slices, native);
  return new GuestMemory({ memories, regions });
}

/** Distributes RAM over memories; the lengths include room to align the first byte. */
function place(
  plan: readonly PhysicalRange[],
  alignment: number,
  reserve: number,
  spare: number,
): { lengths: number[]; regions: RamRegion[] } {
  const size = plan.reduce((sum, range) => sum + range.size, 0);
  const regions: RamRegion[] = [];
  const first = Math.ceil(reserve / alignment) * alignment;
  if (first + size + alignment + spare <= MAX_WASM_MEMORY) {
    let offset = first;
    for (const range of plan) {
      regions.push({ ...range, memory: 0, offset });
      offset += range.size;
    }
    return { lengths: [first + size + alignment + spare], regions };
  }
  if (reserve > 0) {
    const most = Math.floor((MAX_WASM_MEMORY - first - alignment - spare) / 2 ** 20);
    const message = `The tcg engine cannot have ${Math.ceil(size / 2 ** 20)} MiB of guest memory.`;
    throw new TsvError('TSV_E_MEMORY_SIZE', message, {
      hint: `Give the machine at most ${most} MiB, or run it with --accel kvm.`,
    });
  }
  for (const range of plan) {
    for (let done = 0; done < range.size; done += MAX_PIECE) {
      const piece = Math.min(MAX_PIECE, range.size - done);
      regions.push({ gpa: range.gpa + done, size: piece, memory: regions.length, offset: 0 });
    }
  }
  return { lengths: regions.map((region) => region.size + alignment), regions };
}

function allocate(length: number): WebAssembly.Memory {
  const pages = Math.ceil(length / WASM_PAGE);
  try {
    return new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
  } catch (cause) {
    throw new TsvError('TSV_E_HOST_MEMORY', 'The host cannot reserve address space for guest RAM.', {
      hint: 'Raise the limit on virtual memory (ulimit -v) or give the machine less memory.',
      cause,
    });
  }
}

function slice(region: RamRegion, memories: readonly WebAssembly.Memory[]): RamSlice {
  return { buffer: memories[region.memory].buffer, offset: region.offset, length: region.size };
}

/** Distance from an address to the next multiple of `alignment`. */
function align(address: bigint, alignment: number): number {
  return Number(BigInt.asUintN(64, -address) % BigInt(alignment));
}

function checkHugePages(size: number, pageSize: number): void {
  if (size % pageSize === 0) return;
  throw new TsvError('TSV_E_MEMORY_SIZE', `Memory size ${size} is not a multiple of the huge page size.`, {
    hint: `Round it to a multiple of ${pageSize / 2 ** 20}M.`,
  });
}

function checkHost(size: number): void {
  const { available } = hostMemory();
  if (size <= available) return;
  const mib = (bytes: number) => `${Math.floor(bytes / 2 ** 20)} MiB`;
  const message = `The machine is to have ${mib(size)} of memory, but the host has ${mib(available)} available.`;
  throw new TsvError('TSV_E_MEMORY_SIZE', message, {
    hint: 'Give the machine less memory, or the back end file:PATH, which only takes up what the guest uses.',
  });
}

/** MADV_DONTNEED of <asm-generic/mman-common.h>. */
const MADV_DONTNEED = 4;

/**
 * Gives the host back what a guest's RAM occupies, now instead of when the memory is collected. Its content is then gone;
 * nobody may use it any more.
 */
export function releaseRam(memory: GuestMemory, native: NativeMemory): void {
  // What lies before and behind RAM in a memory is an engine's, and over with it.
  for (const { buffer } of memory.memories) native.madvise(buffer, 0, buffer.byteLength, MADV_DONTNEED);
}

/** The same for whole pages of shared memory that are no guest's RAM. */
export function releaseBytes(bytes: Uint8Array, native: NativeMemory): void {
  native.madvise(bytes.buffer as SharedArrayBuffer, bytes.byteOffset, bytes.length, MADV_DONTNEED);
}
