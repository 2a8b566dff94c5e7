/**
 * A strict parser of ELF executables: headers and program headers (System V ABI, "Object Files" and "Program Loading";
 * ELF-64 Object File Format 1.5). Only what a loader needs; notes and symbols are in their own files.
 */
import { TsvError } from '../errors.ts';
import { hex, ImageBytes } from './image-bytes.ts';

export const ELF_MAGIC = [0x7f, 0x45, 0x4c, 0x46] as const;

const EI_CLASS = 4;
const EI_DATA = 5;
const EI_VERSION = 6;
const ELFCLASS32 = 1;
const ELFCLASS64 = 2;
const ELFDATA2LSB = 1;
const ELFDATA2MSB = 2;
const EV_CURRENT = 1;
const EI_NIDENT = 16;

export const ET_REL = 1;
export const ET_EXEC = 2;
export const ET_DYN = 3;
export const ET_CORE = 4;

export const EM_386 = 3;
export const EM_X86_64 = 62;
/** e_machine values worth naming in a message. */
const MACHINE_NAMES: Readonly<Record<number, string>> = {
  2: 'SPARC',
  [EM_386]: 'x86 (32-bit)',
  8: 'MIPS',
  20: 'PowerPC',
  21: 'PowerPC 64',
  22: 'S/390',
  40: 'ARM (32-bit)',
  43: 'SPARC V9',
  50: 'Itanium',
  [EM_X86_64]: 'x86-64',
  183: 'AArch64',
  243: 'RISC-V',
  247: 'BPF',
  258: 'LoongArch',
};

export const PT_LOAD = 1;
export const PT_INTERP = 3;
export const PT_NOTE = 4;
/** Kernels have fewer than twenty; a limit keeps hostile files from taking long. */
const MAX_PROGRAM_HEADERS = 512;

/** One program header. */
export interface ElfSegment {
  /** p_type, such as {@link PT_LOAD}. */
  readonly type: number;
  /** p_flags: 1 execute, 2 write, 4 read. */
  readonly flags: number;
  /** Offset in the file, bytes. */
  readonly offset: number;
  /** Bytes in the file. */
  readonly filesz: number;
  /** Bytes in memory, at least `filesz`. */
  readonly memsz: number;
  readonly vaddr: bigint;
  /** Guest-physical address. */
  readonly paddr: number;
}

/** Where the section headers are; they are read only for symbols. */
export interface ElfSectionTable {
  readonly offset: number;
  readonly count: number;
}

/** A parsed executable. */
export interface ElfImage {
  readonly bits: 32 | 64;
  readonly file: ImageBytes;
  /** e_type, such as {@link ET_EXEC}. */
  readonly type: number;
  /** e_entry as it stands in the file: physical for Linux, virtual or physical for others. */
  readonly entry: bigint;
  /** All program headers, in file order. */
  readonly segments: readonly ElfSegment[];
  /** The `PT_LOAD` segments that occupy memory, by ascending physical address; they do not overlap. */
  readonly loads: readonly ElfSegment[];
  readonly sections: ElfSectionTable | undefined;
}

/** True when the bytes begin as an ELF file does. */
export function isElf(bytes: Uint8Array): boolean {
  return ELF_MAGIC.every((byte, i) => bytes[i] === byte);
}

/**
 * Parses an ELF executable for x86.
 * @param bytes the file; it may have further data behind the ELF image
 * @param what what the bytes are, for messages
 * @throws TSV_E_KERNEL_FORMAT not ELF, or damaged, or not an executable
 * @throws TSV_E_KERNEL_ARCH an executable of another machine
 * @throws TSV_E_KERNEL_TRUNCATED headers or segments beyond the end of the file
 */
export function parseElf(bytes: Uint8Array, what = 'the kernel image'): ElfImage {
  const file = new ImageBytes(bytes, what);
  if (!isElf(bytes)) throw damaged('it has no ELF magic number');
  file.need(0, EI_NIDENT, 'ELF identification');
  const elfClass = file.u8(EI_CLASS);
  if (elfClass !== ELFCLASS32 && elfClass !== ELFCLASS64) throw damaged(`its ELF class is ${elfClass}`);
  const bits = elfClass === ELFCLASS64 ? 64 : 32;
  checkMachine(file, bits);
  if (file.u8(EI_VERSION) !== EV_CURRENT) throw damaged(`its ELF version is ${file.u8(EI_VERSION)}`);

  const wide = bits === 64;
  file.need(0, wide ? 64 : 52, 'ELF header');
  const type = file.u16(16);
  checkType(type);
  const entry = wide ? file.u64(24) : BigInt(file.u32(24));
  const phoff = wide ? number(file.u64(32), 'program header offset') : file.u32(28);
  const shoff = wide ? number(file.u64(40), 'section header offset') : file.u32(32);
  const [phentsize, phnum, shentsize, shnum] = [0, 2, 4, 6].map((i) => file.u16((wide ? 54 : 42) + i));

  const entrySize = wide ? 56 : 32;
  if (phnum === 0) throw damaged('it has no program headers');
  if (phnum > MAX_PROGRAM_HEADERS) throw damaged(`it has ${phnum} program headers`);
  if (phentsize !== entrySize) throw damaged(`its program headers have ${phentsize} bytes, not ${entrySize}`);
  file.need(phoff, phnum * entrySize, 'program header table');
  const segments: ElfSegment[] = [];
  for (let i = 0; i < phnum; i++) {
    segments.push(readSegment(file, phoff + i * entrySize, wide, i));
  }
  if (segments.some((segment) => segment.type === PT_INTERP)) {
    throw new TsvError(
      'TSV_E_KERNEL_FORMAT',
      `${describe(what)} is a dynamically linked program, not a kernel.`,
      { hint: 'Give a vmlinux, a bzImage or another kernel; programs belong into the initramfs.' },
    );
  }
  const loads = segments
    .filter((segment) => segment.type === PT_LOAD && segment.memsz > 0)
    .sort((a, b) => a.paddr - b.paddr);
  if (loads.length === 0) throw damaged('none of its segments is loaded');
  checkOverlap(loads);
  // Segments that share file bytes over and over would make a small file cost any amount of work.
  if (loads.reduce((sum, { filesz }) => sum + filesz, 0) > 2 * file.size) {
    throw damaged('its segments have more bytes than the file');
  }
  const sectionSize = wide ? 64 : 40;
  const sections =
    shoff > 0 && shnum > 0 && shentsize === sectionSize && file.has(shoff, shnum * sectionSize)
      ? { offset: shoff, count: shnum }
      : undefined;
  return { bits, file, type, entry, segments, loads, sections };
}

/**
 * The guest-physical address of the entry point. Linux stores it so; other kernels store the virtual one, which is
 * looked up in the segments.
 * @throws TSV_E_KERNEL_FORMAT when it lies in no loaded segment
 */
export function physicalEntry(elf: ElfImage, entry: bigint = elf.entry): number {
  for (const { paddr, memsz } of elf.loads) {
    if (entry >= BigInt(paddr) && entry < BigInt(paddr + memsz)) return Number(entry);
  }
  for (const { vaddr, paddr, memsz } of elf.loads) {
    if (entry >= vaddr && entry < vaddr + BigInt(memsz)) return paddr + Number(entry - vaddr);
  }
  throw damaged(`its entry point ${hex(entry)} is in no loaded segment`);
}

function readSegment(file: ImageBytes, at: number, wide: boolean, index: number): ElfSegment {
  const part = `program header ${index}`;
  const type = file.u32(at, part);
  const field = (offset64: number, offset32: number): bigint =>
    wide ? file.u64(at + offset64, part) : BigInt(file.u32(at + offset32, part));
  const flags = file.u32(at + (wide ? 4 : 24), part);
  const segment = {
    type,
    flags,
    vaddr: field(16, 8),
    offset: 0,
    paddr: 0,
    filesz: 0,
    memsz: 0,
  };
  // Headers of other types (PT_GNU_STACK and the like) may hold anything; nothing of them is used.
  if (type !== PT_LOAD && type !== PT_NOTE) return segment;
  segment.offset = number(field(8, 4), `segment ${index}'s file offset`);
  segment.paddr = number(field(24, 12), `segment ${index}'s physical address`);
  segment.filesz = number(field(32, 16), `segment ${index}'s file size`);
  segment.memsz = number(field(40, 20), `segment ${index}'s memory size`);
  file.need(segment.offset, segment.filesz, `segment ${index}`);
  if (type === PT_LOAD && segment.filesz > segment.memsz) {
    throw damaged(`segment ${index} has ${segment.filesz} bytes in the file but ${segment.memsz} in memory`);
  }
  if (!Number.isSafeInteger(segment.paddr + segment.memsz)) {
    throw damaged(`segment ${index} ends beyond every physical address`);
  }
  return segment;
}

function checkMachine(file: ImageBytes, bits: 32 | 64): void {
  const data = file.u8(EI_DATA);
  if (data !== ELFDATA2LSB && data !== ELFDATA2MSB) throw damaged(`its ELF data encoding is ${data}`);
  const raw = file.u16(18, 'ELF header');
  const machine = data === ELFDATA2LSB ? raw : ((raw & 0xff) << 8) | (raw >> 8);
  const x86 = bits === 64 ? EM_X86_64 : EM_386;
  if (data === ELFDATA2LSB && machine === x86) return;
  const name = MACHINE_NAMES[machine] ?? `machine ${machine}`;
  const shape = `${bits}-bit ${data === ELFDATA2LSB ? 'little' : 'big'}-endian ELF`;
  throw new TsvError('TSV_E_KERNEL_ARCH', `${describe(file.what)} is a ${shape} file for ${name}.`, {
    hint: 'Give a kernel built for x86-64 (or a 32-bit x86 multiboot kernel).',
  });
}

function checkType(type: number): void {
  if (type === ET_EXEC || type === ET_DYN) return;
  if (type === ET_REL) {
    throw new TsvError('TSV_E_KERNEL_FORMAT', 'The kernel image is a relocatable object file.', {
      hint: 'Object files and kernel modules (.ko) cannot be booted; link the object or give the vmlinux.',
    });
  }
  if (type === ET_CORE) {
    throw new TsvError('TSV_E_KERNEL_FORMAT', 'The kernel image is a core dump.', {
      hint: 'Give the vmlinux or bzImage itself.',
    });
  }
  throw damaged(`its ELF type is ${type}`);
}

function checkOverlap(loads: readonly ElfSegment[]): void {
  for (let i = 1; i < loads.length; i++) {
    const before = loads[i - 1];
    if (before.paddr + before.memsz > loads[i].paddr) {
      throw new TsvError(
        'TSV_E_KERNEL_LAYOUT',
        `Two segments of the kernel overlap at physical address ${hex(loads[i].paddr)}.`,
        { hint: 'The file is damaged or its linker script gives wrong physical addresses.' },
      );
    }
  }
}

/** A 64-bit field as a number. @throws TSV_E_KERNEL_FORMAT when it is too large to be real */
function number(value: bigint, what: string): number {
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw damaged(`its ${what} is ${hex(value)}`);
  return Number(value);
}

function damaged(why: string): TsvError {
  return new TsvError('TSV_E_KERNEL_FORMAT', `The kernel image is not a sound ELF file: ${why}.`, {
    hint: 'The file is damaged or no executable; copy, download or build it again.',
  });
}

function describe(what: string): string {
  return what.charAt(0).toUpperCase() + what.slice(1);
}
