/**
 * Instructions that kernels execute all the time: flags, interrupts, system calls, and returns (SDM vol. 2). The common case of
 * 64-bit code is generated; all else is the operation in TypeScript, which also raises the faults.
 */
import { ACCESS } from '../emit/access.ts';
import type { Meaning } from '../emit/meaning.ts';
import { FLAG } from '../emit/rflags.ts';
import { ADDRESS_LEGACY, GPR, R, S, SEG, TLB, TLB_SIZE } from '../layout.ts';
import { type Expr, type Label, type Local, load } from '../wasm/index.ts';
import { Table } from './instruction.ts';
import { SYSTEM } from './system-operations.ts';

export const kernel = new Table();

const { RCX, RSP, R11 } = GPR;
/** Flags whose change has consequences of its own: single steps, SMAP and alignment checks, tasks, virtual-8086 mode. */
const DELICATE = FLAG.TF | FLAG.NT | FLAG.RF | FLAG.VM | FLAG.AC | FLAG.VIF | FLAG.VIP;
/** What POPF and IRET change besides at CPL 0. */
const LOADED = FLAG.IF | FLAG.DF | FLAG.IOPL | FLAG.ID;
/** Base 0 and limit FFFFFh in a descriptor; access rights begin at bit 40. */
const FLAT = 0x000f_0000_0000_ffffn;
const RIGHTS_SHIFT = 40;
const RIGHTS_MASK = 0xf0ff;
const UNUSABLE = 0x1_0000;

/** Rights of the flat segments of system calls: present, of DPL 0, accessed; 64-bit code to be read, data to be written. */
const FLAT_CODE = 0xa09b;
const FLAT_DATA = 0xc093;
/** Distance of DPL in the rights from bit 0. */
const DPL_SHIFT = 5;
const EFER_SCE = 1;

const eflags = (c: Meaning) => c.state('i32.load', S.EFLAGS);
const isSupervisor = (c: Meaning) => c.state('i32.load', S.CPL).eqz();
const is64 = (c: Meaning) => c.record('i32.load8_u', R.ADDRESS).and(ADDRESS_LEGACY).eqz();

/** The six arithmetic flags and the others, loaded from an image without delicate ones. */
function loadFlags(c: Meaning, image: Local): void {
  c.flags.load(image);
  c.setState('i32.store', S.EFLAGS, eflags(c).and(~LOADED).or(image.wrap().and(LOADED)));
}

/** Goes on behind the block `slow` unless the flags, old and new, can simply be loaded and no interrupt waits for them. */
function requireSimple(c: Meaning, slow: Label, image: Expr): void {
  c.f.brIf(slow, eflags(c).or(image.wrap()).and(DELICATE));
  c.f.brIf(slow, c.state('i32.load', S.IRQ_WAITING));
}

/** The common case, which does not reach its end, and the operation in TypeScript for the others. */
function commonly(c: Meaning, operation: number, common: (slow: Label) => void): void {
  c.f.block(common);
  c.system(operation);
}

kernel.add('pushf', '9c d64', {}, (c) => {
  // Virtual-8086 mode, where IOPL counts, has operands of 2 and 4 bytes.
  if (c.size !== 8) {
    c.system(SYSTEM.PUSHF);
    return;
  }
  const others = eflags(c)
    .and(~(FLAG.RF | FLAG.VM))
    .or(FLAG.FIXED);
  c.push(c.let(c.flags.image().or(others.wide())));
});

kernel.add('popf', '9d d64', {}, (c) => {
  if (c.size !== 8) {
    c.system(SYSTEM.POPF);
    return;
  }
  commonly(c, SYSTEM.POPF, (slow) => {
    c.f.brIf(slow, isSupervisor(c).eqz());
    const image = c.top();
    requireSimple(c, slow, image);
    c.dropStack();
    loadFlags(c, image);
    c.site.next();
  });
});

kernel.add('cli', 'fa', {}, (c) =>
  commonly(c, SYSTEM.CLI, (slow) => {
    c.f.brIf(slow, isSupervisor(c).eqz());
    c.setState('i32.store', S.EFLAGS, eflags(c).and(~FLAG.IF));
    c.site.next();
  }),
);

kernel.add('sti', 'fb', {}, (c) =>
  commonly(c, SYSTEM.STI, (slow) => {
    const { f } = c;
    f.brIf(slow, isSupervisor(c).eqz().or(c.state('i32.load', S.IRQ_WAITING)));
    // An interrupt shadow begins in TypeScript where it is another than STI's.
    f.brIf(slow, c.state('i32.load', S.SHADOW_IS_MOV_SS));
    f.if_(eflags(c).and(FLAG.IF).eqz(), () => {
      c.setState('i64.store', S.SHADOW_RIP, c.nextRip());
      c.setState('i32.store', S.EFLAGS, eflags(c).or(FLAG.IF));
    });
    c.site.next();
  }),
);

kernel.add('swapgs', '0f.01=f8 o64', { ends: true }, (c) =>
  commonly(c, SYSTEM.SWAPGS, (slow) => {
    c.f.brIf(slow, isSupervisor(c).eqz());
    const raw = S.RAW_BASE + SEG.GS * 8;
    const base = c.let(c.state('i64.load', S.KERNEL_GS_BASE));
    c.setState('i64.store', S.KERNEL_GS_BASE, c.state('i64.load', raw));
    c.setState('i64.store', raw, base);
    c.setState('i64.store', S.SEGMENT_BASE + SEG.GS * 8, base);
    c.site.next();
  }),
);

/** Whether the flat segment in use would be loaded again: its descriptor is what it was loaded from. */
function isLoaded(c: Meaning, segment: number, selector: Local, slow: Label): void {
  const { f } = c;
  const field = (at: number) => c.state('i32.load', at + segment * 4);
  // In the GDT, with RPL 0.
  f.brIf(slow, selector.ne(field(S.SELECTOR)).or(selector.and(7)));
  const check = () => {
    f.brIf(slow, field(S.LIMIT).ne(-1));
    f.brIf(slow, c.state('i64.load', S.RAW_BASE + segment * 8).ne(0));
    f.brIf(slow, selector.or(7).gt_u(c.state('i32.load', S.GDT_LIMIT)));
    const at = c.state('i64.load', S.GDT_BASE).add(selector.and(~7).wide());
    const flat = field(S.RIGHTS).and(RIGHTS_MASK).wide().shl(RIGHTS_SHIFT).or(FLAT);
    f.brIf(slow, c.loadLinear(at, 8).ne(flat));
  };
  if (segment === SEG.CS) check();
  // A null SS is as good as another at CPL 0 (SDM vol. 3A 6.14.4).
  else f.if_(selector.and(~3).or(field(S.RIGHTS).and(UNUSABLE).eqz()), check);
}

/** To the same privilege level and the same segments: from an interrupt of the kernel, or to synchronize the processor. */
kernel.add('iret', 'cf Av', { ends: true }, (c) => {
  if (c.size !== 8) {
    c.system(SYSTEM.IRET);
    return;
  }
  commonly(c, SYSTEM.IRET, (slow) => {
    const { f } = c;
    // It serializes: what other vCPUs have announced comes first. NMIs that it lets in again are not seen to here.
    const waits = c.state('i32.load', S.ATTENTION).or(c.state('i32.load', S.NMI_MASKED));
    f.brIf(slow, is64(c).and(isSupervisor(c)).eqz().or(waits));
    const rsp = c.let(c.gpr(RSP));
    requireCanonical(c, slow, rsp);
    const frame = c.translate(rsp, 40, ACCESS.read);
    const [rip, flags, pointer] = [0, 16, 24].map((at) => c.let(load('i64.load', frame, at)));
    const [cs, ss] = [8, 32].map((at) => c.let(load('i32.load16_u', frame, at)));
    requireSimple(c, slow, flags);
    requireCanonical(c, slow, rip);
    isLoaded(c, SEG.CS, cs, slow);
    isLoaded(c, SEG.SS, ss, slow);
    c.setGpr(RSP, pointer);
    loadFlags(c, flags);
    c.jump(rip);
  });
});

/** Whether an address is canonical: goes on behind the block `slow` otherwise. */
function requireCanonical(c: Meaning, slow: Label, address: Expr): void {
  c.f.brIf(slow, address.shl(16).shr_s(16).ne(address));
}

/**
 * Enters the flat segments of a privilege level, in 64-bit mode before and after. What is derived from segments for other
 * modes follows when the mode changes (Segments.update).
 */
function enterFlat(c: Meaning, cs: Expr, ss: Expr, cpl: 0 | 3): void {
  for (const [segment, selector, rights] of [
    [SEG.CS, cs, FLAT_CODE],
    [SEG.SS, ss, FLAT_DATA],
  ] as const) {
    c.setState('i32.store', S.SELECTOR + segment * 4, selector.and(0xfffc).or(cpl));
    c.setState('i64.store', S.RAW_BASE + segment * 8, 0);
    c.setState('i32.store', S.LIMIT + segment * 4, -1);
    c.setState('i32.store', S.RIGHTS + segment * 4, rights | (cpl << DPL_SHIFT));
  }
  c.setState('i32.store', S.CPL, cpl);
  c.setState('i32.store', S.CODE_KEY, c.state('i32.load', cpl === 3 ? S.USER_KEY : S.SUPERVISOR_KEY));
  c.setState('i32.store', S.TLB, c.site.base.add(TLB + (cpl === 3 ? 2 : 0) * TLB_SIZE));
}

kernel.add('syscall', '0f.05', { ends: true, feature: 'syscall' }, (c) =>
  commonly(c, SYSTEM.SYSCALL, (slow) => {
    const { f } = c;
    f.brIf(slow, is64(c).and(c.state('i32.load', S.CPL).eq(3)).eqz());
    f.brIf(slow, c.state('i32.load', S.EFER).and(EFER_SCE).eqz().or(eflags(c).and(DELICATE)));
    const image = c.let(c.flags.image().or(eflags(c).or(FLAG.FIXED).wide()));
    const kept = c.let(image.and(c.state('i64.load', S.FMASK).not()));
    c.setGpr(RCX, c.nextRip());
    c.setGpr(R11, image);
    loadFlags(c, kept);
    const selector = c.let(load('i32.load16_u', c.site.base, S.STAR + 4));
    enterFlat(c, selector, selector.add(8), 0);
    c.site.jump(c.state('i64.load', S.LSTAR));
  }),
);

kernel.add('sysret', '0f.07 Av', { ends: true, feature: 'syscall' }, (c) => {
  if (c.size !== 8) {
    c.system(SYSTEM.SYSRET);
    return;
  }
  commonly(c, SYSTEM.SYSRET, (slow) => {
    const { f } = c;
    f.brIf(slow, is64(c).and(isSupervisor(c)).eqz());
    f.brIf(slow, c.state('i32.load', S.EFER).and(EFER_SCE).eqz());
    const target = c.let(c.gpr(RCX));
    requireCanonical(c, slow, target);
    const image = c.let(c.gpr(R11));
    requireSimple(c, slow, image);
    loadFlags(c, image);
    const selector = c.let(load('i32.load16_u', c.site.base, S.STAR + 6));
    enterFlat(c, selector.add(16), selector.add(8), 3);
    c.jump(target);
  });
});
