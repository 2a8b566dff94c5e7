/**
 * Linux by its 64-bit boot protocol (a vmlinux), and by the setup header of a bzImage
 * (Linux Documentation/arch/x86/boot.rst, "32-bit Boot Protocol", "64-bit Boot Protocol").
 */
import { TsvError } from '../errors.ts';
import { buildBootParams } from './boot-params.ts';
import type { BootOptions, BootResult } from './boot-types.ts';
import type { BzImage } from './bzimage.ts';
import { DEFAULT_INITRD_ADDR_MAX, HIGH_LOAD_ADDRESS, XLF_KERNEL_64 } from './bzimage.ts';
import { encodeCmdline, LINUX_CMDLINE_SIZE } from './cmdline.ts';
import type { ElfImage } from './elf.ts';
import { physicalEntry } from './elf.ts';
import { loadSegments } from './elf-load.ts';
import { noSymbols } from './elf-symbols.ts';
import { hex } from './image-bytes.ts';
import { placeInitrd } from './initrd.ts';
import { kernelSymbols } from './kallsyms.ts';
import type { MemoryPlan, NamedRange } from './layout.ts';
import { BOOT_LAYOUT, IDENTITY_MAP_SIZE, mebibytes } from './layout.ts';
import type { SourceFile } from './source-file.ts';

/** Offset of the 64-bit entry point from the start of the protected-mode kernel. */
const STARTUP_64_OFFSET = 0x200;
const BANNER = 'Linux version ';
/** The banner is followed by release, builder, compiler and date. */
const BANNER_SIZE = 512;

/** The options with the parts that are already open. */
export interface LinuxInput {
  readonly options: BootOptions;
  readonly plan: MemoryPlan;
  readonly initrd: SourceFile | undefined;
}

/**
 * Loads a vmlinux for the 64-bit entry: rsi = boot_params, paging on with everything below 4 GiB mapped one to one.
 * @param bzImage the image the vmlinux came out of, when it did
 */
export async function loadLinux64(input: LinuxInput, elf: ElfImage, bzImage?: BzImage): Promise<BootResult> {
  const { options, plan } = input;
  if (elf.bits !== 64) {
    throw new TsvError(
      'TSV_E_KERNEL_FORMAT',
      'A 32-bit kernel cannot be entered by the 64-bit boot protocol.',
      {
        hint: 'Use the bzimage protocol with its bzImage, or multiboot for another 32-bit kernel.',
      },
    );
  }
  const cmdline = encodeCmdline(options.cmdline ?? '', bzImage?.cmdlineSize ?? LINUX_CMDLINE_SIZE);
  const entry = physicalEntry(elf);
  takeBootData(plan, cmdline.length, true);
  const kernel = loadSegments(options.memory, plan, elf);
  const working = Math.max(kernel.size, bzImage?.initSize ?? 0);
  plan.avoid({ name: "kernel's working memory", gpa: kernel.gpa, size: working });
  const initrd = await placeInitrd(
    input,
    bzImage?.initrdAddrMax ?? DEFAULT_INITRD_ADDR_MAX,
    kernel.gpa + working,
  );
  writeBootData(input, { bzImage, loadAddress: kernel.gpa, cmdline, initrd });
  return {
    protocol: 'linux64',
    mode: 'long64',
    entry,
    registers: { rsi: BOOT_LAYOUT.bootParams.gpa, rsp: stackTop() },
    identityMap: { gpa: 0, size: IDENTITY_MAP_SIZE },
    kernelVersion: linuxVersion(elf) ?? releaseOf(bzImage?.versionString),
    symbols: kernelSymbols(options.memory, elf),
    loaded: loadedRanges(kernel, cmdline, initrd),
    warnings: [],
  };
}

/** Loads a bzImage as a boot loader does; the guest unpacks the kernel itself. */
export async function loadBzImage(input: LinuxInput, image: BzImage): Promise<BootResult> {
  const { options, plan } = input;
  const has64 = (image.xloadflags & XLF_KERNEL_64) !== 0;
  const mode = options.bzImageMode ?? (has64 ? 'long64' : 'protected32');
  if (mode === 'long64' && !has64) {
    throw new TsvError('TSV_E_KERNEL_FORMAT', 'The kernel has no 64-bit entry point.', {
      hint: 'Enter it in 32-bit mode; it is a 32-bit kernel or older than Linux 3.8.',
    });
  }
  const cmdline = encodeCmdline(options.cmdline ?? '', image.cmdlineSize);
  takeBootData(plan, cmdline.length, mode === 'long64');
  const loadAddress = chooseLoadAddress(plan, image);
  const runtimeStart = image.relocatable ? loadAddress : image.prefAddress;
  const kernel = { name: 'kernel', gpa: loadAddress, size: image.kernel.length };
  plan.take(kernel);
  const working = Math.max(image.initSize, image.kernel.length);
  if (!plan.isRam(runtimeStart, working)) throw tooLittleMemory(runtimeStart + working);
  plan.avoid({ name: "kernel's working memory", gpa: runtimeStart, size: working });
  options.memory.write(loadAddress, image.kernel);
  const initrd = await placeInitrd(input, image.initrdAddrMax, runtimeStart + working);
  writeBootData(input, { bzImage: image, loadAddress, cmdline, initrd });
  return {
    protocol: 'bzimage',
    mode,
    entry: mode === 'long64' ? loadAddress + STARTUP_64_OFFSET : loadAddress,
    registers: { rsi: BOOT_LAYOUT.bootParams.gpa, rsp: stackTop() },
    identityMap: mode === 'long64' ? { gpa: 0, size: IDENTITY_MAP_SIZE } : undefined,
    kernelVersion: releaseOf(image.versionString),
    symbols: noSymbols,
    loaded: loadedRanges(kernel, cmdline, initrd),
    warnings: [],
  };
}

/** The release of a vmlinux, from its banner; undefined when it is not Linux. */
export function linuxVersion(elf: ElfImage): string | undefined {
  for (const { offset, filesz } of elf.loads) {
    const { buffer, byteOffset } = elf.file.bytes;
    const segment = Buffer.from(buffer, byteOffset + offset, filesz);
    for (let at = segment.indexOf(BANNER); at !== -1; at = segment.indexOf(BANNER, at + 1)) {
      const text = segment.toString('latin1', at + BANNER.length, at + BANNER_SIZE);
      const release = /^(\d[\x21-\x7e]*) \(/.exec(text)?.[1];
      if (release !== undefined) return release;
    }
  }
  return undefined;
}

/** The stack every entry state is given; kernels set up their own. */
export function stackTop(): number {
  return BOOT_LAYOUT.stack.gpa + BOOT_LAYOUT.stack.size;
}

/** Takes what the entry state and the zero page need; page tables only where paging is on. */
export function takeBootData(plan: MemoryPlan, cmdlineSize: number, paging: boolean): void {
  plan.take(BOOT_LAYOUT.gdt);
  plan.take(BOOT_LAYOUT.bootParams);
  plan.take(BOOT_LAYOUT.stack);
  if (paging) plan.take(BOOT_LAYOUT.pageTables);
  plan.take({ ...BOOT_LAYOUT.cmdline, size: cmdlineSize });
}

interface BootData {
  readonly bzImage: BzImage | undefined;
  readonly loadAddress: number;
  readonly cmdline: Uint8Array;
  readonly initrd: NamedRange | undefined;
}

function writeBootData(input: LinuxInput, data: BootData): void {
  const { memory, e820, rsdp } = input.options;
  const { bzImage, loadAddress, cmdline, initrd } = data;
  const cmdlineAddress = BOOT_LAYOUT.cmdline.gpa;
  memory.write(cmdlineAddress, cmdline);
  const page = buildBootParams({ bzImage, loadAddress, cmdlineAddress, initrd, e820, rsdp });
  memory.write(BOOT_LAYOUT.bootParams.gpa, page);
}

/**
 * A relocatable kernel goes to the lowest place from its preferred address on that has the room (the decompressor
 * never runs the kernel below that address); another is loaded at 1 MiB and moves itself there.
 */
function chooseLoadAddress(plan: MemoryPlan, image: BzImage): number {
  if (!image.relocatable) return HIGH_LOAD_ADDRESS;
  const size = Math.max(image.initSize, image.kernel.length);
  const lowest = Math.max(image.prefAddress, HIGH_LOAD_ADDRESS);
  const found = plan.findLow(size, lowest, image.kernelAlignment);
  if (found === undefined) throw tooLittleMemory(lowest + size);
  return found;
}

function tooLittleMemory(end: number): TsvError {
  return new TsvError(
    'TSV_E_KERNEL_LAYOUT',
    `The kernel needs memory up to ${hex(end)} to unpack itself, which this machine does not have.`,
    { hint: `Give the machine at least ${mebibytes(end)} of memory.` },
  );
}

function releaseOf(versionString: string | undefined): string | undefined {
  return versionString?.split(' ')[0];
}

function loadedRanges(kernel: NamedRange, cmdline: Uint8Array, initrd: NamedRange | undefined): NamedRange[] {
  const ranges: NamedRange[] = [
    kernel,
    BOOT_LAYOUT.bootParams,
    { ...BOOT_LAYOUT.cmdline, size: cmdline.length },
  ];
  return initrd === undefined ? ranges : [...ranges, initrd];
}
