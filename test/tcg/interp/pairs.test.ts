import { expect, test } from 'vitest';
import { PageTableBuilder } from '../../../src/memory/page-tables.ts';
import { assemble } from '../../support/assemble.ts';
import { TestCpu } from '../machine.ts';

const CODE = 0x10000;
const DATA = 0x80000;
const STACK = 0xa0000;
const TABLES = 0xc0000;
const LENGTH = 4000;

/** Instructions whose pairs have handlers of their own; RBX points at data, RSP at a stack. */
const INSTRUCTIONS = [
  'mov rax, rcx',
  'mov rdx, rsi',
  'mov edi, r8d',
  'mov esi, eax',
  'mov [rbx + 8], rcx',
  'mov [rbx + 10], rdx',
  'mov [rbx + 0xffc], rsi',
  'mov rcx, [rbx + 16]',
  'mov rdi, [rbx + 12]',
  'mov r8, [rbx + 0xff9]',
  'push rax',
  'push rdi',
  'pop rdx',
  'pop r8',
  'add eax, ecx',
  'add edx, 0x7ffffff0',
  'add rsi, rax',
  'add rcx, -3',
  'movsxd rdi, eax',
  'movsxd rcx, edx',
  'xor eax, esi',
  'xor ecx, 0x55',
  'rol eax, 7',
  'ror ecx, 13',
  'sub rax, rdx',
  'sub rdx, 1',
  'movzx eax, byte ptr [rbx + 9]',
  'test al, dl',
  'nop dword ptr [rax]',
] as const;

/** A generator of small numbers that gives the same ones every time (Numerical Recipes). */
function numbers(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state >>> 8) % below;
  };
}

/** Runs code to its HLT. */
function run(source: string): { cpu: TestCpu; state: unknown } {
  const cpu = new TestCpu();
  const tables = new PageTableBuilder(cpu.memory, { start: TABLES, end: TABLES + 0x10000 });
  cpu.memory.write(CODE, assemble(`${source}\nhlt`, CODE));
  cpu.longMode({
    cr3: Number(tables.identityMap(0, 4 << 20).cr3),
    rip: BigInt(CODE),
    rsp: BigInt(STACK),
  });
  const { state } = cpu.cpu;
  for (const [number, value] of [0x1234n, 0xfedc_ba98_7654_3210n, 5n].entries()) state.setGpr(number, value);
  state.setGpr(3, BigInt(DATA));
  let outcome = cpu.cpu.run(100_000);
  while (outcome === 'pause' || outcome === 'continue') outcome = cpu.cpu.run(100_000);
  expect(outcome).toBe('halt');
  return {
    cpu,
    state: {
      registers: Array.from({ length: 16 }, (_, i) => state.gpr(i)),
      flags: cpu.cpu.rflags,
      data: Buffer.from(cpu.memory.read(DATA, 0x1010)).toString('hex'),
      stack: Buffer.from(cpu.memory.read(STACK - 0x4000, 0x8000)).toString('hex'),
    },
  };
}

test('instructions do the same in pairs and each in a block of its own', () => {
  const below = numbers(4711);
  const program = Array.from({ length: LENGTH }, () => {
    // Balanced enough: the stack stays within what is compared.
    const instruction = INSTRUCTIONS[below(INSTRUCTIONS.length)];
    return below(12) === 0 ? `${instruction}\njns 1f\nadd rdi, 1\n1:` : instruction;
  });

  const paired = run(program.join('\n'));
  const alone = run(program.map((instruction) => `${instruction}\njmp 2f\n2:`).join('\n'));

  expect(paired.state).toEqual(alone.state);
});

test('the second of a pair that the first has overwritten is executed as it is now', () => {
  const { cpu } = run(`
    lea rbx, [rip + second]
    mov rcx, [rip + new]
    mov [rbx], rcx
  second:
    mov [rbx + 0x100], rcx
    .byte 0x90
    hlt
  new:
    mov eax, 0x77
    nop
    hlt
    nop
  `);
  expect(cpu.cpu.state.gpr(0)).toBe(0x77n);
});
