/** A vCPU's state as the structs of the KVM UAPI (src/vcpu/state.ts), read and written while it stands. */
import type { DebugRegs, Dtable, Fpu, Regs, Segment, Sregs, Translation } from '../vcpu/state.ts';
import type { Cpu } from './cpu.ts';
import { MAX_LENGTH } from './decode/decoder.ts';
import { ACCESS } from './emit/access.ts';
import { readFpu, writeFpu } from './fpu/fxsave.ts';
import { PAGE, S, SEG } from './layout.ts';
import { WALK } from './mmu/walk.ts';
import { fxStateOf } from './system/fpu-operations.ts';
import { RIGHTS } from './system/segments.ts';

/** struct kvm_regs' registers in encoding order. */
const REGISTERS = ['rax', 'rcx', 'rdx', 'rbx', 'rsp', 'rbp', 'rsi', 'rdi'] as const;
const NUMBERED = ['r8', 'r9', 'r10', 'r11', 'r12', 'r13', 'r14', 'r15'] as const;
const NAMES = [...REGISTERS, ...NUMBERED] as const;
const SEGMENTS = {
  es: SEG.ES,
  cs: SEG.CS,
  ss: SEG.SS,
  ds: SEG.DS,
  fs: SEG.FS,
  gs: SEG.GS,
  ldt: SEG.LDT,
  tr: SEG.TR,
} as const;
type SegmentName = keyof typeof SEGMENTS;

export function getRegs(cpu: Cpu): Regs {
  const regs: Partial<Regs> = { rip: cpu.state.rip, rflags: cpu.rflags };
  NAMES.forEach((name, i) => {
    regs[name] = cpu.state.gpr(i);
  });
  return regs as Regs;
}

export function setRegs(cpu: Cpu, regs: Regs): void {
  NAMES.forEach((name, i) => {
    cpu.state.setGpr(i, regs[name]);
  });
  cpu.state.rip = regs.rip;
  cpu.rflags = regs.rflags;
  cpu.mmu.selectTlb();
}

function getSegment(cpu: Cpu, segment: number): Segment {
  const { segments } = cpu.system;
  const rights = segments.rights(segment);
  const bit = (mask: number) => (rights & mask ? 1 : 0);
  return {
    base: segments.base(segment),
    limit: segments.limit(segment),
    selector: segments.selector(segment),
    type: rights & 15,
    present: bit(RIGHTS.P),
    dpl: (rights & RIGHTS.DPL) >> 5,
    db: bit(RIGHTS.DB),
    s: bit(RIGHTS.S),
    l: bit(RIGHTS.L),
    g: bit(RIGHTS.G),
    avl: bit(RIGHTS.AVL),
    unusable: bit(RIGHTS.UNUSABLE),
  };
}

function setSegment(cpu: Cpu, segment: number, from: Segment): void {
  const rights =
    (from.type & 15) |
    (from.s ? RIGHTS.S : 0) |
    ((from.dpl & 3) << 5) |
    (from.present ? RIGHTS.P : 0) |
    (from.avl ? RIGHTS.AVL : 0) |
    (from.l ? RIGHTS.L : 0) |
    (from.db ? RIGHTS.DB : 0) |
    (from.g ? RIGHTS.G : 0) |
    (from.unusable ? RIGHTS.UNUSABLE : 0);
  cpu.system.segments.set(segment, from.selector, from.base, from.limit, rights);
}

export function getSregs(cpu: Cpu): Sregs {
  const { state } = cpu;
  const table = (base: number, limit: number): Dtable => ({
    base: state.u64(base),
    limit: state.i32(limit) & 0xffff,
  });
  const segments = Object.fromEntries(
    Object.entries(SEGMENTS).map(([name, segment]) => [name, getSegment(cpu, segment)]),
  ) as Record<SegmentName, Segment>;
  return {
    ...segments,
    gdt: table(S.GDT_BASE, S.GDT_LIMIT),
    idt: table(S.IDT_BASE, S.IDT_LIMIT),
    cr0: state.u64(S.CR0),
    cr2: state.u64(S.CR2),
    cr3: state.u64(S.CR3),
    cr4: state.u64(S.CR4),
    cr8: cpu.system.registers.peripherals.cr8,
    efer: state.u64(S.EFER),
    apic_base: state.u64(S.APIC_BASE),
    interrupt_bitmap: [0n, 0n, 0n, 0n],
  };
}

export function setSregs(cpu: Cpu, sregs: Sregs): void {
  const { state } = cpu;
  state.setU64(S.CR0, sregs.cr0);
  state.setU64(S.CR2, sregs.cr2);
  state.setU64(S.CR3, sregs.cr3);
  state.setU64(S.CR4, sregs.cr4);
  state.setU64(S.EFER, sregs.efer);
  state.setU64(S.APIC_BASE, sregs.apic_base);
  state.setU64(S.GDT_BASE, sregs.gdt.base);
  state.setI32(S.GDT_LIMIT, sregs.gdt.limit);
  state.setU64(S.IDT_BASE, sregs.idt.base);
  state.setI32(S.IDT_LIMIT, sregs.idt.limit);
  for (const [name, segment] of Object.entries(SEGMENTS))
    setSegment(cpu, segment, sregs[name as SegmentName]);
  // CPL is SS.DPL (SDM vol. 3C 24.4.1 speaks of SS access rights); in real mode 0.
  state.setI32(S.CPL, (sregs.cr0 & 1n) === 0n ? 0 : sregs.ss.dpl & 3);
  cpu.system.registers.peripherals.cr8 = sregs.cr8;
  cpu.system.segments.update();
  cpu.mmu.flush();
  cpu.mmu.selectTlb();
}

export function getFpu(cpu: Cpu): Fpu {
  return readFpu(fxStateOf(cpu));
}

export function setFpu(cpu: Cpu, fpu: Fpu): void {
  writeFpu(fxStateOf(cpu), fpu);
}

export function getDebugRegs(cpu: Cpu): DebugRegs {
  const dr = (i: number) => cpu.state.u64(S.DR + i * 8);
  return { db: [dr(0), dr(1), dr(2), dr(3)], dr6: dr(6), dr7: dr(7), flags: 0n };
}

export function setDebugRegs(cpu: Cpu, { db, dr6, dr7 }: DebugRegs): void {
  [...db.slice(0, 4), 0n, 0n, dr6, dr7].forEach((value, i) => {
    cpu.state.setU64(S.DR + i * 8, value);
  });
  cpu.system.debug.update();
}

/** Linear to physical by the current page tables, with supervisor privilege and without side effects. */
export function translate(cpu: Cpu, linear: bigint): Translation {
  const low = Number(linear & 0xffff_ffffn) | 0;
  const high = Number((linear >> 32n) & 0xffff_ffffn) | 0;
  const { walker } = cpu.mmu;
  const walk = (access: number, user: boolean) => walker.walk(low, high, access, user, true) === WALK.ok;
  const usermode = walk(ACCESS.read, true) ? 1 : 0;
  const writeable = walk(ACCESS.write, false) ? 1 : 0;
  const valid = walk(ACCESS.read, usermode === 1) ? 1 : 0;
  const physical = valid ? BigInt(walker.physical) : 0n;
  return { linear_address: linear, physical_address: physical, valid, writeable, usermode };
}

/** The bytes that are mapped from a RIP on, as many as an instruction can have. */
export function codeAt(cpu: Cpu, rip: bigint): Uint8Array {
  const { map, state, system } = cpu;
  const { is64 } = system.segments;
  const start = is64 ? rip : rip + system.segments.base(SEG.CS);
  const code = new Uint8Array(MAX_LENGTH);
  for (let done = 0; done < MAX_LENGTH; ) {
    const linear = BigInt.asUintN(is64 ? 64 : 32, start + BigInt(done));
    const { valid, physical_address } = translate(cpu, linear);
    const host = valid ? map.host(Number(physical_address)) : -1;
    if (host < 0) return code.subarray(0, done);
    const length = Math.min(MAX_LENGTH - done, PAGE - (host % PAGE));
    code.set(state.bytes.subarray(host, host + length), done);
    done += length;
  }
  return code;
}
