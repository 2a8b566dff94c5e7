/**
 * The MMX registers: the significands of the x87 registers by physical number (SDM vol. 1, 9.2.3 and vol. 3A 12).
 */
import type { Meaning } from '../emit/meaning.ts';
import { S } from '../layout.ts';
import { type Expr, load } from '../wasm/index.ts';

const MF = 16;
const FSW_ES = 0x80;
const FSW_TOP = 0x3800;
const ALL_VALID = 0xff;
/** Sign and exponent of a register that an MMX instruction has written. */
const ALL_ONES = 0xffff;

/** To be called first: an x87 exception that is pending is raised before the instruction does anything. */
export function beginMmx(c: Meaning): void {
  c.f.if_(c.state('i32.load', S.FSW).and(FSW_ES), () => c.raise(MF));
}

/** To be called last: TOP becomes 0, all registers valid, or with EMMS empty. */
export function endMmx(c: Meaning, tags = ALL_VALID): void {
  c.setState('i32.store', S.FSW, c.state('i32.load', S.FSW).and(~FSW_TOP));
  c.setState('i32.store', S.FTW, tags);
}

/** An MMX register, or memory, in the low half of a vector whose high half is zero. */
export function readMmx(c: Meaning, i: number): Expr {
  return c.isMemory(i) ? c.readVector(i) : load('v128.load64_zero', c.pointer(i));
}

/** Writes the low half of a vector to an MMX register. */
export function writeMmx(c: Meaning, i: number, value: Expr): void {
  const low = c.let(value.lane('i64x2', 0));
  c.f.store('i64.store', c.pointer(i), low);
  c.f.store('i32.store', c.pointer(i), ALL_ONES, 8);
}
