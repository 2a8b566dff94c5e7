import { expect, test } from 'vitest';
import type { DirtyBitmap } from '../../../src/memory/dirty-bitmap.ts';
import { PageTableBuilder } from '../../../src/memory/page-tables.ts';
import { CodeWatch } from '../../../src/tcg/decode/code-watch.ts';
import { DirtyLog } from '../../../src/tcg/dirty-log.ts';
import { assemble } from '../../support/assemble.ts';
import { TestCpu } from '../machine.ts';

const CODE = 0x2000;
const STACK = 0x9000;
const DATA = 0x80000;
const TABLES = { start: 0x10000, end: 0x40000 };

/** A guest in 64-bit mode, and the log of its memory. */
function guest(source: string): { t: TestCpu; log: DirtyLog } {
  const t = new TestCpu();
  const { cr3 } = new PageTableBuilder(t.memory, TABLES).identityMap(0, 4 << 20);
  t.memory.write(CODE, assemble(source, CODE));
  t.longMode({ cr3: Number(cr3), rip: BigInt(CODE), rsp: BigInt(STACK) });
  const { regions, memories } = t.memory;
  return { t, log: new DirtyLog(memories[0], regions) };
}

function run(t: TestCpu): void {
  for (let i = 0; i < 100; i++) if (t.cpu.run(10_000) === 'halt') return;
  throw new Error('the guest does not halt');
}

/** Guest-physical addresses of the marked pages, without page tables. */
function pages([bitmap]: DirtyBitmap[]): string[] {
  return [...bitmap.runs()]
    .flatMap(({ page, count }) => Array.from({ length: count }, (_, i) => (page + i) * 0x1000))
    .filter((gpa) => gpa < TABLES.start || gpa >= TABLES.end)
    .map((gpa) => gpa.toString(16));
}

test.each([
  ['a plain store', `mov byte ptr [${DATA}], 1`, ['80000']],
  ['a store across pages', `mov qword ptr [${DATA + 0xffc}], 1`, ['80000', '81000']],
  ['a push', 'push rax', ['8000']],
  ['LOCK', `lock inc dword ptr [${DATA}]`, ['80000']],
  ['LOCK across words', `lock inc dword ptr [${DATA + 6}]`, ['80000']],
  ['LOCK across pages', `lock inc dword ptr [${DATA + 0xffe}]`, ['80000', '81000']],
  ['CMPXCHG16B', `cmpxchg16b [${DATA}]`, ['80000']],
  ['LOCK CMPXCHG16B', `lock cmpxchg16b [${DATA}]`, ['80000']],
  ['REP STOS', `mov edi, ${DATA}\nmov ecx, 0x400\nrep stosq`, ['80000', '81000']],
  ['REP MOVS', `mov esi, ${CODE}\nmov edi, ${DATA}\nmov ecx, 0x1800\nrep movsb`, ['80000', '81000']],
  ['an SSE store', `movups [${DATA + 8}], xmm0`, ['80000']],
  ['an x87 store', `fld1\nfstp tbyte ptr [${DATA}]`, ['80000']],
  ['FXSAVE', `fxsave [${DATA}]`, ['80000']],
  ['a descriptor table register', `sgdt [${DATA}]`, ['80000']],
  ['a load', `mov eax, [${DATA}]`, []],
])('%s marks the pages it writes', (_name, source, expected) => {
  const { t, log } = guest(`${source}\nhlt`);
  run(t);
  expect(pages(log.take())).toEqual(expected);
  expect(pages(log.take())).toEqual([]);
});

test('a page that stays in the TLB is recorded anew after each take', () => {
  const { t, log } = guest(`1: mov byte ptr [${DATA}], 1\nhlt\njmp 1b`);
  for (let i = 0; i < 3; i++) {
    run(t);
    expect(pages(log.take())).toEqual(['80000']);
  }
});

test('the accessed and dirty bits of a page walk mark the page table', () => {
  const { t, log } = guest(`mov byte ptr [${DATA}], 1\nhlt`);
  run(t);
  const [bitmap] = log.take();
  const tables = [...bitmap.runs()].filter(
    ({ page }) => page * 0x1000 >= TABLES.start && page < TABLES.end >> 12,
  );
  expect(tables.length).toBeGreaterThan(0);
});

test('what a device has written is recorded when it says so', () => {
  const { t, log } = guest('hlt');
  const { regions, memories } = t.memory;
  new CodeWatch(memories[0], regions, 1).wroteGuest(DATA + 0xfff, 0x1002);
  expect(pages(log.take())).toEqual(['80000', '81000', '82000']);
});
