/** The guests of the loop benchmark: 64-bit code that takes the time of every piece of a loop and prints the list. */
import { imm32, pvhKernel, ROOM, STACK, TABLE_ADDRESS, TABLE_SIZE } from './pvh-kernel.mjs';

const COM1 = 0x3f8;
const LSR = COM1 + 5;
const SCRATCH = COM1 + 7;

/** Iterations after which the branch mix repeats: it goes through the table in steps of 3. */
const PERIOD = TABLE_SIZE;

/**
 * The loops: code that counts RCX down to zero, and the instructions that one iteration executes. RSI points at the
 * table, RBX is an index into it that starts at 0; RAX and RDX are free.
 */
const LOOPS = {
  'dec/jnz': {
    code: [
      ...[0x48, 0xff, 0xc9], // 1: dec rcx
      ...[0x75, 0xfb], //          jnz 1b
    ],
    instructions: 2,
  },
  'load/store': {
    code: [
      ...[0x48, 0x8b, 0x06], //       1: mov rax, [rsi]
      ...[0x48, 0x01, 0xc8], //          add rax, rcx
      ...[0x48, 0x89, 0x46, 0x08], //    mov [rsi + 8], rax
      ...[0x48, 0xff, 0xc9], //          dec rcx
      ...[0x75, 0xf1], //                jnz 1b
    ],
    instructions: 5,
  },
  'call/ret': {
    code: [
      ...[0xe8, 7, 0, 0, 0], //   1: call 2f
      ...[0x48, 0xff, 0xc9], //      dec rcx
      ...[0x75, 0xf6], //            jnz 1b
      ...[0xeb, 0x01], //            jmp 3f
      0xc3, //                    2: ret
    ], //                         3:
    instructions: 4,
  },
  'branch mix': {
    code: [
      ...[0x0f, 0xb6, 0x04, 0x1e], //             1: movzx eax, byte [rsi + rbx]
      ...[0x83, 0xc3, 0x03], //                      add ebx, 3
      ...[0x81, 0xe3, ...imm32(PERIOD - 1)], //      and ebx, PERIOD - 1
      ...[0xa8, 0x01], //                            test al, 1
      ...[0x75, 0x0d], //                            jnz 2f
      ...[0x8d, 0x14, 0x83], //                      lea edx, [rbx + rax * 4]
      ...[0x31, 0xc2], //                            xor edx, eax
      ...[0x83, 0xe2, 0x0f], //                      and edx, 15
      ...[0x83, 0xfa, 0x05], //                      cmp edx, 5
      ...[0x77, 0x02], //                            ja 3f
      0x52, //                                    2: push rdx
      0x5a, //                                       pop rdx
      ...[0x48, 0xff, 0xc9], //                   3: dec rcx
      ...[0x75, 0xdb], //                            jnz 1b
    ],
    instructions: mixInstructions(table()) / PERIOD,
  },
};

/** The names of the loops. */
export const LOOP_NAMES = Object.keys(LOOPS);

/** Bytes without a pattern, the same each time: a linear congruential generator. */
function table() {
  const bytes = new Uint8Array(TABLE_SIZE);
  let state = 1;
  for (let i = 0; i < bytes.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    bytes[i] = state >>> 24;
  }
  return bytes;
}

/** The instructions that one period of the branch mix executes: the loop over again, counting. */
function mixInstructions(bytes) {
  let count = 0;
  for (let i = 0, index = 0; i < PERIOD; i++) {
    const value = bytes[index];
    index = (index + 3) % PERIOD;
    count += 7;
    if ((value & 1) === 0) {
      count += 5;
      if ((((index + value * 4) ^ value) & 15) > 5) continue;
    }
    count += 2;
  }
  return count;
}

/** About how many instructions a piece has: some ms. */
const PIECE = 1 << 20;

/**
 * A guest that runs a loop in pieces.
 *
 * It prints `S`, runs all pieces, prints `E`, then the time-stamp counter's values as 8 bytes each: before the first piece
 * and after each; then it ends the run with status 1.
 * @returns { kernel, instructions }: the file and the instructions of a piece
 */
export function loopGuest(name, pieces) {
  const loop = LOOPS[name];
  const iterations = PERIOD * Math.round(PIECE / loop.instructions / PERIOD);
  const piece = [0xb9, ...imm32(iterations), ...loop.code, ...stamp()]; // mov ecx, iterations; ...
  const length = piece.length + 3 + 6;
  const code = [
    ...[0xbc, ...imm32(STACK)], //              mov esp, STACK
    ...[0xbf, ...imm32(ROOM)], //               mov edi, ROOM
    ...print([0xb0, 0x53]), //                  mov al, 'S'
    // The write of the scratch register is answered after the byte has gone out.
    ...[0xba, ...imm32(SCRATCH), 0xee], //      mov edx, SCRATCH; out dx, al
    ...[0x31, 0xdb], //                         xor ebx, ebx
    ...[0xbe, ...imm32(TABLE_ADDRESS)], //      mov esi, TABLE_ADDRESS
    ...[0x41, 0xb8, ...imm32(pieces)], //       mov r8d, pieces
    ...stamp(),
    ...piece,
    ...[0x41, 0xff, 0xc8], //                   dec r8d
    ...[0x0f, 0x85, ...imm32(-length)], //      jnz piece
    ...print([0xb0, 0x45]), //                  mov al, 'E'
    ...[0xbe, ...imm32(ROOM)], //               mov esi, ROOM
    ...[0xb9, ...imm32((pieces + 1) * 8)], //   mov ecx, bytes
    ...print([0xac]), //                     1: lodsb
    ...[0xff, 0xc9], //                         dec ecx
    ...[0x75, -(print([0xac]).length + 4) & 0xff], // jnz 1b
    ...[0xb0, 0x00, 0xe6, 0xf4], //             mov al, 0; out 0xf4, al
    ...[0xfa, 0xf4, 0xeb, 0xfd], //             cli; hlt; jmp to the hlt
  ];
  return { kernel: pvhKernel(code, table()), instructions: iterations * loop.instructions };
}

/** Appends the time-stamp counter to the list at RDI. */
function stamp() {
  return [
    ...[0x0f, 0x31], //             rdtsc
    ...[0x48, 0xc1, 0xe2, 0x20], // shl rdx, 32
    ...[0x48, 0x09, 0xd0], //       or rax, rdx
    ...[0x48, 0xab], //             stosq
  ];
}

/** Prints AL, which `load` has set, when the port is ready. */
function print(load) {
  return [
    ...[0xba, ...imm32(LSR)], //    mov edx, LSR
    0xec, //                     1: in al, dx
    ...[0xa8, 0x20], //             test al, THRE
    ...[0x74, 0xfb], //             jz 1b
    ...[0xba, ...imm32(COM1)], //   mov edx, COM1
    ...load,
    0xee, //                        out dx, al
  ];
}
