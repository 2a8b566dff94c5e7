/** Port I/O: IN, OUT, INS, OUTS (SDM vol. 1 19). */

import { ACCESS } from '../emit/access.ts';
import { FLAG } from '../emit/rflags.ts';
import { GPR, R, S, SEG } from '../layout.ts';
import { DeviceExit, GuestFault, VECTOR } from './fault.ts';
import { iopl, type Operations } from './operands.ts';
import type { Operation } from './operations.ts';

const { RAX, RCX, RDX, RSI, RDI } = GPR;
const TSS_IO_MAP = 102n;

/** CPL above IOPL needs the permission bitmap of the TSS (SDM vol. 1 19.5.2). */
function permit(o: Operation, port: number, bytes: number): void {
  const { state } = o.cpu;
  const { segments, linear } = o.system;
  const vm = (state.eflags & FLAG.VM) !== 0;
  if ((state.cr0 & 1) === 0 || (!vm && state.cpl <= iopl(o))) return;
  const limit = segments.limit(SEG.TR);
  const is386 = (segments.rights(SEG.TR) & 8) !== 0;
  if (!is386 || limit < 103) throw new GuestFault(VECTOR.GP);
  const base = segments.base(SEG.TR);
  const at = Number(linear.get(base + TSS_IO_MAP, 2, true)) + (port >> 3);
  if (at + 1 > limit) throw new GuestFault(VECTOR.GP);
  const bits = Number(linear.get(base + BigInt(at), 2, true)) >> (port & 7);
  if (bits & ((1 << bytes) - 1)) throw new GuestFault(VECTOR.GP);
}

function portOf(o: Operation): number {
  const { state } = o.cpu;
  // The immediate form has the immediate's address as operand 1.
  const at = state.view.getInt32(o.pc + R.B, true);
  return at === 0 ? Number(state.gpr(RDX) & 0xffffn) : state.bytes[at];
}

function access(o: Operation, port: number, write: boolean, data: Uint8Array): void {
  // A breakpoint on the port: the instruction is executed again, alone.
  if (!o.system.debug.port(port, data.length)) throw new DeviceExit();
  if (!o.cpu.log.access('port', port, write, data, true)) throw new DeviceExit();
}

function bytesOf(o: Operation): number {
  return Math.min(4, o.size);
}

/** One element, or with REP as many as RCX says, one a time: the instruction is executed again for the next. */
function string(o: Operation, transfer: (bytes: number) => number): boolean {
  const { state } = o.cpu;
  const mask = state.view.getBigUint64(o.pc + R.IMMEDIATE, true);
  const repeats = state.view.getInt32(o.pc + R.DISPLACEMENT, true) !== 0;
  const keep = mask === 0xffffn ? ~0xffffn : 0n;
  const count = state.gpr(RCX) & mask;
  if (repeats && count === 0n) return false;
  const bytes = bytesOf(o);
  const register = transfer(bytes);
  const step = state.eflags & FLAG.DF ? -BigInt(bytes) : BigInt(bytes);
  const set = (number: number, value: bigint) =>
    state.setGpr(number, (state.gpr(number) & keep & ((1n << 64n) - 1n)) | (value & mask));
  set(register, state.gpr(register) + step);
  if (!repeats) return false;
  set(RCX, count - 1n);
  if (count === 1n) return false;
  state.rip = o.system.rip(o.pc);
  return true;
}

function stringAddress(
  o: Operation,
  register: number,
  segment: number,
  bytes: number,
  write: boolean,
): bigint {
  const { state } = o.cpu;
  const mask = state.view.getBigUint64(o.pc + R.IMMEDIATE, true);
  return o.system.segments.linear(segment, state.gpr(register) & mask, bytes, write);
}

export const IO_OPERATIONS: Operations = {
  IN(o) {
    const bytes = bytesOf(o);
    const port = portOf(o);
    permit(o, port, bytes);
    const data = new Uint8Array(4);
    access(o, port, false, data.subarray(0, bytes));
    const { state } = o.cpu;
    const value = BigInt(new DataView(data.buffer).getUint32(0, true));
    const mask = (1n << BigInt(bytes * 8)) - 1n;
    state.setGpr(RAX, bytes === 4 ? value : (state.gpr(RAX) & ~mask) | value);
  },
  OUT(o) {
    const bytes = bytesOf(o);
    const port = portOf(o);
    permit(o, port, bytes);
    const { state } = o.cpu;
    access(o, port, true, state.bytes.slice(state.base + S.GPR, state.base + S.GPR + bytes));
  },
  INS(o) {
    const port = Number(o.cpu.state.gpr(RDX) & 0xffffn);
    return string(o, (bytes) => {
      permit(o, port, bytes);
      const at = stringAddress(o, RDI, SEG.ES, bytes, true);
      o.system.linear.probe(at, bytes, ACCESS.write);
      const data = new Uint8Array(bytes);
      access(o, port, false, data);
      o.system.linear.write(at, data);
      return RDI;
    });
  },
  OUTS(o) {
    const port = Number(o.cpu.state.gpr(RDX) & 0xffffn);
    return string(o, (bytes) => {
      permit(o, port, bytes);
      const data = new Uint8Array(bytes);
      const segment = o.cpu.state.bytes[o.pc + R.EXTRA];
      o.system.linear.read(stringAddress(o, RSI, segment, bytes, false), data);
      access(o, port, true, data);
      return RSI;
    });
  },
};
