/** Code that another thread changes (SDM vol. 3A 8.1.3). */
import { afterEach, expect, test } from 'vitest';
import { CodeWatch } from '../../../src/tcg/decode/code-watch.ts';
import { assemble } from '../../support/assemble.ts';
import { ALIAS, DATA, SmpMachine } from './machine.ts';

/** Page with the code that is changed, apart from the programs. */
const PATCHED = 0x200000;
const WORD = DATA + 0x100;
const ANSWER = DATA + 0x200;

let machine: SmpMachine;
afterEach(() => machine.close());

/** Waits for a number in WORD, serializes, calls the code, and answers with what it gave. */
function executor(rounds: number, serialize: string): string {
  return `
    xor r8d, r8d
    mov r11d, ${PATCHED}
    call r11
    2: inc r8d
    3: cmp [${WORD}], r8d
    jne 3b
    ${serialize}
    call r11
    cmp eax, r8d
    jne 4f
    mov [${ANSWER}], r8d
    cmp r8d, ${rounds}
    jne 2b
    4: hlt`;
}

/** Changes the immediate of the code to the round's number, and says so. */
function patcher(rounds: number, at: number): string {
  return `
    xor r8d, r8d
    mov r10d, ${at}
    2: inc r8d
    mov [r10 + 1], r8d
    mov [${WORD}], r8d
    3: cmp [${ANSWER}], r8d
    jne 3b
    cmp r8d, ${rounds}
    jne 2b
    hlt`;
}

test.each([
  ['CPUID', 'xor eax, eax\ncpuid'],
  [
    'IRET',
    'mov rax, ss\npush rax\nlea rax, [rsp + 8]\npush rax\npushfq\npush 0x10\nlea rax, [rip + 5f]\npush rax\niretq\n5:',
  ],
  ['MOV to CR3', 'mov rax, cr3\nmov cr3, rax'],
])(
  'what another vCPU has written is executed behind %s',
  async (_name, serialize) => {
    machine = new SmpMachine(2);
    machine.memory.write(PATCHED, assemble('mov eax, 0\nret', PATCHED));
    machine.memory.writeU64(0x60010, 0x00af_9b00_0000_ffffn);
    machine.memory.writeU64(0x60018, 0x00cf_9300_0000_ffffn);
    // IRET reads descriptors.
    machine.memory.write(0x60100, Uint8Array.of(0x1f, 0, 0, 0, 6, 0, 0, 0, 0, 0));
    const rounds = 150;
    const [, executed] = await machine.run([
      patcher(rounds, ALIAS + PATCHED),
      `lgdt [0x60100]\nmov eax, 0x18\nmov ss, eax\n${executor(rounds, serialize)}`,
    ]);
    expect(executed.registers[0]).toBe(BigInt(rounds));
    expect(executed.invalidated).toBeGreaterThan(rounds / 2);
  },
  60_000,
);

test('code that has never been executed is decoded as another vCPU has just written it', async () => {
  machine = new SmpMachine(2);
  // Each round has a page of its own, so that its mark in the page map is always new.
  const rounds = 150;
  for (let i = 1; i <= rounds; i++)
    machine.memory.write(PATCHED + i * 0x1000, Uint8Array.of(0xb8, 0, 0, 0, 0, 0xc3));
  const at = 'mov r11d, r8d\nshl r11d, 12';
  const [, executed] = await machine.run([
    `xor r8d, r8d
     2: inc r8d
     ${at}
     mov [r11 + ${PATCHED} + 1], r8d
     mov [${WORD}], r8d
     3: cmp [${ANSWER}], r8d
     jne 3b
     cmp r8d, ${rounds}
     jne 2b
     hlt`,
    `xor r8d, r8d
     2: inc r8d
     ${at}
     add r11d, ${PATCHED}
     xor r9d, r9d
     3: call r11
     cmp [${WORD}], r8d
     jne 3b
     xor eax, eax
     cpuid
     call r11
     cmp eax, r8d
     jne 4f
     mov [${ANSWER}], r8d
     cmp r8d, ${rounds}
     jne 2b
     4: hlt`,
  ]);
  expect(executed.registers[8]).toBe(BigInt(rounds));
  expect(executed.registers[0]).toBe(BigInt(rounds));
}, 60_000);

const SPIN = '2: mov eax, 1\ntest eax, eax\njnz 2b\nret';

test('a loop that another vCPU changes ends soon, without anything that serializes', async () => {
  machine = new SmpMachine(2);
  machine.memory.write(PATCHED, assemble(SPIN, PATCHED));
  const [, spun] = await machine.run(
    [
      `mov ecx, 200000\n2: dec ecx\njnz 2b\nmov byte ptr [${ALIAS + PATCHED + 1}], 0\nhlt`,
      `mov r11d, ${PATCHED}\ncall r11\nhlt`,
    ],
    2_000_000_000,
  );
  expect(spun.outcome).toBe('halt');
}, 60_000);

test('a loop that a device changes ends soon', async () => {
  machine = new SmpMachine(1);
  machine.memory.write(PATCHED, assemble(`inc qword ptr [${WORD}]\n${SPIN}`, PATCHED));
  const end = machine.run([`mov r11d, ${PATCHED}\ncall r11\nhlt`], 2_000_000_000);
  while (machine.memory.readU64(WORD) === 0n) await new Promise((resolve) => setTimeout(resolve, 1));
  const immediate = PATCHED + assemble(`inc qword ptr [${WORD}]`, PATCHED).length + 1;
  machine.memory.writeU8(immediate, 0);
  new CodeWatch(machine.shared, machine.regions, 1).wroteGuest(immediate, 1);
  const [spun] = await end;
  expect(spun.outcome).toBe('halt');
}, 60_000);

test('more stores to code than can be told one by one make a vCPU drop everything', async () => {
  machine = new SmpMachine(2);
  // Code in each of 4 Ki chunks of 64 bytes; all are changed between two interruptions of the executor.
  const chunks = 4096;
  const code = Uint8Array.of(0xb8, 1, 0, 0, 0, 0xc3);
  for (let i = 0; i < chunks; i++) machine.memory.write(PATCHED + i * 64, code);
  const sum = `
    xor r9d, r9d
    mov r11d, ${PATCHED}
    5: call r11
    add r9d, eax
    add r11d, 64
    cmp r11d, ${PATCHED + chunks * 64}
    jne 5b`;
  const [, executed] = await machine.run([
    `3: cmp dword ptr [${WORD}], 1
     jne 3b
     mov r11d, ${PATCHED}
     2: mov byte ptr [r11 + 1], 2
     add r11d, 64
     cmp r11d, ${PATCHED + chunks * 64}
     jne 2b
     mov dword ptr [${WORD}], 2
     hlt`,
    `${sum}
     mov dword ptr [${WORD}], 1
     3: cmp dword ptr [${WORD}], 2
     jne 3b
     xor eax, eax
     cpuid
     ${sum}
     hlt`,
  ]);
  expect(executed.registers[9]).toBe(BigInt(2 * chunks));
}, 60_000);
