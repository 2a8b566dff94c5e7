/** Operands of operations written in TypeScript. */

import { ACCESS, type Access } from '../emit/access.ts';
import { FLAG } from '../emit/rflags.ts';
import { R, S } from '../layout.ts';
import { GuestFault, VECTOR } from './fault.ts';
import type { Operation, OperationFunction } from './operations.ts';

const CR4_UMIP = 0x800;

/** A part of the operation table. */
export type Operations = Readonly<Record<string, OperationFunction>>;

/** Address of register operand 0, 1 or 2 in the memory. */
export function pointer(o: Operation, position: 0 | 1 | 2): number {
  const field = [R.A, R.B, R.IMMEDIATE][position];
  return o.cpu.state.view.getInt32(o.pc + field, true);
}

/** A number that the decoder put in place of a register operand (segment, control register). */
export const registerNumber = pointer;

/** Value of a register operand. */
export function readRegister(o: Operation, position: 0 | 1 | 2, bytes = o.size): bigint {
  const { view } = o.cpu.state;
  const at = pointer(o, position);
  if (bytes === 8) return view.getBigUint64(at, true);
  if (bytes === 4) return BigInt(view.getUint32(at, true));
  return BigInt(bytes === 2 ? view.getUint16(at, true) : view.getUint8(at));
}

/** Writes a register operand; 4 bytes clear the upper half. */
export function writeRegister(o: Operation, position: 0 | 1 | 2, value: bigint, bytes = o.size): void {
  const { view } = o.cpu.state;
  const at = pointer(o, position);
  if (bytes === 8) view.setBigUint64(at, value & ((1n << 64n) - 1n), true);
  else if (bytes === 4) view.setBigUint64(at, value & 0xffff_ffffn, true);
  else if (bytes === 2) view.setUint16(at, Number(value & 0xffffn), true);
  else view.setUint8(at, Number(value & 0xffn));
}

/** Linear address of the memory operand; segment limits are checked for an access of `bytes`. */
export function address(o: Operation, bytes: number, access: Access = ACCESS.read): bigint {
  const { cpu } = o;
  const linear = cpu.exports.address(o.pc, bytes | (access << 8));
  const vector = cpu.state.i32(S.FAULT_VECTOR);
  if (vector >= 0) throw new GuestFault(vector, cpu.state.i32(S.FAULT_ERROR));
  return BigInt.asUintN(64, linear);
}

/** Value of operand 0 or 1 that is a register or in memory. */
export function readOperand(o: Operation, position: 0 | 1 | 2, bytes = o.size): bigint {
  return o.memory ? o.system.linear.get(address(o, bytes), bytes) : readRegister(o, position, bytes);
}

/** Writes operand 0 that is a register or in memory. */
export function writeOperand(o: Operation, value: bigint, bytes = o.size): void {
  if (o.memory) o.system.linear.set(address(o, bytes, ACCESS.write), value, bytes);
  else writeRegister(o, 0, value, bytes);
}

/** The immediate, sign-extended. */
export function immediate(o: Operation): bigint {
  return o.cpu.state.view.getBigInt64(o.pc + R.IMMEDIATE, true);
}

/** @throws GuestFault #GP(0) unless CPL is 0 */
export function privileged(o: Operation): void {
  if (o.cpu.state.cpl !== 0) throw new GuestFault(VECTOR.GP);
}

/** SGDT and its kin are refused to user code with CR4.UMIP. @throws GuestFault #GP(0) */
export function umip(o: Operation): void {
  if (o.cpu.state.cr4 & CR4_UMIP && o.cpu.state.cpl > 0) throw new GuestFault(VECTOR.GP);
}

/** I/O privilege level. */
export function iopl(o: Operation): number {
  return (o.cpu.state.eflags & FLAG.IOPL) >> 12;
}
