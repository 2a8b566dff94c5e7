/** Real-mode guests, as the bytes of their machine code. They are loaded at 0x7C00. */

/** mov dx, 0x3f8 */
const COM1 = [0xba, 0xf8, 0x03];

/** Prints text on the serial port. */
export function print(text: string): number[] {
  return [...COM1, ...[...Buffer.from(text)].flatMap((byte) => [0xb0, byte, 0xee])]; // mov al, byte; out dx, al
}

/** Writes the exit device; the status becomes (value << 1) | 1. */
export function exit(value: number): number[] {
  return [0xb0, value, 0xe6, 0xf4]; // mov al, value; out 0xf4, al
}

/** jmp to itself. */
export const SPIN = [0xeb, 0xfe];

/** Halts with interrupts off, which nothing but the host can end when there is an interrupt controller. */
export const HALT = [0xfa, 0xf4, 0xeb, 0xfd]; // cli; hlt; jmp to the hlt

/** Sends back what it receives, until Ctrl-D; then exits with status 1. */
export const ECHO = [
  ...[0xba, 0xfd, 0x03], // again: mov dx, 0x3fd
  ...[0xec, 0xa8, 0x01, 0x74, 0xfb], // poll: in al, dx; test al, 1; jz poll
  ...[0xba, 0xf8, 0x03, 0xec], // mov dx, 0x3f8; in al, dx
  ...[0x3c, 0x04, 0x74, 0x03], // cmp al, 4; je end
  ...[0xee, 0xeb, 0xed], // out dx, al; jmp again
  ...exit(0),
];

/** Prints without end. */
export const FLOOD = [...COM1, 0xb0, 0x58, 0xee, 0xeb, 0xfd]; // mov al, 'X'; again: out dx, al; jmp again

/** Prints without end, as fast as can be: again: xor si, si; mov cx, 0x8000; rep outsb; jmp again. */
export const STRING_FLOOD = [...COM1, 0x31, 0xf6, 0xb9, 0x00, 0x80, 0xf3, 0x6e, 0xeb, 0xf7];

/** Long mode: UD2 without an IDT. */
export const TRIPLE_FAULT_64 = [0x0f, 0x0b];

/** An ELF64 executable for x86-64 with some code, loaded and entered at 1 MiB (System V ABI, chapter 4). */
export function kernelElf(code: readonly number[]): Uint8Array {
  const base = 0x100000;
  const headers = 64 + 56;
  const file = new Uint8Array(headers + code.length);
  const view = new DataView(file.buffer);
  file.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  view.setUint16(16, 2, true); // e_type ET_EXEC
  view.setUint16(18, 62, true); // e_machine EM_X86_64
  view.setUint32(20, 1, true); // e_version
  view.setBigUint64(24, BigInt(base), true); // e_entry
  view.setBigUint64(32, 64n, true); // e_phoff
  view.setUint16(52, 64, true); // e_ehsize
  view.setUint16(54, 56, true); // e_phentsize
  view.setUint16(56, 1, true); // e_phnum
  view.setUint32(64, 1, true); // p_type PT_LOAD
  view.setUint32(68, 5, true); // p_flags R+X
  view.setBigUint64(72, BigInt(headers), true); // p_offset
  view.setBigUint64(80, BigInt(base), true); // p_vaddr
  view.setBigUint64(88, BigInt(base), true); // p_paddr
  view.setBigUint64(96, BigInt(code.length), true); // p_filesz
  view.setBigUint64(104, BigInt(code.length), true); // p_memsz
  file.set(code, headers);
  return file;
}

/** {@link print} for 64-bit mode. */
export function print64(text: string): number[] {
  return [0x66, ...print(text)]; // the prefix makes it mov dx, imm16 there too
}

/** Shows a shell's prompt, then {@link ECHO} for 64-bit mode. */
export const FAKE_SHELL = [
  ...print64('/ # '),
  ...[0x66, 0xba, 0xfd, 0x03], // again: mov dx, 0x3fd
  ...[0xec, 0xa8, 0x01, 0x74, 0xfb], // poll: in al, dx; test al, 1; jz poll
  ...[0x66, 0xba, 0xf8, 0x03, 0xec], // mov dx, 0x3f8; in al, dx
  ...[0x3c, 0x04, 0x74, 0x03], // cmp al, 4; je end
  ...[0xee, 0xeb, 0xeb], // out dx, al; jmp again
  ...exit(0),
];

/** A program that passes for a static busybox with a shell. */
export function fakeBusybox(): Uint8Array {
  return Buffer.concat([kernelElf([0xf4]), Buffer.from('\0ash\0busybox\0sh\0\0')]);
}
