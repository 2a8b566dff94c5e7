/** Writes predecoded records: from the decoder's fields to what the handlers read (layout.ts, R). */
import type { CpuState } from '../cpu-state.ts';
import type { DecodeTable } from '../interp/decode-table.ts';
import { fusedKey, SPECIAL } from '../interp/ids.ts';
import { ADDRESS_16, ADDRESS_32, ADDRESS_ABSOLUTE, ADDRESS_LEGACY, R, RECORD, S } from '../layout.ts';
import { type Encoding, handlerSlot, SIZES } from '../table/instruction.ts';
import { refusal } from './availability.ts';
import { type CodeWidth, DECODE, type Decoder } from './decoder.ts';
import { LETTER, Plan } from './plan.ts';

/** By operand size. */
const SIZE_INDEX = Int32Array.from({ length: 17 }, (_, size) => SIZES.indexOf(size as 1));
const XMM_BYTES = 16;
/** Words of a record. */
const WORD = {
  A: R.A >> 2,
  B: R.B >> 2,
  OFFSET: R.OFFSET >> 2,
  IMMEDIATE: R.IMMEDIATE >> 2,
  DISPLACEMENT: R.DISPLACEMENT >> 2,
  REGISTERS: R.BASE >> 2,
} as const;
/** WORD.REGISTERS of an instruction without a memory operand. */
const NO_REGISTERS = S.ZERO | (S.ZERO << 8) | (S.ZERO << 16);

/** Writes records into the arena. */
export class RecordWriter {
  readonly #state: CpuState;
  readonly #view: DataView;
  readonly #words: Int32Array;
  readonly #fused: ReadonlyMap<number, number>;
  readonly #undefined: Encoding;
  readonly #nop: Plan;
  /** By handler id, whether it is the first of a pair. */
  readonly #isFirst = new Uint8Array(65536);

  constructor(state: CpuState, table: DecodeTable) {
    this.#state = state;
    this.#view = state.view;
    this.#words = state.words;
    this.#fused = table.fused;
    const named = (name: string) => table.instructions.find((i) => i.name === name)!.encodings[0];
    this.#undefined = named('undefined');
    this.#nop = new Plan(named('sfence'));
    for (const key of table.fused.keys()) this.#isFirst[Math.floor(key / 65536)] = 1;
  }

  /** Leads a record of a dropped block back to a lookup. */
  stale(record: number): void {
    this.#view.setUint16(record, SPECIAL.STALE, true);
  }

  /** Likewise the records of its block behind the one that is being carried out. */
  staleRest(record: number): void {
    for (let at = record + RECORD, isLast = false; !isLast; at += RECORD) {
      isLast = this.#view.getUint16(at, true) === SPECIAL.GOTO;
      this.stale(at);
    }
  }

  /** Joins records of a block with those behind them, where there is a handler for both; its end first. */
  fuse(first: number, count: number): void {
    for (let i = count - 2; i >= 0; i--) {
      const record = first + i * RECORD;
      const id = this.#view.getUint16(record, true);
      if (this.#isFirst[id] === 0) continue;
      const both = this.#fused.get(fusedKey(id, this.#view.getUint16(record + RECORD, true)));
      if (both === undefined) continue;
      this.#view.setUint16(record, both, true);
      // The one before must see the second of a pair as it is, not as the first.
      i--;
    }
  }

  /** The end of a block that no branch ends. */
  goto(record: number, offset: number, index: number, samePage: boolean): void {
    this.#clear(record);
    this.#view.setUint16(record, SPECIAL.GOTO, true);
    // The count of a block's end includes its last instruction, which this is not.
    this.#view.setUint8(record + R.INDEX, index - 1);
    this.#view.setUint16(record + R.OFFSET, offset, true);
    this.#view.setInt32(record + R.B, samePage ? 1 : 0, true);
  }

  /** An instruction that raises an exception whatever its operands: `reason` is one of DECODE. */
  invalid(record: number, offset: number, index: number, reason: number): void {
    this.#clear(record);
    this.#head(record, this.#undefined.handlers[handlerSlot(0, 0, 2, 0)], 0, index, offset);
    this.#view.setInt32(record + R.A, reason, true);
  }

  #clear(record: number): void {
    this.#words.fill(0, record >> 2, (record + RECORD) >> 2);
    this.#words[(record >> 2) + WORD.REGISTERS] = NO_REGISTERS;
  }

  #head(record: number, handler: number, length: number, index: number, offset: number): void {
    this.#view.setUint16(record, handler, true);
    this.#view.setUint8(record + R.LENGTH, length);
    this.#view.setUint8(record + R.INDEX, index);
    this.#view.setUint16(record + R.OFFSET, offset, true);
  }

  /**
   * Writes an instruction.
   * @param host address of the block's first byte, to find branch targets in the same page; -1 for none
   * @returns whether it ends the block
   */
  write(
    record: number,
    d: Decoder,
    offset: number,
    index: number,
    length: number,
    width: CodeWidth,
    host: number,
  ): boolean {
    let { plan } = d;
    // 90 without REX.B exchanges nothing, not even the upper half; F3 90 is PAUSE.
    const isNop = plan.isExchange && d.opcode === 0x90 && d.rm === 0 && !plan.hasModrm;
    if (isNop) plan = this.#nop;
    const locked = d.lock || (plan.isExchange && d.memory);
    const long = width === 64;
    const kind = !long || d.addressSize !== 8 ? 2 : d.index < 0 && d.segment < 4 ? 0 : 1;
    const sizeIndex = SIZE_INDEX[isNop ? 1 : d.size];
    const handler = plan.handlers[handlerSlot(sizeIndex, d.memory ? 1 : 0, kind, locked ? 1 : 0)];
    if (handler < 0 || (d.lock && !(plan.isLockable && d.memory))) {
      this.invalid(record, offset, index, DECODE.invalid);
      return true;
    }
    const refused = plan.units === 0 ? 0 : refusal(plan.units, this.#state);
    if (refused !== 0) {
      this.invalid(record, offset, index, refused);
      return true;
    }
    const words = this.#words;
    const at = record >> 2;
    words[at] = handler | (length << 16) | (index << 24);
    words[at + WORD.A] = words[at + WORD.B] = words[at + WORD.IMMEDIATE] = words[at + WORD.IMMEDIATE + 1] = 0;
    if (d.memory) this.#address(at, d, plan, long, offset);
    else {
      words[at + WORD.OFFSET] = offset | (long ? 0 : ADDRESS_LEGACY << 24);
      words[at + WORD.DISPLACEMENT] = 0;
      words[at + WORD.REGISTERS] = NO_REGISTERS;
    }
    if (d.memory && d.ripRelative) words[at + WORD.DISPLACEMENT] = (d.displacement + offset + length) | 0;
    this.#operands(at, d, plan, long, offset + length, host);
    return plan.ends;
  }

  #address(at: number, d: Decoder, plan: Plan, long: boolean, offset: number): void {
    const words = this.#words;
    const flags =
      (d.addressSize === 2 ? ADDRESS_16 : d.addressSize === 4 ? ADDRESS_32 : 0) |
      (long ? 0 : ADDRESS_LEGACY) |
      (plan.isAbsolute ? ADDRESS_ABSOLUTE : 0);
    words[at + WORD.OFFSET] = offset | (d.scale << 16) | (flags << 24);
    words[at + WORD.DISPLACEMENT] = d.displacement;
    const base = d.ripRelative ? S.BLOCK_RIP : d.base >= 0 ? S.GPR + d.base * 8 : S.ZERO;
    const index = d.index >= 0 ? S.GPR + d.index * 8 : S.ZERO;
    const segment = !long || d.segment >= 4 ? S.SEGMENT_BASE + d.segment * 8 : S.ZERO;
    words[at + WORD.REGISTERS] = base | (index << 8) | (segment << 16) | (d.segment << 24);
  }

  #operands(at: number, d: Decoder, plan: Plan, long: boolean, next: number, host: number): void {
    const words = this.#words;
    const { letters } = plan;
    const { base } = this.#state;
    let hasImmediate = false;
    for (let i = 0; i < letters.length; i++) {
      const field = at + (i === 0 ? WORD.A : i === 1 ? WORD.B : WORD.IMMEDIATE);
      switch (letters[i]) {
        case LETTER.E:
        case LETTER.R:
          if (!d.memory) words[field] = this.#gpr(d.rm, plan.isByte[i], d);
          break;
        case LETTER.G:
          words[field] = this.#gpr(d.reg, plan.isByte[i], d);
          break;
        case LETTER.Z:
          words[field] = this.#gpr((d.opcode & 7) | (d.rex & 1 ? 8 : 0), plan.isByte[i], d);
          break;
        case LETTER.A:
          words[field] = base + S.GPR;
          break;
        case LETTER.B:
          words[field] = base + S.GPR + d.vvvv * 8;
          break;
        case LETTER.W:
        case LETTER.U:
          if (!d.memory) words[field] = base + S.XMM + d.rm * XMM_BYTES;
          break;
        case LETTER.V:
          words[field] = base + S.XMM + d.reg * XMM_BYTES;
          break;
        case LETTER.Q:
        case LETTER.N:
          if (!d.memory) words[field] = base + S.FPR + (d.rm & 7) * XMM_BYTES;
          break;
        case LETTER.P:
          words[field] = base + S.FPR + (d.reg & 7) * XMM_BYTES;
          break;
        case LETTER.S:
          words[field] = d.reg & 7;
          break;
        case LETTER.T:
          words[field] = d.modrm;
          break;
        case LETTER.K:
          words[field] = d.reg;
          break;
        case LETTER.I:
          if (i === 1) words[field] = (at + WORD.IMMEDIATE) * 4;
          hasImmediate = true;
          break;
        case LETTER['1']:
          if (i === 1) words[field] = (at + WORD.IMMEDIATE) * 4;
          words[at + WORD.IMMEDIATE] = 1;
          break;
        case LETTER.O:
          hasImmediate = true;
          break;
        case LETTER.F:
          hasImmediate = true;
          words[at + WORD.DISPLACEMENT] = d.immediate2;
          break;
        case LETTER.X:
          this.#string(at, d, long);
          break;
        case LETTER.J:
          this.#branch(at, d, next, host);
          break;
      }
    }
    if (hasImmediate) {
      // ENTER has its nesting level in the upper half.
      words[at + WORD.IMMEDIATE] = plan.isEnter
        ? (d.immediateLow & 0xffff) | (d.immediate2 << 16)
        : d.immediateLow;
      words[at + WORD.IMMEDIATE + 1] = d.immediateHigh;
    }
    if (plan.isFixedAddress) this.#string(at, d, long);
  }

  #gpr(number: number, isByte: boolean, d: Decoder): number {
    const base = this.#state.base + S.GPR;
    // Without REX, 4 to 7 are AH, CH, DH, BH.
    if (isByte && d.rex === 0 && number >= 4 && number < 8 && !d.plan.isVex)
      return base + (number - 4) * 8 + 1;
    return base + number * 8;
  }

  #string(at: number, d: Decoder, long: boolean): void {
    const words = this.#words;
    words[at + WORD.IMMEDIATE] = d.addressSize === 2 ? 0xffff : -1;
    words[at + WORD.IMMEDIATE + 1] = d.addressSize === 8 ? -1 : 0;
    words[at + WORD.DISPLACEMENT] = d.repeat;
    words[at + WORD.OFFSET] = (words[at + WORD.OFFSET] & 0xff_ffff) | (long ? 0 : ADDRESS_LEGACY << 24);
    words[at + WORD.REGISTERS] = (words[at + WORD.REGISTERS] & 0xff_ffff) | (d.segment << 24);
  }

  #branch(at: number, d: Decoder, next: number, host: number): void {
    const words = this.#words;
    const target = next + d.immediateLow;
    words[at + WORD.IMMEDIATE] = target;
    words[at + WORD.IMMEDIATE + 1] = target >> 31;
    const page = host >>> 12;
    words[at + WORD.A] = host >= 0 && (host + target) >>> 12 === page ? 1 : 0;
    words[at + WORD.B] = host >= 0 && (host + next) >>> 12 === page ? 1 : 0;
    // LOOP and JCXZ: the address size as a mask, 0 for 64 bits.
    if (d.opcode >= 0xe0 && d.opcode <= 0xe3)
      words[at + WORD.DISPLACEMENT] = d.addressSize === 8 ? 0 : d.addressSize === 2 ? 0xffff : -1;
  }
}
