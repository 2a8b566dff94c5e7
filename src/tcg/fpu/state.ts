/** The x87 part of a vCPU's state as the instructions see it. */
import { S } from '../layout.ts';
import { ALL_EXCEPTIONS, BUSY, ES, EXPONENT_MASK, type Float80 } from './float80.ts';

/** Registers behind the x87 instructions; 80-bit registers are numbered physically, not from TOP. */
export interface X87State {
  fcw: number;
  /** With TOP in bits 11 to 13. */
  fsw: number;
  /** Abridged tags: bit i set is physical register i in use. */
  ftw: number;
  /** Lower eleven bits of the last instruction's opcode. */
  fop: number;
  fip: bigint;
  fdp: bigint;
  readRegister(physical: number, out: Float80): void;
  writeRegister(physical: number, value: Float80): void;
}

/** The state in a vCPU's area of the engine's memory (layout.ts); with the SSE registers it is an FxState. */
export class AreaX87State implements X87State {
  /** Typed arrays, because the state is read and written by every instruction. */
  readonly #words: Int32Array;
  readonly #pointers: BigUint64Array;
  /** XMM0 to XMM15, four words each. */
  readonly xmm: Int32Array;

  /**
   * @param buffer the engine's memory
   * @param base offset of the vCPU's area, a multiple of eight
   */
  constructor(buffer: ArrayBufferLike, base: number) {
    const end = S.FPR + 8 * 16;
    this.#words = new Int32Array(buffer, base, end / 4);
    this.#pointers = new BigUint64Array(buffer, base, end / 8);
    this.xmm = new Int32Array(buffer, base + S.XMM, 64);
  }

  /** Control, status and tag words and the pointers, to be put back by {@link setControl}. */
  control(): Int32Array {
    return this.#words.slice(S.FCW / 4, S.FDP / 4 + 2);
  }
  setControl(words: Int32Array): void {
    this.#words.set(words, S.FCW / 4);
  }

  get fcw(): number {
    return this.#words[S.FCW / 4];
  }
  set fcw(value: number) {
    this.#words[S.FCW / 4] = value;
  }
  get fsw(): number {
    return this.#words[S.FSW / 4];
  }
  set fsw(value: number) {
    this.#words[S.FSW / 4] = value;
  }
  get ftw(): number {
    return this.#words[S.FTW / 4];
  }
  set ftw(value: number) {
    this.#words[S.FTW / 4] = value;
  }
  get fop(): number {
    return this.#words[S.FOP / 4];
  }
  set fop(value: number) {
    this.#words[S.FOP / 4] = value;
  }
  get mxcsr(): number {
    return this.#words[S.MXCSR / 4];
  }
  set mxcsr(value: number) {
    this.#words[S.MXCSR / 4] = value;
  }
  get fip(): bigint {
    return this.#pointers[S.FIP / 8];
  }
  set fip(value: bigint) {
    this.#pointers[S.FIP / 8] = value;
  }
  get fdp(): bigint {
    return this.#pointers[S.FDP / 8];
  }
  set fdp(value: bigint) {
    this.#pointers[S.FDP / 8] = value;
  }
  readRegister(physical: number, out: Float80): void {
    const words = this.#words;
    const slot = S.FPR / 4 + physical * 4;
    out.lo = words[slot];
    out.hi = words[slot + 1];
    out.se = words[slot + 2] & 0xffff;
  }
  writeRegister(physical: number, value: Float80): void {
    const words = this.#words;
    const slot = S.FPR / 4 + physical * 4;
    words[slot] = value.lo;
    words[slot + 1] = value.hi;
    words[slot + 2] = value.se;
  }
}

/** Control word after FINIT: all masked, 64 bits, nearest (SDM vol. 1, 8.1.5). */
export const FCW_INIT = 0x37f;
/** Bit 6 of the control word always reads as one, reserved ones as zero. */
const FCW_RESERVED_ONE = 0x40;
const FCW_WRITABLE = 0x1f3f;

/** A control word as the processor keeps it. */
export function controlWord(value: number): number {
  return (value & FCW_WRITABLE) | FCW_RESERVED_ONE;
}

/** A status word with ES and B as the exceptions and their masks determine them (SDM vol. 1, 8.1.3.3). */
export function summarized(fsw: number, fcw: number): number {
  const pending = (fsw & ~fcw & ALL_EXCEPTIONS) !== 0;
  return (fsw & ~(ES | BUSY)) | (pending ? ES | BUSY : 0);
}

/** Full tag values (SDM vol. 1, 8.1.7). */
const TAG = { VALID: 0, ZERO: 1, SPECIAL: 2, EMPTY: 3 } as const;

/** Full tag word from abridged tags and register contents. */
export function fullTags(state: X87State, scratch: Float80): number {
  let tags = 0;
  for (let i = 0; i < 8; i++) {
    let tag: number = TAG.EMPTY;
    if ((state.ftw & (1 << i)) !== 0) {
      state.readRegister(i, scratch);
      const exponent = scratch.se & EXPONENT_MASK;
      if (exponent === 0 && (scratch.hi | scratch.lo) === 0) tag = TAG.ZERO;
      else if (exponent === 0 || exponent === EXPONENT_MASK || scratch.hi >= 0) tag = TAG.SPECIAL;
      else tag = TAG.VALID;
    }
    tags |= tag << (2 * i);
  }
  return tags;
}

/** Abridged tags from a full tag word: only empty matters. */
export function abridgedTags(full: number): number {
  let ftw = 0;
  for (let i = 0; i < 8; i++) if (((full >> (2 * i)) & 3) !== TAG.EMPTY) ftw |= 1 << i;
  return ftw;
}
