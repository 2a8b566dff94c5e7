/** The multiboot information structure (Multiboot Specification 0.6.96 section 3.3). */
import { E820_TYPE } from '../memory/layout.ts';
import type { BootOptions } from './boot-types.ts';
import { InfoArea } from './info-area.ts';
import type { NamedRange } from './layout.ts';
import { BOOT_LAYOUT } from './layout.ts';
import type { LoadedModule } from './modules.ts';

/** `flags`: which fields are valid. */
export const MULTIBOOT_INFO_MEMORY = 1 << 0;
export const MULTIBOOT_INFO_CMDLINE = 1 << 2;
export const MULTIBOOT_INFO_MODS = 1 << 3;
export const MULTIBOOT_INFO_MEM_MAP = 1 << 6;
export const MULTIBOOT_INFO_BOOT_LOADER_NAME = 1 << 9;

/** Offsets in the information structure. */
export const MULTIBOOT_INFO = {
  flags: 0,
  mem_lower: 4,
  mem_upper: 8,
  cmdline: 16,
  mods_count: 20,
  mods_addr: 24,
  mmap_length: 44,
  mmap_addr: 48,
  boot_loader_name: 64,
} as const;

/** Up to and with the framebuffer fields, all of which are zero. */
const INFO_SIZE = 116;
const MODULE_SIZE = 16;
/** A memory map entry, and what its own `size` field says, which does not count itself. */
const MMAP_ENTRY_SIZE = 24;
const MMAP_ENTRY_SIZE_FIELD = 20;
const BOOT_LOADER_NAME = 'tsvisor';
const KIB = 1024;
const UPPER_MEMORY_START = 0x100000;
/** mem_lower is at most 640. */
const MAX_LOWER_KIB = 640;

/** Writes the structure and all it points to except command line and modules. */
export function writeMultibootInfo(
  options: BootOptions,
  modules: readonly LoadedModule[],
): { address: number; range: NamedRange } {
  const { memory, e820 } = options;
  const area = new InfoArea(memory);
  const address = area.reserve(INFO_SIZE);
  const mmap = area.put(encodeMmap(options));
  const name = area.putString(BOOT_LOADER_NAME);
  const mods = area.put(encodeModules(area, modules));
  const info = new DataView(new ArrayBuffer(INFO_SIZE));
  const set = (offset: number, value: number): void => info.setUint32(offset, value, true);
  set(
    MULTIBOOT_INFO.flags,
    MULTIBOOT_INFO_MEMORY |
      MULTIBOOT_INFO_CMDLINE |
      MULTIBOOT_INFO_MODS |
      MULTIBOOT_INFO_MEM_MAP |
      MULTIBOOT_INFO_BOOT_LOADER_NAME,
  );
  set(MULTIBOOT_INFO.mem_lower, Math.min(ramFrom(options, 0) / KIB, MAX_LOWER_KIB));
  set(MULTIBOOT_INFO.mem_upper, ramFrom(options, UPPER_MEMORY_START) / KIB);
  set(MULTIBOOT_INFO.cmdline, BOOT_LAYOUT.cmdline.gpa);
  set(MULTIBOOT_INFO.mods_count, modules.length);
  set(MULTIBOOT_INFO.mods_addr, mods);
  set(MULTIBOOT_INFO.mmap_length, e820.length * MMAP_ENTRY_SIZE);
  set(MULTIBOOT_INFO.mmap_addr, mmap);
  set(MULTIBOOT_INFO.boot_loader_name, name);
  memory.write(address, new Uint8Array(info.buffer));
  return { address, range: area.range };
}

/** Bytes of contiguous RAM from `start` on. */
function ramFrom({ e820 }: BootOptions, start: number): number {
  let end = start;
  for (const { addr, size, type } of [...e820].sort((a, b) => a.addr - b.addr)) {
    if (type === E820_TYPE.RAM && addr <= end && addr + size > end) end = addr + size;
  }
  return end - start;
}

function encodeMmap({ e820 }: BootOptions): Uint8Array {
  const map = new DataView(new ArrayBuffer(e820.length * MMAP_ENTRY_SIZE));
  e820.forEach(({ addr, size, type }, i) => {
    const at = i * MMAP_ENTRY_SIZE;
    map.setUint32(at, MMAP_ENTRY_SIZE_FIELD, true);
    map.setBigUint64(at + 4, BigInt(addr), true);
    map.setBigUint64(at + 12, BigInt(size), true);
    map.setUint32(at + 20, type, true);
  });
  return new Uint8Array(map.buffer);
}

function encodeModules(area: InfoArea, modules: readonly LoadedModule[]): Uint8Array {
  const list = new DataView(new ArrayBuffer(modules.length * MODULE_SIZE));
  modules.forEach(({ gpa, size, cmdline }, i) => {
    const at = i * MODULE_SIZE;
    list.setUint32(at, gpa, true);
    list.setUint32(at + 4, gpa + size, true);
    list.setUint32(at + 8, area.putString(cmdline), true);
  });
  return new Uint8Array(list.buffer);
}
