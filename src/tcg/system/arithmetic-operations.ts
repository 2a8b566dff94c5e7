/** Arithmetic that WebAssembly does not have: 128-bit division, CMPXCHG16B, decimal adjustment. */

import { ACCESS } from '../emit/access.ts';
import { FLAG } from '../emit/rflags.ts';
import { GPR, R, S } from '../layout.ts';
import type { Pair } from '../rendezvous.ts';
import { GuestFault, VECTOR } from './fault.ts';
import { address, immediate, type Operations } from './operands.ts';
import type { Operation } from './operations.ts';

const { RAX, RCX, RDX, RBX } = GPR;

/** Sets SF, ZF, PF by AL, and the flags given. */
function setByteFlags({ cpu }: Operation, al: number, others: number): void {
  let parity = al ^ (al >> 4);
  parity ^= parity >> 2;
  parity ^= parity >> 1;
  const flags = (al & 0x80 ? FLAG.SF : 0) | (al === 0 ? FLAG.ZF : 0) | (parity & 1 ? 0 : FLAG.PF) | others;
  cpu.exports.setFlags(BigInt(flags));
}

function decimal(o: Operation, sign: 1 | -1): void {
  const { state } = o.cpu;
  const flags = Number(o.cpu.rflags);
  const old = state.bytes[state.base + S.GPR];
  let al = old;
  let carry = 0;
  let half = 0;
  if ((old & 15) > 9 || flags & FLAG.AF) {
    const moved = al + 6 * sign;
    if (moved < 0 || moved > 255) carry = FLAG.CF;
    al = moved & 0xff;
    half = FLAG.AF;
    carry |= flags & FLAG.CF;
  }
  if (old > 0x99 || flags & FLAG.CF) {
    al = (al + 0x60 * sign) & 0xff;
    carry = FLAG.CF;
  }
  state.bytes[state.base + S.GPR] = al;
  setByteFlags(o, al, carry | half);
}

function asciiAdjust(o: Operation, sign: 1 | -1): void {
  const { state, rflags } = o.cpu;
  const ax = Number(state.gpr(RAX) & 0xffffn);
  const adjusts = (ax & 15) > 9 || (Number(rflags) & FLAG.AF) !== 0;
  const moved = adjusts ? (ax + 0x106 * sign) & 0xffff : ax;
  state.setGpr(RAX, (state.gpr(RAX) & ~0xffffn) | BigInt(moved & 0xff0f));
  setByteFlags(o, moved & 15, adjusts ? FLAG.CF | FLAG.AF : 0);
}

function divide(o: Operation, signed: boolean): void {
  const { state } = o.cpu;
  const as = (value: bigint, bits: number) => (signed ? BigInt.asIntN(bits, value) : value);
  const n = as((state.gpr(RDX) << 64n) | state.gpr(RAX), 128);
  const d = as(state.u64(S.TEMP), 64);
  const q = n / d;
  if (as(BigInt.asUintN(64, q), 64) !== q) throw new GuestFault(VECTOR.DE);
  state.setGpr(RAX, BigInt.asUintN(64, q));
  state.setGpr(RDX, BigInt.asUintN(64, n % d));
}

/** Devices know no locks. */
function exchangeDevice(o: Operation, at: bigint, expected: Pair, replacement: Pair): Pair {
  const bytes = new Uint8Array(16);
  const view = new DataView(bytes.buffer);
  o.system.linear.read(at, bytes);
  const old = { low: view.getBigUint64(0, true), high: view.getBigUint64(8, true) };
  if (old.low === expected.low && old.high === expected.high) {
    view.setBigUint64(0, replacement.low, true);
    view.setBigUint64(8, replacement.high, true);
  }
  o.system.linear.write(at, bytes);
  return old;
}

export const ARITHMETIC_OPERATIONS: Operations = {
  DIV128: (o) => divide(o, false),
  IDIV128: (o) => divide(o, true),
  /** With LOCK; without it is generated code. */
  CMPXCHG16B(o) {
    const { state, map, mmu, rendezvous } = o.cpu;
    const at = address(o, 16, ACCESS.modify);
    if (at & 15n) throw new GuestFault(VECTOR.GP);
    o.system.linear.probe(at, 16, ACCESS.write);
    const host = map.host(mmu.walker.physical, true);
    const pair = { low: state.gpr(RAX), high: state.gpr(RDX) };
    const replacement = { low: state.gpr(RBX), high: state.gpr(RCX) };
    const old =
      host < 0 ? exchangeDevice(o, at, pair, replacement) : rendezvous.exchange(host, pair, replacement);
    if (host >= 0) mmu.touched(host, 16);
    const equal = old.low === pair.low && old.high === pair.high;
    if (!equal) {
      state.setGpr(RAX, old.low);
      state.setGpr(RDX, old.high);
    }
    const flags = o.cpu.exports.getFlags() & ~BigInt(FLAG.ZF);
    o.cpu.exports.setFlags(flags | (equal ? BigInt(FLAG.ZF) : 0n));
  },
  DAA: (o) => decimal(o, 1),
  DAS: (o) => decimal(o, -1),
  AAA: (o) => asciiAdjust(o, 1),
  AAS: (o) => asciiAdjust(o, -1),
  AAM(o) {
    const { state } = o.cpu;
    const base = state.bytes[o.pc + R.IMMEDIATE];
    if (base === 0) throw new GuestFault(VECTOR.DE);
    const al = state.bytes[state.base + S.GPR];
    state.bytes[state.base + S.GPR + 1] = Math.floor(al / base);
    state.bytes[state.base + S.GPR] = al % base;
    setByteFlags(o, al % base, 0);
  },
  AAD(o) {
    const { state } = o.cpu;
    const base = Number(immediate(o) & 0xffn);
    const al = (state.bytes[state.base + S.GPR] + state.bytes[state.base + S.GPR + 1] * base) & 0xff;
    state.bytes[state.base + S.GPR + 1] = 0;
    state.bytes[state.base + S.GPR] = al;
    setByteFlags(o, al, 0);
  },
};
