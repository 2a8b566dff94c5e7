/**
 * x86 instruction decoder: prefixes, opcode map, ModRM, SIB, displacement and immediate, and thereby the length
 * (Intel SDM vol. 2A chapter 2 and appendix A). It knows the form of every instruction, not its meaning.
 */

/** Width of the code segment. */
export type CodeWidth = 16 | 32 | 64;

/** Opcode maps: one byte, 0F, 0F 38 and 0F 3A. */
export type OpcodeMap = 0 | 1 | 2 | 3;

/** Mandatory prefix of an SSE or VEX opcode, as VEX.pp encodes it: none, 66, F3, F2. */
export type MandatoryPrefix = 0 | 1 | 2 | 3;

/** A decoded memory operand; register numbers, -1 for none. */
export interface MemoryOperand {
  readonly base: number;
  readonly index: number;
  readonly scale: number;
  readonly displacement: number;
  /** Relative to the next instruction. */
  readonly ripRelative: boolean;
  /** Segment register: 0 ES, 1 CS, 2 SS, 3 DS, 4 FS, 5 GS. */
  readonly segment: number;
}

/** A decoded instruction. */
export interface Instruction {
  /** Its bytes, 1 to 15. */
  readonly bytes: Uint8Array;
  readonly width: CodeWidth;
  readonly map: OpcodeMap;
  readonly opcode: number;
  readonly lock: boolean;
  /** Last repeat prefix, 0xF2 or 0xF3, or 0. */
  readonly repeat: number;
  readonly prefix: MandatoryPrefix;
  /** REX was present: registers 4 to 7 of byte size are SPL, BPL, SIL, DIL. */
  readonly rex: boolean;
  /** REX.W or VEX.W. */
  readonly w: boolean;
  readonly encoding: 'legacy' | 'vex' | 'evex';
  /** VEX.L: 256-bit. */
  readonly l: boolean;
  /** VEX.vvvv: a register number. */
  readonly vvvv: number;
  /** Operand size in bytes by mode and prefixes (opcodes with a fixed size ignore it). */
  readonly operandSize: 2 | 4 | 8;
  readonly addressSize: 2 | 4 | 8;
  readonly hasModrm: boolean;
  /** ModRM fields; `reg` and `rm` with their REX extension. */
  readonly mod: number;
  readonly reg: number;
  readonly rm: number;
  /** The memory operand when `mod` is not 3. */
  readonly memory: MemoryOperand | undefined;
  /** Immediate, sign-extended from its size; 0 without. */
  readonly immediate: bigint;
}

/** Longest instruction (SDM vol. 2A 2.3.11). */
export const MAX_INSTRUCTION_LENGTH = 15;

/** Thrown inside the decoder when the bytes end or make no instruction. */
class Undecodable extends Error {}

const SEGMENT_PREFIXES: Readonly<Record<number, number>> = {
  38: 0,
  46: 1,
  54: 2,
  62: 3,
  100: 4,
  101: 5,
};

/**
 * Decodes one instruction.
 * @param bytes its bytes and perhaps more
 * @returns undefined when the bytes are too few, are no instruction, or exceed 15 bytes
 */
export function decode(bytes: Uint8Array, width: CodeWidth): Instruction | undefined {
  try {
    return new Decoder(bytes.subarray(0, MAX_INSTRUCTION_LENGTH), width).run();
  } catch (error) {
    if (error instanceof Undecodable) return undefined;
    throw error;
  }
}

class Decoder {
  readonly #bytes: Uint8Array;
  readonly #width: CodeWidth;
  #at = 0;

  constructor(bytes: Uint8Array, width: CodeWidth) {
    this.#bytes = bytes;
    this.#width = width;
  }

  run(): Instruction {
    const width = this.#width;
    let lock = false;
    let repeat = 0;
    let operandPrefix = false;
    let addressPrefix = false;
    let override = -1;
    let rex = 0;
    let byte: number;
    for (;;) {
      byte = this.#u8();
      const segment = SEGMENT_PREFIXES[byte];
      if (width === 64 && byte >>> 4 === 4) {
        rex = byte;
        continue;
      }
      if (byte === 0x66) operandPrefix = true;
      else if (byte === 0x67) addressPrefix = true;
      else if (byte === 0xf0) lock = true;
      else if (byte === 0xf2 || byte === 0xf3) repeat = byte;
      else if (segment !== undefined) {
        // In 64-bit mode only FS and GS have a meaning.
        if (width !== 64 || segment >= 4) override = segment;
      } else break;
      // REX counts only directly before the opcode.
      rex = 0;
    }

    let map: OpcodeMap = 0;
    let opcode = byte;
    let prefix: MandatoryPrefix = repeat === 0xf3 ? 2 : repeat === 0xf2 ? 3 : operandPrefix ? 1 : 0;
    let encoding: Instruction['encoding'] = 'legacy';
    let [r, x, b] = [(rex & 4) << 1, (rex & 2) << 2, (rex & 1) << 3];
    let w = (rex & 8) !== 0;
    let l = false;
    let vvvv = 0;
    if (this.#isVexEscape(byte)) {
      if (rex !== 0 || lock || repeat !== 0 || operandPrefix) throw new Undecodable();
      const long = byte !== 0xc5;
      encoding = byte === 0x62 ? 'evex' : 'vex';
      const p0 = this.#u8();
      const p1 = long ? this.#u8() : p0;
      if (byte === 0x62) this.#u8();
      r = p0 & 0x80 ? 0 : 8;
      x = long && (p0 & 0x40) === 0 ? 8 : 0;
      b = long && (p0 & 0x20) === 0 ? 8 : 0;
      const mapNumber = long ? p0 & (byte === 0x62 ? 7 : 31) : 1;
      if (mapNumber < 1 || mapNumber > 3) throw new Undecodable();
      map = mapNumber as OpcodeMap;
      w = long && (p1 & 0x80) !== 0;
      vvvv = ~(p1 >> 3) & 15;
      l = (p1 & 4) !== 0;
      prefix = (p1 & 3) as MandatoryPrefix;
      opcode = this.#u8();
      if (width !== 64) {
        [r, x, b] = [0, 0, 0];
        vvvv &= 7;
      }
    } else if (byte === 0x0f) {
      map = 1;
      opcode = this.#u8();
      if (opcode === 0x38 || opcode === 0x3a) {
        map = opcode === 0x38 ? 2 : 3;
        opcode = this.#u8();
      }
    }

    const operandSize = w && width === 64 ? 8 : operandPrefix === (width === 16) ? 4 : 2;
    const addressSize = width === 64 ? (addressPrefix ? 4 : 8) : addressPrefix === (width === 16) ? 4 : 2;

    const hasModrm = takesModrm(map, opcode, width);
    let [mod, reg, rm] = [3, 0, 0];
    let memory: MemoryOperand | undefined;
    if (hasModrm) {
      const modrm = this.#u8();
      mod = modrm >> 6;
      reg = ((modrm >> 3) & 7) | r;
      rm = modrm & 7;
      // 8F with another ModRM.reg than POP's is the escape of AMD's XOP.
      if (map === 0 && opcode === 0x8f && (reg & 7) !== 0) throw new Undecodable();
      // MOV to and from control and debug registers ignores mod.
      if (map === 1 && opcode >= 0x20 && opcode <= 0x23) mod = 3;
      if (mod !== 3) memory = this.#memory(mod, rm, addressSize, x, b, override);
      rm |= b;
    } else {
      rm = (opcode & 7) | b;
    }
    const immediate = this.#immediate(map, opcode, reg & 7, hasModrm, operandSize, addressSize);
    return {
      bytes: this.#bytes.slice(0, this.#at),
      width,
      map,
      opcode,
      lock,
      repeat,
      prefix,
      rex: rex !== 0,
      w,
      encoding,
      l,
      vvvv,
      operandSize,
      addressSize,
      hasModrm,
      mod,
      reg,
      rm,
      memory,
      immediate,
    };
  }

  /** C4, C5 and 62 are LES, LDS and BOUND outside 64-bit mode unless the next byte has mod 3. */
  #isVexEscape(byte: number): boolean {
    if (byte !== 0xc4 && byte !== 0xc5 && byte !== 0x62) return false;
    return this.#width === 64 || this.#bytes[this.#at] >= 0xc0;
  }

  #memory(mod: number, rm: number, size: number, x: number, b: number, override: number): MemoryOperand {
    const operand = size === 2 ? this.#memory16(mod, rm) : this.#memory32(mod, rm, x, b);
    const stack = operand.base === 4 || operand.base === 5;
    return { ...operand, segment: override >= 0 ? override : stack ? SEGMENT_SS : SEGMENT_DS };
  }

  /** SDM vol. 2A table 2-1. */
  #memory16(mod: number, rm: number): Omit<MemoryOperand, 'segment'> {
    const [base, index] = [
      [3, 6],
      [3, 7],
      [5, 6],
      [5, 7],
      [6, -1],
      [7, -1],
      [5, -1],
      [3, -1],
    ][rm];
    const absolute = mod === 0 && rm === 6;
    const displacement = absolute || mod === 2 ? this.#signed(2) : mod === 1 ? this.#signed(1) : 0;
    return { base: absolute ? -1 : base, index, scale: 1, displacement, ripRelative: false };
  }

  /** SDM vol. 2A tables 2-2, 2-3 and section 2.2.1.6 (RIP-relative). */
  #memory32(mod: number, rm: number, x: number, b: number): Omit<MemoryOperand, 'segment'> {
    let [base, index, scale] = [rm | b, -1, 1];
    if (rm === 4) {
      const sib = this.#u8();
      scale = 1 << (sib >> 6);
      index = ((sib >> 3) & 7) | x;
      if (index === 4) index = -1;
      base = (sib & 7) | b;
    }
    const noBase = mod === 0 && (base & 7) === 5;
    const displacement = noBase || mod === 2 ? this.#signed(4) : mod === 1 ? this.#signed(1) : 0;
    const ripRelative = noBase && rm !== 4 && this.#width === 64;
    return { base: noBase ? -1 : base, index, scale, displacement, ripRelative };
  }

  #immediate(
    map: OpcodeMap,
    opcode: number,
    group: number,
    hasModrm: boolean,
    operandSize: number,
    addressSize: number,
  ): bigint {
    const z = Math.min(operandSize, 4);
    if (map === 3) return this.#big(1);
    if (map === 2) return 0n;
    if (map === 1) {
      if (opcode >= 0x80 && opcode <= 0x8f) return this.#big(this.#width === 64 ? 4 : z);
      return hasModrm && IMMEDIATE8_0F.has(opcode) ? this.#big(1) : 0n;
    }
    if (opcode < 0x40) return (opcode & 7) === 4 ? this.#big(1) : (opcode & 7) === 5 ? this.#big(z) : 0n;
    if (IMMEDIATE8.has(opcode)) return this.#big(1);
    if (opcode >= 0xb8 && opcode <= 0xbf) return this.#big(operandSize);
    if (opcode >= 0xa0 && opcode <= 0xa3) return this.#big(addressSize);
    switch (opcode) {
      case 0x68:
      case 0x69:
      case 0x81:
      case 0xa9:
      case 0xc7:
        return this.#big(z);
      case 0xe8:
      case 0xe9:
        return this.#big(this.#width === 64 ? 4 : z);
      case 0xf6:
        return group < 2 ? this.#big(1) : 0n;
      case 0xf7:
        return group < 2 ? this.#big(z) : 0n;
      case 0xc2:
      case 0xca:
        return this.#big(2);
      case 0xc8: {
        const size = this.#big(2);
        this.#u8();
        return size;
      }
      case 0x9a:
      case 0xea: {
        if (this.#width === 64) throw new Undecodable();
        const offset = this.#big(z);
        this.#big(2);
        return offset;
      }
      default:
        return 0n;
    }
  }

  #u8(): number {
    if (this.#at >= this.#bytes.length) throw new Undecodable();
    return this.#bytes[this.#at++];
  }

  #signed(size: number): number {
    return Number(this.#big(size));
  }

  #big(size: number): bigint {
    let value = 0n;
    for (let i = 0; i < size; i++) value |= BigInt(this.#u8()) << BigInt(i * 8);
    return BigInt.asIntN(size * 8, value);
  }
}

const SEGMENT_SS = 2;
const SEGMENT_DS = 3;

/** One-byte opcodes with an 8-bit immediate, beyond the arithmetic block. */
const IMMEDIATE8 = new Set([
  0x6a,
  0x6b,
  0x80,
  0x82,
  0x83,
  0xa8,
  0xc0,
  0xc1,
  0xc6,
  0xcd,
  0xd4,
  0xd5,
  0xeb,
  ...span(0x70, 0x7f),
  ...span(0xb0, 0xb7),
  ...span(0xe0, 0xe7),
]);
/** 0F opcodes with an 8-bit immediate (0F 0F is 3DNow!, whose opcode comes last). */
const IMMEDIATE8_0F = new Set([0x0f, 0x70, 0x71, 0x72, 0x73, 0xa4, 0xac, 0xba, 0xc2, 0xc4, 0xc5, 0xc6]);
/** One-byte opcodes with ModRM, beyond the arithmetic block. */
const MODRM = new Set([
  0x62,
  0x63,
  0x69,
  0x6b,
  0xc0,
  0xc1,
  0xc4,
  0xc5,
  0xc6,
  0xc7,
  0xf6,
  0xf7,
  0xfe,
  0xff,
  ...span(0x80, 0x8f),
  ...span(0xd0, 0xd3),
  ...span(0xd8, 0xdf),
]);
/** 0F opcodes without ModRM. */
const NO_MODRM_0F = new Set([
  0x04,
  0x05,
  0x06,
  0x07,
  0x08,
  0x09,
  0x0a,
  0x0b,
  0x0c,
  0x0e,
  0x77,
  0xa0,
  0xa1,
  0xa2,
  0xa8,
  0xa9,
  0xaa,
  ...span(0x30, 0x37),
  ...span(0x80, 0x8f),
  ...span(0xc8, 0xcf),
]);
/** One-byte opcodes that 64-bit mode does not have. */
const INVALID_64 = new Set([
  0x06, 0x07, 0x0e, 0x16, 0x17, 0x1e, 0x1f, 0x27, 0x2f, 0x37, 0x3f, 0x60, 0x61, 0x82, 0x9a, 0xce, 0xd4, 0xd5,
  0xd6, 0xea,
]);

function span(first: number, last: number): number[] {
  return Array.from({ length: last - first + 1 }, (_, i) => first + i);
}

function takesModrm(map: OpcodeMap, opcode: number, width: CodeWidth): boolean {
  if (map >= 2) return true;
  if (map === 1) return !NO_MODRM_0F.has(opcode);
  if (width === 64 && INVALID_64.has(opcode)) throw new Undecodable();
  return opcode < 0x40 ? (opcode & 7) < 4 : MODRM.has(opcode);
}
