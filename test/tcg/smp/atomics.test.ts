/** LOCK over several vCPUs that really run at the same time: nothing is lost (SDM vol. 3A 8.1.2). */
import { afterEach, describe, expect, test } from 'vitest';
import { DATA, type Ended, SmpMachine } from './machine.ts';

const VCPUS = 3;
const ROUNDS = 20_000;
/** Accesses that cross 8-byte words stop the other vCPUs each time. */
const SLOW_ROUNDS = 1000;

let machine: SmpMachine;
afterEach(() => machine.close());

/** Runs the same or different loops on all vCPUs; RBX is the counter. */
async function loops(bodies: readonly string[], rounds: number): Promise<Ended[]> {
  machine = new SmpMachine(bodies.length);
  return await machine.run(bodies.map((body) => `mov ebx, ${rounds}\n2:\n${body}\ndec ebx\njnz 2b\nhlt`));
}

const everywhere = (body: string) => Array.from({ length: VCPUS }, () => body);

describe.each([
  ['2 bytes', 'word', 2, 2],
  ['4 bytes', 'dword', 4, 4],
  ['8 bytes', 'qword', 8, 8],
  ['4 bytes, unaligned within a word', 'dword', 4, 1],
  ['2 bytes, unaligned within a word', 'word', 2, 5],
])('aligned or within 8 bytes: %s', (_name, type, size, offset) => {
  test(`no increment is lost`, async () => {
    await loops(everywhere(`lock inc ${type} ptr [${DATA + offset}]`), ROUNDS);
    const total = BigInt(VCPUS * ROUNDS) & ((1n << BigInt(size * 8)) - 1n);
    expect(machine.memory.readU64(DATA + offset) & ((1n << BigInt(size * 8)) - 1n)).toBe(total);
    // The neighbours are as they were.
    expect(machine.memory.readU8(DATA + offset - 1)).toBe(0);
    expect(machine.memory.readU8(DATA + offset + size)).toBe(0);
  }, 60_000);
});

test.each([
  ['crossing 8-byte words', 'dword', DATA + 6],
  ['crossing cache lines', 'qword', DATA + 0x3b],
  ['crossing pages', 'dword', DATA + 0xffe],
  ['crossing pages by one byte', 'qword', DATA + 0xff9],
])(
  'no increment is lost %s',
  async (_name, type, at) => {
    await loops(everywhere(`lock inc ${type} ptr [${at}]`), SLOW_ROUNDS);
    expect(machine.memory.readU32(at)).toBe(VCPUS * SLOW_ROUNDS);
    expect(machine.memory.readU8(at - 1)).toBe(0);
  },
  60_000,
);

test('an access across words and aligned ones to a part of it do not lose each other', async () => {
  const upper = DATA + 8;
  const across = `mov rax, 0x100000000\nlock add qword ptr [${upper - 4}], rax`;
  const ends = await loops(
    [across, `lock inc dword ptr [${upper}]`, `lock inc dword ptr [${upper}]`],
    SLOW_ROUNDS,
  );
  expect(ends.map(({ outcome }) => outcome)).toEqual(['halt', 'halt', 'halt']);
  expect(machine.memory.readU32(upper)).toBe(3 * SLOW_ROUNDS);
}, 60_000);

test('XCHG is a lock without the prefix', async () => {
  machine = new SmpMachine(2);
  // A spin lock across a cache line around a plain increment.
  const lock = DATA + 0x3e;
  const program = `
    mov ebx, 500
    2: mov eax, 1
    xchg dword ptr [${lock}], eax
    test eax, eax
    jz 3f
    pause
    jmp 2b
    3: inc qword ptr [${DATA + 0x100}]
    xor eax, eax
    xchg dword ptr [${lock}], eax
    dec ebx
    jnz 2b
    hlt`;
  await machine.run([program, program]);
  expect(machine.memory.readU64(DATA + 0x100)).toBe(1000n);
}, 60_000);

/** Adds one to both halves of a pair. */
const pair = (at: number) => `
  mov r8, rbx
  mov rax, [${at}]
  mov rdx, [${at + 8}]
  4: lea rbx, [rax + 1]
  lea rcx, [rdx + 1]
  lock cmpxchg16b [${at}]
  jnz 4b
  mov rbx, r8`;

test('LOCK CMPXCHG16B replaces both halves of the same pair', async () => {
  await loops(everywhere(pair(DATA)), 2000);
  expect(machine.memory.readU64(DATA)).toBe(BigInt(VCPUS * 2000));
  expect(machine.memory.readU64(DATA + 8)).toBe(BigInt(VCPUS * 2000));
}, 60_000);

test('LOCK CMPXCHG16B does not overwrite what others do to one half', async () => {
  await loops([pair(DATA), pair(DATA), `lock inc qword ptr [${DATA + 8}]`], 2000);
  expect(machine.memory.readU64(DATA)).toBe(4000n);
  expect(machine.memory.readU64(DATA + 8)).toBe(6000n);
}, 60_000);

test('a vCPU that has halted is not waited for', async () => {
  machine = new SmpMachine(2);
  const [first] = await machine.run([
    `mov ebx, 2000\n2: lock inc dword ptr [${DATA + 6}]\ndec ebx\njnz 2b\nhlt`,
    'hlt',
  ]);
  expect(first.outcome).toBe('halt');
  expect(machine.memory.readU32(DATA + 6)).toBe(2000);
}, 60_000);

test('stores of one vCPU are seen in order by another', async () => {
  machine = new SmpMachine(2);
  // Message passing: data, then a flag; the reader adds up how often it saw the flag before the data.
  const writer = `
    mov ebx, 1
    2: mov [${DATA}], rbx
    mov [${DATA + 0x1000}], rbx
    inc ebx
    cmp ebx, 200000
    jne 2b
    hlt`;
  const reader = `
    xor r9, r9
    2: mov rax, [${DATA + 0x1000}]
    mov rcx, [${DATA}]
    cmp rcx, rax
    adc r9, 0
    cmp rax, 199999
    jne 2b
    hlt`;
  const [, seen] = await machine.run([writer, reader]);
  expect(seen.registers[9]).toBe(0n);
}, 60_000);
