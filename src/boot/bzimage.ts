/**
 * The bzImage: the setup header of the Linux/x86 boot protocol and the compressed kernel behind it
 * (Linux Documentation/arch/x86/boot.rst; field offsets are from the start of the file).
 */
import { TsvError } from '../errors.ts';
import { detectCompression } from './compression.ts';
import { canDecompress, compressionName, decompress } from './decompress.ts';
import { isElf } from './elf.ts';
import { ImageBytes } from './image-bytes.ts';

/** Where the setup header begins in the file and in struct boot_params. */
export const SETUP_HEADER_OFFSET = 0x1f1;
/** `boot_flag`. */
export const BOOT_FLAG_MAGIC = 0xaa55;
/** `header`: "HdrS". */
export const HEADER_MAGIC = 0x53726448;

/** `loadflags`. */
export const LOADED_HIGH = 1 << 0;
export const KASLR_FLAG = 1 << 1;
/** `xloadflags`. */
export const XLF_KERNEL_64 = 1 << 0;

const SECTOR_SIZE = 512;
/** `setup_sects` of 0 means 4. */
const DEFAULT_SETUP_SECTS = 4;
/** Oldest protocol that says how long the command line may be; older kernels are from before 2007. */
const OLDEST_VERSION = 0x0206;
/** Where a kernel that is not relocatable is loaded, and the least address of one that is. */
export const HIGH_LOAD_ADDRESS = 0x100000;
/** `initrd_addr_max` of kernels that do not give it (and of a vmlinux, which has no header). */
export const DEFAULT_INITRD_ADDR_MAX = 0x7fffffff;
/** A decompressed x86-64 kernel is 30 to 100 MB; the linker script limits it to 1 GiB (KERNEL_IMAGE_SIZE). */
const MAX_VMLINUX_SIZE = 1 << 30;
/** Linux appends the unpacked size to formats that do not record it (scripts/Makefile.lib, size_append). */
const SIZE_APPEND_BYTES = 4;
/** Without `init_size` the room the kernel needs is a multiple of its packed size; 4 covers every LZMA kernel. */
const OLD_INIT_SIZE_FACTOR = 4;

/** The setup header's fields that a loader reads, and where the parts of the file are. */
export interface BzImage {
  readonly file: ImageBytes;
  /** Boot protocol version, (major << 8) + minor. */
  readonly version: number;
  /** The raw setup header, to be copied to {@link SETUP_HEADER_OFFSET} of struct boot_params. */
  readonly setupHeader: Uint8Array;
  readonly loadflags: number;
  readonly xloadflags: number;
  /** Highest address the initrd may occupy, inclusive. */
  readonly initrdAddrMax: number;
  /** Longest command line in bytes without the NUL. */
  readonly cmdlineSize: number;
  readonly relocatable: boolean;
  /** Alignment of the load address of a relocatable kernel, bytes. */
  readonly kernelAlignment: number;
  readonly prefAddress: number;
  /** Contiguous memory the kernel needs from its runtime start address, bytes. */
  readonly initSize: number;
  /** The protected-mode part of the file. */
  readonly kernel: Uint8Array;
  /** The compressed vmlinux; undefined before protocol 2.08. */
  readonly payload: Uint8Array | undefined;
  /** `kernel_version` string, such as `6.1.0-56-cloud-amd64 (…) #1 SMP …`. */
  readonly versionString: string | undefined;
}

/** True when the bytes carry a setup header. */
export function isBzImage(bytes: Uint8Array): boolean {
  const file = new ImageBytes(bytes, 'the kernel image');
  return file.has(0, 0x206) && file.u16(0x1fe) === BOOT_FLAG_MAGIC && file.u32(0x202) === HEADER_MAGIC;
}

/**
 * Parses a bzImage.
 * @throws TSV_E_KERNEL_FORMAT no setup header, an old protocol, a zImage, or fields that cannot be true
 * @throws TSV_E_KERNEL_TRUNCATED
 */
export function parseBzImage(bytes: Uint8Array): BzImage {
  const file = new ImageBytes(bytes, 'the kernel image');
  if (!isBzImage(bytes)) {
    throw new TsvError('TSV_E_KERNEL_FORMAT', 'The kernel image has no Linux setup header ("HdrS").', {
      hint: 'Give a bzImage (arch/x86/boot/bzImage, /boot/vmlinuz-…).',
    });
  }
  const version = file.u16(0x206);
  if (version < OLDEST_VERSION) {
    throw new TsvError(
      'TSV_E_KERNEL_FORMAT',
      `The kernel speaks boot protocol ${versionName(version)}; 2.06 (Linux 2.6.22) is the oldest supported.`,
      { hint: 'Use a newer kernel.' },
    );
  }
  // The header's size follows from the jump over it: 0xEB and a distance from 0x202 (boot.rst, "jump").
  const headerEnd = 0x202 + file.u8(0x201);
  file.need(0, headerEnd, 'setup header');
  const has = (minimum: number, offset: number, size: number): boolean =>
    version >= minimum && offset + size <= headerEnd;

  const loadflags = file.u8(0x211);
  if ((loadflags & LOADED_HIGH) === 0) {
    throw new TsvError('TSV_E_KERNEL_FORMAT', 'The kernel is a zImage, to be loaded below 640 KiB.', {
      hint: 'Build a bzImage; zImage support ended with Linux 2.6.30.',
    });
  }
  const setupSize = (1 + (file.u8(0x1f1) || DEFAULT_SETUP_SECTS)) * SECTOR_SIZE;
  const kernelSize = checkedKernelSize(file, setupSize);
  const kernel = file.bytes.subarray(setupSize, setupSize + kernelSize);

  const kernelAlignment = file.u32(0x230);
  const relocatable = file.u8(0x234) !== 0;
  checkAlignment(relocatable, kernelAlignment);
  const prefAddress = has(0x20a, 0x258, 8) ? file.u64(0x258) : 0n;
  if (prefAddress > BigInt(Number.MAX_SAFE_INTEGER)) throw insane('pref_address', prefAddress);
  return {
    file,
    version,
    setupHeader: file.slice(SETUP_HEADER_OFFSET, headerEnd - SETUP_HEADER_OFFSET, 'setup header'),
    loadflags,
    xloadflags: has(0x20c, 0x236, 2) ? file.u16(0x236) : 0,
    initrdAddrMax: file.u32(0x22c) || DEFAULT_INITRD_ADDR_MAX,
    cmdlineSize: file.u32(0x238) || 255,
    relocatable,
    kernelAlignment,
    prefAddress: Number(prefAddress) || HIGH_LOAD_ADDRESS,
    initSize: has(0x20a, 0x260, 4) ? file.u32(0x260) : kernelSize * OLD_INIT_SIZE_FACTOR,
    kernel,
    payload: has(0x208, 0x248, 8) ? readPayload(file, kernel) : undefined,
    versionString: readVersionString(file, setupSize),
  };
}

/**
 * Unpacks the kernel in a bzImage on the host.
 * @returns the vmlinux, an ELF image, possibly with relocation data behind it
 * @throws TSV_E_KERNEL_FORMAT
 */
export async function unpackPayload(image: BzImage): Promise<Uint8Array> {
  const { payload } = image;
  if (payload === undefined || payload.length <= SIZE_APPEND_BYTES) {
    throw new TsvError('TSV_E_KERNEL_FORMAT', 'The kernel image does not say where its payload is.', {
      hint: 'Boot it with the bzimage protocol, so that it unpacks itself.',
    });
  }
  if (isElf(payload)) return payload;
  const compression = detectCompression(payload);
  if (compression === undefined) {
    throw new TsvError('TSV_E_KERNEL_FORMAT', 'The payload of the kernel image is in no known format.', {
      hint: 'The file is damaged; or boot it with the bzimage protocol, so that it unpacks itself.',
    });
  }
  const what = "the kernel image's payload";
  if (!canDecompress(compression)) {
    throw new TsvError(
      'TSV_E_KERNEL_FORMAT',
      `The kernel image is compressed with ${compressionName(compression)}, which the host side cannot unpack.`,
      {
        hint: 'Boot it with the bzimage protocol, so that it unpacks itself, or build it with CONFIG_KERNEL_ZSTD, LZ4, XZ, LZMA or GZIP.',
      },
    );
  }
  const sizeAt = payload.length - SIZE_APPEND_BYTES;
  const expectedSize = new ImageBytes(payload, what).u32(sizeAt);
  // GZIP ends with its own size field, in the same place; the others have it appended.
  const data = compression === 'gzip' ? payload : payload.subarray(0, sizeAt);
  const vmlinux = await decompress(data, { compression, expectedSize, maxSize: MAX_VMLINUX_SIZE, what });
  if (!isElf(vmlinux)) {
    throw new TsvError('TSV_E_KERNEL_FORMAT', 'The payload of the kernel image is not an ELF file.', {
      hint: 'Boot it with the bzimage protocol, so that it unpacks itself.',
    });
  }
  return vmlinux;
}

/** The protocol version as boot.rst writes it, such as 2.15. */
export function versionName(version: number): string {
  return `${version >> 8}.${String(version & 0xff).padStart(2, '0')}`;
}

function checkedKernelSize(file: ImageBytes, setupSize: number): number {
  const size = file.u32(0x1f4) * 16;
  if (size === 0) throw insane('syssize', 0);
  // syssize is rounded up to 16 bytes, the file of some old builds is not.
  if (file.has(setupSize, size - 15)) return Math.min(size, file.size - setupSize);
  file.need(setupSize, size, 'protected-mode kernel');
  return size;
}

function checkAlignment(relocatable: boolean, alignment: number): void {
  if (!relocatable) return;
  const powerOfTwo = alignment !== 0 && (alignment & (alignment - 1)) === 0;
  if (!powerOfTwo) throw insane('kernel_alignment', alignment);
}

function readPayload(file: ImageBytes, kernel: Uint8Array): Uint8Array | undefined {
  const offset = file.u32(0x248);
  const length = file.u32(0x24c);
  if (offset === 0) return undefined;
  return new ImageBytes(kernel, 'the protected-mode kernel').slice(offset, length, 'payload');
}

function readVersionString(file: ImageBytes, setupSize: number): string | undefined {
  const pointer = file.u16(0x20e);
  if (pointer === 0 || pointer + 0x200 >= setupSize) return undefined;
  return file.text(pointer + 0x200, 256);
}

function insane(field: string, value: number | bigint): TsvError {
  return new TsvError(
    'TSV_E_KERNEL_FORMAT',
    `The kernel's setup header is damaged: ${field} is 0x${value.toString(16)}.`,
    { hint: 'Copy, download or build the kernel again.' },
  );
}
