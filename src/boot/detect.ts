/** Telling what a kernel file is by its content. */
import { TsvError } from '../errors.ts';
import { isBzImage } from './bzimage.ts';
import type { Compression } from './compression.ts';
import { detectCompression } from './compression.ts';
import { isElf } from './elf.ts';
import { ImageBytes } from './image-bytes.ts';

/** What a kernel file is. */
export type KernelKind =
  | { readonly kind: 'bzimage' }
  | { readonly kind: 'elf' }
  | { readonly kind: 'compressed'; readonly compression: Compression }
  /** A kernel for another machine. */
  | { readonly kind: 'foreign'; readonly name: string; readonly machine: string }
  /** Something that is no kernel. */
  | { readonly kind: 'other'; readonly name: string; readonly hint: string }
  | { readonly kind: 'unknown' };

/** `magic` of the arm64 Image header, at 56 (Linux Documentation/arch/arm64/booting.rst). */
const ARM64_MAGIC = [0x41, 0x52, 0x4d, 0x64] as const;
/** `magic2` of the RISC-V Image header, at 56 (Documentation/arch/riscv/boot-image-header.rst). */
const RISCV_MAGIC2 = [0x52, 0x53, 0x43, 0x05] as const;
/** Machine field of PE files (PE format, "Machine Types"). */
const PE_MACHINES: Readonly<Record<number, string>> = {
  332: 'x86 (32-bit)',
  448: 'ARM (32-bit)',
  452: 'ARM (32-bit)',
  20530: 'RISC-V 32',
  20580: 'RISC-V 64',
  25138: 'LoongArch 32',
  25188: 'LoongArch 64',
  34404: 'x86-64',
  43620: 'AArch64',
};
const PE_X86 = [0x014c, 0x8664];

const INITRD_HINT = 'Give it as the initrd; the kernel is another file.';
const DISK_HINT = 'Attach it as a disk; the kernel is another file.';
const OTHERS: readonly (readonly [offset: number, magic: string, name: string, hint: string])[] = [
  [0, '070701', 'a cpio archive (an initramfs)', INITRD_HINT],
  [0, '070702', 'a cpio archive (an initramfs)', INITRD_HINT],
  [0, 'QFI\xfb', 'a qcow2 disk image', DISK_HINT],
  [32769, 'CD001', 'an ISO 9660 image', DISK_HINT],
  [
    0,
    '!<arch>\n',
    'an archive (a .deb or .a file)',
    'Take the kernel out of it, for example with dpkg-deb -x.',
  ],
  [257, 'ustar', 'a tar archive', 'Take the kernel out of it.'],
  [0, 'PK\x03\x04', 'a zip archive', 'Take the kernel out of it.'],
  [0, '#!', 'a script', 'Give the kernel itself.'],
  [0, '\xd0\x0d\xfe\xed', 'a device tree or FIT image', 'Give a bzImage or vmlinux.'],
  [0, '\x27\x05\x19\x56', 'a U-Boot uImage', 'Give a bzImage or vmlinux.'],
];

/**
 * Looks at the first bytes of a kernel file; headers are not checked further.
 * @param bytes the file, or at least its first 64 KiB
 */
export function detectKernel(bytes: Uint8Array): KernelKind {
  const file = new ImageBytes(bytes, 'the kernel image');
  // A bzImage is a PE file too (its EFI stub), so the order matters.
  if (isBzImage(bytes)) return { kind: 'bzimage' };
  if (isElf(bytes)) return { kind: 'elf' };
  const compression = detectCompression(bytes);
  if (compression !== undefined) return { kind: 'compressed', compression };
  if (file.startsWith(ARM64_MAGIC, 56)) {
    return { kind: 'foreign', name: 'a Linux Image', machine: 'AArch64' };
  }
  if (file.startsWith(RISCV_MAGIC2, 56)) {
    return { kind: 'foreign', name: 'a Linux Image', machine: 'RISC-V' };
  }
  return detectPe(file) ?? detectOther(file) ?? { kind: 'unknown' };
}

/**
 * The error for a file that no protocol can boot.
 * @param what what the file is called, such as `the kernel /tmp/x`
 */
export function notBootable(kind: KernelKind, what: string): TsvError {
  const subject = what.charAt(0).toUpperCase() + what.slice(1);
  if (kind.kind === 'foreign') {
    return new TsvError('TSV_E_KERNEL_ARCH', `${subject} is ${kind.name} for ${kind.machine}.`, {
      hint: 'Give a kernel built for x86-64.',
    });
  }
  if (kind.kind === 'other') {
    return new TsvError('TSV_E_KERNEL_FORMAT', `${subject} is ${kind.name}, not a kernel.`, {
      hint: kind.hint,
    });
  }
  return new TsvError('TSV_E_KERNEL_FORMAT', `${subject} is in no format that can be booted.`, {
    hint: 'Give a bzImage, a vmlinux or a multiboot kernel; for raw machine code ask for the flat protocol.',
  });
}

function detectPe(file: ImageBytes): KernelKind | undefined {
  if (!file.startsWith([0x4d, 0x5a]) || !file.has(0x3c, 4)) return undefined;
  const at = file.u32(0x3c);
  if (!file.startsWith([0x50, 0x45, 0, 0], at) || !file.has(at + 4, 2)) return undefined;
  const machine = file.u16(at + 4);
  const name = PE_MACHINES[machine] ?? `machine 0x${machine.toString(16)}`;
  if (!PE_X86.includes(machine)) return { kind: 'foreign', name: 'an EFI program', machine: name };
  return {
    kind: 'other',
    name: `an EFI program for ${name}`,
    hint: 'It needs UEFI firmware; give the bzImage or vmlinux (for a unified kernel image, its .linux section).',
  };
}

function detectOther(file: ImageBytes): KernelKind | undefined {
  for (const [offset, magic, name, hint] of OTHERS) {
    if (file.startsWith([...Buffer.from(magic, 'latin1')], offset)) return { kind: 'other', name, hint };
  }
  return undefined;
}
