/**
 * Multiboot version 1 (Multiboot Specification 0.6.96): a header in the first 8 KiB of the kernel, a 32-bit entry with
 * a magic number in eax and the information structure in ebx.
 */
import { TsvError } from '../errors.ts';
import type { BootOptions, BootResult } from './boot-types.ts';
import { encodeCmdline, MAX_CMDLINE_SIZE } from './cmdline.ts';
import { isElf, parseElf, physicalEntry } from './elf.ts';
import { loadSegments } from './elf-load.ts';
import type { SymbolLookup } from './elf-symbols.ts';
import { elfSymbols, noSymbols } from './elf-symbols.ts';
import { hex, ImageBytes } from './image-bytes.ts';
import type { MemoryPlan, NamedRange } from './layout.ts';
import { BOOT_LAYOUT } from './layout.ts';
import { loadModules } from './modules.ts';
import { writeMultibootInfo } from './multiboot-info.ts';

/** `magic` of the header. */
export const MULTIBOOT_HEADER_MAGIC = 0x1badb002;
/** What eax holds at the entry. */
export const MULTIBOOT_BOOTLOADER_MAGIC = 0x2badb002;
/** Magic of a multiboot version 2 header, for a better message. */
const MULTIBOOT2_HEADER_MAGIC = 0xe85250d6;
/** The header lies in the first 8192 bytes (section 3.1). */
const SEARCH_SIZE = 8192;
const HEADER_SIZE = 12;
const ADDRESS_FIELDS_SIZE = 20;

/** `flags`: modules page aligned, which they always are. */
const MULTIBOOT_PAGE_ALIGN = 1 << 0;
/** Memory information wanted, which is always given. */
const MULTIBOOT_MEMORY_INFO = 1 << 1;
const MULTIBOOT_VIDEO_MODE = 1 << 2;
/** The address fields are valid and replace the ELF headers (the "a.out kludge"). */
const MULTIBOOT_AOUT_KLUDGE = 1 << 16;
/** Bits 0 to 15 are demands: a loader that does not know one must not start the kernel. */
const REQUIRED_BITS = 0xffff;

/** A multiboot header. */
export interface MultibootHeader {
  /** Offset in the file, bytes. */
  readonly offset: number;
  readonly flags: number;
  /** Physical addresses, when flag 16 is set. */
  readonly addresses?: {
    readonly headerAddr: number;
    readonly loadAddr: number;
    /** End of text and data; 0: to the end of the file. */
    readonly loadEndAddr: number;
    /** End of bss; 0: there is none. */
    readonly bssEndAddr: number;
    readonly entryAddr: number;
  };
}

/** Finds the multiboot header of a kernel; undefined when it has none. */
export function findMultibootHeader(bytes: Uint8Array): MultibootHeader | undefined {
  const file = new ImageBytes(bytes, 'the kernel image');
  const end = Math.min(SEARCH_SIZE, file.size);
  for (let offset = 0; offset + HEADER_SIZE <= end; offset += 4) {
    if (file.u32(offset) !== MULTIBOOT_HEADER_MAGIC) continue;
    const flags = file.u32(offset + 4);
    if ((MULTIBOOT_HEADER_MAGIC + flags + file.u32(offset + 8)) % 2 ** 32 !== 0) continue;
    if ((flags & MULTIBOOT_AOUT_KLUDGE) === 0) return { offset, flags };
    if (offset + HEADER_SIZE + ADDRESS_FIELDS_SIZE > end) continue;
    const [headerAddr, loadAddr, loadEndAddr, bssEndAddr, entryAddr] = [12, 16, 20, 24, 28].map((field) =>
      file.u32(offset + field),
    );
    return { offset, flags, addresses: { headerAddr, loadAddr, loadEndAddr, bssEndAddr, entryAddr } };
  }
  return undefined;
}

/**
 * Loads a multiboot kernel with its modules.
 * @throws TSV_E_KERNEL_FORMAT no header, demands that cannot be met, or an ELF64 file
 * @throws TSV_E_KERNEL_TRUNCATED, TSV_E_KERNEL_LAYOUT
 */
export async function loadMultiboot(
  options: BootOptions,
  plan: MemoryPlan,
  bytes: Uint8Array,
): Promise<BootResult> {
  const header = findMultibootHeader(bytes);
  if (header === undefined) throw noHeader(bytes);
  const warnings = checkDemands(header.flags);
  const cmdline = encodeCmdline(options.cmdline ?? '', MAX_CMDLINE_SIZE);
  plan.take(BOOT_LAYOUT.gdt);
  plan.take(BOOT_LAYOUT.stack);
  plan.take(BOOT_LAYOUT.bootInfo);
  plan.take({ ...BOOT_LAYOUT.cmdline, size: cmdline.length });
  const { kernel, entry, symbols } =
    header.addresses === undefined
      ? loadElf32(options, plan, bytes)
      : loadByAddresses(options, plan, bytes, { ...header, addresses: header.addresses });
  const modules = await loadModules(options, plan, kernel.gpa + kernel.size);
  options.memory.write(BOOT_LAYOUT.cmdline.gpa, cmdline);
  const info = writeMultibootInfo(options, modules);
  return {
    protocol: 'multiboot',
    mode: 'protected32',
    entry,
    registers: {
      rax: MULTIBOOT_BOOTLOADER_MAGIC,
      rbx: info.address,
      rsp: BOOT_LAYOUT.stack.gpa + BOOT_LAYOUT.stack.size,
    },
    kernelVersion: undefined,
    symbols,
    loaded: [kernel, info.range, { ...BOOT_LAYOUT.cmdline, size: cmdline.length }, ...modules],
    warnings,
  };
}

interface LoadedKernel {
  readonly kernel: NamedRange;
  readonly entry: number;
  readonly symbols: SymbolLookup;
}

function loadElf32(options: BootOptions, plan: MemoryPlan, bytes: Uint8Array): LoadedKernel {
  if (!isElf(bytes)) {
    throw new TsvError(
      'TSV_E_KERNEL_FORMAT',
      'The multiboot kernel is no ELF file and its header gives no load addresses.',
      { hint: 'Set flag 16 and the address fields of its multiboot header, or link it as ELF32.' },
    );
  }
  const elf = parseElf(bytes);
  if (elf.bits !== 32) {
    throw new TsvError(
      'TSV_E_KERNEL_FORMAT',
      'The multiboot kernel is an ELF64 file; multiboot version 1 knows ELF32 only.',
      {
        hint: 'Convert it (objcopy -O elf32-i386), or ask for the linux64 protocol to enter it in 64-bit mode.',
      },
    );
  }
  const entry = physicalEntry(elf);
  const kernel = loadSegments(options.memory, plan, elf);
  return { kernel, entry, symbols: elfSymbols(elf) };
}

function loadByAddresses(
  { memory }: BootOptions,
  plan: MemoryPlan,
  bytes: Uint8Array,
  header: Required<MultibootHeader>,
): LoadedKernel {
  const { headerAddr, loadAddr, loadEndAddr, bssEndAddr, entryAddr } = header.addresses;
  const file = new ImageBytes(bytes, 'the kernel image');
  const start = header.offset - (headerAddr - loadAddr);
  const loadSize = loadEndAddr === 0 ? file.size - start : loadEndAddr - loadAddr;
  const loadEnd = loadAddr + loadSize;
  const end = Math.max(bssEndAddr, loadEnd);
  const wrong =
    headerAddr < loadAddr || start < 0
      ? 'the header lies before what is loaded'
      : loadSize <= 0
        ? 'there is nothing to load'
        : bssEndAddr !== 0 && bssEndAddr < loadEnd
          ? 'the bss ends before the data'
          : entryAddr < loadAddr || entryAddr >= end
            ? `the entry point ${hex(entryAddr)} is not in the kernel`
            : undefined;
  if (wrong !== undefined) {
    throw new TsvError(
      'TSV_E_KERNEL_FORMAT',
      `The address fields of the multiboot header are wrong: ${wrong}.`,
      { hint: 'Correct header_addr, load_addr, load_end_addr, bss_end_addr and entry_addr in the kernel.' },
    );
  }
  const data = file.slice(start, loadSize, 'loaded part (multiboot load_end_addr)');
  const kernel = plan.take({ name: 'kernel', gpa: loadAddr, size: end - loadAddr });
  memory.write(loadAddr, data);
  memory.fill(loadEnd, end - loadEnd);
  return { kernel, entry: entryAddr, symbols: noSymbols };
}

function checkDemands(flags: number): string[] {
  const known = MULTIBOOT_PAGE_ALIGN | MULTIBOOT_MEMORY_INFO | MULTIBOOT_VIDEO_MODE;
  const unknown = flags & REQUIRED_BITS & ~known;
  if (unknown !== 0) {
    throw new TsvError(
      'TSV_E_KERNEL_FORMAT',
      `The multiboot kernel demands features no version of the specification has (flags ${hex(unknown)}).`,
      { hint: 'Correct the flags of its multiboot header.' },
    );
  }
  if ((flags & MULTIBOOT_VIDEO_MODE) === 0) return [];
  return ['The kernel asks for a video mode in its multiboot header; this machine has no display.'];
}

function noHeader(bytes: Uint8Array): TsvError {
  const file = new ImageBytes(bytes, 'the kernel image');
  for (let offset = 0; offset + 4 <= Math.min(4 * SEARCH_SIZE, file.size); offset += 4) {
    if (file.u32(offset) === MULTIBOOT2_HEADER_MAGIC) {
      return new TsvError('TSV_E_KERNEL_FORMAT', 'The kernel is for multiboot version 2.', {
        hint: 'Version 1 is supported; many kernels can be built with either header.',
      });
    }
  }
  return new TsvError(
    'TSV_E_KERNEL_FORMAT',
    `The kernel has no multiboot header in its first ${SEARCH_SIZE} bytes.`,
    { hint: 'Put the section with the header first in the linker script, and check its checksum.' },
  );
}
