/** Instructions of the kernel, which the processor does not execute for a test: behaviour by the manual. */
import fc from 'fast-check';
import { beforeEach, describe, expect, test } from 'vitest';
import { writeIdt } from '../../../src/memory/interrupt-tables.ts';
import {
  FLAT_CODE_32,
  FLAT_CODE_64,
  FLAT_DATA,
  GdtBuilder,
  SYSTEM_TYPE,
} from '../../../src/memory/segments.ts';
import { assistInstruction, injectException } from '../../../src/vcpu/assist/index.ts';
import { CR0, CR4 } from '../../../src/vcpu/entry.ts';
import { MSR } from '../../../src/vcpu/msrs.ts';
import { CODE, MEMORY, physical, STATE, TestCpu } from './machine.ts';

let cpu: TestCpu;
beforeEach(() => {
  cpu = new TestCpu();
});

function run(code: readonly number[]) {
  cpu.load(code);
  return assistInstruction(cpu, cpu.memory);
}
const { regs, sregs } = {
  regs: () => cpu.state.regs,
  sregs: () => cpu.state.sregs,
};

describe('traps', () => {
  test('int3 traps behind itself and is injected as #BP', () => {
    const result = run([0xcc]);

    expect(result).toMatchObject({ kind: 'exception', vector: 3 });
    expect(regs().rip).toBe(BigInt(CODE + 1));
    if (result.kind === 'exception') injectException(cpu, result);
    expect(cpu.state.events.exception).toEqual({
      injected: 1,
      nr: 3,
      has_error_code: 0,
      pending: 0,
      error_code: 0,
    });
  });

  test('icebp traps behind itself as #DB', () => {
    expect(run([0xf1])).toMatchObject({ kind: 'exception', vector: 1 });
    expect(regs().rip).toBe(BigInt(CODE + 1));
  });

  test('a page fault is injected with its error code and address', () => {
    injectException(cpu, { kind: 'exception', vector: 14, errorCode: 2, cr2: 0x1234n });

    expect(cpu.state.events.exception).toMatchObject({ nr: 14, has_error_code: 1, error_code: 2 });
    expect(sregs().cr2).toBe(0x1234n);
  });
});

describe('int n in long mode', () => {
  const GDT = STATE + 0x2000;
  const IDT = STATE + 0x2100;
  const TSS = STATE + 0x3000;
  const HANDLER = 0xffff_8000_0012_3456n;
  const INT_80 = [0xcd, 0x80];

  beforeEach(() => {
    const gdt = new GdtBuilder();
    gdt.add(FLAT_CODE_64, { selector: 0x10 });
    gdt.add(FLAT_DATA, { selector: 0x18 });
    gdt.add({ ...FLAT_CODE_64, dpl: 3 }, { selector: 0x28 });
    gdt.add({ ...FLAT_CODE_32, present: 0 }, { selector: 0x30 });
    sregs().gdt = { ...gdt.write(cpu.memory, physical(GDT)), base: BigInt(GDT) };
    const gates = new Map([
      [0x80, { offset: HANDLER, selector: 0x10, type: 'interrupt' as const, dpl: 3 }],
      [0x81, { offset: HANDLER, selector: 0x10, type: 'trap' as const, dpl: 0, ist: 2 }],
      [0x82, { offset: HANDLER, selector: 0x30, dpl: 3 }],
    ]);
    sregs().idt = { ...writeIdt(cpu.memory, physical(IDT), gates), base: BigInt(IDT) };
    sregs().tr = { ...sregs().tr, base: BigInt(TSS), limit: 0x67, type: SYSTEM_TYPE.TSS_BUSY };
    cpu.memory.writeU64(physical(TSS) + 4, BigInt(MEMORY + 0x200));
    cpu.memory.writeU64(physical(TSS) + 36 + 8, BigInt(MEMORY + 0x305));
    regs().rsp = BigInt(MEMORY + 0x108);
    regs().rflags = 0x4302n;
  });

  const frame = (at: number) => Array.from({ length: 5 }, (_, i) => cpu.memory.readU64(physical(at) + 8 * i));
  const user = () => {
    sregs().cs = { ...sregs().cs, selector: 0x2b, dpl: 3 };
    sregs().ss = { ...sregs().ss, selector: 0x33, dpl: 3 };
    // User code lies in user pages; the oracle layout is supervisor only, so bytes come from the engine.
    cpu.load(INT_80);
  };

  test('pushes an aligned frame on the same stack and masks interrupts', () => {
    expect(run(INT_80)).toMatchObject({ kind: 'completed' });

    const top = (MEMORY + 0x108) & ~0xf;
    expect(regs()).toMatchObject({ rip: HANDLER, rsp: BigInt(top - 40), rflags: 0x2n });
    expect(frame(top - 40)).toEqual([BigInt(CODE + 2), 0x10n, 0x4302n, BigInt(MEMORY + 0x108), 0x18n]);
    expect(sregs().cs).toMatchObject({ selector: 0x10, dpl: 0, l: 1 });
  });

  test('a trap gate leaves IF, an IST switches the stack', () => {
    expect(run([0xcd, 0x81])).toMatchObject({ kind: 'completed' });

    expect(regs().rflags).toBe(0x202n);
    expect(regs().rsp).toBe(BigInt(((MEMORY + 0x305) & ~0xf) - 40));
  });

  test('from user mode takes the stack of the TSS and a null SS', () => {
    user();
    const result = assistInstruction(cpu, cpu.memory, {}, Uint8Array.from(INT_80));

    expect(result).toMatchObject({ kind: 'completed' });
    expect(sregs().ss).toMatchObject({ selector: 0, dpl: 0, unusable: 1 });
    expect(sregs().cs).toMatchObject({ selector: 0x10, dpl: 0 });
    expect(frame(MEMORY + 0x200 - 40)).toEqual([
      BigInt(CODE + 2),
      0x2bn,
      0x4302n,
      BigInt(MEMORY + 0x108),
      0x33n,
    ]);
  });

  test('faults leave the state alone', () => {
    const before = structuredClone(cpu.state.regs);

    expect(run([0xcd, 0x82])).toMatchObject({ kind: 'exception', vector: 11, errorCode: 0x30 });
    expect(run([0xcd, 0x10])).toMatchObject({ kind: 'exception', vector: 13, errorCode: 0x10 * 8 + 2 });
    expect(run([0xcd, 0xff])).toMatchObject({ kind: 'exception', vector: 13, errorCode: 0xff * 8 + 2 });
    regs().rsp = 0x10000n;
    expect(run(INT_80)).toMatchObject({ kind: 'exception', vector: 14, errorCode: 2 });
    expect({ ...cpu.state.regs, rsp: before.rsp }).toEqual({ ...before, rip: BigInt(CODE) });
  });

  test('user mode may not use a kernel gate', () => {
    user();

    const result = assistInstruction(cpu, cpu.memory, {}, Uint8Array.of(0xcd, 0x81));

    expect(result).toMatchObject({ kind: 'exception', vector: 13, errorCode: 0x81 * 8 + 2 });
  });

  test('lar, lsl, verr and verw look selectors up', () => {
    regs().rcx = 0x10n;
    expect(run([0x48, 0x0f, 0x02, 0xc1])).toMatchObject({ kind: 'completed' });
    expect(regs().rax).toBe(0xaf9b00n);
    expect(regs().rflags & 0x40n).toBe(0x40n);
    run([0x0f, 0x03, 0xd1]);
    expect(regs().rdx).toBe(0xffffffffn);
    run([0x0f, 0x00, 0xe1]);
    expect(regs().rflags & 0x40n).toBe(0x40n);
    run([0x0f, 0x00, 0xe9]);
    expect(regs().rflags & 0x40n).toBe(0n);
    regs().rcx = 0x18n;
    run([0x0f, 0x00, 0xe9]);
    expect(regs().rflags & 0x40n).toBe(0x40n);
  });

  test.each([0n, 3n, 0x8n, 0x4n, 0xfff8n])(
    'a bad selector %i clears ZF and keeps the register',
    (selector) => {
      regs().rcx = selector;
      regs().rax = 0x1234n;
      regs().rflags = 0x42n;

      expect(run([0x0f, 0x02, 0xc1])).toMatchObject({ kind: 'completed' });

      expect(regs()).toMatchObject({ rax: 0x1234n, rflags: 0x2n });
    },
  );
});

test('int n in real mode uses the interrupt vector table', () => {
  const real = { ...sregs().cs, selector: 0, base: 0n, limit: 0xffff, l: 0, db: 0 };
  Object.assign(sregs(), {
    cr0: CR0.ET,
    efer: 0n,
    cs: real,
    ss: { ...real, type: 3 },
    idt: { base: 0n, limit: 0x3ff },
  });
  Object.assign(regs(), { rip: 0x7000n, rsp: 0x8000n, rflags: 0x302n });
  cpu.memory.write(0x7000, Uint8Array.of(0xcd, 0x10));
  cpu.memory.writeU32(0x40, 0xf000_1234);

  expect(assistInstruction(cpu, cpu.memory)).toMatchObject({ kind: 'completed' });

  expect(regs()).toMatchObject({ rip: 0x1234n, rsp: 0x7ffan, rflags: 0x2n });
  expect(sregs().cs).toMatchObject({ selector: 0xf000, base: 0xf0000n });
  expect([cpu.memory.readU16(0x7ffa), cpu.memory.readU16(0x7ffc), cpu.memory.readU16(0x7ffe)]).toEqual([
    0x7002, 0, 0x302,
  ]);
});

describe('system instructions', () => {
  test('stac and clac set and clear RFLAGS.AC', () => {
    run([0x0f, 0x01, 0xcb]);
    expect(regs().rflags & (1n << 18n)).not.toBe(0n);
    run([0x0f, 0x01, 0xca]);
    expect(regs().rflags & (1n << 18n)).toBe(0n);
  });

  test('rdtscp and rdpid read their MSRs', () => {
    cpu.msrs.set(MSR.IA32_TSC, 0x1_2345_6789n);
    cpu.msrs.set(MSR.IA32_TSC_AUX, 7n);

    run([0x0f, 0x01, 0xf9]);
    expect(regs()).toMatchObject({ rax: 0x23456789n, rdx: 1n, rcx: 7n });
    run([0xf3, 0x0f, 0xc7, 0xff]);
    expect(regs().rdi).toBe(7n);
  });

  test('rdtscp is undefined where CPUID does not have it', () => {
    cpu.state.cpuid = [];

    expect(run([0x0f, 0x01, 0xf9])).toMatchObject({ kind: 'exception', vector: 6 });
  });

  test('segment bases are read and written, canonical only', () => {
    regs().rcx = 0xffff_8000_0000_1000n;
    run([0xf3, 0x48, 0x0f, 0xae, 0xd9]);
    expect(sregs().gs.base).toBe(0xffff_8000_0000_1000n);
    run([0xf3, 0x0f, 0xae, 0xc8]);
    expect(regs().rax).toBe(0x1000n);
    regs().rcx = 1n << 47n;
    expect(run([0xf3, 0x48, 0x0f, 0xae, 0xd1])).toMatchObject({ kind: 'exception', vector: 13 });
    sregs().cr4 &= ~CR4.FSGSBASE;
    expect(run([0xf3, 0x48, 0x0f, 0xae, 0xd9])).toMatchObject({ kind: 'exception', vector: 6 });
  });

  test('swapgs exchanges with its MSR', () => {
    cpu.msrs.set(MSR.IA32_KERNEL_GS_BASE, 5n);
    sregs().gs.base = 9n;

    run([0x0f, 0x01, 0xf8]);

    expect(sregs().gs.base).toBe(5n);
    expect(cpu.msrs.get(MSR.IA32_KERNEL_GS_BASE)).toBe(9n);
  });

  test('invpcid checks its operands and makes the engine drop translations', () => {
    regs().rbx = BigInt(MEMORY);
    regs().rax = 2n;
    const before = sregs().cr4;
    expect(run([0x66, 0x0f, 0x38, 0x82, 0x03])).toMatchObject({ kind: 'completed' });
    expect(cpu.sets.filter((key) => key === 'sregs')).toHaveLength(2);
    expect(sregs().cr4).toBe(before);
    regs().rax = 4n;
    expect(run([0x66, 0x0f, 0x38, 0x82, 0x03])).toMatchObject({ kind: 'exception', vector: 13 });
    regs().rax = 1n;
    cpu.memory.writeU64(physical(MEMORY), 0x1000n);
    expect(run([0x66, 0x0f, 0x38, 0x82, 0x03])).toMatchObject({ kind: 'exception', vector: 13 });
  });

  test('xsetbv sets what CPUID allows and consistent', () => {
    const set = (value: bigint, index = 0n) => {
      Object.assign(regs(), { rax: value, rdx: 0n, rcx: index });
      return run([0x0f, 0x01, 0xd1]).kind;
    };

    expect(set(3n)).toBe('completed');
    expect(cpu.state.xcrs).toEqual([{ xcr: 0, value: 3n }]);
    expect([set(2n), set(5n), set(0xe7n), set(7n, 1n)]).toEqual(Array(4).fill('exception'));
  });

  test.each([
    ['monitor', [0x0f, 0x01, 0xc8]],
    ['mwait', [0x0f, 0x01, 0xc9]],
    ['fwait', [0x9b]],
    ['pause', [0xf3, 0x90]],
    ['serialize', [0x0f, 0x01, 0xe8]],
  ] as const)('%s only moves on', (_, code) => {
    const before = structuredClone(regs());

    expect(run(code)).toMatchObject({ kind: 'completed' });

    expect(regs()).toEqual({ ...before, rip: before.rip + BigInt(code.length) });
  });

  test.each([
    [0x0f, 0xc7, 0xf0],
    [0x48, 0x0f, 0xc7, 0xfa],
    [0x66, 0x0f, 0xc7, 0xf1],
  ])('rdrand and rdseed succeed', (...code) => {
    regs().rflags = 0x8d6n;

    expect(run(code)).toMatchObject({ kind: 'completed' });

    expect(regs().rflags).toBe(0x3n);
  });

  test('the FPU belongs to another task while CR0.TS is set', () => {
    sregs().cr0 |= CR0.TS | CR0.MP;

    expect(run([0x9b])).toMatchObject({ kind: 'exception', vector: 7 });
    expect(run([0x66, 0x0f, 0xef, 0xc0])).toMatchObject({ kind: 'exception', vector: 7 });
    expect(run([0x48, 0x0f, 0xae, 0x23])).toMatchObject({ kind: 'exception', vector: 7 });
    expect(run([0xc5, 0xf8, 0x77])).toMatchObject({ kind: 'exception', vector: 7 });
  });

  test('vector instructions need the operating system\u2019s consent', () => {
    sregs().cr4 = CR4.PAE;

    for (const code of [
      [0x66, 0x0f, 0xef, 0xc0],
      [0xc5, 0xf8, 0x77],
      [0x48, 0x0f, 0xae, 0x23],
      [0x0f, 0x01, 0xd0],
    ]) {
      expect(run(code)).toMatchObject({ kind: 'exception', vector: 6 });
    }
  });
});

describe('memory', () => {
  const MOVBE = [0x0f, 0x38, 0xf1, 0x03];

  test('a write to a read-only page faults only with CR0.WP', () => {
    const entry = readOnlyEntry();
    regs().rbx = BigInt(MEMORY);
    expect(run(MOVBE)).toMatchObject({ kind: 'exception', vector: 14, errorCode: 3, cr2: BigInt(MEMORY) });
    sregs().cr0 &= ~CR0.WP;
    expect(run(MOVBE)).toMatchObject({ kind: 'completed' });
    // Accessed and dirty.
    expect(cpu.memory.readU32(entry) & 0x60).toBe(0x60);
  });

  test('SMAP keeps the kernel out of user pages unless AC is set', () => {
    const entry = leafEntry();
    cpu.memory.writeU32(entry, cpu.memory.readU32(entry) | 4);
    sregs().cr4 |= CR4.SMAP;
    regs().rbx = BigInt(MEMORY);
    expect(run(MOVBE)).toMatchObject({ kind: 'exception', vector: 14, errorCode: 3 });
    regs().rflags |= 1n << 18n;
    expect(run(MOVBE)).toMatchObject({ kind: 'completed' });
  });

  test('an operand across pages faults before anything is written', () => {
    regs().rbx = BigInt(STATE + 0x3ffe);
    regs().rax = 0x11223344n;

    expect(run(MOVBE)).toMatchObject({ kind: 'exception', vector: 14, cr2: BigInt(STATE + 0x4000) });

    expect(cpu.memory.readU16(physical(STATE + 0x3ffe))).toBe(0);
  });

  test('a non-canonical address is a general-protection fault, on the stack a stack fault', () => {
    regs().rbx = 1n << 47n;
    expect(run(MOVBE)).toMatchObject({ kind: 'exception', vector: 13, errorCode: 0 });
    regs().rbp = 1n << 47n;
    expect(run([0x0f, 0x38, 0xf1, 0x45, 0x00])).toMatchObject({
      kind: 'exception',
      vector: 12,
      errorCode: 0,
    });
  });

  test('what is not RAM is not touched', () => {
    const entry = leafEntry();
    cpu.memory.writeU32(entry, 0xfee00003);
    regs().rbx = BigInt(MEMORY);

    expect(run(MOVBE)).toMatchObject({ kind: 'unsupported', mnemonic: 'movbe' });
  });

  function leafEntry(): number {
    let table = Number(sregs().cr3);
    for (let shift = 39; shift > 12; shift -= 9) {
      table = cpu.memory.readU32(table + 8 * (Math.floor(STATE / 2 ** shift) % 512)) & ~0xfff;
    }
    return table + 8 * (Math.floor(STATE / 4096) % 512);
  }
  function readOnlyEntry(): number {
    const entry = leafEntry();
    cpu.memory.writeU32(entry, cpu.memory.readU32(entry) & ~2);
    return entry;
  }
});

test('LOCK is undefined where it has no meaning', () => {
  expect(run([0xf0, 0x0f, 0x38, 0xf1, 0x03])).toMatchObject({ kind: 'exception', vector: 6 });
  expect(run([0xf0, 0x0f, 0x01, 0xcb])).toMatchObject({ kind: 'exception', vector: 6 });
});

test('an unknown instruction is named and changes nothing', () => {
  const before = structuredClone(cpu.state.regs);

  expect(run([0x0f, 0x34])).toMatchObject({
    kind: 'unsupported',
    mnemonic: 'sysenter',
    bytes: Uint8Array.of(0x0f, 0x34),
  });
  expect(cpu.state.regs).toEqual(before);
  expect(cpu.sets).toEqual([]);
});

test('random code and registers give a result and never an error', () => {
  const word = fc.bigInt({ min: 0n, max: (1n << 64n) - 1n });
  const pointer = fc.oneof(
    word,
    fc.integer({ min: 0, max: 1023 }).map((n) => BigInt(MEMORY + n)),
  );
  const head = fc.constantFrom(
    [],
    [0x0f],
    [0x66, 0x0f],
    [0xf3, 0x0f],
    [0x66, 0x0f, 0x38],
    [0xc5],
    [0xc4],
    [0xcd],
    [0x48, 0x0f, 0xae],
  );
  fc.assert(
    fc.property(
      head,
      fc.uint8Array({ minLength: 12, maxLength: 12 }),
      pointer,
      pointer,
      fc.boolean(),
      (start, tail, a, b, wide) => {
        cpu = new TestCpu();
        Object.assign(cpu.state.regs, { rax: a, rbx: b, rcx: a, rdi: b, rsp: a });
        Object.assign(cpu.state.sregs.idt, { base: a, limit: 0xfff });
        if (!wide) Object.assign(cpu.state.sregs.cs, { l: 0, db: 1 });
        expect(['completed', 'exception', 'unsupported']).toContain(run([...start, ...tail]).kind);
      },
    ),
    { numRuns: 1500 },
  );
});
