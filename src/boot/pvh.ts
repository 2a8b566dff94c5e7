/**
 * PVH, Xen's direct boot ABI: a 32-bit entry point with the address of struct hvm_start_info in ebx
 * (Xen docs/misc/pvh.pandoc, public/arch-x86/hvm/start_info.h). Linux, FreeBSD and several unikernels have it.
 */
import { TsvError } from '../errors.ts';
import type { BootOptions, BootResult } from './boot-types.ts';
import type { BzImage } from './bzimage.ts';
import { encodeCmdline, LINUX_CMDLINE_SIZE, MAX_CMDLINE_SIZE } from './cmdline.ts';
import type { ElfImage } from './elf.ts';
import { physicalEntry } from './elf.ts';
import { loadSegments } from './elf-load.ts';
import { pvhEntry } from './elf-notes.ts';
import { InfoArea } from './info-area.ts';
import { kernelSymbols } from './kallsyms.ts';
import type { MemoryPlan } from './layout.ts';
import { BOOT_LAYOUT } from './layout.ts';
import { linuxVersion } from './linux.ts';
import type { LoadedModule } from './modules.ts';
import { loadModules } from './modules.ts';

/** XEN_HVM_START_MAGIC_VALUE, "xEn3" with bit 7 of the "E" set. */
export const XEN_HVM_START_MAGIC_VALUE = 0x336ec578;
const START_INFO_VERSION = 1;
/** sizeof of struct hvm_start_info, hvm_modlist_entry and hvm_memmap_table_entry. */
const START_INFO_SIZE = 56;
const MODLIST_ENTRY_SIZE = 32;
const MEMMAP_ENTRY_SIZE = 24;
/** start_info.h: "nothing will be loaded at physical address 0", so 0 means absent. */
const ABSENT = 0n;

/** Offsets in struct hvm_start_info. */
export const HVM_START_INFO = {
  magic: 0,
  version: 4,
  flags: 8,
  nr_modules: 12,
  modlist_paddr: 16,
  cmdline_paddr: 24,
  rsdp_paddr: 32,
  memmap_paddr: 40,
  memmap_entries: 48,
} as const;

/**
 * Loads an ELF kernel for its PVH entry point.
 * @param bzImage the image the kernel came out of, when it did
 * @throws TSV_E_KERNEL_FORMAT it has no such entry point
 */
export async function loadPvh(
  options: BootOptions,
  plan: MemoryPlan,
  elf: ElfImage,
  bzImage?: BzImage,
): Promise<BootResult> {
  const note = pvhEntry(elf);
  if (note === undefined) {
    throw new TsvError('TSV_E_KERNEL_FORMAT', 'The kernel has no PVH entry point (ELF note Xen 18).', {
      hint: 'Build Linux with CONFIG_PVH=y, or use another boot protocol.',
    });
  }
  const entry = physicalEntry(elf, note);
  const version = linuxVersion(elf);
  const limit = version === undefined ? MAX_CMDLINE_SIZE : (bzImage?.cmdlineSize ?? LINUX_CMDLINE_SIZE);
  const cmdline = encodeCmdline(options.cmdline ?? '', limit);
  plan.take(BOOT_LAYOUT.gdt);
  plan.take(BOOT_LAYOUT.stack);
  plan.take(BOOT_LAYOUT.bootInfo);
  plan.take({ ...BOOT_LAYOUT.cmdline, size: cmdline.length });
  const kernel = loadSegments(options.memory, plan, elf);
  const kernelEnd = kernel.gpa + kernel.size;
  const modules = await loadModules(options, plan, kernelEnd);
  options.memory.write(BOOT_LAYOUT.cmdline.gpa, cmdline);
  const area = new InfoArea(options.memory);
  const startInfo = writeStartInfo(area, options, modules);
  return {
    protocol: 'pvh',
    mode: 'protected32',
    entry,
    registers: { rbx: startInfo, rsp: BOOT_LAYOUT.stack.gpa + BOOT_LAYOUT.stack.size },
    kernelVersion: version,
    symbols: kernelSymbols(options.memory, elf),
    loaded: [kernel, area.range, { ...BOOT_LAYOUT.cmdline, size: cmdline.length }, ...modules],
    warnings: [],
  };
}

function writeStartInfo(area: InfoArea, options: BootOptions, modules: readonly LoadedModule[]): number {
  const info = view(START_INFO_SIZE);
  info.setUint32(HVM_START_INFO.magic, XEN_HVM_START_MAGIC_VALUE, true);
  info.setUint32(HVM_START_INFO.version, START_INFO_VERSION, true);
  info.setUint32(HVM_START_INFO.nr_modules, modules.length, true);
  info.setBigUint64(HVM_START_INFO.modlist_paddr, writeModlist(area, modules), true);
  info.setBigUint64(HVM_START_INFO.cmdline_paddr, BigInt(BOOT_LAYOUT.cmdline.gpa), true);
  info.setBigUint64(HVM_START_INFO.rsdp_paddr, BigInt(options.rsdp ?? 0), true);
  info.setBigUint64(HVM_START_INFO.memmap_paddr, writeMemmap(area, options), true);
  info.setUint32(HVM_START_INFO.memmap_entries, options.e820.length, true);
  return area.put(bytesOf(info));
}

function writeModlist(area: InfoArea, modules: readonly LoadedModule[]): bigint {
  if (modules.length === 0) return ABSENT;
  const list = view(modules.length * MODLIST_ENTRY_SIZE);
  modules.forEach(({ gpa, size, cmdline }, i) => {
    const at = i * MODLIST_ENTRY_SIZE;
    list.setBigUint64(at, BigInt(gpa), true);
    list.setBigUint64(at + 8, BigInt(size), true);
    list.setBigUint64(at + 16, cmdline === '' ? ABSENT : BigInt(area.putString(cmdline)), true);
  });
  return BigInt(area.put(bytesOf(list)));
}

function writeMemmap(area: InfoArea, { e820 }: BootOptions): bigint {
  const map = view(e820.length * MEMMAP_ENTRY_SIZE);
  e820.forEach(({ addr, size, type }, i) => {
    const at = i * MEMMAP_ENTRY_SIZE;
    map.setBigUint64(at, BigInt(addr), true);
    map.setBigUint64(at + 8, BigInt(size), true);
    map.setUint32(at + 16, type, true);
  });
  return BigInt(area.put(bytesOf(map)));
}

function view(size: number): DataView<ArrayBuffer> {
  return new DataView(new ArrayBuffer(size));
}

function bytesOf(data: DataView<ArrayBuffer>): Uint8Array {
  return new Uint8Array(data.buffer);
}
