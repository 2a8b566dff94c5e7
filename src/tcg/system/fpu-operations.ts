/** x87, FXSAVE and XSAVE: from the engine to src/tcg/fpu and back. */

import type { Cpu } from '../cpu.ts';
import { ACCESS } from '../emit/access.ts';
import { FXSAVE_BYTES, type FxForm, fxrstor, fxsave, XSAVE_BYTES, xrstor, xsave } from '../fpu/fxsave.ts';
import { AreaX87State } from '../fpu/state.ts';
import { operandBytes, x87Encoding } from '../fpu/table.ts';
import { X87, X87_RESULT } from '../fpu/x87.ts';
import { S } from '../layout.ts';
import { GuestFault, VECTOR } from './fault.ts';
import { address, type Operations, registerNumber } from './operands.ts';
import type { Operation } from './operations.ts';

const CR0_MP = 2;
const CR0_EM = 4;
const CR0_TS = 8;
const CR0_NE = 0x20;
const CR4_OSXSAVE = 1 << 18;
const RAX = 0;
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

/** Reads an image, lets `use` change it, and writes it back when that says so. */
function image(o: Operation, bytes: number, alignment: bigint, use: (view: DataView) => boolean): void {
  const { cr0 } = o.cpu.state;
  if (cr0 & (CR0_EM | CR0_TS)) throw new GuestFault(VECTOR.NM);
  const at = address(o, bytes & 0xff);
  if (at & (alignment - 1n)) throw new GuestFault(VECTOR.GP);
  const buffer = new Uint8Array(bytes);
  o.system.linear.read(at, buffer);
  if (use(new DataView(buffer.buffer))) o.system.linear.write(at, buffer);
}

function requested(o: Operation): number {
  if ((o.cpu.state.cr4 & CR4_OSXSAVE) === 0) throw new GuestFault(VECTOR.UD);
  return o.cpu.state.gpr32(RAX) & o.cpu.state.i32(S.XCR0);
}

function save(o: Operation): void {
  const wanted = requested(o);
  image(o, XSAVE_BYTES, 64n, (view) => {
    xsave(fxStateOf(o.cpu), view, 0, formOf(o), wanted);
    return true;
  });
}

export const FPU_OPERATIONS: Operations = {
  X87: x87,
  FWAIT(o) {
    const { cr0 } = o.cpu.state;
    if ((cr0 & (CR0_MP | CR0_TS)) === (CR0_MP | CR0_TS)) throw new GuestFault(VECTOR.NM);
    if (unitOf(o.cpu).unit.pending && cr0 & CR0_NE) throw pendingFault();
  },
  FXSAVE: (o) =>
    image(o, FXSAVE_BYTES, 16n, (view) => {
      fxsave(fxStateOf(o.cpu), view, 0, formOf(o));
      return true;
    }),
  FXRSTOR: (o) =>
    image(o, FXSAVE_BYTES, 16n, (view) => {
      if (!fxrstor(fxStateOf(o.cpu), view, 0, formOf(o))) throw new GuestFault(VECTOR.GP);
      return false;
    }),
  XSAVE: save,
  XSAVEOPT: save,
  XRSTOR(o) {
    const wanted = requested(o);
    const xcr0 = o.cpu.state.i32(S.XCR0);
    image(o, XSAVE_BYTES, 64n, (view) => {
      if (!xrstor(fxStateOf(o.cpu), view, 0, formOf(o), wanted, xcr0)) throw new GuestFault(VECTOR.GP);
      return false;
    });
  },
};
