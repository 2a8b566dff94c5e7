/**
 * The guest-physical memory map of the machine: where RAM lies, what is reserved, and the e820 map that says so.
 *
 * ```
 * 0x0_0000_0000  RAM, up to 3 GiB (below 1 MiB: conventional memory, EBDA, BIOS area)
 * 0x0_C000_0000  MMIO hole: PCI and device windows, I/O APIC, local APIC
 * 0x1_0000_0000  RAM, the rest
 * ```
 */
import { TsvError } from '../errors.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
const GIB = 1024 * MIB;
const TIB = 1024 * GIB;

/** Granularity of guest RAM, bytes. */
export const PAGE_SIZE = 4096;
/** Largest RAM a machine may be given, bytes; what lies above is a typing error. */
export const MAX_RAM_SIZE = 4 * TIB;

/** End of conventional memory and start of the extended BIOS data area. */
export const EBDA_START = 0x9fc00;
/** End of the EBDA; the legacy video window starts here. */
export const EBDA_END = 0xa0000;
/** BIOS area: the ACPI tables start here (ACPI 6.5 section 5.2.5.1: the RSDP is searched from 0xE0000). */
export const BIOS_AREA_START = 0xe0000;
export const BIOS_AREA_END = 0x100000;

/** First byte of the MMIO hole; RAM below 4 GiB ends here at the latest. */
export const MMIO_HOLE_START = 3 * GIB;
/** First byte above the MMIO hole. */
export const MMIO_HOLE_END = 4 * GIB;
/** I/O APIC registers (Intel 82093AA). */
export const IO_APIC_BASE = 0xfec00000;
/** Local APIC registers (SDM vol. 3 section 10.4.1). */
export const LOCAL_APIC_BASE = 0xfee00000;
/** Where KVM_SET_IDENTITY_MAP_ADDR's page goes; the three pages of KVM_SET_TSS_ADDR follow it. */
export const KVM_IDENTITY_MAP_BASE = 0xfeffc000;
/** Where KVM_SET_TSS_ADDR's three pages go. */
export const KVM_TSS_BASE = KVM_IDENTITY_MAP_BASE + PAGE_SIZE;

/** A range of guest-physical addresses, bytes. */
export interface PhysicalRange {
  readonly gpa: number;
  readonly size: number;
}

/**
 * Where `size` bytes of RAM lie: below the MMIO hole first, the rest from 4 GiB.
 * @param size bytes, a multiple of 4 KiB
 * @throws TSV_E_MEMORY_SIZE
 */
export function planRam(size: number): PhysicalRange[] {
  checkMemorySize(size);
  const low = Math.min(size, MMIO_HOLE_START);
  const regions = [{ gpa: 0, size: low }];
  if (size > low) regions.push({ gpa: MMIO_HOLE_END, size: size - low });
  return regions;
}

/** Types of e820 ranges (ACPI 6.5 section 15, table 15.4). */
export const E820_TYPE = { RAM: 1, RESERVED: 2, ACPI: 3, NVS: 4 } as const;

/** One range of the e820 map, as struct boot_e820_entry has it. */
export interface E820Entry {
  readonly addr: number;
  readonly size: number;
  readonly type: number;
}

const RESERVED: readonly PhysicalRange[] = [
  { gpa: EBDA_START, size: EBDA_END - EBDA_START },
  { gpa: BIOS_AREA_START, size: BIOS_AREA_END - BIOS_AREA_START },
  { gpa: IO_APIC_BASE, size: PAGE_SIZE },
  { gpa: LOCAL_APIC_BASE, size: PAGE_SIZE },
  { gpa: KVM_IDENTITY_MAP_BASE, size: 4 * PAGE_SIZE },
];

/** 0xA0000 to 0xDFFFF is neither RAM nor listed: a PC has its video memory and option ROMs there. */
const UNLISTED: PhysicalRange = { gpa: EBDA_END, size: BIOS_AREA_START - EBDA_END };

/**
 * The e820 map of a machine: ascending, not overlapping.
 * @param ram RAM ranges, as planned by {@link planRam} (or `GuestMemory.regions`)
 * @param reserved further ranges the guest must not use as RAM (framebuffers, tables the loader placed in RAM)
 * @throws TSV_E_CONFIG when a reserved range is not made of sane addresses
 */
export function buildE820(
  ram: readonly PhysicalRange[],
  reserved: readonly PhysicalRange[] = [],
): E820Entry[] {
  for (const { gpa, size } of reserved) {
    if (!Number.isSafeInteger(gpa) || !Number.isSafeInteger(size) || gpa < 0 || size <= 0) {
      throw new TsvError('TSV_E_CONFIG', `Reserved range ${gpa}+${size} is not a range of addresses.`, {
        hint: 'Give a start of 0 or more and a positive size, both in bytes.',
      });
    }
  }
  const taken = union([...RESERVED, ...reserved]);
  const holes = union([...taken, UNLISTED]);
  const entries = [
    ...union(ram).flatMap((range) => subtract(range, holes).map((r) => entry(r, E820_TYPE.RAM))),
    ...taken.map((range) => entry(range, E820_TYPE.RESERVED)),
  ];
  return entries.sort((a, b) => a.addr - b.addr);
}

/**
 * A memory size as people write it. A plain number is MiB, as in QEMU's `-m`; the suffixes B, K, M, G and T (also
 * KiB, MB and so on, in either case) are powers of 1024. Fractions are fine as long as the result is whole pages.
 * @returns bytes
 * @throws TSV_E_MEMORY_SIZE
 */
export function parseMemorySize(text: string | number): number {
  const match = /^\s*(\d+(?:\.\d+)?)\s*(?:(b)|([kmgt])(?:i?b)?)?\s*$/i.exec(String(text));
  if (match === null) {
    throw new TsvError('TSV_E_MEMORY_SIZE', `"${text}" is not a memory size.`, {
      hint: 'Write a number of MiB, or a number with K, M, G or T, such as 512M or 2G.',
    });
  }
  const unit =
    match[2] === undefined ? { k: KIB, m: MIB, g: GIB, t: TIB }[(match[3] ?? 'm').toLowerCase()]! : 1;
  const bytes = Number(match[1]) * unit;
  checkMemorySize(bytes, `"${text}"`);
  return bytes;
}

/**
 * Checks a number of bytes as a size of RAM.
 * @throws TSV_E_MEMORY_SIZE
 */
export function checkMemorySize(bytes: number, written = `${bytes} bytes`): void {
  if (!(bytes > 0)) {
    throw new TsvError('TSV_E_MEMORY_SIZE', `A machine cannot have ${written} of memory.`, {
      hint: 'Give it at least one page (4K); a Linux guest wants 128M or more.',
    });
  }
  if (!Number.isSafeInteger(bytes) || bytes % PAGE_SIZE !== 0) {
    throw new TsvError('TSV_E_MEMORY_SIZE', `Memory size ${written} is not a multiple of 4 KiB.`, {
      hint: 'RAM is made of 4 KiB pages; round the size, for example to 512M.',
    });
  }
  if (bytes > MAX_RAM_SIZE) {
    throw new TsvError('TSV_E_MEMORY_SIZE', `Memory size ${written} is above the limit of 4 TiB.`, {
      hint: 'A plain number is MiB; check the unit.',
    });
  }
}

function entry(range: PhysicalRange, type: number): E820Entry {
  return { addr: range.gpa, size: range.size, type };
}

/** Sorts ranges and merges those that touch or overlap. */
function union(ranges: readonly PhysicalRange[]): PhysicalRange[] {
  const merged: { gpa: number; size: number }[] = [];
  for (const { gpa, size } of [...ranges].sort((a, b) => a.gpa - b.gpa)) {
    const last = merged.at(-1);
    if (last !== undefined && gpa <= last.gpa + last.size) {
      last.size = Math.max(last.size, gpa + size - last.gpa);
    } else {
      merged.push({ gpa, size });
    }
  }
  return merged;
}

/** What is left of a range without the holes (sorted, not overlapping). */
function subtract(range: PhysicalRange, holes: readonly PhysicalRange[]): PhysicalRange[] {
  const left: PhysicalRange[] = [];
  const end = range.gpa + range.size;
  let at = range.gpa;
  for (const hole of holes) {
    if (hole.gpa >= end) break;
    if (hole.gpa > at) left.push({ gpa: at, size: hole.gpa - at });
    at = Math.max(at, hole.gpa + hole.size);
  }
  if (at < end) left.push({ gpa: at, size: end - at });
  return left;
}
