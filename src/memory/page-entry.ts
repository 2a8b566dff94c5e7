/** Entries of x86-64 paging structures (SDM vol. 3 section 4.5.4, tables 4-15 to 4-20). */

export const PAGE_4K = 4096;
export const PAGE_2M = 2097152;
export const PAGE_1G = 1073741824;
/** Bytes a page maps. */
export type PageSize = typeof PAGE_4K | typeof PAGE_2M | typeof PAGE_1G;

/** Present. */
export const PTE_P = 1n << 0n;
/** Writable. */
export const PTE_RW = 1n << 1n;
/** User accessible. */
export const PTE_US = 1n << 2n;
/** Page-level write-through. */
export const PTE_PWT = 1n << 3n;
/** Page-level cache disable. */
export const PTE_PCD = 1n << 4n;
/** Accessed. */
export const PTE_A = 1n << 5n;
/** Dirty. */
export const PTE_D = 1n << 6n;
/** Page size: the entry maps a page, in a page directory or a page-directory-pointer table. */
export const PTE_PS = 1n << 7n;
/** Page attribute table, in an entry that maps a 4 KiB page. */
export const PTE_PAT = 1n << 7n;
/** Global. */
export const PTE_G = 1n << 8n;
/** Page attribute table, in an entry that maps a larger page. */
export const PTE_PAT_LARGE = 1n << 12n;
/** Execute disable. */
export const PTE_NX = 1n << 63n;
/** Bits 51 to 12: the physical address of a table or of a 4 KiB page. */
export const ADDRESS_MASK = 0xf_ffff_ffff_f000n;

/** How a page is mapped. In a builder, what is absent is false, except `present` and `writable`, which are true. */
export interface PageFlags {
  readonly present?: boolean;
  readonly writable?: boolean;
  readonly user?: boolean;
  readonly writeThrough?: boolean;
  readonly cacheDisable?: boolean;
  readonly accessed?: boolean;
  readonly dirty?: boolean;
  readonly global?: boolean;
  readonly pat?: boolean;
  readonly noExecute?: boolean;
}

/** True when bits 63 to 47 of an address are equal (SDM vol. 1 section 3.3.7.1), as 4-level paging wants it. */
export function isCanonical(address: bigint): boolean {
  return address >= 0n && BigInt.asUintN(64, BigInt.asIntN(48, address)) === address;
}
