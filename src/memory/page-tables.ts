/**
 * Builds 4-level page tables in guest memory (SDM vol. 3 section 4.5).
 *
 * ```
 * const tables = new PageTableBuilder(memory, { start: 0x9000, end: 0x10000 });
 * tables.identityMap(0, 4 * 2 ** 30);
 * tables.map(0xffffffff80000000n, 0x1000000, 2 ** 21, { global: true });
 * sregs.cr3 = tables.cr3;
 * ```
 */
import { TsvError } from '../errors.ts';
import type { GuestMemory } from './guest-memory.ts';
import {
  ADDRESS_MASK,
  isCanonical,
  PAGE_1G,
  PAGE_2M,
  PAGE_4K,
  type PageFlags,
  type PageSize,
  PTE_A,
  PTE_D,
  PTE_G,
  PTE_NX,
  PTE_P,
  PTE_PAT,
  PTE_PAT_LARGE,
  PTE_PCD,
  PTE_PS,
  PTE_PWT,
  PTE_RW,
  PTE_US,
} from './page-entry.ts';

const TABLE_SIZE = 4096;
/** log2 of what one entry of a table at this level spans: level 1 is the page table, 4 the PML4. */
const LEVEL_SHIFT = [0n, 12n, 21n, 30n, 39n];
/** Table level whose entry maps a page of this size. */
const LEAF_LEVEL: Record<PageSize, number> = { [PAGE_4K]: 1, [PAGE_2M]: 2, [PAGE_1G]: 3 };
const MAX_PHYSICAL = 2 ** 52;

/** Options of {@link PageTableBuilder}. */
export interface PageTableOptions {
  /** First guest-physical address the tables may use, a multiple of 4 KiB. The PML4 is the first table. */
  readonly start: number;
  /** First address they may not use any more. */
  readonly end: number;
  /** Page sizes to choose from; 4 KiB and 2 MiB when absent, because 1 GiB needs CPUID's PDPE1GB. */
  readonly pageSizes?: readonly PageSize[];
}

/** Writes page tables into guest memory. */
export class PageTableBuilder {
  readonly #memory: GuestMemory;
  readonly #end: number;
  /** Largest first. */
  readonly #pageSizes: readonly PageSize[];
  readonly #root: number;
  readonly #mapped: { start: bigint; end: bigint }[] = [];
  #next: number;

  /** @throws TSV_E_CONFIG when the range for the tables or the page sizes make no sense, TSV_E_GUEST_ADDRESS */
  constructor(memory: GuestMemory, options: PageTableOptions) {
    const { start, end, pageSizes = [PAGE_4K, PAGE_2M] } = options;
    if (!aligned(start, TABLE_SIZE) || !(end >= start + TABLE_SIZE)) {
      throw invalid(
        `Page tables cannot be put into [${hex(start)}, ${hex(end)}).`,
        'Start on a 4 KiB boundary.',
      );
    }
    if (pageSizes.length === 0 || pageSizes.some((size) => LEAF_LEVEL[size] === undefined)) {
      throw invalid(`[${pageSizes}] are not page sizes.`, 'Choose from 4 KiB, 2 MiB and 1 GiB.');
    }
    this.#memory = memory;
    this.#end = end;
    this.#pageSizes = [...pageSizes].sort((a, b) => b - a);
    this.#next = start;
    this.#root = this.#allocate();
  }

  /** What CR3 must hold: the physical address of the PML4. */
  get cr3(): bigint {
    return BigInt(this.#root);
  }

  /** First address behind the tables written so far. */
  get used(): number {
    return this.#next;
  }

  /**
   * Maps [virtual, virtual+size) to [physical, physical+size), with the largest pages that fit.
   * When the room for tables runs out, part of the range is mapped.
   * @param virtual canonical, aligned to the smallest page size
   * @param size bytes, a multiple of the smallest page size
   * @throws TSV_E_CONFIG for bad addresses, when part of the range is mapped already, or when the tables are full
   */
  map(virtual: bigint, physical: number, size: number, flags: PageFlags = {}): this {
    this.#check(virtual, physical, size);
    const bits = leafBits(flags);
    let left = size;
    let va = BigInt.asUintN(48, virtual);
    let pa = physical;
    while (left > 0) {
      const page = this.#pageSizes.find((s) => left >= s && pa % s === 0 && va % BigInt(s) === 0n)!;
      this.#mapPage(va, pa, page, bits);
      va += BigInt(page);
      pa += page;
      left -= page;
    }
    return this;
  }

  /** Maps physical addresses to themselves. @throws TSV_E_CONFIG */
  identityMap(start: number, size: number, flags: PageFlags = {}): this {
    return this.map(BigInt(start), start, size, flags);
  }

  #check(virtual: bigint, physical: number, size: number): void {
    const smallest = this.#pageSizes[this.#pageSizes.length - 1];
    if (!aligned(physical, smallest) || !aligned(size, smallest) || size === 0) {
      const range = `[${hex(physical)}, +${hex(size)})`;
      throw invalid(`Physical range ${range} cannot be mapped.`, `Use multiples of ${smallest} bytes.`);
    }
    if (physical + size > MAX_PHYSICAL) {
      throw invalid(`Physical range ${hex(physical)}+${hex(size)} exceeds 52 bits.`, 'Map less.');
    }
    const last = virtual + BigInt(size) - 1n;
    if (virtual % BigInt(smallest) !== 0n || !isCanonical(virtual) || !isCanonical(last)) {
      const message = `Virtual range 0x${virtual.toString(16)}+${hex(size)} is unaligned or not canonical.`;
      throw invalid(message, 'Bits 63 to 47 of an address must be equal (SDM vol. 1 section 3.3.7.1).');
    }
    const start = BigInt.asUintN(48, virtual);
    const end = start + BigInt(size);
    if (start < 1n << 47n && end > 1n << 47n) {
      throw invalid(
        `Virtual range 0x${virtual.toString(16)}+${hex(size)} spans the canonical hole.`,
        'Map less.',
      );
    }
    if (this.#mapped.some((other) => start < other.end && other.start < end)) {
      const message = `Part of the virtual range 0x${virtual.toString(16)}+${hex(size)} is mapped already.`;
      throw invalid(message, 'Map every virtual page once.');
    }
    this.#mapped.push({ start, end });
  }

  #mapPage(va: bigint, pa: number, page: PageSize, bits: bigint): void {
    const leaf = LEAF_LEVEL[page];
    let table = this.#root;
    for (let level = 4; level > leaf; level--) {
      const at = table + 8 * index(va, level);
      const entry = this.#memory.readU64(at);
      if ((entry & PTE_P) !== 0n) {
        table = Number(entry & ADDRESS_MASK);
      } else {
        table = this.#allocate();
        // All rights here: the leaf alone decides (SDM vol. 3 section 4.6 takes the intersection).
        this.#memory.writeU64(at, BigInt(table) | PTE_P | PTE_RW | PTE_US);
      }
    }
    const large = leaf > 1 ? PTE_PS | ((bits & PTE_PAT) !== 0n ? PTE_PAT_LARGE : 0n) : 0n;
    const rights = leaf > 1 ? bits & ~PTE_PAT : bits;
    this.#memory.writeU64(table + 8 * index(va, leaf), BigInt(pa) | rights | large);
  }

  #allocate(): number {
    const table = this.#next;
    if (table + TABLE_SIZE > this.#end) {
      throw invalid(
        `The room for page tables is full at ${hex(table)}.`,
        'Give them more room or use larger pages.',
      );
    }
    this.#memory.fill(table, TABLE_SIZE);
    this.#next += TABLE_SIZE;
    return table;
  }
}

function leafBits(flags: PageFlags): bigint {
  const { present = true, writable = true } = flags;
  return (
    (present ? PTE_P : 0n) |
    (writable ? PTE_RW : 0n) |
    (flags.user ? PTE_US : 0n) |
    (flags.writeThrough ? PTE_PWT : 0n) |
    (flags.cacheDisable ? PTE_PCD : 0n) |
    (flags.accessed ? PTE_A : 0n) |
    (flags.dirty ? PTE_D : 0n) |
    (flags.global ? PTE_G : 0n) |
    (flags.pat ? PTE_PAT : 0n) |
    (flags.noExecute ? PTE_NX : 0n)
  );
}

function index(va: bigint, level: number): number {
  return Number((va >> LEVEL_SHIFT[level]) & 0x1ffn);
}

function aligned(value: number, to: number): boolean {
  return Number.isSafeInteger(value) && value >= 0 && value % to === 0;
}

function hex(value: number): string {
  return Number.isInteger(value) ? `0x${value.toString(16)}` : String(value);
}

function invalid(message: string, hint: string): TsvError {
  return new TsvError('TSV_E_CONFIG', message, { hint });
}
