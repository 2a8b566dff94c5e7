/** x87, FXSAVE and XSAVE: from the engine to src/tcg/fpu and back. */

import type { Cpu } from '../cpu.ts';
import { ACCESS, type Access } from '../emit/access.ts';
import { FXSAVE_BYTES, type FxForm, fxrstor, fxsave, XSAVE_BYTES, xrstor, xsave } from '../fpu/fxsave.ts';
import { AreaX87State } from '../fpu/state.ts';
import { operandBytes, x87Encoding } from '../fpu/table.ts';
import { X87, X87_RESULT } from '../fpu/x87.ts';
import { GPR, R, S, SEG } from '../layout.ts';
import { GuestFault, VECTOR } from './fault.ts';
import { address, type Operations, registerNumber } from './operands.ts';
import type { Operation } from './operations.ts';

const CR0_MP = 2;
const CR0_EM = 4;
const CR0_TS = 8;
const CR0_NE = 0x20;
const CR4_OSXSAVE = 1 << 18;
const { RAX } = GPR;
/** Bytes that FXSAVE writes; those behind them are the guest's own. */
const FXSAVE_WRITTEN = 416;
/** Details of FXSAVE and its kin: REX.W. */
const WIDE = 1;

/** The unit of each vCPU. */
interface UnitOfCpu {
  readonly unit: X87;
  readonly state: AreaX87State;
  /** The unit's memory operand. */
  readonly operand: Uint8Array;
}
const units = new WeakMap<Cpu, UnitOfCpu>();

function unitOf(cpu: Cpu): UnitOfCpu {
  let known = units.get(cpu);
  if (known === undefined) {
    const state = new AreaX87State(cpu.state.view.buffer, cpu.state.base);
    const unit = new X87(state);
    known = { unit, state, operand: new Uint8Array(unit.operand.buffer, unit.operandOffset) };
    units.set(cpu, known);
  }
  return known;
}

/** The x87 and SSE state of a vCPU. */
export function fxStateOf(cpu: Cpu): AreaX87State {
  return unitOf(cpu).state;
}

/** A pending unmasked exception: #MF. With CR0.NE clear a PC raises IRQ 13 instead, which no guest of ours uses. */
function pendingFault(): GuestFault {
  return new GuestFault(VECTOR.MF);
}

function x87(o: Operation): void {
  const { cpu, system } = o;
  const { cr0 } = cpu.state;
  if (cr0 & (CR0_EM | CR0_TS)) throw new GuestFault(VECTOR.NM);
  const { unit, state, operand } = unitOf(cpu);
  // The decoder puts ModRM into the operand after the memory operand, or into the first.
  const modrm = registerNumber(o, o.memory ? 1 : 0);
  const opcode = o.detail;
  const encoding = x87Encoding(opcode, modrm);
  if (encoding === undefined) throw new GuestFault(VECTOR.UD);
  if (encoding.waits && unit.pending) throw pendingFault();
  unit.size16 = encoding.image !== undefined && o.size === 2;
  unit.protectedMode = !system.segments.isReal;
  const bytes = operandBytes(encoding, unit.size16);
  const reads = encoding.access === 'read';
  let at = 0n;
  let host = -1;
  if (o.memory) {
    const access = reads ? ACCESS.read : ACCESS.write;
    at = address(o, bytes, access);
    host = system.linear.host(at, bytes, access);
    if (host >= 0) {
      if (reads) copy(cpu.state.bytes, host, operand, 0, bytes);
    } else if (reads) system.linear.read(at, operand.subarray(0, bytes));
    else system.linear.probe(at, bytes, ACCESS.write);
  }
  const before = host < 0 && o.memory ? state.control() : undefined;
  if (!encoding.control) {
    state.fop = ((opcode & 7) << 8) | modrm;
    setInstructionPointer(o);
    if (o.memory) state.fdp = BigInt.asUintN(64, cpu.exports.offset(o.pc));
  }
  if (encoding.eflags !== 'none') unit.eflags = Number(cpu.exports.getFlags());
  const result = unit.execute(opcode, modrm);
  if (result === X87_RESULT.UNDEFINED) throw new GuestFault(VECTOR.UD);
  if (result === X87_RESULT.PENDING) throw pendingFault();
  if (encoding.eflags === 'write') cpu.exports.setFlags(BigInt(unit.eflags));
  if (opcode === 0xdf && modrm === 0xe0) {
    cpu.state.setGpr(RAX, (cpu.state.gpr(RAX) & ~0xffffn) | BigInt(unit.ax & 0xffff));
  }
  if (encoding.access !== 'write' || result === X87_RESULT.NO_STORE) return;
  if (host >= 0) {
    copy(operand, 0, cpu.state.bytes, host, bytes);
    cpu.mmu.touched(host, bytes);
    return;
  }
  try {
    system.linear.write(at, operand.subarray(0, bytes));
  } catch (left) {
    // A store to a device is left and repeated: the stack must be as it was.
    if (before !== undefined) state.setControl(before);
    throw left;
  }
}

/** Of few bytes: a loop costs less than views. */
function copy(from: Uint8Array, start: number, to: Uint8Array, at: number, bytes: number): void {
  for (let i = 0; i < bytes; i++) to[at + i] = from[start + i];
}

/** FIP: RIP of the instruction, without big integers. */
function setInstructionPointer({ cpu: { state }, pc }: Operation): void {
  const low = (state.i32(S.BLOCK_RIP) >>> 0) + state.view.getUint16(pc + R.OFFSET, true);
  state.setI32(S.FIP, low | 0);
  state.setI32(S.FIP + 4, state.i32(S.BLOCK_RIP + 4) + (low > 0xffff_ffff ? 1 : 0));
}

function formOf(o: Operation): FxForm {
  return { wide: (o.detail & WIDE) !== 0, longMode: o.system.segments.is64 };
}

/** Linear address of an image: aligned, and within its segment. */
function imageAddress(o: Operation, bytes: number, alignment: bigint, access: Access): bigint {
  const { state, exports } = o.cpu;
  const at = address(o, 1, access);
  if (at & (alignment - 1n)) throw new GuestFault(VECTOR.GP);
  if (!o.system.segments.is64) {
    const segment = state.bytes[o.pc + R.EXTRA];
    const field = access === ACCESS.read ? S.SEGMENT_LAST_READ : S.SEGMENT_LAST_WRITE;
    const last = state.i32(field + segment * 4) >>> 0;
    if (Number(exports.offset(o.pc)) + bytes - 1 > last)
      throw new GuestFault(segment === SEG.SS ? VECTOR.SS : VECTOR.GP);
  }
  return at;
}

/** Has `use` read an image where it lies, or a copy. */
function readImage(
  o: Operation,
  bytes: number,
  alignment: bigint,
  use: (view: DataView, offset: number) => boolean,
): void {
  const at = imageAddress(o, bytes, alignment, ACCESS.read);
  const host = o.system.linear.host(at, bytes, ACCESS.read);
  let valid: boolean;
  if (host >= 0) valid = use(o.cpu.state.view, host);
  else {
    const image = new Uint8Array(bytes);
    o.system.linear.read(at, image);
    valid = use(new DataView(image.buffer), 0);
  }
  if (!valid) throw new GuestFault(VECTOR.GP);
}

/** Lets `fill` change an image where it lies, or a copy of whose first `written` bytes are written back. */
function writeImage(
  o: Operation,
  bytes: number,
  written: number,
  alignment: bigint,
  fill: (view: DataView, offset: number) => void,
): void {
  const at = imageAddress(o, bytes, alignment, ACCESS.write);
  const host = o.system.linear.host(at, bytes, ACCESS.write);
  if (host >= 0) {
    fill(o.cpu.state.view, host);
    o.cpu.mmu.touched(host, written);
    return;
  }
  o.system.linear.probe(at, bytes, ACCESS.write);
  const image = new Uint8Array(bytes);
  o.system.linear.read(at, image);
  fill(new DataView(image.buffer), 0);
  o.system.linear.write(at, image.subarray(0, written));
}

/** FXSAVE and FXRSTOR: CR0.EM and CR0.TS make them unavailable. */
function fxAvailable(o: Operation): void {
  if (o.cpu.state.cr0 & (CR0_EM | CR0_TS)) throw new GuestFault(VECTOR.NM);
}

/** The components that XSAVE or XRSTOR is about. */
function requested(o: Operation): number {
  const { state } = o.cpu;
  if ((state.cr4 & CR4_OSXSAVE) === 0) throw new GuestFault(VECTOR.UD);
  if (state.cr0 & CR0_TS) throw new GuestFault(VECTOR.NM);
  return state.gpr32(RAX) & state.i32(S.XCR0);
}

function save(o: Operation): void {
  const wanted = requested(o);
  writeImage(o, XSAVE_BYTES, XSAVE_BYTES, 64n, (view, offset) =>
    xsave(fxStateOf(o.cpu), view, offset, formOf(o), wanted),
  );
}

export const FPU_OPERATIONS: Operations = {
  X87: x87,
  FWAIT(o) {
    const { cr0 } = o.cpu.state;
    if ((cr0 & (CR0_MP | CR0_TS)) === (CR0_MP | CR0_TS)) throw new GuestFault(VECTOR.NM);
    if (unitOf(o.cpu).unit.pending && cr0 & CR0_NE) throw pendingFault();
  },
  FXSAVE(o) {
    fxAvailable(o);
    writeImage(o, FXSAVE_BYTES, FXSAVE_WRITTEN, 16n, (view, offset) =>
      fxsave(fxStateOf(o.cpu), view, offset, formOf(o)),
    );
  },
  FXRSTOR(o) {
    fxAvailable(o);
    readImage(o, FXSAVE_BYTES, 16n, (view, offset) => fxrstor(fxStateOf(o.cpu), view, offset, formOf(o)));
  },
  XSAVE: save,
  XSAVEOPT: save,
  XRSTOR(o) {
    const wanted = requested(o);
    const xcr0 = o.cpu.state.i32(S.XCR0);
    readImage(o, XSAVE_BYTES, 64n, (view, offset) =>
      xrstor(fxStateOf(o.cpu), view, offset, formOf(o), wanted, xcr0),
    );
  },
};
