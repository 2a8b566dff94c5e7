/** Small guests for mechanisms of the system, on the tcg engine alone. */
import { expect, test } from 'vitest';
import { PageTableBuilder } from '../../src/memory/page-tables.ts';
import type { Outcome } from '../../src/tcg/cpu.ts';
import { S } from '../../src/tcg/layout.ts';
import { assemble } from '../support/assemble.ts';
import { TestCpu } from './machine.ts';

const CODE = 0x2000;
const IDT = 0x5000;
const GDT = 0x6000;
const STACK = 0x9000;
const TABLES = 0x10000;
const RAM = 4 << 20;
/** Mapped, without RAM. */
const DEVICE = 0x500000;
const HANDLER = 0x3000;
const CS = 0x10;

/** A guest in 64-bit mode at CPL 0 whose exceptions go to HANDLER, which halts. */
function guest(source: string, cpl: 0 | 3 = 0): TestCpu {
  const t = new TestCpu({ ram: RAM });
  const { cr3 } = new PageTableBuilder(t.memory, { start: TABLES, end: 0x40000 }).identityMap(0, 8 << 20, {
    user: true,
  });
  t.memory.write(CODE, assemble(source, CODE));
  t.memory.write(HANDLER, Uint8Array.of(0xf4));
  t.memory.writeU64(GDT + CS, 0x00af_9b00_0000_ffffn);
  for (let vector = 0; vector < 32; vector++) {
    t.memory.writeU64(IDT + vector * 16, BigInt(HANDLER) | (BigInt(CS) << 16n) | (0x8e00n << 32n));
    t.memory.writeU64(IDT + vector * 16 + 8, 0n);
  }
  t.longMode({ cr3: Number(cr3), rip: BigInt(CODE), rsp: BigInt(STACK), cpl });
  const { state } = t.cpu;
  state.setU64(S.GDT_BASE, BigInt(GDT));
  state.setI32(S.GDT_LIMIT, 0xff);
  state.setU64(S.IDT_BASE, BigInt(IDT));
  state.setI32(S.IDT_LIMIT, 0x1ff);
  return t;
}

/** Runs until something other than the budget ends it. */
function run(t: TestCpu): Outcome {
  for (let i = 0; i < 1000; i++) {
    const outcome = t.cpu.run(1000);
    if (outcome !== 'continue' && outcome !== 'pause') return outcome;
  }
  throw new Error('the guest does not stop');
}

/** The frame on the stack after an exception with an error code: error, RIP, CS, RFLAGS, RSP, SS. */
function frame(t: TestCpu): bigint[] {
  const rsp = Number(t.cpu.state.gpr(4));
  return Array.from({ length: 6 }, (_, i) => t.memory.readU64(rsp + i * 8));
}

test('a page fault pushes the error code and the address of the instruction, and sets CR2', () => {
  const t = guest('mov rax, 0x1111\nmov rbx, 0x12345678\nadd rax, 1\nmov [rbx], rax\nhlt');
  expect(run(t)).toBe('halt');
  expect(t.cpu.state.u64(S.CR2)).toBe(0x12345678n);
  const [error, rip, cs, , rsp] = frame(t);
  expect([error, cs, rsp]).toEqual([2n, BigInt(CS), BigInt(STACK)]);
  expect(t.memory.readU8(Number(rip))).toBe(0x48);
  expect(t.cpu.state.gpr(0)).toBe(0x1112n);
});

test('a fault in the middle of a block leaves earlier results and no later ones', () => {
  const t = guest('mov ecx, 5\nmov rbx, 0x12345678\npush [rbx]\nmov ecx, 6\nhlt');
  run(t);
  expect(t.cpu.state.gpr(1)).toBe(5n);
  expect(frame(t)[4]).toBe(BigInt(STACK));
});

test('an MMIO read-modify-write is two exits and one instruction', () => {
  const t = guest(`mov ebx, ${DEVICE}\nadd dword ptr [rbx], 5\nhlt`);
  expect(run(t)).toBe('device');
  expect(t.cpu.log.pending).toMatchObject({ kind: 'mmio', address: DEVICE, write: false });
  t.cpu.log.pending!.data.set([7, 0, 0, 0]);
  expect(run(t)).toBe('device');
  expect(t.cpu.log.pending).toMatchObject({ write: true, data: Uint8Array.of(12, 0, 0, 0) });
  expect(run(t)).toBe('halt');
});

test('a repeated store to a device is one exit for each element', () => {
  const t = guest(`mov edi, ${DEVICE}\nmov ecx, 3\nmov al, 9\nrep stosb\nhlt`);
  const addresses: number[] = [];
  while (run(t) === 'device') addresses.push(t.cpu.log.pending!.address);
  expect(addresses).toEqual([DEVICE, DEVICE + 1, DEVICE + 2]);
  expect(t.cpu.state.gpr(1)).toBe(0n);
});

test('IN takes what the device gives, of its size only', () => {
  const t = guest('mov rax, -1\nmov dx, 0x3f8\nin al, dx\nhlt');
  expect(run(t)).toBe('device');
  expect(t.cpu.log.pending).toMatchObject({ kind: 'port', address: 0x3f8 });
  t.cpu.log.pending!.data[0] = 0x42;
  expect(run(t)).toBe('halt');
  expect(t.cpu.state.gpr(0)).toBe(0xffff_ffff_ffff_ff42n);
});

test('code that is written is executed as written, also ahead in the same block', () => {
  const t = guest('lea rbx, [rip + 1f]\nmov byte ptr [rbx + 1], 42\nnop\n1: mov al, 1\nhlt');
  expect(run(t)).toBe('halt');
  expect(t.cpu.state.gpr(0) & 0xffn).toBe(42n);
});

test('code written through another virtual address is seen', () => {
  const t = guest(
    'call 1f\nmov ebx, 0x200000 + (1f - _start) + 0x2000\nmov byte ptr [rbx + 1], 7\ncall 1f\nhlt\n1: mov al, 1\nadd ah, al\nret',
  );
  // 2 MiB up the same page is mapped again.
  const tables = new PageTableBuilder(t.memory, { start: 0x40000, end: 0x60000 }).identityMap(0, 2 << 20);
  tables.map(BigInt(0x200000), 0, 2 << 20);
  t.cpu.system.registers.writeCr(3, tables.cr3);
  expect(run(t)).toBe('halt');
  expect(t.cpu.state.gpr(0)).toBe(0x0807n);
});

test('an access across a page boundary faults before it writes anything', () => {
  const end = 8 << 20;
  const t = guest(`mov ebx, ${end - 4}\nmov rax, -1\nmov [rbx], rax\nhlt`);
  run(t);
  expect(t.cpu.state.u64(S.CR2)).toBe(BigInt(end));
});

test('SYSCALL and SYSRET switch privilege and keep what they must', () => {
  const t = guest('syscall\nmov ebx, 1\nhlt', 3);
  t.memory.write(HANDLER, assemble('mov r8, rsp\nsysretq', HANDLER));
  const { state } = t.cpu;
  state.setU64(S.STAR, (0x10n << 32n) | (0x20n << 48n));
  state.setU64(S.LSTAR, BigInt(HANDLER));
  state.setU64(S.FMASK, 0x200n);
  const seen: bigint[] = [];
  t.cpu.system.raise = (vector) => {
    seen.push(BigInt(vector), BigInt(state.cpl));
    return false;
  };
  expect(run(t)).toBe('shutdown');
  // HLT at CPL 3 is #GP.
  expect(seen).toEqual([13n, 3n]);
  expect([state.gpr(3), state.gpr(8), state.gpr(1)]).toEqual([1n, BigInt(STACK), BigInt(CODE + 2)]);
});

test('a fault while delivering a double fault shuts down', () => {
  const t = guest('ud2');
  t.cpu.state.setI32(S.IDT_LIMIT, 0);
  expect(run(t)).toBe('shutdown');
});

test('HLT is left behind itself', () => {
  const t = guest('hlt\nmov eax, 5\nhlt');
  expect(run(t)).toBe('halt');
  expect(t.cpu.state.rip).toBe(BigInt(CODE + 1));
  expect(run(t)).toBe('halt');
  expect(t.cpu.state.gpr(0)).toBe(5n);
});

test('TF traps after each instruction', () => {
  const t = guest('pushfq\nor dword ptr [rsp], 0x100\npopfq\nmov eax, 1\nmov eax, 2\nhlt');
  expect(run(t)).toBe('halt');
  expect(t.cpu.state.gpr(0) & 0xffn).toBe(1n);
  expect(t.cpu.state.u64(S.DR + 48) & 0x4000n).toBe(0x4000n);
});
