import { expect, test } from 'vitest';
import { PAGE, S } from '../../../src/tcg/layout.ts';
import { assemble } from '../../support/assemble.ts';
import { TestCpu } from '../machine.ts';

const CODE = 0x10000;
const STACK = 0x9000;
const TABLES = 0x20000;
/** A linear page that the two address spaces map to frames of their own. */
const OWN = 0x30000;
const FRAMES = [0x40000, 0x50000] as const;
const PRESENT_WRITABLE = 3n;
const GLOBAL = 0x100n;
const CR4_PGE = 0x80n;

/** Page tables that map 2 MiB to themselves, but OWN to a frame; pages are global but for that. @returns CR3 */
function addressSpace(t: TestCpu, start: number, frame: number): number {
  const tables = [0, 1, 2, 3].map((i) => start + i * PAGE);
  tables.slice(0, 3).forEach((table, i) => {
    t.memory.writeU64(table, BigInt(tables[i + 1]) | PRESENT_WRITABLE);
  });
  for (let i = 0; i < 512; i++) {
    const page = i * PAGE;
    const entry = page === OWN ? BigInt(frame) : BigInt(page) | GLOBAL;
    t.memory.writeU64(tables[3] + i * 8, entry | PRESENT_WRITABLE);
  }
  return start;
}

test('a change of CR3 changes what pages that are not global mean, to data and to code', () => {
  const t = new TestCpu();
  const spaces = FRAMES.map((frame, i) => addressSpace(t, TABLES + i * 0x4000, frame));
  FRAMES.forEach((frame, i) => {
    // A function that adds its own number to RAX, and data that is added to RBX.
    t.memory.write(frame, assemble(`add rax, ${i + 1}\nret`, OWN));
    t.memory.writeU64(frame + 0x800, BigInt(16 * (i + 1)));
  });
  t.memory.write(
    CODE,
    assemble(
      `
      mov ebp, ${OWN}
      mov ecx, 100
    1:
      ${spaces.map((cr3) => `mov edx, ${cr3}\nmov cr3, rdx\ncall rbp\nadd rbx, [rbp + 0x800]`).join('\n')}
      dec ecx
      jnz 1b
      hlt`,
      CODE,
    ),
  );
  t.longMode({ cr3: spaces[1], rip: BigInt(CODE), rsp: BigInt(STACK) });
  const { state } = t.cpu;
  state.setU64(S.CR4, state.u64(S.CR4) | CR4_PGE);

  let outcome = t.cpu.run(100_000);
  while (outcome === 'pause' || outcome === 'continue') outcome = t.cpu.run(100_000);

  expect(outcome).toBe('halt');
  expect(state.gpr(0)).toBe(300n);
  expect(state.gpr(3)).toBe(4800n);
});

test('translations of global pages outlive a change of CR3, and INVLPG ends them', () => {
  const t = new TestCpu();
  const cr3 = addressSpace(t, TABLES, FRAMES[0]);
  // The entry of a global page, which the guest changes behind the processor's back.
  const entry = TABLES + 3 * PAGE + (0x60000 / PAGE) * 8;
  t.memory.writeU64(0x60000, 1n);
  t.memory.writeU64(0x70000, 2n);
  t.memory.write(
    CODE,
    assemble(
      `
      mov ebx, 0x60000
      mov rax, [rbx]
      mov ecx, ${entry}
      mov qword ptr [rcx], 0x70103
      mov edx, ${cr3}
      mov cr3, rdx
      mov rsi, [rbx]
      invlpg [rbx]
      mov rdi, [rbx]
      hlt`,
      CODE,
    ),
  );
  t.longMode({ cr3, rip: BigInt(CODE), rsp: BigInt(STACK) });
  const { state } = t.cpu;
  state.setU64(S.CR4, state.u64(S.CR4) | CR4_PGE);

  let outcome = t.cpu.run(100_000);
  while (outcome === 'pause' || outcome === 'continue') outcome = t.cpu.run(100_000);

  expect([outcome, state.gpr(0), state.gpr(6), state.gpr(7)]).toEqual(['halt', 1n, 1n, 2n]);
});
