/**
 * The instruction table: what an instruction looks like, and the one definition of what it means. Decoder,
 * interpreter and (later) translator follow from it.
 *
 * An instruction has a name, encodings written as the SDM writes them, and a meaning: a function that emits
 * WebAssembly through a {@link Meaning}, whose operand accessors hide where operands come from.
 *
 * ## Encodings
 * `[prefix.][map.]opcode[+r][/ext][mod][=modrm] operands attributes`, for example `01 Ev,Gv`, `80/0 Eb,Ib`,
 * `66.0f.6f Vx,Wx`, `f3.0f.b8 Gv,Ev`, `50+r Zv d64`.
 * - prefix: np, 66, f3, f2 (mandatory prefixes); absent: 66 is the operand size and F2, F3 are ignored or REP
 * - map: 0f, 0f38, 0f3a; `vex.` in front for VEX encodings
 * - mod: `m` memory only, `r` register only
 * - operands: letter and size. E ModRM.rm, G ModRM.reg, Z opcode register, M memory, B VEX.vvvv, A accumulator, I
 *   immediate, J relative target, O memory at an absolute offset, V and W vector register and vector or memory,
 *   P and Q the same for MMX, N and U register forms, C the register CL, 1 the constant, S a segment
 *   register, K a control or debug register, T the ModRM byte itself, X a string operand, F a far pointer
 *   Sizes: b w d q x (16 bytes), v (operand size), y (4 or 8), z (immediate of 2 or 4), s (sign-extended byte)
 * - attributes: d64 and f64 (SDM vol. 2 table A-1), i64 and o64 (invalid in, only in 64-bit mode), w0 w1 (REX/VEX.W),
 *   u (vector memory operand may be unaligned), l0
 */
import type { Meaning } from '../emit/meaning.ts';

/** Properties of an instruction beyond its meaning. */
export interface InstructionOptions {
  /** May have a LOCK prefix when its destination is memory. */
  readonly lock?: boolean;
  /** Arithmetic flags that are undefined afterwards (bits of RFLAGS); tests do not compare them. */
  readonly undefined?: number;
  /** CPUID feature that must be there. */
  readonly feature?: string;
  /** A memory variant of each form is worth having: it is frequent. */
  readonly hot?: boolean;
  /** Ends the block. */
  readonly ends?: boolean;
  /** Uses units (UNIT) that no operand tells of. */
  readonly units?: number;
}

/** State that the control registers can make unavailable: bits of {@link Encoding.units}. */
export const UNIT = { SSE: 1, MMX: 2 } as const;

/** What the meaning function gets. */
export type MeaningFunction = (c: Meaning) => void;

/** What the decoder must know of an instruction. */
export interface InstructionForm extends InstructionOptions {
  readonly name: string;
  readonly encodings: readonly Encoding[];
}

/** An instruction of the table. */
export interface Instruction extends InstructionForm {
  readonly meaning: MeaningFunction;
}

/** Size letters of operands. */
export type SizeLetter = 'b' | 'w' | 'd' | 'q' | 'x' | 'v' | 'y' | 'z' | 's' | '';

/** An operand as the encoding states it. */
export interface OperandCode {
  readonly letter: string;
  readonly size: SizeLetter;
}

/** Mandatory prefix: any (-1), none, 66, F3, F2. */
export type Prefix = -1 | 0 | 1 | 2 | 3;

/** One way to encode an instruction. */
export interface Encoding {
  readonly instruction: InstructionForm;
  readonly text: string;
  readonly map: 0 | 1 | 2 | 3;
  readonly opcode: number;
  readonly prefix: Prefix;
  readonly vex: boolean;
  /** The whole ModRM byte, -1 for any. */
  readonly exact: number;
  /** ModRM.reg, -1 for any. */
  readonly extension: number;
  readonly mod: 'any' | 'memory' | 'register';
  /** REX.W or VEX.W: -1 for any. */
  readonly w: -1 | 0 | 1;
  readonly operands: readonly OperandCode[];
  readonly modrm: boolean;
  readonly defaultSize: 'd64' | 'f64' | '';
  readonly validIn: 'any' | 'legacy' | 'long';
  readonly unaligned: boolean;
  /** Which state that may be unavailable it uses (UNIT). */
  readonly units: number;
  /** Ids of handlers by {@link handlerSlot}; filled by the interpreter's generator. */
  readonly handlers: Int32Array;
}

/** Names of the condition codes, in encoding order. */
export const CONDITIONS = 'o no b ae e ne be a s ns p np l ge le g'.split(' ');

const PREFIXES: Readonly<Record<string, Prefix>> = { np: 0, '66': 1, f3: 2, f2: 3 };
const MAPS: Readonly<Record<string, 1 | 2 | 3>> = { '0f': 1, '0f38': 2, '0f3a': 3 };
const MODRM_LETTERS = /[EGMVWPQNUSDKR]/;

/** Sizes an operand-size dependent instruction comes in: index into Encoding.handlers. */
export const SIZES = [1, 2, 4, 8, 16] as const;

/** Number of handlers an encoding can have: size (5), memory (2), address kind (3), lock (2). */
export const HANDLER_SLOTS = 5 * 2 * 3 * 2;

/** Index into Encoding.handlers. */
export function handlerSlot(sizeIndex: number, memory: number, address: number, lock: number): number {
  return ((sizeIndex * 2 + memory) * 3 + address) * 2 + lock;
}

function parse(instruction: Instruction, text: string): Encoding[] {
  const [form, ...rest] = text.trim().split(/\s+/);
  const isAttribute = (word: string) => /^(d64|f64|i64|o64|w0|w1|u|l0|modrm)$/.test(word);
  const operandText = rest.find((word) => !isAttribute(word)) ?? '';
  const attributes = new Set(rest.filter(isAttribute));
  const parts = form.split('.');
  const vex = parts[0] === 'vex';
  if (vex) parts.shift();
  let prefix: Prefix = -1;
  if (parts.length > 1 && parts[0] in PREFIXES) prefix = PREFIXES[parts.shift()!];
  let map: Encoding['map'] = 0;
  if (parts.length > 1) map = MAPS[parts.shift()!];
  const match = /^([0-9a-f]{2})(\+r)?(?:\/([0-7]))?([mr])?(?:=([0-9a-f]{2}))?$/.exec(parts[0]);
  if (match === null || parts.length !== 1) throw new SyntaxError(`encoding "${text}"`);
  const operands = operandText
    .split(',')
    .filter((code) => code !== '')
    .map((code) => ({ letter: code[0], size: code.slice(1) as SizeLetter }));
  const uses = (letters: string, unit: number) =>
    operands.some((o) => letters.includes(o.letter)) ? unit : 0;
  const units = uses('VWU', UNIT.SSE) | uses('PQN', UNIT.MMX) | (instruction.units ?? 0);
  const first = Number.parseInt(match[1], 16);
  return Array.from({ length: match[2] === undefined ? 1 : 8 }, (_, i) => ({
    instruction,
    text,
    map,
    opcode: first + i,
    prefix,
    vex,
    exact: match[5] === undefined ? -1 : Number.parseInt(match[5], 16),
    extension: match[3] === undefined ? -1 : Number(match[3]),
    mod: match[4] === undefined ? 'any' : match[4] === 'm' ? 'memory' : 'register',
    w: attributes.has('w0') ? 0 : attributes.has('w1') ? 1 : -1,
    operands,
    modrm:
      match[3] !== undefined ||
      match[4] !== undefined ||
      match[5] !== undefined ||
      map >= 2 ||
      attributes.has('modrm') ||
      operands.some((o) => MODRM_LETTERS.test(o.letter)),
    defaultSize: attributes.has('d64') ? 'd64' : attributes.has('f64') ? 'f64' : '',
    validIn: attributes.has('i64') ? 'legacy' : attributes.has('o64') ? 'long' : 'any',
    unaligned: attributes.has('u'),
    units,
    handlers: new Int32Array(HANDLER_SLOTS).fill(-1),
  }));
}

/** A part of the table: instructions are added by {@link add}. */
export class Table {
  readonly instructions: Instruction[] = [];

  add(
    name: string,
    encodings: string | readonly string[],
    options: InstructionOptions,
    meaning: MeaningFunction,
  ): void {
    const list: Encoding[] = [];
    const instruction: Instruction = { ...options, name, encodings: list, meaning };
    for (const text of typeof encodings === 'string' ? [encodings] : encodings) {
      list.push(...parse(instruction, text));
    }
    this.instructions.push(instruction);
  }
}

/** Sizes in bytes that the encoding's `v` or `y` can have, or its one fixed size. */
export function sizesOf(encoding: Encoding): readonly number[] {
  const { operands, defaultSize } = encoding;
  if (operands.some((o) => o.size === 'v' || o.size === 'z') || defaultSize !== '') {
    return encoding.w === 1 ? [8] : [2, 4, 8];
  }
  if (operands.some((o) => o.size === 'y')) return encoding.w === 1 ? [8] : encoding.w === 0 ? [4] : [4, 8];
  const size = operands[0]?.size;
  return [size === 'b' || !size ? 1 : size === 'w' ? 2 : size === 'd' ? 4 : size === 'x' ? 16 : 8];
}

/** An operand's size in bytes when the instruction has `size`. */
export function operandBytes({ size }: OperandCode, instruction: number): number {
  switch (size) {
    case 'b':
      return 1;
    case 'w':
      return 2;
    case 'd':
      return 4;
    case 'q':
      return 8;
    case 'x':
      return 16;
    case 'z':
      return Math.min(4, instruction);
    case 'y':
      return Math.max(4, instruction);
    default:
      return instruction;
  }
}

/** Where an operand is found at run time. */
export type Place = 'A' | 'B' | 'C' | 'memory' | 'immediate' | 'cl' | 'one' | 'relative' | 'none';

/** An operand of a handler. */
export interface Slot {
  readonly place: Place;
  readonly bytes: number;
  readonly vector: boolean;
}

/** The operands of one form of an encoding. */
export function slotsOf(encoding: Encoding, size: number, memory: boolean): Slot[] {
  return encoding.operands.map((code, position): Slot => {
    // Immediates are stored sign-extended: they have the size of what they are used with.
    const extended = code.letter === 'I' && (code.size === 'z' || code.size === 's');
    const bytes = extended ? size : operandBytes(code, size);
    const register = (['A', 'B', 'C'] as const)[position] ?? 'C';
    const slot = (place: Place, vector = false): Slot => ({ place, bytes, vector });
    switch (code.letter) {
      case 'E':
        return slot(memory ? 'memory' : register);
      case 'M':
      case 'O':
        return slot('memory');
      case 'W':
      case 'Q':
        return slot(memory ? 'memory' : register, true);
      case 'V':
      case 'U':
      case 'P':
      case 'N':
        return slot(register, true);
      case 'I':
        return slot(position === 1 ? 'B' : 'immediate');
      case '1':
        return slot(position === 1 ? 'B' : 'one');
      case 'C':
        return slot('cl');
      case 'J':
        return slot('relative');
      case 'S':
      case 'K':
      case 'T':
        return slot('none');
      default:
        return slot(register);
    }
  });
}
