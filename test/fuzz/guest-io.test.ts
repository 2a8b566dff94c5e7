// needs: kvm
/**
 * Port and MMIO accesses by a guest: an interpreter in the guest carries out lists of (operation, address, value), so
 * that one run makes thousands of accesses through vCPU thread, channel and bus.
 */
import { afterAll, describe, expect, it } from 'vitest';
import { assemble } from '../support/assemble.ts';
import { BoardBench } from './board.ts';
import { programs } from './device-programs.ts';
import { prepare } from './guest-image.ts';
import { HostileMachine } from './hostile-machine.ts';
import { Corpus, patience, Random } from './support.ts';

const SECONDS = 6;
const LIST = 0x60000;
const CODE = 0x10000;
const ENTRY_SIZE = 16;
/** Most accesses of one run; the list ends with an operation that the interpreter does not have. */
const MOST = 2000;
const DONE = 0x5f000;
const OPERATIONS = [
  'in8',
  'in16',
  'in32',
  'out8',
  'out16',
  'out32',
  'r8',
  'r16',
  'r32',
  'r64',
  'w8',
  'w16',
  'w32',
  'w64',
  'insb',
  'outsd',
] as const;
type Operation = (typeof OPERATIONS)[number];

/** R8: the list. An entry: operation (4 bytes), port or repeat count (4), and at 8 the value or address. */
const INTERPRETER = assemble(
  `
  mov r8, ${LIST}
next:
  mov eax, [r8]; mov edx, [r8 + 4]; mov rbx, [r8 + 8]; add r8, ${ENTRY_SIZE}
  cmp eax, ${OPERATIONS.length}; jae done
  lea rcx, [rip + table]; movsxd rax, dword ptr [rcx + rax * 4]; add rcx, rax
  mov rax, rbx; jmp rcx
done:
  mov dword ptr [${DONE}], 0x646e65
  hlt; jmp done
in8: in al, dx; jmp next
in16: in ax, dx; jmp next
in32: in eax, dx; jmp next
out8: out dx, al; jmp next
out16: out dx, ax; jmp next
out32: out dx, eax; jmp next
r8: mov al, [rbx]; jmp next
r16: mov ax, [rbx]; jmp next
r32: mov eax, [rbx]; jmp next
r64: mov rax, [rbx]; jmp next
w8: mov [rbx], dl; jmp next
w16: mov [rbx], dx; jmp next
w32: mov [rbx], edx; jmp next
w64: mov [rbx], rdx; jmp next
insb: mov edi, 0x30000; mov ecx, 37; cld; rep insb; jmp next
outsd: mov esi, 0x30000; mov ecx, 19; cld; rep outsd; jmp next
.balign 4
table: ${OPERATIONS.map((name) => `.long ${name} - table`).join('\n')}
`
    .replaceAll(/(^|\n)(r8|r16|r32|r64|w8|w16|w32|w64): /g, '$1op_$2: ')
    .replaceAll(/\.long (r|w)(\d+) /g, '.long op_$1$2 '),
  CODE,
);

interface Input {
  /** [operation, port, value or address]. */
  accesses: [Operation, number, number][];
}

/** Several vCPU-side modes beside the board's own devices. */
const device = {
  name: 'modes',
  maxAccess: 2,
  registers: [
    { offset: 0, size: 4, read: 'latched', write: 'w1c' },
    { offset: 4, size: 4, write: 'posted' },
    { offset: 9, size: 7, write: 'posted' },
  ],
  read: (offset: number) => (offset % 3 === 0 ? Promise.resolve(offset) : offset),
  write: (offset: number) => (offset % 5 === 0 ? Promise.resolve() : undefined),
  save: () => ({}),
  restore() {},
} as const;
const MMIO = 0xd0000000;
const machine = await HostileMachine.create(
  'pc',
  [[device, { mmio: [{ base: MMIO + 8, size: 64 }], pio: [{ base: 0x2000, size: 64 }] }]],
  2,
);
const ports = [
  ...new BoardBench(2).ports,
  ...Array.from({ length: 68 }, (_, i) => 0x1ffe + i),
  0x40,
  0x20,
  0xa0,
  0x4d0,
  0xffff,
  0,
  0xcf8,
];
afterAll(() => machine[Symbol.asyncDispose]());

function randomAccess(random: Random): Input['accesses'][0] {
  const operation = random.pick(OPERATIONS);
  const value = random.evil32();
  if (!/^[rw]\d/.test(operation))
    return [operation, random.chance(95) ? random.pick(ports) : random.below(0x10000), value];
  const address = random.chance(80)
    ? MMIO + random.below(128)
    : random.pick([0xfee00000, 0xfec00000, 0x40000000]) + random.below(0xff8);
  return [operation, value, address];
}

function make(random: Random): Input {
  const accesses: Input['accesses'] = [];
  while (accesses.length < 1500) {
    if (random.chance(50)) {
      for (const step of random.pick(programs)(random)) {
        if (step[0] === 'in') accesses.push([`in${step[2] * 8}` as Operation, step[1], 0]);
        else if (step[0] === 'out') accesses.push([`out${step[2] * 8}` as Operation, step[1], step[3]]);
      }
    } else for (let n = random.below(40); n > 0; n--) accesses.push(randomAccess(random));
  }
  return { accesses: accesses.slice(0, MOST) };
}

let accesses = 0;
let finished = 0;

async function run(input: Input): Promise<void> {
  const state = prepare(machine.memory, 'long', 'sound', new Random(1));
  const list = new DataView(new ArrayBuffer((input.accesses.length + 1) * ENTRY_SIZE));
  for (const [i, [operation, port, value]] of input.accesses.entries()) {
    list.setUint32(i * ENTRY_SIZE, OPERATIONS.indexOf(operation), true);
    list.setUint32(i * ENTRY_SIZE + 4, port, true);
    list.setBigUint64(i * ENTRY_SIZE + 8, BigInt(value), true);
  }
  list.setUint32(input.accesses.length * ENTRY_SIZE, 0xffffffff, true);
  machine.memory.write(LIST, new Uint8Array(list.buffer));
  machine.memory.write(CODE, INTERPRETER);
  // Devices may ask for the end of the machine in the middle: the run is over then.
  state.regs.rflags = 2n;
  const end = await machine.run(state, 400, () => machine.memory.readU32(DONE) !== 0);
  accesses += input.accesses.length;
  if (machine.memory.readU32(DONE) !== 0) finished++;
  expect(['paused', 'stopped', 'halted', 'shutdown']).toContain(end);
}

describe('a guest that tries every port and register', () => {
  it(
    'is answered, and nothing else happens',
    async () => {
      const count = await new Corpus<Input>('guest-io').run({ seconds: SECONDS, make }, run);

      expect(machine.intact).toBe(true);
      expect(finished).toBeGreaterThan(0);
      if (process.env.TSVISOR_FUZZ_SECONDS)
        console.log(`${accesses} accesses in ${count} runs, ${finished} to the end`);
    },
    patience(SECONDS),
  );
});
