/** What a store to code drops, and what it does not. */
import { expect, test } from 'vitest';
import { PageTableBuilder } from '../../../src/memory/page-tables.ts';
import { CodeWatch } from '../../../src/tcg/decode/code-watch.ts';
import { codeBit, PAGE } from '../../../src/tcg/layout.ts';
import { assemble } from '../../support/assemble.ts';
import { TestCpu } from '../machine.ts';

const CODE = 0x2000;
/** A page of functions that the program calls. */
const FUNCTIONS = 0x5000;
const STACK = 0x9000;

function guest(source: string): TestCpu {
  const t = new TestCpu();
  const { cr3 } = new PageTableBuilder(t.memory, { start: 0x10000, end: 0x40000 }).identityMap(0, 4 << 20);
  t.memory.write(CODE, assemble(source, CODE));
  return t.longMode({ cr3: Number(cr3), rip: BigInt(CODE), rsp: BigInt(STACK) });
}

function run(t: TestCpu): void {
  for (let i = 0; i < 100; i++) if (t.cpu.run(10_000) === 'halt') return;
  throw new Error('the guest does not halt');
}

const pageMap = (t: TestCpu, gpa: number) => t.cpu.state.bytes[(t.memory.regions[0].offset + gpa) / PAGE];

/** `mov eax, value; ret` at an offset of the page of functions. */
function define(t: TestCpu, offset: number, value: number): void {
  t.memory.write(FUNCTIONS + offset, Uint8Array.of(0xb8, value, 0, 0, 0, 0xc3));
}

const callBoth = `mov ebx, ${FUNCTIONS}\ncall rbx\nmov r8d, eax\nmov ebx, ${FUNCTIONS + 0x100}\ncall rbx\nmov r9d, eax\nhlt`;

test('a store drops the blocks made of its bytes and no others', () => {
  const t = guest(`${callBoth}\nmov byte ptr [${FUNCTIONS + 1}], 7\njmp _start`);
  define(t, 0, 1);
  define(t, 0x100, 2);
  run(t);
  expect([t.cpu.state.gpr(8), t.cpu.state.gpr(9)]).toEqual([1n, 2n]);
  const { statistics } = t.cpu.blocks;
  run(t);
  expect([t.cpu.state.gpr(8), t.cpu.state.gpr(9)]).toEqual([7n, 2n]);
  expect(statistics.invalidated).toBe(1);
});

test('a store beside the bytes of blocks drops nothing', () => {
  const t = guest(
    `${callBoth}\nmov byte ptr [${FUNCTIONS + 6}], 7\nmov byte ptr [${FUNCTIONS + 0x800}], 7\nhlt`,
  );
  define(t, 0, 1);
  define(t, 0x100, 2);
  run(t);
  run(t);
  expect(t.cpu.blocks.statistics.invalidated).toBe(0);
});

test('a page is marked while it has blocks and no longer', () => {
  const t = guest(`${callBoth}\nmov edi, ${FUNCTIONS}\nmov ecx, 512\nxor eax, eax\nrep stosq\nhlt`);
  define(t, 0, 1);
  define(t, 0x100, 2);
  expect(pageMap(t, FUNCTIONS)).toBe(0);
  run(t);
  expect(pageMap(t, FUNCTIONS)).toBe(codeBit(0));
  run(t);
  expect(pageMap(t, FUNCTIONS)).toBe(0);
});

test('a branch that led to a dropped block leads to what replaced it', () => {
  // The jump and its target are in one page, so they were linked.
  const t = guest(`
    mov r8d, 3
    1: jmp 2f
    .balign 64
    2: mov eax, 1
    add r9d, eax
    dec r8d
    jnz 1b
    hlt
    mov byte ptr [2b + 1], 5
    jmp _start`);
  run(t);
  expect(t.cpu.state.gpr(9)).toBe(3n);
  run(t);
  expect(t.cpu.state.gpr(9)).toBe(18n);
});

test('a function that is mapped twice is dropped for both addresses', () => {
  const high = 0x4000_0000;
  const t = new TestCpu();
  const tables = new PageTableBuilder(t.memory, { start: 0x10000, end: 0x40000 });
  const { cr3 } = tables.identityMap(0, 4 << 20);
  tables.map(BigInt(high), 0, 4 << 20);
  const both = `mov ebx, ${FUNCTIONS}\ncall rbx\nmov r8d, eax\nmov ebx, ${high + FUNCTIONS}\ncall rbx\nmov r9d, eax\nhlt`;
  t.memory.write(CODE, assemble(`${both}\nmov byte ptr [${FUNCTIONS + 1}], 7\njmp _start`, CODE));
  t.longMode({ cr3: Number(cr3), rip: BigInt(CODE), rsp: BigInt(STACK) });
  define(t, 0, 1);
  run(t);
  expect([t.cpu.state.gpr(8), t.cpu.state.gpr(9)]).toEqual([1n, 1n]);
  run(t);
  expect([t.cpu.state.gpr(8), t.cpu.state.gpr(9)]).toEqual([7n, 7n]);
});

test('an instruction across pages is executed as both pages have it', () => {
  const at = FUNCTIONS + PAGE - 2;
  const t = guest(
    `mov ebx, ${at}\ncall rbx\nmov r8d, eax\nhlt\nmov byte ptr [${FUNCTIONS + PAGE}], 9\njmp _start`,
  );
  t.memory.write(at, Uint8Array.of(0xb8, 1, 0, 0, 0, 0xc3));
  run(t);
  expect(t.cpu.state.gpr(8)).toBe(1n);
  run(t);
  expect(t.cpu.state.gpr(8)).toBe(0x901n);
});

test('an instruction across pages follows the page tables', () => {
  const t = new TestCpu();
  const tables = new PageTableBuilder(t.memory, { start: 0x10000, end: 0x40000 });
  const { cr3 } = tables.identityMap(0, 4 << 20);
  const [first, second, other] = [0x1f_f000, 0x20_0000, 0x30_0000];
  const high = 0x4000_0000;
  tables.map(BigInt(high), first, PAGE);
  tables.map(BigInt(high + PAGE), second, PAGE);
  // The same first page with another one behind it.
  tables.map(BigInt(high + 0x10000), first, PAGE);
  tables.map(BigInt(high + 0x10000 + PAGE), other, PAGE);
  t.memory.write(first + PAGE - 2, Uint8Array.of(0xb8, 1));
  t.memory.write(second, Uint8Array.of(2, 0, 0, 0xc3));
  t.memory.write(other, Uint8Array.of(3, 0, 0, 0xc3));
  const call = (base: number) => `mov ebx, ${base + PAGE - 2}\ncall rbx\n`;
  t.memory.write(
    CODE,
    assemble(`${call(high)}mov r8d, eax\n${call(high + 0x10000)}mov r9d, eax\n${call(high)}hlt`, CODE),
  );
  t.longMode({ cr3: Number(cr3), rip: BigInt(CODE), rsp: BigInt(STACK) });
  run(t);
  expect([t.cpu.state.gpr(8), t.cpu.state.gpr(9), t.cpu.state.gpr(0)]).toEqual([0x201n, 0x301n, 0x201n]);
});

test('bytes that a device has written are decoded anew', () => {
  const t = guest(`${callBoth}\njmp _start`);
  define(t, 0, 1);
  define(t, 0x100, 2);
  run(t);
  define(t, 0x100, 8);
  new CodeWatch(t.memory.memories[0], t.memory.regions, 1).wroteGuest(FUNCTIONS + 0x100, 6);
  run(t);
  expect([t.cpu.state.gpr(8), t.cpu.state.gpr(9)]).toEqual([1n, 8n]);
});

test('an instruction from the end of a page to its beginning is dropped by a store to either', () => {
  const t = new TestCpu();
  const tables = new PageTableBuilder(t.memory, { start: 0x10000, end: 0x40000 });
  const { cr3 } = tables.identityMap(0, 4 << 20);
  const high = 0x4000_0000;
  // The same page twice in a row.
  for (const base of [high, high + PAGE]) tables.map(BigInt(base), FUNCTIONS, PAGE);
  const last = FUNCTIONS + PAGE - 1;
  const call = `mov ebx, ${high + PAGE - 2}\ncall rbx\n`;
  const stores = [`mov byte ptr [${FUNCTIONS}], 9`, `mov byte ptr [${last}], 8`];
  const source = `${call}mov r8d, eax\n${stores[0]}\n${call}mov r9d, eax\n${stores[1]}\n${call}hlt`;
  t.memory.write(CODE, assemble(source, CODE));
  t.memory.write(last - 1, Uint8Array.of(0xb8, 1));
  t.memory.write(FUNCTIONS, Uint8Array.of(2, 0, 0, 0xc3));
  t.longMode({ cr3: Number(cr3), rip: BigInt(CODE), rsp: BigInt(STACK) });
  run(t);
  expect([t.cpu.state.gpr(8), t.cpu.state.gpr(9), t.cpu.state.gpr(0)]).toEqual([0x201n, 0x901n, 0x908n]);
});

test('a change of address spaces leaves what is decoded', () => {
  const t = guest(`${callBoth.replace('hlt', '')}\nmov rax, cr3\nmov cr3, rax\nhlt\njmp _start`);
  define(t, 0, 1);
  define(t, 0x100, 2);
  run(t);
  run(t);
  const { decoded } = t.cpu.blocks.statistics;
  for (let i = 0; i < 3; i++) run(t);
  expect(t.cpu.blocks.statistics.decoded).toBe(decoded);
  expect([t.cpu.state.gpr(8), t.cpu.state.gpr(9)]).toEqual([1n, 2n]);
});
