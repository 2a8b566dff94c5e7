/** Decodes instructions by the table: prefixes, opcode, ModRM, SIB, displacement, immediates (SDM vol. 2A 2). */
import type { InstructionForm } from '../table/instruction.ts';
import { ANY, IMMEDIATE_SIZE, LETTER, LONG, MEMORY, Plan, SIZE_FROM } from './plan.ts';

/** Width of the code segment. */
export type CodeWidth = 16 | 32 | 64;

/** Longest instruction (SDM vol. 2A 2.3.11). */
export const MAX_LENGTH = 15;

/** What {@link Decoder.decode} gives beyond a length. */
export const DECODE = {
  /** The bytes are no instruction of this CPU: #UD. */
  invalid: -3,
  /** More bytes are needed. */
  truncated: -1,
  /** More than 15 bytes: #GP. */
  tooLong: -2,
  /** Not from {@link Decoder.decode}: the control registers forbid the instruction, #UD. */
  forbidden: -4,
  /** Likewise: SSE or MMX state is not there yet, #NM. */
  unavailable: -5,
} as const;

const NO_REGISTER = -1;

/** Decodes; the result is in its fields until the next call. One object, reused: decoding is hot at boot. */
export class Decoder {
  plan!: Plan;
  /** Operand size in bytes. */
  size = 0;
  addressSize = 0;
  lock = false;
  /** 0, 0xF2 or 0xF3. */
  repeat = 0;
  rex = 0;
  /** Registers with their extension bits. */
  reg = 0;
  rm = 0;
  vvvv = 0;
  memory = false;
  base = NO_REGISTER;
  index = NO_REGISTER;
  scale = 0;
  displacement = 0;
  ripRelative = false;
  /** Segment register of the memory operand. */
  segment = 3;
  /** Whether a prefix chose it. */
  segmentOverride = false;
  /** Immediate, sign-extended: low and high half. */
  immediateLow = 0;
  immediateHigh = 0;
  /** Second immediate (ENTER, far pointers). */
  immediate2 = 0;
  modrm = 0;
  opcode = 0;
  vexL = false;

  #legacy: Plan[][][] = [];
  #vex: Plan[][][] = [];
  readonly #instructions: readonly InstructionForm[];
  #bytes!: Uint8Array;
  #at = 0;
  #end = 0;
  #truncated = false;

  /** @param hasFeature see {@link configure} */
  constructor(instructions: readonly InstructionForm[], hasFeature: (feature: string) => boolean) {
    this.#instructions = instructions;
    this.configure(hasFeature);
  }

  /** @param hasFeature CPUID features that the CPU has; instructions of others are undefined */
  configure(hasFeature: (feature: string) => boolean): void {
    const empty = () => [0, 1, 2, 3].map(() => Array.from({ length: 256 }, (): Plan[] => []));
    this.#legacy = empty();
    this.#vex = empty();
    for (const instruction of this.#instructions) {
      if (instruction.feature !== undefined && !hasFeature(instruction.feature)) continue;
      for (const encoding of instruction.encodings) {
        (encoding.vex ? this.#vex : this.#legacy)[encoding.map][encoding.opcode].push(new Plan(encoding));
      }
    }
    const specific = (plan: Plan) => (plan.exact >= 0 ? 2 : 0) + (plan.prefix >= 0 ? 1 : 0);
    for (const tables of [this.#legacy, this.#vex]) {
      for (const map of tables) for (const list of map) list.sort((a, b) => specific(b) - specific(a));
    }
  }

  /**
   * Decodes the instruction at bytes[at], of which bytes up to `end` are available.
   * @returns its length, or one of DECODE
   */
  decode(bytes: Uint8Array, at: number, end: number, width: CodeWidth): number {
    this.#bytes = bytes;
    this.#at = at;
    this.#end = Math.min(end, at + MAX_LENGTH);
    this.#truncated = false;
    const found = this.#decode(width);
    if (this.#truncated) return end >= at + MAX_LENGTH ? DECODE.tooLong : DECODE.truncated;
    return found ? this.#at - at : DECODE.invalid;
  }

  #decode(width: CodeWidth): boolean {
    const long = width === 64;
    let operandPrefix = false;
    let addressPrefix = false;
    let rex = 0;
    this.lock = false;
    this.repeat = 0;
    this.segmentOverride = false;
    let segment = -1;
    let byte: number;
    for (;;) {
      byte = this.#u8();
      if (this.#truncated) return false;
      if (long && (byte & 0xf0) === 0x40) {
        rex = byte;
        continue;
      }
      if (byte === 0x66) operandPrefix = true;
      else if (byte === 0x67) addressPrefix = true;
      else if (byte === 0xf0) this.lock = true;
      else if (byte === 0xf2 || byte === 0xf3) this.repeat = byte;
      else if (byte === 0x64 || byte === 0x65) segment = byte - 0x60;
      else if ((byte & 0xe7) === 0x26) {
        if (!long) segment = (byte >> 3) & 3;
      } else break;
      // REX counts only directly before the opcode.
      rex = 0;
    }
    this.rex = rex;
    let map = 0;
    let vex = false;
    let pp = this.repeat === 0xf3 ? 2 : this.repeat === 0xf2 ? 3 : operandPrefix ? 1 : 0;
    let w = (rex & 8) !== 0;
    let r = (rex & 4) << 1;
    let x = (rex & 2) << 2;
    let b = (rex & 1) << 3;
    this.vvvv = 0;
    if (
      (byte === 0xc4 || byte === 0xc5) &&
      (long || (this.#at < this.#end && this.#bytes[this.#at] >= 0xc0))
    ) {
      if (this.lock || this.repeat !== 0 || operandPrefix || rex !== 0) return false;
      vex = true;
      const p0 = this.#u8();
      const p1 = byte === 0xc4 ? this.#u8() : p0;
      r = p0 & 0x80 ? 0 : 8;
      x = byte === 0xc4 && (p0 & 0x40) === 0 ? 8 : 0;
      b = byte === 0xc4 && (p0 & 0x20) === 0 ? 8 : 0;
      map = byte === 0xc4 ? p0 & 31 : 1;
      w = byte === 0xc4 && (p1 & 0x80) !== 0;
      pp = p1 & 3;
      this.vexL = (p1 & 4) !== 0;
      this.vvvv = ~(p1 >> 3) & (long ? 15 : 7);
      if (!long) {
        r = x = b = 0;
        w = false;
      }
      if (map < 1 || map > 3) return false;
      byte = this.#u8();
    } else if (byte === 0x0f) {
      map = 1;
      byte = this.#u8();
      if (byte === 0x38 || byte === 0x3a) {
        map = byte === 0x38 ? 2 : 3;
        byte = this.#u8();
      }
    }
    if (this.#truncated) return false;
    this.opcode = byte;

    const candidates = (vex ? this.#vex : this.#legacy)[map][byte];
    let modrm = -1;
    let plan: Plan | undefined;
    for (let i = 0; i < candidates.length; i++) {
      const candidate = candidates[i];
      if (candidate.hasModrm && modrm < 0) {
        modrm = this.#u8();
        if (this.#truncated) return false;
      }
      if (
        (candidate.prefix < 0 || candidate.prefix === pp) &&
        (candidate.exact < 0 || candidate.exact === modrm) &&
        (candidate.extension < 0 || candidate.extension === ((modrm >> 3) & 7)) &&
        (candidate.mod === ANY || (candidate.mod === MEMORY) === modrm < 0xc0) &&
        (candidate.w < 0 || candidate.w === (w ? 1 : 0)) &&
        (candidate.validIn === ANY || (candidate.validIn === LONG) === long)
      ) {
        plan = candidate;
        break;
      }
    }
    if (plan === undefined) return false;
    if (!plan.hasModrm && modrm >= 0) {
      // A candidate with ModRM was tried first.
      this.#at--;
      modrm = -1;
    }
    if (vex && this.vexL) return false;
    this.plan = plan;

    const byDefault = operandPrefix === (width === 16) ? 4 : 2;
    this.addressSize = long ? (addressPrefix ? 4 : 8) : addressPrefix === (width === 16) ? 4 : 2;
    this.size = operandSize(plan, long, w, operandPrefix, byDefault);

    this.memory = false;
    this.reg = r;
    this.rm = (byte & 7) | b;
    this.modrm = modrm;
    this.segment = segment >= 0 ? segment : 3;
    this.segmentOverride = segment >= 0;
    this.base = this.index = NO_REGISTER;
    this.scale = 0;
    this.displacement = 0;
    this.ripRelative = false;
    if (modrm >= 0) {
      this.reg = ((modrm >> 3) & 7) | r;
      // MOV to and from control and debug registers ignores mod.
      const control = map === 1 && byte >= 0x20 && byte <= 0x23;
      if (modrm < 0xc0 && !control) {
        this.memory = true;
        if (this.addressSize === 2) this.#address16(modrm);
        else this.#address32(modrm, x, b, long);
        if (segment < 0 && (this.base === 4 || this.base === 5)) this.segment = 2;
      }
      this.rm = (modrm & 7) | b;
    }
    this.immediateLow = this.immediateHigh = this.immediate2 = 0;
    if (plan.hasImmediates) this.#immediates(plan);
    return !this.#truncated;
  }

  /** SDM vol. 2A table 2-1. */
  #address16(modrm: number): void {
    const mod = modrm >> 6;
    const rm = modrm & 7;
    this.base = [3, 3, 5, 5, 6, 7, 5, 3][rm];
    this.index = [6, 7, 6, 7, -1, -1, -1, -1][rm];
    if (mod === 0 && rm === 6) {
      this.base = NO_REGISTER;
      this.displacement = this.#s16();
    } else if (mod === 1) this.displacement = this.#s8();
    else if (mod === 2) this.displacement = this.#s16();
  }

  /** SDM vol. 2A tables 2-2, 2-3 and section 2.2.1.6 (RIP-relative). */
  #address32(modrm: number, x: number, b: number, long: boolean): void {
    const mod = modrm >> 6;
    const rm = modrm & 7;
    let base = rm | b;
    if (rm === 4) {
      const sib = this.#u8();
      this.scale = sib >> 6;
      const index = ((sib >> 3) & 7) | x;
      if (index !== 4) this.index = index;
      base = (sib & 7) | b;
    }
    if (mod === 0 && (base & 7) === 5) {
      this.displacement = this.#s32();
      this.ripRelative = long && rm !== 4;
      return;
    }
    this.base = base;
    if (mod === 1) this.displacement = this.#s8();
    else if (mod === 2) this.displacement = this.#s32();
  }

  #immediates({ letters, immediateSizes }: Plan): void {
    let first = true;
    for (let i = 0; i < letters.length; i++) {
      const letter = letters[i];
      if (letter === LETTER.O) {
        this.memory = true;
        this.#wide(this.addressSize);
      } else if (letter === LETTER.F) {
        this.#wide(Math.min(this.size, 4));
        this.immediate2 = this.#s16() & 0xffff;
      } else if (letter === LETTER.I || letter === LETTER.J) {
        const size = immediateSizes[i];
        const bytes =
          size === IMMEDIATE_SIZE.operand
            ? this.size
            : size === IMMEDIATE_SIZE.upTo4
              ? Math.min(this.size, 4)
              : size;
        if (first) this.#wide(bytes);
        else this.immediate2 = bytes === 1 ? this.#u8() : this.#s16() & 0xffff;
        first = false;
      }
    }
  }

  /** Reads an immediate of 1, 2, 4 or 8 bytes. */
  #wide(bytes: number): void {
    this.immediateLow = bytes === 1 ? this.#s8() : bytes === 2 ? this.#s16() : this.#s32();
    this.immediateHigh = bytes === 8 ? this.#s32() : this.immediateLow >> 31;
  }

  #u8(): number {
    if (this.#at >= this.#end) {
      this.#truncated = true;
      return 0;
    }
    return this.#bytes[this.#at++];
  }
  #s8(): number {
    return (this.#u8() << 24) >> 24;
  }
  #s16(): number {
    return this.#u8() | (this.#s8() << 8);
  }
  #s32(): number {
    return this.#u8() | (this.#u8() << 8) | (this.#u8() << 16) | (this.#u8() << 24);
  }
}

function operandSize(plan: Plan, long: boolean, w: boolean, prefix: boolean, byDefault: number): number {
  const from = plan.sizeFrom;
  if (from === SIZE_FROM.operand) return plan.fixedSize;
  if (from === SIZE_FROM.rexW) return long && w ? 8 : 4;
  if (!long) return byDefault;
  if (from === SIZE_FROM.force64) return 8;
  if (from === SIZE_FROM.default64) return prefix ? 2 : 8;
  return w ? 8 : byDefault;
}
