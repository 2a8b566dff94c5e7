/** One entry to all boot protocols: a kernel file in, guest memory filled and entry state out. */
import { TsvError } from '../errors.ts';
import type { BootOptions, BootProtocol, BootResult } from './boot-types.ts';
import type { BzImage } from './bzimage.ts';
import { parseBzImage, unpackPayload } from './bzimage.ts';
import { decompress } from './decompress.ts';
import { detectKernel, notBootable } from './detect.ts';
import { discard } from './discard.ts';
import type { ElfImage } from './elf.ts';
import { parseElf } from './elf.ts';
import { pvhEntry } from './elf-notes.ts';
import { hasElfSymbols } from './elf-symbols.ts';
import { loadFlat } from './flat.ts';
import { MemoryPlan } from './layout.ts';
import type { LinuxInput } from './linux.ts';
import { linuxVersion, loadBzImage, loadLinux64 } from './linux.ts';
import { findMultibootHeader, loadMultiboot } from './multiboot.ts';
import { loadPvh } from './pvh.ts';
import { SourceFile } from './source-file.ts';

/** Largest kernel that is unpacked from a file compressed as a whole (vmlinux.gz and the like), bytes. */
const MAX_UNPACKED_KERNEL = 1 << 30;

/**
 * Loads a kernel with everything it is passed into guest memory.
 *
 * With protocol `auto` a bzImage is unpacked on the host and its vmlinux entered by the 64-bit protocol; a vmlinux of
 * Linux likewise; another ELF kernel by multiboot if it has a multiboot header, by PVH if it has only that note, else in
 * 64-bit mode as Linux is.
 *
 * @throws TSV_E_FILE a file is missing, unreadable, empty or not a file
 * @throws TSV_E_KERNEL_FORMAT, TSV_E_KERNEL_ARCH, TSV_E_KERNEL_TRUNCATED the kernel is not one that can be booted
 * @throws TSV_E_KERNEL_LAYOUT it does not fit the machine's memory
 * @throws TSV_E_INITRD the initrd does not fit
 * @throws TSV_E_CMDLINE_TOO_LONG
 * @throws TSV_E_USAGE options that the protocol has no use for
 */
export async function loadKernel(options: BootOptions): Promise<BootResult> {
  const plan = new MemoryPlan(options.memory, options.e820, options.reserved);
  const kernelFile = await SourceFile.open(options.kernel, 'kernel');
  let initrd: SourceFile | undefined;
  try {
    if (options.initrd !== undefined) initrd = await SourceFile.open(options.initrd, 'initrd');
    const bytes = await kernelFile.readAll();
    return await loadBytes({ options, plan, initrd }, bytes, kernelFile.what);
  } finally {
    await initrd?.close();
    await kernelFile.close();
  }
}

async function loadBytes(input: LinuxInput, raw: Uint8Array, what: string): Promise<BootResult> {
  const { options, plan } = input;
  const protocol = options.protocol ?? 'auto';
  if (protocol === 'flat') return loadFlat(options, plan, raw);
  const bytes = await unpackWhole(raw, what);
  const detected = detectKernel(bytes);
  switch (detected.kind) {
    case 'bzimage': {
      const bzImage = parseBzImage(bytes);
      return loadLinuxImage(input, protocol, bzImage, what);
    }
    case 'elf':
      return loadElf(input, protocol, parseElf(bytes, what));
    default:
      // A multiboot kernel with address fields may be in any format.
      if (protocol === 'multiboot' || (protocol === 'auto' && findMultibootHeader(bytes) !== undefined)) {
        return loadMultiboot(options, plan, bytes);
      }
      throw notBootable(detected, what);
  }
}

async function loadLinuxImage(
  input: LinuxInput,
  protocol: BootProtocol | 'auto',
  bzImage: BzImage,
  what: string,
): Promise<BootResult> {
  if (protocol === 'multiboot') throw wrongProtocol(protocol, 'a bzImage');
  // Older kernels do not say where their payload is.
  if (protocol === 'bzimage' || (protocol === 'auto' && bzImage.payload === undefined)) {
    refuseModules(input.options, 'bzimage');
    return loadBzImage(input, bzImage);
  }
  const unpacked = await unpackPayload(bzImage);
  const vmlinux = parseElf(unpacked, `the vmlinux in ${what}`);
  if (protocol === 'auto') {
    // A 32-bit kernel has no 64-bit entry; its own unpacking code knows how to start it.
    if (vmlinux.bits === 32) return loadLinuxImage(input, 'bzimage', bzImage, what);
  }
  const result = await loadElf(input, protocol === 'auto' ? 'linux64' : protocol, vmlinux, bzImage);
  // The symbols of a stripped kernel are looked up in guest memory. A payload that was not packed is the caller's own.
  if (!hasElfSymbols(vmlinux) && unpacked.buffer !== bzImage.payload?.buffer) discard(unpacked);
  return result;
}

async function loadElf(
  input: LinuxInput,
  protocol: BootProtocol | 'auto',
  elf: ElfImage,
  bzImage?: BzImage,
): Promise<BootResult> {
  const { options, plan } = input;
  const chosen = protocol === 'auto' ? chooseForElf(elf) : protocol;
  switch (chosen) {
    case 'linux64':
      refuseModules(options, chosen);
      return loadLinux64(input, elf, bzImage);
    case 'pvh':
      return loadPvh(options, plan, elf, bzImage);
    case 'multiboot':
      return loadMultiboot(options, plan, elf.file.bytes);
    default:
      throw wrongProtocol(chosen, 'an ELF file');
  }
}

function chooseForElf(elf: ElfImage): BootProtocol {
  if (elf.bits === 64 && linuxVersion(elf) !== undefined) return 'linux64';
  const multiboot = findMultibootHeader(elf.file.bytes);
  if (multiboot !== undefined && (elf.bits === 32 || multiboot.addresses !== undefined)) return 'multiboot';
  if (pvhEntry(elf) !== undefined) return 'pvh';
  if (multiboot !== undefined) return 'multiboot';
  if (elf.bits === 64) return 'linux64';
  throw new TsvError(
    'TSV_E_KERNEL_FORMAT',
    'The kernel is a 32-bit ELF file without a multiboot header or PVH note.',
    {
      hint: 'Give it one of them, so that it is known how to enter it.',
    },
  );
}

function refuseModules(options: BootOptions, protocol: BootProtocol): void {
  if ((options.modules?.length ?? 0) === 0) return;
  throw new TsvError('TSV_E_USAGE', `The ${protocol} protocol has no modules.`, {
    hint: 'Put the files into the initrd, or use multiboot or PVH.',
  });
}

/** Unpacks a kernel file that is compressed as a whole. */
async function unpackWhole(bytes: Uint8Array, what: string): Promise<Uint8Array> {
  const detected = detectKernel(bytes);
  if (detected.kind !== 'compressed') return bytes;
  const { compression } = detected;
  return decompress(bytes, { compression, maxSize: MAX_UNPACKED_KERNEL, what });
}

function wrongProtocol(protocol: BootProtocol, what: string): TsvError {
  return new TsvError(
    'TSV_E_KERNEL_FORMAT',
    `The kernel is ${what}, which the ${protocol} protocol cannot boot.`,
    {
      hint: 'Leave the protocol out to have the one chosen that suits the file.',
    },
  );
}
