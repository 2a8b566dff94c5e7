/**
 * Walks the guest's page tables in software, for debuggers and for instructions that are completed outside the
 * engine. The tables belong to the guest and may hold anything: every read is checked against RAM.
 */
import type { GuestMemory } from './guest-memory.ts';
import { isCanonical, PAGE_1G, PAGE_2M, PAGE_4K, type PageFlags, type PageSize } from './page-entry.ts';

/** Why a walk ended without a page. */
export type WalkFailure =
  /** Bits 63 to 47 of the address differ; the processor raises #GP, not #PF. */
  | 'non-canonical'
  /** The present bit of an entry is clear. */
  | 'not-present'
  /** An entry has a reserved bit set; the page fault's RSVD error bit. */
  | 'reserved-bit'
  /** A table lies outside RAM. */
  | 'outside-ram';

/** Result of {@link translate}. */
export type PageWalk =
  | {
      readonly ok: true;
      /** Guest-physical address the virtual address maps to; not necessarily RAM. */
      readonly physical: number;
      readonly pageSize: PageSize;
      /** Rights over all levels (SDM vol. 3 section 4.6), the rest from the entry that maps the page. */
      readonly flags: Required<PageFlags>;
    }
  | {
      readonly ok: false;
      readonly reason: WalkFailure;
      /** Level whose table or entry ended the walk, 4 (PML4) to 1; 5 when it did not begin. */
      readonly level: number;
      /** Guest-physical address of that entry. */
      readonly entry?: number;
    };

/** What of the vCPU's state a walk depends on. */
export interface WalkOptions {
  /** MAXPHYADDR of CPUID leaf 0x80000008: address bits above it are reserved. 52 when absent. */
  readonly physicalBits?: number;
  /** EFER.NXE: without it bit 63 of an entry is reserved. On when absent. */
  readonly nxe?: boolean;
  /** CPUID's PDPE1GB: without it the PS bit of a page-directory-pointer entry is reserved. On when absent. */
  readonly pages1G?: boolean;
}

// The low half of an entry; halves keep the walk free of bigints (SDM vol. 3 tables 4-15 to 4-20).
const P = 1 << 0;
const RW = 1 << 1;
const US = 1 << 2;
const PWT = 1 << 3;
const PCD = 1 << 4;
const A = 1 << 5;
const D = 1 << 6;
const PS = 1 << 7;
const G = 1 << 8;
const PAT_LARGE = 1 << 12;
const NX_HIGH = 0x80000000;
const PAGE_SIZE_OF_LEVEL: readonly PageSize[] = [PAGE_4K, PAGE_4K, PAGE_2M, PAGE_1G];

/**
 * Translates a virtual address as 4-level paging does (SDM vol. 3 section 4.5.4).
 * @param cr3 control register CR3; PCID and cache bits are ignored
 * @param virtual linear address
 */
export function translate(
  memory: GuestMemory,
  cr3: bigint,
  virtual: bigint,
  options: WalkOptions = {},
): PageWalk {
  const { physicalBits = 52, nxe = true, pages1G = true } = options;
  if (!isCanonical(virtual)) return { ok: false, reason: 'non-canonical', level: 5 };
  const reservedHigh = highReserved(physicalBits, nxe);
  const va = Number(BigInt.asUintN(48, virtual));
  let table = Number(BigInt.asUintN(52, cr3) & ~0xfffn);
  let writable = true;
  let user = true;
  let noExecute = false;
  for (let level = 4; ; level--) {
    const span = PAGE_4K * 512 ** (level - 1);
    const entry = table + 8 * (Math.floor(va / span) % 512);
    if (!memory.contains(entry, 8)) return { ok: false, reason: 'outside-ram', level, entry };
    const low = memory.readU32(entry);
    const high = memory.readU32(entry + 4);
    if ((low & P) === 0) return { ok: false, reason: 'not-present', level, entry };
    const leaf = level === 1 || (level < 4 && (low & PS) !== 0);
    if ((high & reservedHigh) !== 0 || lowReserved(low, level, leaf, pages1G)) {
      return { ok: false, reason: 'reserved-bit', level, entry };
    }
    writable &&= (low & RW) !== 0;
    user &&= (low & US) !== 0;
    noExecute ||= (high & NX_HIGH) !== 0;
    const address = (high & 0xfffff) * 2 ** 32 + ((low & 0xfffff000) >>> 0);
    if (!leaf) {
      table = address;
      continue;
    }
    const pageSize = PAGE_SIZE_OF_LEVEL[level];
    const flags = {
      present: true,
      writable,
      user,
      noExecute,
      writeThrough: (low & PWT) !== 0,
      cacheDisable: (low & PCD) !== 0,
      accessed: (low & A) !== 0,
      dirty: (low & D) !== 0,
      global: (low & G) !== 0,
      pat: (low & (level === 1 ? PS : PAT_LARGE)) !== 0,
    };
    return { ok: true, physical: address - (address % pageSize) + (va % pageSize), pageSize, flags };
  }
}

/** Reserved bits of an entry's high half: address bits beyond MAXPHYADDR, and XD when it is not enabled. */
function highReserved(physicalBits: number, nxe: boolean): number {
  const bits = Math.min(Math.max(physicalBits, 32), 52) - 32;
  return (0xfffff & ~(2 ** bits - 1)) | (nxe ? 0 : NX_HIGH);
}

/** Reserved bits of an entry's low half: PS where it is not allowed, address bits below the page size. */
function lowReserved(low: number, level: number, leaf: boolean, pages1G: boolean): boolean {
  if (level === 4) return (low & PS) !== 0;
  if (!leaf || level === 1) return false;
  if (level === 3 && !pages1G) return true;
  return (low & (PAGE_SIZE_OF_LEVEL[level] - 1) & ~(2 * PAT_LARGE - 1)) !== 0;
}
