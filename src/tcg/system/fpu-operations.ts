/** x87, FXSAVE and XSAVE: from the engine to src/tcg/fpu and back. */

import type { Cpu } from '../cpu.ts';
import { ACCESS, type Access } from '../emit/access.ts';
import { FXSAVE_BYTES, type FxForm, fxrstor, fxsave, XSAVE_BYTES, xrstor, xsave } from '../fpu/fxsave.ts';
import { AreaX87State } from '../fpu/state.ts';
import { operandBytes, x87Encoding } from '../fpu/table.ts';
import { X87, X87_RESULT } from '../fpu/x87.ts';
import { R, S, SEG } from '../layout.ts';
import { GuestFault, VECTOR } from './fault.ts';
import { address, type Operations, registerNumber } from './operands.ts';
import type { Operation } from './operations.ts';

const CR0_MP = 2;
const CR0_EM = 4;
const CR0_TS = 8;
const CR0_NE = 0x20;
const CR4_OSXSAVE = 1 << 18;
const RAX = 0;
/** Bytes that FXSAVE writes; those behind them are the guest's own. */
const FXSAVE_WRITTEN = 416;
/** Details of FXSAVE and its kin: REX.W. */
const WIDE = 1;

/** The unit of each vCPU. */
const units = new WeakMap<Cpu, { unit: X87; state: AreaX87State }>();

function unitOf(cpu: Cpu): { unit: X87; state: AreaX87State } {
  let known = units.get(cpu);
  if (known === undefined) {
    const state = new AreaX87State(cpu.state.view.buffer, cpu.state.base);
    known = { unit: new X87(state), state };
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
  const { unit, state } = unitOf(cpu);
  // The decoder puts ModRM into the operand after the memory operand, or into the first.
  const modrm = registerNumber(o, o.memory ? 1 : 0);
  const opcode = o.detail;
  const encoding = x87Encoding(opcode, modrm);
  if (encoding === undefined) throw new GuestFault(VECTOR.UD);
  if (encoding.waits && unit.pending) throw pendingFault();
  unit.size16 = encoding.image !== undefined && o.size === 2;
  unit.protectedMode = !system.segments.isReal;
  const bytes = operandBytes(encoding, unit.size16);
  const memory = new Uint8Array(unit.operand.buffer, unit.operandOffset, bytes);
  let at = 0n;
  if (o.memory) {
    at = address(o, bytes, encoding.access === 'write' ? ACCESS.write : ACCESS.read);
    if (encoding.access === 'read') system.linear.read(at, memory);
    else system.linear.probe(at, bytes, ACCESS.write);
  }
  if (!encoding.control) {
    state.fop = ((opcode & 7) << 8) | modrm;
    state.fip = system.rip(o.pc);
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
  if (encoding.access === 'write' && result !== X87_RESULT.NO_STORE) system.linear.write(at, memory);
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

function readImage(o: Operation, bytes: number, alignment: bigint): DataView {
  const at = imageAddress(o, bytes, alignment, ACCESS.read);
  const image = new Uint8Array(bytes);
  o.system.linear.read(at, image);
  return new DataView(image.buffer);
}

/** Lets `fill` change what is there; the bytes behind the first `written` stay as they are. */
function writeImage(
  o: Operation,
  bytes: number,
  written: number,
  alignment: bigint,
  fill: (view: DataView) => void,
): void {
  const at = imageAddress(o, bytes, alignment, ACCESS.write);
  o.system.linear.probe(at, bytes, ACCESS.write);
  const image = new Uint8Array(bytes);
  o.system.linear.read(at, image);
  fill(new DataView(image.buffer));
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
  writeImage(o, XSAVE_BYTES, XSAVE_BYTES, 64n, (view) => xsave(fxStateOf(o.cpu), view, 0, formOf(o), wanted));
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
    writeImage(o, FXSAVE_BYTES, FXSAVE_WRITTEN, 16n, (view) => fxsave(fxStateOf(o.cpu), view, 0, formOf(o)));
  },
  FXRSTOR(o) {
    fxAvailable(o);
    const view = readImage(o, FXSAVE_BYTES, 16n);
    if (!fxrstor(fxStateOf(o.cpu), view, 0, formOf(o))) throw new GuestFault(VECTOR.GP);
  },
  XSAVE: save,
  XSAVEOPT: save,
  XRSTOR(o) {
    const wanted = requested(o);
    const view = readImage(o, XSAVE_BYTES, 64n);
    if (!xrstor(fxStateOf(o.cpu), view, 0, formOf(o), wanted, o.cpu.state.i32(S.XCR0)))
      throw new GuestFault(VECTOR.GP);
  },
};
