/** Real-mode guests: code that runs wherever it is, as tsvisor loads it with --flat and QEMU with -bios. */

const imm16 = (value) => [value & 0xff, (value >> 8) & 0xff];
const imm32 = (value) => [...imm16(value), ...imm16(value >>> 16)];

/** Size of a firmware image; it ends where real mode's first MiB and the first 4 GiB end. */
const FIRMWARE = 0x10000;
/** Where the processor starts after reset, as an offset into the image (SDM vol. 3, 10.1.4). */
const RESET = 0xfff0;

/** The code as a firmware image: at its start, with a jump there at the reset vector. */
export function firmware(code) {
  const bytes = new Uint8Array(FIRMWARE);
  bytes.set(code);
  bytes.set([0xe9, ...imm16(-(RESET + 3))], RESET);
  return bytes;
}

const COM1 = 0x3f8;
const LSR = COM1 + 5;
const EXIT = [
  ...[0xb0, 0x00], // mov al, 0
  ...[0xe6, 0xf4], // out 0xf4, al: the run ends with status 1
];
const HALT = [0xfa, 0xf4, 0xeb, 0xfd]; // cli; hlt; jmp to the hlt

/** Writes `count` bytes to the serial port, waiting for LSR.THRE before each, and exits. */
export function serialGuest(count) {
  return Uint8Array.from([
    ...[0x66, 0xb9, ...imm32(count)], //  mov ecx, count
    ...[0xba, ...imm16(LSR)], //    next: mov dx, LSR
    0xec, //                        poll: in al, dx
    ...[0xa8, 0x20], //                   test al, THRE
    ...[0x74, 0xfb], //                   jz poll
    ...[0xba, ...imm16(COM1)], //         mov dx, THR
    ...[0xb0, 0x2e], //                   mov al, '.'
    0xee, //                              out dx, al
    ...[0x66, 0x49], //                   dec ecx
    ...[0x75, 0xee], //                   jnz next
    ...EXIT,
    ...HALT,
  ]);
}

/** Its first instructions write a byte to the serial port; then it exits, or halts for good. */
export function firstByteGuest(then) {
  return Uint8Array.from([
    ...[0xba, ...imm16(COM1)], // mov dx, THR
    ...[0xb0, 0x2e], //           mov al, '.'
    0xee, //                      out dx, al
    ...(then === 'exit' ? EXIT : []),
    ...HALT,
  ]);
}
