/** Which translations a write of CR3 and INVLPG void, of data and of code (SDM vol. 3A 4.10). */
import { expect, test } from 'vitest';
import { PageTableBuilder } from '../../../src/memory/page-tables.ts';
import { S } from '../../../src/tcg/layout.ts';
import { assemble } from '../../support/assemble.ts';
import { TestCpu } from '../machine.ts';

const CODE = 0x2000;
const STACK = 0x9000;
/** A page of its own, at one of two places in RAM. */
const LINEAR = 0x4000_0000;
const PLACES = [0x200000, 0x300000] as const;
const GLOBAL = 0x100n;
const LARGE = 0x80n;
const CR4_PGE = 0x80n;
/** What is read and called at LINEAR: `mov eax, n; ret`. */
const contents = (n: number) => Uint8Array.of(0xb8, n, 0, 0, 0, 0xc3);
const READ = `mov ecx, ${LINEAR}\nmov ebx, [rcx + 1]\ncall rcx\nmov edx, eax\nhlt`;

/** Where the entry of the page at a linear address is, of whatever size. */
function leaf(t: TestCpu, cr3: number, linear: number): number {
  let table = cr3;
  for (const shift of [39, 30, 21, 12]) {
    const at = table + (Math.floor(linear / 2 ** shift) % 512) * 8;
    const entry = t.memory.readU64(at);
    if (shift === 12 || (entry & LARGE) !== 0n) return at;
    table = Number(entry & ~0xfffn);
  }
  throw new Error('no entry');
}

/** A guest that reads and calls what is at LINEAR, each time it is run, and between these what `between` says. */
function guest(between: string): { t: TestCpu; entry: number; code: number } {
  const t = new TestCpu();
  const tables = new PageTableBuilder(t.memory, { start: 0x10000, end: 0x40000 });
  const { cr3 } = tables.identityMap(0, 4 << 20);
  tables.map(BigInt(LINEAR), PLACES[0], 0x1000);
  PLACES.forEach((place, i) => {
    t.memory.write(place, contents(i + 1));
  });
  t.memory.write(CODE, assemble(`${READ}\n${between}\njmp _start`, CODE));
  t.longMode({ cr3: Number(cr3), rip: BigInt(CODE), rsp: BigInt(STACK) });
  return { t, entry: leaf(t, Number(cr3), LINEAR), code: leaf(t, Number(cr3), CODE) };
}

/** Runs to the next HLT. @returns what was read and what the call gave */
function run(t: TestCpu): [bigint, bigint] {
  for (let i = 0; i < 100; i++)
    if (t.cpu.run(10_000) === 'halt') return [t.cpu.state.gpr(3), t.cpu.state.gpr(2)];
  throw new Error('the guest does not halt');
}

/** Moves LINEAR to its second place. */
function remap({ t, entry }: { t: TestCpu; entry: number }): void {
  t.memory.writeU64(entry, (t.memory.readU64(entry) & 0xfffn) | BigInt(PLACES[1]));
}

const RELOAD = 'mov rax, cr3\nmov cr3, rax';
const TOGGLE = 'mov rax, cr4\nxor eax, 0x80\nmov cr4, rax\nxor eax, 0x80\nmov cr4, rax';

test.each([
  ['a write of CR3', RELOAD],
  ['INVLPG', `invlpg [${LINEAR + 0x123}]`],
  ['a change of CR4.PGE', TOGGLE],
])('%s makes a changed entry count', (_name, between) => {
  const g = guest(between);
  expect(run(g.t)).toEqual([1n, 1n]);
  remap(g);
  expect(run(g.t)).toEqual([2n, 2n]);
});

test.each([
  ['INVLPG', `invlpg [${LINEAR}]`],
  ['a change of CR4.PGE', TOGGLE],
])('%s makes a changed entry of a global page count', (_name, between) => {
  const g = guest(`${RELOAD}\n${between}`);
  g.t.cpu.state.setU64(S.CR4, g.t.cpu.state.u64(S.CR4) | CR4_PGE);
  g.t.memory.writeU64(g.entry, g.t.memory.readU64(g.entry) | GLOBAL);
  expect(run(g.t)).toEqual([1n, 1n]);
  remap(g);
  expect(run(g.t)).toEqual([2n, 2n]);
});

test('what was found of a global page outlives a write of CR3, and blocks made of it', () => {
  const g = guest(RELOAD);
  g.t.cpu.state.setU64(S.CR4, g.t.cpu.state.u64(S.CR4) | CR4_PGE);
  // A kernel's own code is in global pages.
  for (const at of [g.entry, g.code]) g.t.memory.writeU64(at, g.t.memory.readU64(at) | GLOBAL);
  expect(run(g.t)).toEqual([1n, 1n]);
  remap(g);
  expect(run(g.t)).toEqual([1n, 1n]);
});

test('the bit means nothing without CR4.PGE', () => {
  const g = guest(RELOAD);
  g.t.cpu.state.setU64(S.CR4, g.t.cpu.state.u64(S.CR4) & ~CR4_PGE);
  // A kernel's own code is in global pages.
  for (const at of [g.entry, g.code]) g.t.memory.writeU64(at, g.t.memory.readU64(at) | GLOBAL);
  expect(run(g.t)).toEqual([1n, 1n]);
  remap(g);
  expect(run(g.t)).toEqual([2n, 2n]);
});

test('INVLPG anywhere in a large page makes its changed entry count', () => {
  // The page of 2 MiB with PLACES[0] is mapped once more; the call is far from the address of INVLPG.
  const t = new TestCpu({ ram: 8 << 20 });
  const tables = new PageTableBuilder(t.memory, { start: 0x10000, end: 0x40000 });
  const { cr3 } = tables.identityMap(0, 8 << 20);
  tables.map(BigInt(LINEAR), 0x200000, 2 << 20);
  let table = Number(cr3);
  for (const shift of [39, 30]) {
    table = Number(t.memory.readU64(table + (Math.floor(LINEAR / 2 ** shift) % 512) * 8) & ~0xfffn);
  }
  const entry = table + (Math.floor(LINEAR / 2 ** 21) % 512) * 8;
  expect(t.memory.readU64(entry) & 0x80n).toBe(0x80n);
  t.memory.write(0x200000, contents(1));
  t.memory.write(0x400000, contents(2));
  t.memory.write(CODE, assemble(`${READ}\ninvlpg [${LINEAR + 0x1f_f000}]\njmp _start`, CODE));
  t.longMode({ cr3: Number(cr3), rip: BigInt(CODE), rsp: BigInt(STACK) });
  expect(run(t)).toEqual([1n, 1n]);
  t.memory.writeU64(entry, (t.memory.readU64(entry) & 0x1fffn) | 0x400000n);
  expect(run(t)).toEqual([2n, 2n]);
});
