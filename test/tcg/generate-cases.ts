/** Makes random cases from the instruction table: every encoding, size and operand form. */
import { type Encoding, sizesOf } from '../../src/tcg/table/instruction.ts';
import { type Case, type CaseState, type CaseWidth, DATA, DATA_SIZE } from './oracle.ts';

/** Small reproducible generator (mulberry32). */
export class Random {
  #state: number;
  constructor(seed: number) {
    this.#state = seed >>> 0;
  }
  u32(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = this.#state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (t ^ (t >>> 14)) >>> 0;
  }
  below(n: number): number {
    return this.u32() % n;
  }
  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)];
  }
  chance(percent: number): boolean {
    return this.below(100) < percent;
  }
  u64(): bigint {
    return (BigInt(this.u32()) << 32n) | BigInt(this.u32());
  }
  bytes(length: number): Uint8Array {
    return Uint8Array.from({ length }, () => this.u32());
  }
}

const INTERESTING = [
  0n,
  1n,
  2n,
  0x7fn,
  0x80n,
  0xffn,
  0x7fffn,
  0x8000n,
  0xffffn,
  0x7fff_ffffn,
  0x8000_0000n,
  0xffff_ffffn,
  0x7fff_ffff_ffff_ffffn,
  0x8000_0000_0000_0000n,
  0xffff_ffff_ffff_ffffn,
];

/** Floats whose handling is special, as 32- and 64-bit patterns. */
const FLOAT32 = [
  0, 0x8000_0000, 0x3f80_0000, 0xbf80_0000, 0x7f80_0000, 0xff80_0000, 1, 0x0080_0000, 0x7f7f_ffff,
  0x4f00_0000, 0x5f00_0000,
];
const FLOAT64 = [
  0n,
  1n << 63n,
  0x3ff0n << 48n,
  0xbff0n << 48n,
  0x7ff0n << 48n,
  0xfff0n << 48n,
  1n,
  0x10n << 48n,
  0x41e0n << 48n,
  0x43e0n << 48n,
];

function value(r: Random): bigint {
  return r.chance(40) ? r.pick(INTERESTING) : r.chance(50) ? r.u64() : r.u64() >> BigInt(r.below(60));
}

/** Vector contents: bytes, or floats that are mostly ordinary numbers; never NaN. */
function vector(r: Random): Uint8Array {
  const bytes = new Uint8Array(16);
  const view = new DataView(bytes.buffer);
  const kind = r.below(4);
  if (kind === 0) bytes.set(r.bytes(16));
  else if (kind === 1) {
    for (let i = 0; i < 4; i++) {
      if (r.chance(30)) view.setUint32(i * 4, r.pick(FLOAT32), true);
      else view.setFloat32(i * 4, (r.below(20000) - 10000) / (r.chance(50) ? 1 : 64), true);
    }
  } else if (kind === 2) {
    for (let i = 0; i < 2; i++) {
      if (r.chance(30)) view.setBigUint64(i * 8, r.pick(FLOAT64), true);
      else view.setFloat64(i * 8, (r.below(2_000_000) - 1_000_000) / (r.chance(50) ? 1 : 64), true);
    }
  } else for (let i = 0; i < 2; i++) view.setBigUint64(i * 8, value(r), true);
  return bytes;
}

/** A random state; RSP points into the middle of the data page. */
export function randomState(r: Random): CaseState {
  const gpr = Array.from({ length: 16 }, () => value(r));
  gpr[4] = BigInt(DATA + 2048);
  const xmm = new Uint8Array(256);
  for (let i = 0; i < 16; i++) xmm.set(vector(r), i * 16);
  const data = new Uint8Array(DATA_SIZE);
  for (let i = 0; i < DATA_SIZE; i += 16) data.set(vector(r), i);
  const fpr = new Uint8Array(128);
  for (let i = 0; i < 8; i++) {
    fpr.set(vector(r).subarray(0, 8), i * 16);
    fpr.set(r.bytes(2), i * 16 + 8);
  }
  return {
    gpr,
    // CF, PF, AF, ZF, SF, OF.
    flags: r.u32() & 0x8d5,
    xmm,
    mxcsr: 0x1f80,
    fpr,
    fcw: 0x37f,
    // TOP and the condition codes; no exceptions.
    fsw: r.u32() & 0x7f00,
    ftw: r.below(256),
    data,
  };
}

const PREFIX_BYTES: Readonly<Record<number, number>> = { 1: 0x66, 2: 0xf3, 3: 0xf2 };
const MAP_BYTES: readonly (readonly number[])[] = [[], [0x0f], [0x0f, 0x38], [0x0f, 0x3a]];

/** FPTAN, FSIN and their kin at D9: only nearly the processor's results; test/tcg/fpu compares them. */
const ESTIMATES = new Set([0xf0, 0xf1, 0xf2, 0xf3, 0xf9, 0xfb, 0xfe, 0xff]);

/** 0F 0D: with a register it is a NOP to Intel and undefined to AMD, whose hosts' KVM then steps in. */
function isPrefetch({ map, opcode }: Encoding): boolean {
  return map === 1 && opcode === 0x0d;
}

/** What cases are made for. */
export interface CaseForm {
  /** Memory operands are aligned and have no registers. */
  readonly absolute?: boolean;
  readonly width?: CaseWidth;
}

/** Encodes an instruction with random operands and a state in which its memory operand lies in the data page. */
export function randomCase(
  encoding: Encoding,
  r: Random,
  { absolute = false, width = 64 }: CaseForm = {},
): Case {
  const before = randomState(r);
  const long = width === 64;
  // Upper halves are not there in compatibility mode.
  if (!long) before.gpr = before.gpr.map((value, i) => (i < 8 ? value & 0xffff_ffffn : value));
  const registers = long ? 16 : 8;
  const size = r.pick(sizesOf(encoding).filter((bytes) => long || bytes < 8 || !isSized(encoding)));
  const head: number[] = [];
  let w =
    encoding.w === 1 || (size === 8 && encoding.w < 0 && encoding.defaultSize === '' && isSized(encoding));
  if (size === 2 && isSized(encoding)) head.push(0x66);
  if (encoding.prefix > 0 && !encoding.vex && !(encoding.prefix === 1 && head[0] === 0x66))
    head.push(PREFIX_BYTES[encoding.prefix]);
  if (encoding.operands.length > 0 && !isSized(encoding) && !encoding.vex && encoding.w < 0 && r.chance(10))
    w = long;
  const usesVector = encoding.operands.some(({ letter }) => 'PQN'.includes(letter));
  let reg = encoding.extension >= 0 ? encoding.extension : r.below(usesVector ? 8 : registers);
  const letters = new Set(encoding.operands.map(({ letter }) => letter));
  // RSP is the stack of the driver no more once the case runs, but string and stack instructions need it.
  let rm = r.below(usesVector ? 8 : registers);
  const memory =
    encoding.mod === 'memory' ||
    (encoding.mod === 'any' &&
      (letters.has('E') || letters.has('W') || letters.has('Q')) &&
      (r.chance(60) || isPrefetch(encoding)));
  const tail: number[] = [];
  let x = 0;
  let target = DATA + 512 + (absolute || r.chance(70) ? r.below(128) * 16 : r.below(2048));
  let varies: number[] = [];
  if (/^fx(save|rstor)/.test(encoding.instruction.name)) {
    // Unaligned images are not compared: some hosts' KVM emulates these instructions and lets them pass.
    target &= ~15;
    varies = fxImage(r, before, target - DATA);
  }
  if (encoding.exact >= 0) {
    tail.push(encoding.exact);
    reg = (encoding.exact >> 3) & 7;
    rm = encoding.exact & 7;
  } else if (encoding.modrm) {
    const isEstimate = () => encoding.opcode === 0xd9 && ESTIMATES.has(0xc0 | ((reg & 7) << 3) | (rm & 7));
    while (encoding.map === 0 && !memory && isEstimate()) reg = r.below(8);
    const field = (reg & 7) << 3;
    if (!memory) tail.push(0xc0 | field | (rm & 7));
    else if (!long && !absolute && r.chance(30)) {
      head.push(0x67);
      memoryOperand16(r, before, field, tail, target);
      rm = 0;
    } else {
      ({ rm, x } = memoryOperand(r, before, field, tail, target, absolute, registers));
      if (long && !absolute && r.chance(10)) narrowAddress(r, before, head, rm);
    }
  } else if (letters.has('Z'))
    rm = long && r.below(8) === 0 ? 8 | (encoding.opcode & 7) : encoding.opcode & 7;
  if (letters.has('O')) for (let i = 0; i < width / 8; i++) tail.push(i < 4 ? (target >> (i * 8)) & 0xff : 0);
  for (const { letter, size: code } of encoding.operands) {
    if (letter !== 'I') continue;
    const bytes =
      code === 'b' || code === 's' ? 1 : code === 'w' ? 2 : code === 'v' ? size : Math.min(size, 4);
    const immediate = r.chance(50)
      ? r.bytes(bytes)
      : Uint8Array.from({ length: bytes }, () => r.pick([0, 0xff, 1, 0x80, 0x7f]));
    tail.push(...immediate);
  }
  if (encoding.instruction.name === 'leave') before.gpr[5] = BigInt(DATA + 1024);
  if (encoding.instruction.name.startsWith('maskmov')) before.gpr[7] = BigInt(DATA + 1024);
  if (encoding.instruction.name === 'xlat') before.gpr[3] = BigInt(DATA + 1024);
  if (letters.has('X')) {
    before.gpr[1] = BigInt(r.below(20));
    before.gpr[6] = BigInt(DATA + 512 + r.below(512));
    before.gpr[7] = r.chance(50)
      ? BigInt(DATA + 1200 + r.below(512))
      : before.gpr[6] + BigInt(r.below(40) - 20);
    if (r.chance(70)) head.push(r.pick([0xf2, 0xf3]));
  }
  const extendsReg = encoding.extension < 0 && reg >= 8;
  const rexBits = (w ? 8 : 0) | (extendsReg ? 4 : 0) | (x ? 2 : 0) | (rm >= 8 ? 1 : 0);
  const code = [...head];
  if (encoding.vex) {
    const vvvv = letters.has('B') ? r.below(registers) : 0;
    const p1 = (w ? 0x80 : 0) | ((~vvvv & 15) << 3) | Math.max(0, encoding.prefix);
    code.length = 0;
    code.push(
      0xc4,
      (extendsReg ? 0 : 0x80) | (x ? 0 : 0x40) | (rm >= 8 ? 0 : 0x20) | encoding.map,
      p1,
      encoding.opcode,
    );
  } else {
    if (encoding.instruction.lock && memory && r.chance(30) && letters.has('E')) code.unshift(0xf0);
    if (rexBits !== 0 || (long && r.chance(20))) code.push(0x40 | rexBits);
    code.push(...MAP_BYTES[encoding.map], encoding.opcode);
  }
  code.push(...tail);
  return { code: Uint8Array.from(code), before, varies, width };
}

/**
 * Several instructions after one another. They have no registers of their own in memory operands, and none of them may
 * need certain values in registers.
 */
export function randomSequence(encodings: readonly Encoding[], r: Random, length: number): Case {
  const parts = Array.from({ length }, () => randomCase(r.pick(encodings), r, { absolute: true }).code);
  const code = Uint8Array.from(parts.flatMap((part) => [...part]));
  return { code, parts, before: randomState(r) };
}

function isSized(encoding: Encoding): boolean {
  return (
    encoding.defaultSize !== '' || encoding.operands.some(({ size }) => 'vzy'.includes(size) && size !== '')
  );
}

/**
 * Makes what is at an offset of the data page an image for FXRSTOR.
 * @returns offsets of what processors save differently: the mask of MXCSR
 */
function fxImage(r: Random, before: CaseState, at: number): number[] {
  const view = new DataView(before.data.buffer, at);
  // Bit 16 of MXCSR is reserved everywhere.
  view.setUint32(24, r.below(0x10000) | (r.chance(10) ? 0x10000 : 0), true);
  return [28, 29, 30, 31].map((offset) => at + offset);
}

/** Appends ModRM, SIB and displacement of an address in the data page, and sets the registers it uses. */
function memoryOperand(
  r: Random,
  before: CaseState,
  field: number,
  tail: number[],
  target: number,
  absolute: boolean,
  registers: number,
): { rm: number; x: number } {
  const base = r.pick([0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15].slice(0, registers - 1));
  if (absolute || r.chance(15)) {
    tail.push(field | 4, 0x25, target & 0xff, (target >> 8) & 0xff, (target >> 16) & 0xff, 0);
    return { rm: 0, x: 0 };
  }
  const wide = r.chance(30);
  const displacement = wide ? r.below(100_000) - 50_000 : r.below(256) - 128;
  let start = target - displacement;
  const mod = wide ? 0x80 : 0x40;
  let x = 0;
  if (r.chance(40)) {
    let index = r.below(registers);
    if (index === 4 || index === base) index = base === 3 ? 6 : 3;
    const scale = r.below(4);
    const by = r.below(64);
    before.gpr[index] = BigInt(by);
    start -= by << scale;
    tail.push(mod | field | 4, (scale << 6) | ((index & 7) << 3) | (base & 7));
    x = index >= 8 ? 1 : 0;
  } else if ((base & 7) === 4) tail.push(mod | field | 4, 0x24);
  else tail.push(mod | field | (base & 7));
  before.gpr[base] = BigInt.asUintN(registers * 4, BigInt(start));
  const length = wide ? 4 : 1;
  for (let i = 0; i < length; i++) tail.push((displacement >> (i * 8)) & 0xff);
  return { rm: base, x };
}

/** Makes the address one of 32 bits: the upper half of its base counts for nothing. */
function narrowAddress(r: Random, before: CaseState, head: number[], base: number): void {
  head.push(0x67);
  before.gpr[base] = (before.gpr[base] & 0xffff_ffffn) | (BigInt(r.u32()) << 32n);
}

/** Registers of the forms of 16-bit addresses (SDM vol. 2A table 2-1): bases, then indices. */
const BASES_16 = [3, 3, 5, 5, 6, 7, 5, 3];
const INDICES_16 = [6, 7, 6, 7];

/** The same with a 16-bit address: registers beyond it count for nothing. */
function memoryOperand16(r: Random, before: CaseState, field: number, tail: number[], target: number): void {
  const form = r.below(8);
  const displacement = r.below(0x10000);
  let start = target - displacement;
  const above = () => BigInt(r.below(0x10000)) << 16n;
  if (form < 4) {
    const by = r.below(64);
    before.gpr[INDICES_16[form]] = above() | BigInt(by);
    start -= by;
  }
  before.gpr[BASES_16[form]] = above() | BigInt.asUintN(16, BigInt(start));
  tail.push(0x80 | field | form, displacement & 0xff, displacement >> 8);
}
