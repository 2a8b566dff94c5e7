/**
 * Where boot data lies in low memory, and a plan that keeps everything the loader places apart.
 *
 * ```
 * 0x00000-0x004ff  real-mode interrupt vectors and BIOS data area, left alone
 * 0x00500-0x005ff  GDT of the 32-bit and 64-bit entry states
 * 0x07000-0x07fff  struct boot_params (the "zero page")
 * 0x08000-0x08fff  stack of the entry state, growing down from the end
 * 0x09000-0x0efff  page tables: PML4, PDPT and four page directories, an identity map of the first 4 GiB
 * 0x10000-0x1ffff  boot information of PVH and multiboot: the structure, memory map, module list, strings
 * 0x20000-0x2ffff  kernel command line, at most 64 KiB with its NUL
 * 0x9fc00-0x9ffff  extended BIOS data area (src/memory/layout.ts)
 * 0xa0000-0xdffff  video memory and option ROMs, no RAM
 * 0xe0000-0xfffff  BIOS area: ACPI tables and MP table
 * ```
 *
 * Only the parts that a boot protocol uses are taken; a flat real-mode binary may lie anywhere.
 */
import { TsvError } from '../errors.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import type { E820Entry, PhysicalRange } from '../memory/layout.ts';
import { E820_TYPE, MMIO_HOLE_END } from '../memory/layout.ts';
import { hexRange } from './image-bytes.ts';

/** A named range of guest-physical addresses. */
export interface NamedRange extends PhysicalRange {
  readonly name: string;
}

/** Fixed places of boot data. */
export const BOOT_LAYOUT = {
  gdt: { name: 'GDT', gpa: 0x500, size: 0x100 },
  bootParams: { name: 'boot parameters', gpa: 0x7000, size: 0x1000 },
  stack: { name: 'boot stack', gpa: 0x8000, size: 0x1000 },
  pageTables: { name: 'page tables', gpa: 0x9000, size: 0x6000 },
  bootInfo: { name: 'boot information', gpa: 0x10000, size: 0x10000 },
  cmdline: { name: 'command line', gpa: 0x20000, size: 0x10000 },
} as const satisfies Record<string, NamedRange>;

/** What the identity map of the 64-bit entry state covers, from address 0, bytes. */
export const IDENTITY_MAP_SIZE = MMIO_HOLE_END;

const PAGE_SIZE = 4096;

/** What has been placed where, against the RAM there is. */
export class MemoryPlan {
  /** RAM ranges, ascending, with adjacent ones merged. */
  readonly ram: readonly PhysicalRange[];
  readonly #taken: NamedRange[] = [];

  /**
   * @param memory guest RAM
   * @param e820 the memory map; only its RAM ranges are used for placing
   * @param reserved ranges that are spoken for, such as the ACPI tables
   */
  constructor(memory: GuestMemory, e820: readonly E820Entry[], reserved: readonly NamedRange[] = []) {
    this.ram = mergeRam(e820);
    for (const { gpa, size } of this.ram) {
      if (!memory.contains(gpa, size)) {
        throw new TsvError('TSV_E_CONFIG', `The e820 map calls ${hexRange(gpa, size)} RAM, but it is not.`, {
          hint: 'Build the e820 map from the regions of the guest memory.',
        });
      }
    }
    this.#taken.push(...reserved);
  }

  /** Everything taken so far, in the order it was taken. */
  get taken(): readonly NamedRange[] {
    return this.#taken;
  }

  /** True when the range is RAM throughout. */
  isRam(gpa: number, size: number): boolean {
    return this.ram.some((range) => gpa >= range.gpa && gpa + size <= range.gpa + range.size);
  }

  /** The first range taken that overlaps the given one. */
  overlapping(gpa: number, size: number): NamedRange | undefined {
    return this.#taken.find((range) => size > 0 && gpa < range.gpa + range.size && range.gpa < gpa + size);
  }

  /**
   * Takes a range for something that is loaded.
   * @throws TSV_E_KERNEL_LAYOUT when it is not RAM, or already taken
   */
  take(range: NamedRange): NamedRange {
    const { name, gpa, size } = range;
    if (!this.isRam(gpa, size)) {
      throw new TsvError(
        'TSV_E_KERNEL_LAYOUT',
        `The ${name} needs ${hexRange(gpa, size)}, which is not RAM in this machine.`,
        { hint: this.#ramHint(gpa + size) },
      );
    }
    const other = this.overlapping(gpa, size);
    if (other !== undefined) {
      throw new TsvError(
        'TSV_E_KERNEL_LAYOUT',
        `The ${name} at ${hexRange(gpa, size)} overlaps the ${other.name} at ${hexRange(other.gpa, other.size)}.`,
        { hint: 'Link the kernel at another physical address, 1 MiB or higher.' },
      );
    }
    this.#taken.push(range);
    return range;
  }

  /**
   * Keeps later placements out of a range without demanding anything of it.
   */
  avoid(range: NamedRange): void {
    this.#taken.push(range);
  }

  /**
   * The highest free place for `size` bytes, page aligned.
   * @param end first address behind the last acceptable byte
   * @returns its address, or undefined when there is none
   */
  findHigh(size: number, end: number, start = 0): number | undefined {
    for (const range of [...this.ram].reverse()) {
      let at = alignDown(Math.min(end, range.gpa + range.size) - size, PAGE_SIZE);
      while (at >= Math.max(range.gpa, start)) {
        const other = this.overlapping(at, size);
        if (other === undefined) return at;
        at = alignDown(other.gpa - size, PAGE_SIZE);
      }
    }
    return undefined;
  }

  /**
   * The lowest free place for `size` bytes at or above `start`.
   * @param alignment bytes, a power of two
   * @returns its address, or undefined when there is none below `end`
   */
  findLow(
    size: number,
    start: number,
    alignment = PAGE_SIZE,
    end: number = MMIO_HOLE_END,
  ): number | undefined {
    for (const range of this.ram) {
      let at = alignUp(Math.max(start, range.gpa), alignment);
      while (at + size <= Math.min(end, range.gpa + range.size)) {
        const other = this.overlapping(at, size);
        if (other === undefined) return at;
        at = alignUp(other.gpa + other.size, alignment);
      }
    }
    return undefined;
  }

  #ramHint(end: number): string {
    const below = this.ram.filter((range) => range.gpa < MMIO_HOLE_END);
    const top = Math.max(0, ...below.map((range) => range.gpa + range.size));
    return end > top && end <= MMIO_HOLE_END
      ? `Give the machine more memory: at least ${mebibytes(end)}.`
      : 'Link the kernel at physical addresses that are RAM: 1 MiB and above, below 3 GiB.';
  }
}

/** Bytes as whole MiB, rounded up, in words. */
export function mebibytes(size: number): string {
  return `${Math.ceil(size / (1 << 20))} MiB`;
}

/** @param alignment a power of two */
export function alignUp(value: number, alignment: number): number {
  return Math.ceil(value / alignment) * alignment;
}

/** @param alignment a power of two */
export function alignDown(value: number, alignment: number): number {
  return Math.floor(value / alignment) * alignment;
}

function mergeRam(e820: readonly E820Entry[]): PhysicalRange[] {
  const merged: { gpa: number; size: number }[] = [];
  const ram = e820.filter((entry) => entry.type === E820_TYPE.RAM && entry.size > 0);
  for (const { addr, size } of [...ram].sort((a, b) => a.addr - b.addr)) {
    const last = merged.at(-1);
    if (last !== undefined && addr <= last.gpa + last.size) {
      last.size = Math.max(last.size, addr + size - last.gpa);
    } else {
      merged.push({ gpa: addr, size });
    }
  }
  return merged;
}
