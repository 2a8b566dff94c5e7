/**
 * struct boot_params, the "zero page" (Linux Documentation/arch/x86/zero-page.rst,
 * arch/x86/include/uapi/asm/bootparam.h).
 */
import { TsvError } from '../errors.ts';
import type { E820Entry } from '../memory/layout.ts';
import type { BzImage } from './bzimage.ts';
import {
  BOOT_FLAG_MAGIC,
  DEFAULT_INITRD_ADDR_MAX,
  HEADER_MAGIC,
  KASLR_FLAG,
  LOADED_HIGH,
  SETUP_HEADER_OFFSET,
  XLF_KERNEL_64,
} from './bzimage.ts';
import { LINUX_CMDLINE_SIZE } from './cmdline.ts';

/** sizeof(struct boot_params). */
export const BOOT_PARAMS_SIZE = 4096;
/** E820_MAX_ENTRIES_ZEROPAGE. */
export const E820_MAX_ENTRIES = 128;
/** sizeof(struct boot_e820_entry). */
const E820_ENTRY_SIZE = 20;
/** `type_of_loader`: a loader without an assigned id. */
const LOADER_UNDEFINED = 0xff;
/** `vid_mode`: "normal". */
const VIDEO_NORMAL = 0xffff;
/** What a header made up for a vmlinux claims to be: the protocol of Linux 5.5 and later. */
const SYNTHETIC_VERSION = 0x020f;
/** Linux's CONFIG_PHYSICAL_ALIGN at its largest. */
const SYNTHETIC_ALIGNMENT = 0x1000000;

/** Offsets in struct boot_params; those from 0x1f1 on are of the setup header. */
export const BOOT_PARAMS = {
  acpi_rsdp_addr: 0x070,
  ext_ramdisk_image: 0x0c0,
  ext_ramdisk_size: 0x0c4,
  ext_cmd_line_ptr: 0x0c8,
  e820_entries: 0x1e8,
  sentinel: 0x1ef,
  vid_mode: 0x1fa,
  boot_flag: 0x1fe,
  header: 0x202,
  version: 0x206,
  type_of_loader: 0x210,
  loadflags: 0x211,
  code32_start: 0x214,
  ramdisk_image: 0x218,
  ramdisk_size: 0x21c,
  cmd_line_ptr: 0x228,
  initrd_addr_max: 0x22c,
  kernel_alignment: 0x230,
  xloadflags: 0x236,
  cmdline_size: 0x238,
  e820_table: 0x2d0,
} as const;

/** What goes into the zero page. */
export interface BootParamsInput {
  /** The bzImage whose setup header is copied; a vmlinux has none and gets a made-up one. */
  readonly bzImage?: BzImage;
  /** Where the kernel was loaded. */
  readonly loadAddress: number;
  readonly cmdlineAddress: number;
  readonly initrd?: { readonly gpa: number; readonly size: number };
  readonly e820: readonly E820Entry[];
  /** Address of the ACPI RSDP, 0 or undefined for none. */
  readonly rsdp?: number;
}

/**
 * Builds the zero page.
 * @returns {@link BOOT_PARAMS_SIZE} bytes
 * @throws TSV_E_CONFIG more than 128 e820 entries
 */
export function buildBootParams(input: BootParamsInput): Uint8Array {
  const { bzImage, e820, initrd } = input;
  // All zero where nothing is said: the kernel clears what it does not know unless `sentinel` is 0, and
  // a screen_info of zeros means that there is no screen.
  const page = new Uint8Array(BOOT_PARAMS_SIZE);
  const view = new DataView(page.buffer);
  if (bzImage === undefined) writeSyntheticHeader(view);
  else page.set(bzImage.setupHeader.subarray(0, 0x290 - SETUP_HEADER_OFFSET), SETUP_HEADER_OFFSET);

  view.setUint16(BOOT_PARAMS.vid_mode, VIDEO_NORMAL, true);
  view.setUint8(BOOT_PARAMS.type_of_loader, LOADER_UNDEFINED);
  const loadflags = (view.getUint8(BOOT_PARAMS.loadflags) | LOADED_HIGH) & ~KASLR_FLAG;
  view.setUint8(BOOT_PARAMS.loadflags, loadflags);
  view.setUint32(BOOT_PARAMS.code32_start, input.loadAddress, true);
  writeSplit(view, BOOT_PARAMS.cmd_line_ptr, BOOT_PARAMS.ext_cmd_line_ptr, input.cmdlineAddress);
  writeSplit(view, BOOT_PARAMS.ramdisk_image, BOOT_PARAMS.ext_ramdisk_image, initrd?.gpa ?? 0);
  writeSplit(view, BOOT_PARAMS.ramdisk_size, BOOT_PARAMS.ext_ramdisk_size, initrd?.size ?? 0);
  view.setBigUint64(BOOT_PARAMS.acpi_rsdp_addr, BigInt(input.rsdp ?? 0), true);
  writeE820(view, e820);
  return page;
}

function writeSyntheticHeader(view: DataView): void {
  view.setUint16(BOOT_PARAMS.boot_flag, BOOT_FLAG_MAGIC, true);
  view.setUint32(BOOT_PARAMS.header, HEADER_MAGIC, true);
  view.setUint16(BOOT_PARAMS.version, SYNTHETIC_VERSION, true);
  view.setUint32(BOOT_PARAMS.initrd_addr_max, DEFAULT_INITRD_ADDR_MAX, true);
  view.setUint32(BOOT_PARAMS.kernel_alignment, SYNTHETIC_ALIGNMENT, true);
  view.setUint16(BOOT_PARAMS.xloadflags, XLF_KERNEL_64, true);
  view.setUint32(BOOT_PARAMS.cmdline_size, LINUX_CMDLINE_SIZE, true);
}

/** Addresses above 4 GiB have their upper half elsewhere (protocol 2.12). */
function writeSplit(view: DataView, low: number, high: number, value: number): void {
  view.setUint32(low, value % 2 ** 32, true);
  view.setUint32(high, Math.floor(value / 2 ** 32), true);
}

function writeE820(view: DataView, e820: readonly E820Entry[]): void {
  if (e820.length > E820_MAX_ENTRIES) {
    throw new TsvError(
      'TSV_E_CONFIG',
      `The memory map has ${e820.length} ranges; the kernel takes ${E820_MAX_ENTRIES}.`,
      { hint: 'Merge reserved ranges.' },
    );
  }
  view.setUint8(BOOT_PARAMS.e820_entries, e820.length);
  e820.forEach(({ addr, size, type }, i) => {
    const at = BOOT_PARAMS.e820_table + i * E820_ENTRY_SIZE;
    view.setBigUint64(at, BigInt(addr), true);
    view.setBigUint64(at + 8, BigInt(size), true);
    view.setUint32(at + 16, type, true);
  });
}
