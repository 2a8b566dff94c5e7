/** Interrupts, system calls, far transfers, flags (SDM vol. 2). */
import { FLAG } from '../emit/rflags.ts';
import { R, S, SEG } from '../layout.ts';
import { GuestFault, VECTOR } from './fault.ts';
import { address, immediate, iopl, type Operations, privileged } from './operands.ts';
import type { Operation } from './operations.ts';
import { RIGHTS } from './segments.ts';

const RSP = 4;
const RCX = 1;
const RDX = 2;
const R11 = 11;
const EFER_SCE = 1n;

/** Delivers a software interrupt; the return address is the next instruction. */
function software(o: Operation, vector: number): true {
  const { state } = o.cpu;
  const before = state.rip;
  state.rip = o.system.nextRip(o.pc);
  try {
    o.system.delivery.deliver(vector, 0, 'software');
  } catch (error) {
    state.rip = before;
    throw error;
  }
  return true;
}

const FLAT_CODE = RIGHTS.P | RIGHTS.S | RIGHTS.CODE | RIGHTS.RW | RIGHTS.ACCESSED | RIGHTS.G;
const FLAT_DATA = RIGHTS.P | RIGHTS.S | RIGHTS.RW | RIGHTS.ACCESSED | RIGHTS.G | RIGHTS.DB;

/** Sets CS and SS to the flat segments of a system call or return. */
function flat(o: Operation, selector: number, stack: number, cpl: number, long: boolean): void {
  const rights = FLAT_CODE | (cpl << 5) | (long ? RIGHTS.L : RIGHTS.DB);
  o.system.segments.setCode(selector, { base: 0n, limit: 0xffff_ffff, rights, low: 0, high: 0 }, cpl);
  o.system.segments.set(SEG.SS, (stack & 0xfffc) | cpl, 0n, 0xffff_ffff, FLAT_DATA | (cpl << 5));
}

/** Reads from the stack without moving it. */
function stackAt(o: Operation, offset: number, bytes: number): bigint {
  const { state } = o.cpu;
  const base = o.system.segments.is64 ? 0n : o.system.segments.base(SEG.SS);
  const at = (state.gpr(RSP) + BigInt(offset)) & state.u64(S.STACK_MASK);
  return o.system.linear.get(base + at, bytes);
}

function moveStack(o: Operation, by: number): void {
  const { state } = o.cpu;
  const mask = state.u64(S.STACK_MASK);
  state.setGpr(RSP, (state.gpr(RSP) & ~mask) | ((state.gpr(RSP) + BigInt(by)) & mask));
}

function push(o: Operation, value: bigint, bytes: number): void {
  const { state } = o.cpu;
  const base = o.system.segments.is64 ? 0n : o.system.segments.base(SEG.SS);
  const at = (state.gpr(RSP) - BigInt(bytes)) & state.u64(S.STACK_MASK);
  o.system.linear.set(base + at, value, bytes);
  moveStack(o, -bytes);
}

function farPointer(o: Operation): { selector: number; offset: bigint } {
  const at = address(o, o.size + 2);
  const offset = o.system.linear.get(at, o.size);
  return { selector: Number(o.system.linear.get(at + BigInt(o.size), 2)), offset };
}

function far(o: Operation, call: boolean): true {
  const { view } = o.cpu.state;
  const selector = view.getUint16(o.pc + R.DISPLACEMENT, true);
  o.system.far.transfer(selector, immediate(o), o.size, call, o.system.nextRip(o.pc));
  return true;
}

export const FLOW_OPERATIONS: Operations = {
  INT3: (o) => software(o, VECTOR.BP),
  INT(o) {
    const vm = (o.cpu.state.eflags & FLAG.VM) !== 0;
    if (vm && iopl(o) < 3) throw new GuestFault(VECTOR.GP);
    return software(o, Number(immediate(o) & 0xffn));
  },
  INTO(o) {
    if ((Number(o.cpu.rflags) & FLAG.OF) === 0) {
      o.cpu.state.rip = o.system.nextRip(o.pc);
      return true;
    }
    return software(o, VECTOR.OF);
  },
  INT1(o) {
    o.cpu.state.rip = o.system.nextRip(o.pc);
    o.system.delivery.deliver(VECTOR.DB, 0, 'exception');
    return true;
  },
  IRET(o) {
    o.system.delivery.iret(o.size);
    return true;
  },
  SYSCALL(o) {
    const { state } = o.cpu;
    const { segments } = o.system;
    if ((state.u64(S.EFER) & EFER_SCE) === 0n || !segments.isLongMode) throw new GuestFault(VECTOR.UD);
    const from64 = segments.is64;
    state.setGpr(RCX, o.system.nextRip(o.pc));
    state.setGpr(R11, o.cpu.rflags & ~BigInt(FLAG.RF));
    const flags = o.cpu.rflags & ~state.u64(S.FMASK) & ~BigInt(FLAG.RF);
    o.cpu.rflags = flags;
    const selector = Number((state.u64(S.STAR) >> 32n) & 0xfffcn);
    flat(o, selector, selector + 8, 0, true);
    state.rip = state.u64(from64 ? S.LSTAR : S.CSTAR);
    return true;
  },
  SYSRET(o) {
    const { state } = o.cpu;
    if ((state.u64(S.EFER) & EFER_SCE) === 0n || !o.system.segments.isLongMode)
      throw new GuestFault(VECTOR.UD);
    privileged(o);
    const long = o.size === 8;
    const target = state.gpr(RCX);
    if (long && BigInt.asUintN(64, BigInt.asIntN(48, target)) !== target) throw new GuestFault(VECTOR.GP);
    const base = Number((state.u64(S.STAR) >> 48n) & 0xffffn);
    // RF and VM come back as 0 (SDM vol. 2, SYSRET).
    o.cpu.rflags = (state.gpr(R11) & 0x3c_7fd7n) | 2n;
    flat(o, base + (long ? 16 : 0), base + 8, 3, long);
    state.rip = long ? target : target & 0xffff_ffffn;
    if (state.eflags & FLAG.IF && state.i32(S.IRQ_WAITING)) state.setI32(S.ATTENTION, 1);
    return true;
  },
  SYSENTER(o) {
    const { state } = o.cpu;
    const cs = Number(state.u64(S.SYSENTER_CS) & 0xfffcn);
    if (o.system.segments.isReal || cs === 0) throw new GuestFault(VECTOR.GP);
    const long = o.system.segments.isLongMode;
    state.eflags &= ~(FLAG.IF | FLAG.VM | FLAG.RF);
    flat(o, cs, cs + 8, 0, long);
    const mask = long ? (1n << 64n) - 1n : 0xffff_ffffn;
    state.setGpr(RSP, state.u64(S.SYSENTER_ESP) & mask);
    state.rip = state.u64(S.SYSENTER_EIP) & mask;
    return true;
  },
  SYSEXIT(o) {
    const { state } = o.cpu;
    const cs = Number(state.u64(S.SYSENTER_CS) & 0xfffcn);
    if (o.system.segments.isReal || cs === 0) throw new GuestFault(VECTOR.GP);
    privileged(o);
    const long = o.size === 8;
    const selector = cs + (long ? 32 : 16);
    const [rsp, rip] = [state.gpr(RCX), state.gpr(RDX)];
    flat(o, selector, selector + 8, 3, long);
    state.setGpr(RSP, long ? rsp : rsp & 0xffff_ffffn);
    state.rip = long ? rip : rip & 0xffff_ffffn;
    return true;
  },
  SWAPGS(o) {
    privileged(o);
    const { state } = o.cpu;
    const base = o.system.segments.base(SEG.GS);
    o.system.segments.setBase(SEG.GS, state.u64(S.KERNEL_GS_BASE));
    state.setU64(S.KERNEL_GS_BASE, base);
  },
  CLI(o) {
    if (o.cpu.state.cpl > iopl(o) && !o.system.segments.isReal) throw new GuestFault(VECTOR.GP);
    o.cpu.state.eflags &= ~FLAG.IF;
  },
  STI(o) {
    const { state } = o.cpu;
    if (state.cpl > iopl(o) && !o.system.segments.isReal) throw new GuestFault(VECTOR.GP);
    if ((state.eflags & FLAG.IF) === 0) o.system.shadow(o.pc);
    state.eflags |= FLAG.IF;
    if (state.i32(S.IRQ_WAITING)) state.setI32(S.ATTENTION, 1);
  },
  PUSHF(o) {
    if (o.cpu.state.eflags & FLAG.VM && iopl(o) < 3) throw new GuestFault(VECTOR.GP);
    push(o, o.cpu.rflags & ~BigInt(FLAG.RF | FLAG.VM), o.size);
  },
  POPF(o) {
    const { state } = o.cpu;
    if (state.eflags & FLAG.VM && iopl(o) < 3) throw new GuestFault(VECTOR.GP);
    const value = stackAt(o, 0, o.size);
    moveStack(o, o.size);
    o.system.delivery.setFlags(value, o.size, o.system.segments.isReal ? 0 : state.cpl, true);
    // TF begins to count after the next instruction: a new block.
    state.rip = o.system.nextRip(o.pc);
    return true;
  },
  ENTER(o) {
    const { state } = o.cpu;
    const size = state.view.getUint16(o.pc + R.IMMEDIATE, true);
    const level = state.view.getUint16(o.pc + R.IMMEDIATE + 2, true) & 31;
    const rbp = 5;
    const before = state.gpr(RSP);
    try {
      push(o, state.gpr(rbp), o.size);
      const frame = state.gpr(RSP);
      for (let i = 1; i < level; i++) {
        const base = o.system.segments.is64 ? 0n : o.system.segments.base(SEG.SS);
        const at = (state.gpr(rbp) - BigInt(i * o.size)) & state.u64(S.STACK_MASK);
        push(o, o.system.linear.get(base + at, o.size), o.size);
      }
      if (level > 0) push(o, frame, o.size);
      moveStack(o, -size);
      const old = state.gpr(rbp);
      state.setGpr(
        rbp,
        o.size === 2 ? (old & ~0xffffn) | (frame & 0xffffn) : o.size === 4 ? frame & 0xffff_ffffn : frame,
      );
    } catch (error) {
      state.setGpr(RSP, before);
      throw error;
    }
  },
  PUSHA(o) {
    const { state } = o.cpu;
    const before = state.gpr(RSP);
    try {
      for (let i = 0; i < 8; i++) push(o, i === RSP ? before : state.gpr(i), o.size);
    } catch (error) {
      state.setGpr(RSP, before);
      throw error;
    }
  },
  POPA(o) {
    const { state } = o.cpu;
    const values = Array.from({ length: 8 }, (_, i) => stackAt(o, i * o.size, o.size));
    values.forEach((value, i) => {
      const number = 7 - i;
      if (number === RSP) return;
      state.setGpr(number, o.size === 2 ? (state.gpr(number) & ~0xffffn) | value : value);
    });
    moveStack(o, 8 * o.size);
  },
  CALL_FAR: (o) => far(o, true),
  JMP_FAR: (o) => far(o, false),
  CALL_FAR_MEMORY(o) {
    const { selector, offset } = farPointer(o);
    o.system.far.transfer(selector, offset, o.size, true, o.system.nextRip(o.pc));
    return true;
  },
  JMP_FAR_MEMORY(o) {
    const { selector, offset } = farPointer(o);
    o.system.far.transfer(selector, offset, o.size, false, o.system.nextRip(o.pc));
    return true;
  },
  RET_FAR(o) {
    // CA has the immediate as its second operand: its address is in B then.
    const hasImmediate = o.cpu.state.view.getInt32(o.pc + R.B, true) !== 0;
    o.system.far.return(o.size, hasImmediate ? Number(immediate(o) & 0xffffn) : 0);
    return true;
  },
  BOUND(o) {
    const at = address(o, o.size * 2);
    const signed = (value: bigint) => BigInt.asIntN(o.size * 8, value);
    const { view } = o.cpu.state;
    const register = view.getInt32(o.pc + R.A, true);
    const index = signed(
      o.size === 2 ? BigInt(view.getUint16(register, true)) : BigInt(view.getUint32(register, true)),
    );
    const low = signed(o.system.linear.get(at, o.size));
    const high = signed(o.system.linear.get(at + BigInt(o.size), o.size));
    if (index < low || index > high) throw new GuestFault(VECTOR.BR);
  },
};
