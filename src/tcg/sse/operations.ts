/** SSE floating-point instructions whose operands, result or MXCSR are not ordinary: from the engine to FloatUnit. */
import type { Cpu } from '../cpu.ts';
import { R, S } from '../layout.ts';
import { GuestFault, VECTOR } from '../system/fault.ts';
import { fxStateOf } from '../system/fpu-operations.ts';
import { type Operations, pointer, writeRegister } from '../system/operands.ts';
import type { Operation } from '../system/operations.ts';
import { COMPARISON, FloatUnit } from './float-unit.ts';
import { DOUBLE, type FloatFormat, SINGLE } from './format.ts';
import { MASK_SHIFT, ROUND } from './mxcsr.ts';
import { DOUBLE_PRECISION, FLOAT_OPERATION, HALF, PACKED } from './operation.ts';

const CR4_OSXMMEXCPT = 1 << 10;
/** SDM vol. 1, 9.5. */
const MMX_EXPONENT = 0xffff;
const FSW_TOP = 0x3800;
const ALL_VALID = 0xff;
/** Comparison results as ZF, PF, CF (SDM vol. 2, COMISS). */
const FLAGS_OF = {
  [COMPARISON.GREATER]: 0n,
  [COMPARISON.EQUAL]: 0x40n,
  [COMPARISON.LESS]: 0x01n,
  [COMPARISON.UNORDERED]: 0x45n,
} as const;
/** Comparison results for which the predicates EQ, LT, LE and UNORD hold; the other four are their opposites. */
const HOLDS = [
  COMPARISON.EQUAL,
  COMPARISON.LESS,
  COMPARISON.EQUAL | COMPARISON.LESS,
  COMPARISON.UNORDERED,
] as const;
/** ROUNDPS and its kin: rounding as MXCSR has it, and no flag for inexact results. */
const AS_MXCSR = 4;
const QUIETLY = 8;

/** The unit and the operands of one instruction. Instructions do not nest, so one of each suffices. */
const unit = new FloatUnit();
/** The destination before, the source, and the result, as words. */
const first = new Int32Array(4);
const second = new Int32Array(4);
const out = new Int32Array(4);
/** DPPS' products, DPPS' sums. */
const terms = new Int32Array(4);

function lanes(format: FloatFormat, detail: number): number {
  if (detail & HALF) return 2;
  return detail & PACKED ? 16 / format.bytes : 1;
}

function loadA(format: FloatFormat, from: Int32Array, lane: number): void {
  if (format === SINGLE) unit.setA(format, from[lane]);
  else unit.setA(format, from[lane * 2 + 1], from[lane * 2]);
}
function loadB(format: FloatFormat, from: Int32Array, lane: number): void {
  if (format === SINGLE) unit.setB(format, from[lane]);
  else unit.setB(format, from[lane * 2 + 1], from[lane * 2]);
}
function store(format: FloatFormat, to: Int32Array, lane: number): void {
  if (format === SINGLE) to[lane] = unit.result.hi;
  else {
    to[lane * 2] = unit.result.lo;
    to[lane * 2 + 1] = unit.result.hi;
  }
}
function storeMask(format: FloatFormat, lane: number, value: boolean): void {
  unit.result.set(value ? -1 : 0, value ? -1 : 0);
  store(format, out, lane);
}

/** One lane of what is done lane by lane. */
function lane(operation: number, format: FloatFormat, i: number, immediate: number): void {
  switch (operation) {
    case FLOAT_OPERATION.ADD:
      unit.add(format);
      break;
    case FLOAT_OPERATION.SUB:
      unit.add(format, true);
      break;
    case FLOAT_OPERATION.ADDSUB:
      unit.add(format, i % 2 === 0);
      break;
    case FLOAT_OPERATION.MUL:
      unit.mul(format);
      break;
    case FLOAT_OPERATION.DIV:
      unit.div(format);
      break;
    case FLOAT_OPERATION.SQRT:
      unit.sqrt(format);
      break;
    case FLOAT_OPERATION.MIN:
      unit.minMax(false);
      break;
    case FLOAT_OPERATION.MAX:
      unit.minMax(true);
      break;
    case FLOAT_OPERATION.ROUND:
      unit.roundToInteger(
        format,
        immediate & AS_MXCSR ? unit.rounding : immediate & 3,
        (immediate & QUIETLY) !== 0,
      );
      break;
    default: {
      const predicate = immediate & 3;
      const holds = (unit.compare(predicate === 1 || predicate === 2) & HOLDS[predicate]) !== 0;
      storeMask(format, i, holds === ((immediate & 4) === 0));
      return;
    }
  }
  store(format, out, i);
}

function horizontal(format: FloatFormat, subtract: boolean): void {
  const half = 8 / format.bytes;
  for (let i = 0; i < 2 * half; i++) {
    const from = i < half ? first : second;
    const pair = (i % half) * 2;
    loadA(format, from, pair);
    loadB(format, from, pair + 1);
    unit.add(format, subtract);
    store(format, out, i);
  }
}

function addLanes(format: FloatFormat, i: number, j: number): void {
  loadA(format, terms, i);
  loadB(format, terms, j);
  unit.add(format);
  store(format, terms, i);
}

/** DPPS and DPPD: products that the upper half of the immediate asks for, their sum in lanes of the lower half's. */
function dotProduct(format: FloatFormat, immediate: number): void {
  const count = 16 / format.bytes;
  terms.fill(0);
  for (let i = 0; i < count; i++) {
    if ((immediate & (0x10 << i)) === 0) continue;
    loadA(format, first, i);
    loadB(format, second, i);
    unit.mul(format);
    store(format, terms, i);
  }
  if (unit.unmasked) return;
  addLanes(format, 0, 1);
  if (count === 4) {
    addLanes(format, 2, 3);
    if (unit.unmasked) return;
    addLanes(format, 0, 2);
  }
  const words = format.bytes / 4;
  out.fill(0);
  for (let i = 0; i < count; i++) {
    if ((immediate & (1 << i)) !== 0) out.set(terms.subarray(0, words), i * words);
  }
}

/** Packed conversions to integers of 32 bits. */
function toIntegers(format: FloatFormat, count: number, mode: number): void {
  out.fill(0);
  for (let i = 0; i < count; i++) {
    loadB(format, second, i);
    out[i] = unit.toInteger(32, mode) ?? -0x8000_0000;
  }
}

function fromIntegers(format: FloatFormat, count: number): void {
  for (let i = 0; i < count; i++) {
    unit.fromInteger(format, second[i] >> 31, second[i] >>> 0);
    store(format, out, i);
  }
}

function convert(from: FloatFormat, packed: boolean): void {
  const to = from === SINGLE ? DOUBLE : SINGLE;
  if (packed) out.fill(0);
  for (let i = 0; i < (packed ? 2 : 1); i++) {
    loadB(from, second, i);
    unit.convert(from, to);
    store(to, out, i);
  }
}

/** Sets the sticky flags. @throws GuestFault when one of them is not masked */
function finish(cpu: Cpu, mxcsr: number): void {
  const { state } = cpu;
  const reported = unit.reported;
  if (reported !== 0) state.setI32(S.MXCSR, mxcsr | reported);
  if (reported & ~(mxcsr >> MASK_SHIFT)) {
    throw new GuestFault(state.cr4 & CR4_OSXMMEXCPT ? VECTOR.XM : VECTOR.UD);
  }
}

/** The result of what sets an XMM register; `out` holds the destination's value at first. */
function compute(o: Operation, format: FloatFormat, operation: number): void {
  const { detail } = o;
  const count = lanes(format, detail);
  const immediate = o.cpu.state.bytes[o.pc + R.IMMEDIATE];
  switch (operation) {
    case FLOAT_OPERATION.HADD:
    case FLOAT_OPERATION.HSUB:
      horizontal(format, operation === FLOAT_OPERATION.HSUB);
      break;
    case FLOAT_OPERATION.DP:
      dotProduct(format, immediate);
      break;
    case FLOAT_OPERATION.CONVERT:
      convert(format, (detail & PACKED) !== 0);
      break;
    case FLOAT_OPERATION.TO_INTEGER:
      toIntegers(format, count, unit.rounding);
      break;
    case FLOAT_OPERATION.TRUNCATE:
      toIntegers(format, count, ROUND.ZERO);
      break;
    case FLOAT_OPERATION.FROM_INTEGER:
      if (detail & PACKED) fromIntegers(format, count);
      else {
        unit.fromInteger(format, second[1], second[0] >>> 0);
        store(format, out, 0);
      }
      break;
    default:
      for (let i = 0; i < count; i++) {
        loadA(format, first, i);
        loadB(format, second, i);
        lane(operation, format, i, immediate);
      }
  }
}

/** Four words; typed arrays' own way takes longer for so few. */
function copyWords(from: Int32Array, at: number, to: Int32Array, position: number): void {
  for (let i = 0; i < 4; i++) to[position + i] = from[at + i];
}

/**
 * Carries out a floating-point instruction whose source was stored at S.SSE_SOURCE; its other operands are registers.
 * The destination is written last, as an unmasked exception leaves it alone.
 */
function sseFloat(o: Operation): void {
  const { cpu, detail } = o;
  const { state } = cpu;
  const mxcsr = state.i32(S.MXCSR);
  const operation = detail & 0x1f;
  const format = detail & DOUBLE_PRECISION ? DOUBLE : SINGLE;
  const source = (state.base + S.SSE_SOURCE) >> 2;
  copyWords(state.words, source, second, 0);
  unit.begin(mxcsr);
  const integer = operation === FLOAT_OPERATION.TO_INTEGER || operation === FLOAT_OPERATION.TRUNCATE;
  if (integer && (detail & PACKED) === 0) {
    loadB(format, second, 0);
    const mode = operation === FLOAT_OPERATION.TRUNCATE ? ROUND.ZERO : unit.rounding;
    const value = unit.toInteger(o.size === 8 ? 64 : 32, mode);
    finish(cpu, mxcsr);
    const bits = value === undefined ? 1n << BigInt(o.size * 8 - 1) : BigInt(value);
    writeRegister(o, 0, BigInt.asUintN(o.size * 8, bits));
    return;
  }
  const at = pointer(o, 0) >> 2;
  copyWords(state.words, at, first, 0);
  if (operation === FLOAT_OPERATION.COMI || operation === FLOAT_OPERATION.UCOMI) {
    loadA(format, first, 0);
    loadB(format, second, 0);
    const result = unit.compare(operation === FLOAT_OPERATION.COMI);
    finish(cpu, mxcsr);
    cpu.exports.setFlags(FLAGS_OF[result as keyof typeof FLAGS_OF]);
    return;
  }
  copyWords(first, 0, out, 0);
  compute(o, format, operation);
  if (detail & HALF) enterMmx(o, integer);
  finish(cpu, mxcsr);
  copyWords(out, 0, state.words, at);
}

/**
 * The transition to MMX that comes with its registers as operands, also when an exception follows, and the exponent of a
 * result in one of them.
 */
function enterMmx({ cpu, memory }: Operation, toMmx: boolean): void {
  if (toMmx) out[2] = MMX_EXPONENT;
  else if (memory) return;
  const fx = fxStateOf(cpu);
  fx.fsw &= ~FSW_TOP;
  fx.ftw = ALL_VALID;
}

export const SSE_OPERATIONS: Operations = { SSE_FLOAT: sseFloat };
