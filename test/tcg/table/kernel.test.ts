import { describe, expect, test } from 'vitest';
import { PageTableBuilder } from '../../../src/memory/page-tables.ts';
import { FLAG } from '../../../src/tcg/emit/rflags.ts';
import { S, SEG } from '../../../src/tcg/layout.ts';
import { interruptShadow } from '../../../src/tcg/system/events.ts';
import { assemble } from '../../support/assemble.ts';
import { TestCpu } from '../machine.ts';

const CODE = 0x10000;
const GDT = 0x6000;
const STACK = 0x9000;
const TABLES = 0x20000;
/** From here on pages are not for user code. */
const KERNEL_ONLY = 2 << 20;
/** The flags that a test is about. */
const IMAGE = 0x8000;
const KERNEL_CS = 0x10;
const KERNEL_SS = 0x18;
/** Flat descriptors as Linux has them. */
const DESCRIPTORS = [0n, 0n, 0x00af_9b00_0000_ffffn, 0x00cf_9300_0000_ffffn];

/** A CPU in 64-bit mode at CPL 0 with code at CODE. */
function kernel(code: Uint8Array, prepare: (t: TestCpu) => void = () => {}): TestCpu {
  const t = new TestCpu();
  const tables = new PageTableBuilder(t.memory, { start: TABLES, end: TABLES + 0x10000 });
  t.memory.write(CODE, code);
  DESCRIPTORS.forEach((descriptor, i) => {
    t.memory.writeU64(GDT + i * 8, descriptor);
  });
  const { cr3 } = tables.identityMap(0, KERNEL_ONLY, { user: true }).identityMap(KERNEL_ONLY, KERNEL_ONLY);
  t.longMode({ cr3: Number(cr3), rip: BigInt(CODE), rsp: BigInt(STACK) });
  const { state } = t.cpu;
  state.setU64(S.GDT_BASE, BigInt(GDT));
  state.setI32(S.GDT_LIMIT, 0x1f);
  prepare(t);
  return t;
}

/** A segment register with its hidden part. */
function segmentOf({ cpu }: TestCpu, segment: number): object {
  const { segments } = cpu.system;
  return {
    selector: segments.selector(segment),
    base: segments.base(segment),
    limit: segments.limit(segment),
    rights: segments.rights(segment),
  };
}

/** Runs to HLT. @returns what can be seen of the CPU */
function run(t: TestCpu): unknown {
  let outcome = t.cpu.run(1000);
  for (let i = 0; i < 10 && (outcome === 'pause' || outcome === 'continue'); i++) {
    t.cpu.state.setI32(S.ATTENTION, 0);
    outcome = t.cpu.run(1000);
  }
  const { state } = t.cpu;
  return {
    outcome,
    rip: state.rip,
    cpl: state.cpl,
    tlb: state.i32(S.TLB),
    segments: [SEG.CS, SEG.SS].map((segment) => segmentOf(t, segment)),
    rflags: t.cpu.rflags,
    registers: Array.from({ length: 16 }, (_, i) => state.gpr(i)),
    shadow: interruptShadow(t.cpu),
    gs: [S.SEGMENT_BASE + 40, S.RAW_BASE + 40, S.KERNEL_GS_BASE].map((at) => state.u64(at)),
    stack: Buffer.from(t.memory.read(STACK - 64, 128)).toString('hex'),
  };
}

/** What sends every instruction the long way without changing what it does. */
const longWay = (t: TestCpu) => t.cpu.state.setI32(S.IRQ_WAITING, 1);

const DELICATE = FLAG.TF | FLAG.NT | FLAG.RF | FLAG.AC | FLAG.VIF | FLAG.VIP;
const BITS = [
  FLAG.CF,
  FLAG.PF,
  FLAG.ZF,
  FLAG.SF,
  FLAG.OF,
  FLAG.AF,
  FLAG.IF,
  FLAG.DF,
  FLAG.NT,
  FLAG.AC,
  FLAG.ID,
];

/** Flags in many combinations. */
const IMAGES = [
  0,
  FLAG.IOPL,
  FLAG.IOPL | FLAG.IF,
  FLAG.RF,
  FLAG.VIF | FLAG.VIP,
  ...BITS,
  ...BITS.map((bit) => 0xad5 ^ bit),
];

const assembled = (source: string) => assemble(source, CODE);

/** Runs code both ways and compares; the short one must not need TypeScript but for HLT. */
function compare(code: Uint8Array, prepare: (t: TestCpu) => void, isCommon: boolean): void {
  const short = kernel(code, prepare);
  let operations = 0;
  const { system } = short.cpu;
  const execute = system.execute.bind(system);
  system.execute = (operation, pc) => {
    operations++;
    return execute(operation, pc);
  };
  const long = kernel(code, (t) => {
    prepare(t);
    longWay(t);
  });
  expect(run(short)).toEqual(run(long));
  expect(operations === 1).toBe(isCommon);
}

describe('the common case and the operation in TypeScript agree on', () => {
  test('POPF and PUSHF', () => {
    const code = assembled(`push [${IMAGE}]\npopfq\npushfq\ncli\nhlt`);
    for (const image of IMAGES) {
      compare(code, (t) => t.memory.writeU64(IMAGE, BigInt(image)), (image & DELICATE) === 0);
    }
  });

  test('IRET', () => {
    const code = assembled(`
      mov rax, rsp
      push ${KERNEL_SS}
      push rax
      push [${IMAGE}]
      push ${KERNEL_CS}
      lea rcx, [rip + 1f]
      push rcx
      iretq
      hlt
    1: pushfq
      cli
      hlt`);
    for (const image of IMAGES.filter((flags) => (flags & FLAG.NT) === 0)) {
      compare(code, (t) => t.memory.writeU64(IMAGE, BigInt(image)), (image & DELICATE) === 0);
    }
  });

  test('CLI, STI and SWAPGS', () => {
    const bases = (t: TestCpu) => {
      t.cpu.system.segments.setBase(SEG.GS, 0x1234n);
      t.cpu.state.setU64(S.KERNEL_GS_BASE, 0xffff_8000_0000_0000n);
    };
    compare(assembled('sti\nnop\ncli\nsti\nnop\nswapgs\npushfq\ncli\nhlt'), bases, true);
  });
});

describe('a system call and its return', () => {
  const USER = CODE + 0x1000;
  const ENTRY = CODE + 0x2000;
  const UD2 = Uint8Array.of(0x0f, 0x0b);
  const HLT = Uint8Array.of(0xf4);

  /** Goes to CPL 3 by SYSRET, and back by SYSCALL where that is what the user code does. */
  function system(user: Uint8Array, flags: number, prepare: (t: TestCpu) => void = () => {}): TestCpu {
    const code = assembled(`mov ecx, ${USER}\nmov r11d, ${flags}\nsysretq`);
    return kernel(code, (t) => {
      const { state } = t.cpu;
      t.memory.write(USER, user);
      t.memory.write(ENTRY, HLT);
      state.setU64(S.EFER, state.u64(S.EFER) | 1n);
      state.setU64(S.STAR, 0x0023_0010_0000_0000n);
      state.setU64(S.LSTAR, BigInt(ENTRY));
      state.setU64(S.FMASK, BigInt(FLAG.IF | FLAG.DF | FLAG.CF));
      prepare(t);
    });
  }

  test('change privilege, segments and flags as the SDM has it', () => {
    const flags = FLAG.IF | FLAG.DF | FLAG.CF | FLAG.ZF | FLAG.ID | FLAG.IOPL;
    const t = system(assemble('syscall', USER), flags);
    expect(run(t)).toMatchObject({
      outcome: 'halt',
      rip: BigInt(ENTRY + 1),
      cpl: 0,
      rflags: BigInt(FLAG.ZF | FLAG.ID | FLAG.IOPL | FLAG.FIXED),
      segments: [
        { selector: 0x10, base: 0n, limit: 0xffff_ffff, rights: 0xa09b },
        { selector: 0x18, base: 0n, limit: 0xffff_ffff, rights: 0xc093 },
      ],
    });
    expect(t.cpu.state.gpr(1)).toBe(BigInt(USER + 2));
    expect(t.cpu.state.gpr(11)).toBe(BigInt(flags | FLAG.FIXED));
  });

  test('leave user code without rights to the pages of the kernel', () => {
    const t = system(assemble(`mov rax, [${KERNEL_ONLY}]`, USER), FLAG.FIXED);
    expect(run(t)).toMatchObject({ outcome: 'shutdown', cpl: 3 });
    expect(t.cpu.state.u64(S.CR2)).toBe(BigInt(KERNEL_ONLY));
  });

  test('do the same the long way', () => {
    for (const flags of IMAGES) {
      // Without an IDT the #UD ends the run at CPL 3.
      expect(run(system(UD2, flags))).toEqual(run(system(UD2, flags, longWay)));
    }
  });
});

describe('IRET to the same selectors goes the long way', () => {
  const frame = (t: TestCpu, words: readonly number[]) => {
    words.forEach((word, i) => {
      t.memory.writeU64(STACK - 0x100 + i * 8, BigInt(word));
    });
    t.cpu.state.setGpr(4, BigInt(STACK - 0x100));
  };
  const IRETQ = Uint8Array.of(0x48, 0xcf);
  const target = CODE + 0x100;

  test('when the descriptor has changed', () => {
    const t = kernel(IRETQ, (machine) => {
      frame(machine, [target, KERNEL_CS, 2, STACK, KERNEL_SS]);
      machine.memory.writeU64(GDT + KERNEL_CS, 0x00cf_9b00_0000_ffffn);
      machine.memory.write(target, Uint8Array.of(0xf4));
    });
    expect(run(t)).toMatchObject({ outcome: 'halt' });
    expect(t.cpu.system.segments.is64).toBe(false);
  });

  test('when it ends the handling of an NMI', () => {
    const t = kernel(IRETQ, (machine) => {
      frame(machine, [target, KERNEL_CS, 2, STACK, KERNEL_SS]);
      machine.memory.write(target, Uint8Array.of(0xf4));
      machine.cpu.system.events.nmiMasked = true;
    });
    expect(run(t)).toMatchObject({ outcome: 'halt', rip: BigInt(target + 1) });
    expect(t.cpu.system.events.nmiMasked).toBe(false);
  });

  test('when RIP is not canonical', () => {
    const t = kernel(IRETQ, (machine) => {
      frame(machine, [0, KERNEL_CS, 2, STACK, KERNEL_SS]);
      machine.memory.writeU64(STACK - 0x100, 0x8000_0000_0000_0000n);
    });
    // Without an IDT the #GP becomes a triple fault.
    expect(run(t)).toMatchObject({ outcome: 'shutdown' });
  });
});
