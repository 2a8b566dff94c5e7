/** Interrupts, system calls, far transfers, flags (SDM vol. 2). */
import { FLAG } from '../emit/rflags.ts';
import { GPR, R, S, SEG } from '../layout.ts';
import type { EventKind } from './delivery.ts';
import { SHADOW } from './events.ts';
import { GuestFault, VECTOR } from './fault.ts';
import { isCanonical } from './linear.ts';
import { address, immediate, iopl, type Operations, privileged } from './operands.ts';
import type { Operation } from './operations.ts';
import { RIGHTS } from './segments.ts';

const { RSP, RBP, RCX, RDX, R11 } = GPR;
const EFER_SCE = 1n;
/** RFLAGS that SYSRET takes from R11: all but RF, VM and the reserved ones. */
const SYSRET_FLAGS = 0x3c_7fd7n;

/** Delivers an event of an instruction as its only effect; the return address is the next instruction. */
function deliver(o: Operation, vector: number, kind: EventKind): true {
  const { state } = o.cpu;
  const before = state.rip;
  state.rip = o.system.nextRip(o.pc);
  try {
    o.system.delivery.deliver(vector, 0, kind);
  } catch (error) {
    state.rip = before;
    throw error;
  }
  o.system.noTrap();
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

function farPointer(o: Operation): { selector: number; offset: bigint } {
  const at = address(o, o.size + 2);
  const offset = o.system.linear.get(at, o.size);
  return { selector: Number(o.system.linear.get(at + BigInt(o.size), 2)), offset };
}

/** CS of SYSENTER and SYSEXIT, which AMD has outside of long mode only. @throws GuestFault */
function fastCallSelector(o: Operation): number {
  const { state } = o.cpu;
  if (o.system.segments.isLongMode && o.system.registers.isAmd) throw new GuestFault(VECTOR.UD);
  const selector = Number(state.u64(S.SYSENTER_CS) & 0xfffcn);
  if ((state.cr0 & 1) === 0 || selector === 0) throw new GuestFault(VECTOR.GP);
  return selector;
}

/** CLI and STI need I/O privilege, in virtual-8086 mode too (SDM vol. 2). */
function mayMask(o: Operation): void {
  if (o.cpu.state.cr0 & 1 && o.cpu.state.cpl > iopl(o)) throw new GuestFault(VECTOR.GP);
}

function far(o: Operation, call: boolean): true {
  const { view } = o.cpu.state;
  const selector = view.getUint16(o.pc + R.DISPLACEMENT, true);
  o.system.far.transfer(selector, immediate(o), o.size, call, o.system.nextRip(o.pc));
  return true;
}

export const FLOW_OPERATIONS: Operations = {
  INT3: (o) => deliver(o, VECTOR.BP, 'software'),
  INT(o) {
    const vm = (o.cpu.state.eflags & FLAG.VM) !== 0;
    if (vm && iopl(o) < 3) throw new GuestFault(VECTOR.GP);
    return deliver(o, Number(immediate(o) & 0xffn), 'software');
  },
  INTO(o) {
    if ((Number(o.cpu.rflags) & FLAG.OF) === 0) {
      o.cpu.state.rip = o.system.nextRip(o.pc);
      return true;
    }
    return deliver(o, VECTOR.OF, 'software');
  },
  INT1(o) {
    deliver(o, VECTOR.DB, 'exception');
    o.system.debug.entered();
    return true;
  },
  IRET(o) {
    o.system.interruptReturn.iret(o.size);
    return true;
  },
  SYSCALL(o) {
    const { state } = o.cpu;
    const { segments } = o.system;
    if ((state.u64(S.EFER) & EFER_SCE) === 0n || !segments.isLongMode) throw new GuestFault(VECTOR.UD);
    const from64 = segments.is64;
    // In compatibility mode it is AMD's alone.
    if (!from64 && !o.system.registers.isAmd) throw new GuestFault(VECTOR.UD);
    state.setGpr(RCX, o.system.nextRip(o.pc));
    state.setGpr(R11, o.cpu.rflags & ~BigInt(FLAG.RF));
    const flags = o.cpu.rflags & ~state.u64(S.FMASK) & ~BigInt(FLAG.RF);
    o.cpu.rflags = flags;
    // A single-step trap follows only if TF stays set.
    if ((state.eflags & FLAG.TF) === 0) o.system.noTrap();
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
    if (long && !isCanonical(target)) throw new GuestFault(VECTOR.GP);
    const base = Number((state.u64(S.STAR) >> 48n) & 0xffffn);
    // RF and VM come back as 0 (SDM vol. 2, SYSRET).
    o.cpu.rflags = (state.gpr(R11) & SYSRET_FLAGS) | 2n;
    flat(o, base + (long ? 16 : 0), base + 8, 3, long);
    state.rip = long ? target : target & 0xffff_ffffn;
    const waits = (state.eflags & FLAG.IF) !== 0 && state.i32(S.IRQ_WAITING) !== 0;
    if (waits || state.eflags & FLAG.TF) state.attend();
    return true;
  },
  SYSENTER(o) {
    const { state } = o.cpu;
    const long = o.system.segments.isLongMode;
    const cs = fastCallSelector(o);
    state.eflags &= ~(FLAG.IF | FLAG.VM | FLAG.RF);
    flat(o, cs, cs + 8, 0, long);
    const mask = long ? (1n << 64n) - 1n : 0xffff_ffffn;
    state.setGpr(RSP, state.u64(S.SYSENTER_ESP) & mask);
    state.rip = state.u64(S.SYSENTER_EIP) & mask;
    return true;
  },
  SYSEXIT(o) {
    const { state } = o.cpu;
    const cs = fastCallSelector(o);
    privileged(o);
    const long = o.size === 8;
    const selector = cs + (long ? 32 : 16);
    const [rsp, rip] = [state.gpr(RCX), state.gpr(RDX)];
    if (long && (!isCanonical(rsp) || !isCanonical(rip))) throw new GuestFault(VECTOR.GP);
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
    mayMask(o);
    o.cpu.state.eflags &= ~FLAG.IF;
  },
  STI(o) {
    const { state } = o.cpu;
    mayMask(o);
    if ((state.eflags & FLAG.IF) === 0) o.system.shadow(o.pc, SHADOW.STI);
    state.eflags |= FLAG.IF;
    if (state.i32(S.IRQ_WAITING) === 0) return false;
    // What waits is taken behind the next instruction, also when that is followed by CLI: the block ends here.
    state.attend();
    state.rip = o.system.nextRip(o.pc);
    return true;
  },
  PUSHF(o) {
    if (o.cpu.state.eflags & FLAG.VM && iopl(o) < 3) throw new GuestFault(VECTOR.GP);
    const stack = o.system.privilege.stack();
    stack.push(o.cpu.rflags & ~BigInt(FLAG.RF | FLAG.VM), o.size);
    o.cpu.state.setGpr(RSP, stack.pointer);
  },
  POPF(o) {
    const { state } = o.cpu;
    if (state.eflags & FLAG.VM && iopl(o) < 3) throw new GuestFault(VECTOR.GP);
    const stack = o.system.privilege.stack();
    const value = stack.pop(o.size);
    state.setGpr(RSP, stack.pointer);
    o.system.interruptReturn.setFlags(value, o.size, state.cpl, true);
    // TF begins to count after the next instruction: a new block.
    state.rip = o.system.nextRip(o.pc);
    return true;
  },
  ENTER(o) {
    const { state } = o.cpu;
    const size = state.view.getUint16(o.pc + R.IMMEDIATE, true);
    const level = state.view.getUint16(o.pc + R.IMMEDIATE + 2, true) & 31;
    const old = state.gpr(RBP);
    const stack = o.system.privilege.stack();
    const frames = o.system.privilege.stack();
    frames.offset = old & state.u64(S.STACK_MASK);
    stack.push(old, o.size);
    const frame = stack.pointer;
    for (let i = 1; i < level; i++) {
      frames.skip(-o.size);
      stack.push(frames.peek(o.size), o.size);
    }
    if (level > 0) stack.push(frame, o.size);
    stack.skip(-size);
    // A push must be possible where the stack pointer ends (SDM vol. 2, ENTER).
    stack.probe(o.size);
    state.setGpr(RSP, stack.pointer);
    state.setGpr(
      RBP,
      o.size === 2 ? (old & ~0xffffn) | (frame & 0xffffn) : o.size === 4 ? frame & 0xffff_ffffn : frame,
    );
  },
  PUSHA(o) {
    const { state } = o.cpu;
    const stack = o.system.privilege.stack();
    for (let i = 0; i < 8; i++) stack.push(state.gpr(i), o.size);
    state.setGpr(RSP, stack.pointer);
  },
  POPA(o) {
    const { state } = o.cpu;
    const stack = o.system.privilege.stack();
    const values = Array.from({ length: 8 }, () => stack.pop(o.size));
    values.forEach((value, i) => {
      const number = 7 - i;
      if (number === RSP) return;
      state.setGpr(number, o.size === 2 ? (state.gpr(number) & ~0xffffn) | value : value);
    });
    state.setGpr(RSP, stack.pointer);
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
