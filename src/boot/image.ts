/** One entry to all boot protocols: a kernel file in, guest memory filled and entry state out. */
import { TsvError } from '../errors.ts';
import type { BootOptions, BootProtocol, BootResult } from './boot-types.ts';
import type { BzImage } from './bzimage.ts';
import { parseBzImage, unpackPayload } from './bzimage.ts';
import { decompress } from './decompress.ts';
import { detectKernel, notBootable } from './detect.ts';
import type { ElfImage } from './elf.ts';
import { parseElf } from './elf.ts';
import { loadFlat } from './flat.ts';
import { MemoryPlan } from './layout.ts';
import type { LinuxInput } from './linux.ts';
import { loadBzImage, loadLinux64 } from './linux.ts';
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

/** The kernel as far as it is known before a protocol is chosen. */
interface Kernel {
  readonly bytes: Uint8Array;
  readonly bzImage?: BzImage;
  readonly what: string;
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
      return loadLinuxImage(input, protocol, { bytes, bzImage, what });
    }
    case 'elf':
      return loadElf(input, protocol, parseElf(bytes, what));
    default:
      throw notBootable(detected, what);
  }
}

async function loadLinuxImage(
  input: LinuxInput,
  protocol: BootProtocol | 'auto',
  kernel: Required<Kernel>,
): Promise<BootResult> {
  const { bzImage, what } = kernel;
  if (protocol === 'bzimage') return loadBzImage(input, bzImage);
  // Older kernels do not say where their payload is, and a 32-bit one cannot be entered by the 64-bit protocol.
  if (protocol === 'auto' && bzImage.payload === undefined) return loadBzImage(input, bzImage);
  const vmlinux = await unpackPayload(bzImage);
  const is64 = vmlinux[4] === 2;
  if (protocol === 'auto' && !is64) return loadBzImage(input, bzImage);
  return loadElf(input, protocol, parseElf(vmlinux, `${what}'s vmlinux`), bzImage);
}

async function loadElf(
  input: LinuxInput,
  protocol: BootProtocol | 'auto',
  elf: ElfImage,
  bzImage?: BzImage,
): Promise<BootResult> {
  if (protocol === 'auto' || protocol === 'linux64') return loadLinux64(input, elf, bzImage);
  throw wrongProtocol(protocol, 'an ELF file');
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
