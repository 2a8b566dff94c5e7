/** Writes predecoded records: from the decoder's fields to what the handlers read (layout.ts, R). */
import type { CpuState } from '../cpu-state.ts';
import type { DecodeTable } from '../interp/decode-table.ts';
import { fusedKey, SPECIAL } from '../interp/ids.ts';
import { ADDRESS_16, ADDRESS_32, ADDRESS_ABSOLUTE, ADDRESS_LEGACY, R, RECORD, S } from '../layout.ts';
import { type Encoding, handlerSlot } from '../table/instruction.ts';
import { refusal } from './availability.ts';
import { type CodeWidth, DECODE, type Decoder } from './decoder.ts';

const SIZE_INDEX: Readonly<Record<number, number>> = { 1: 0, 2: 1, 4: 2, 8: 3, 16: 4 };
const XMM_BYTES = 16;
const ADDRESS_MASK_LOW: Readonly<Record<number, number>> = { 2: 0xffff, 4: -1, 8: -1 };

/** Instructions whose memory operand no ModRM tells of, but whose segment can be overridden. */
const FIXED_ADDRESS = new Set(['xlat', 'maskmovdqu', 'maskmovq']);

/** Writes records into the arena. */
export class RecordWriter {
  readonly #state: CpuState;
  readonly #view: DataView;
  readonly #words: Int32Array;
  readonly #fused: ReadonlyMap<number, number>;
  readonly #undefined: Encoding;
  readonly #nop: Encoding;

  constructor(state: CpuState, table: DecodeTable) {
    this.#state = state;
    this.#view = state.view;
    this.#words = state.words;
    this.#fused = table.fused;
    const named = (name: string) => table.instructions.find((i) => i.name === name)!.encodings[0];
    this.#undefined = named('undefined');
    this.#nop = named('sfence');
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
    this.#view.setUint8(record + R.BASE, S.ZERO);
    this.#view.setUint8(record + R.INDEX_REGISTER, S.ZERO);
    this.#view.setUint8(record + R.SEGMENT, S.ZERO);
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
    let { encoding } = d;
    const { name } = encoding.instruction;
    // 90 without REX.B exchanges nothing, not even the upper half; F3 90 is PAUSE.
    if (name === 'xchg' && d.opcode === 0x90 && d.rm === 0 && !encoding.modrm) encoding = this.#nop;
    const locked = d.lock || (name === 'xchg' && d.memory);
    const kind = this.#addressKind(d, width);
    const handler =
      encoding.handlers[
        handlerSlot(SIZE_INDEX[encoding === this.#nop ? 1 : d.size], d.memory ? 1 : 0, kind, locked ? 1 : 0)
      ];
    if (handler < 0 || (d.lock && !(encoding.instruction.lock && d.memory))) {
      this.invalid(record, offset, index, DECODE.invalid);
      return true;
    }
    const refused = refusal(encoding.units, this.#state);
    if (refused !== 0) {
      this.invalid(record, offset, index, refused);
      return true;
    }
    this.#clear(record);
    this.#head(record, handler, length, index, offset);
    if (d.memory) this.#address(record, d, width, offset + length);
    else if (width !== 64) this.#view.setUint8(record + R.ADDRESS, ADDRESS_LEGACY);
    this.#operands(record, d, encoding, width, offset + length, host);
    return encoding.instruction.ends === true;
  }

  #addressKind(d: Decoder, width: CodeWidth): number {
    if (width !== 64 || d.addressSize !== 8) return 2;
    return d.index < 0 && d.segment < 4 ? 0 : 1;
  }

  #address(record: number, d: Decoder, width: CodeWidth, next: number): void {
    const view = this.#view;
    let flags = d.addressSize === 2 ? ADDRESS_16 : d.addressSize === 4 ? ADDRESS_32 : 0;
    if (width !== 64) flags |= ADDRESS_LEGACY;
    if (d.encoding.operands.some(({ letter }) => letter === 'O')) flags |= ADDRESS_ABSOLUTE;
    view.setUint8(record + R.ADDRESS, flags);
    view.setUint8(record + R.SCALE, d.scale);
    if (d.ripRelative) {
      view.setUint8(record + R.BASE, S.BLOCK_RIP);
      view.setInt32(record + R.DISPLACEMENT, (d.displacement + next) | 0, true);
    } else {
      if (d.base >= 0) view.setUint8(record + R.BASE, S.GPR + d.base * 8);
      view.setInt32(record + R.DISPLACEMENT, d.displacement, true);
    }
    if (d.index >= 0) view.setUint8(record + R.INDEX_REGISTER, S.GPR + d.index * 8);
    view.setUint8(record + R.EXTRA, d.segment);
    if (width !== 64 || d.segment >= 4) view.setUint8(record + R.SEGMENT, S.SEGMENT_BASE + d.segment * 8);
  }

  #operands(
    record: number,
    d: Decoder,
    encoding: Encoding,
    width: CodeWidth,
    next: number,
    host: number,
  ): void {
    const view = this.#view;
    const fields = [R.A, R.B, R.IMMEDIATE] as const;
    let immediate = false;
    encoding.operands.forEach((code, position) => {
      const field = record + (fields[position] ?? R.IMMEDIATE);
      switch (code.letter) {
        case 'E':
        case 'R':
          if (!d.memory) view.setInt32(field, this.#gpr(d.rm, this.#isByte(code.size), d), true);
          break;
        case 'G':
          view.setInt32(field, this.#gpr(d.reg, this.#isByte(code.size), d), true);
          break;
        case 'Z':
          view.setInt32(
            field,
            this.#gpr((d.opcode & 7) | (d.rex & 1 ? 8 : 0), this.#isByte(code.size), d),
            true,
          );
          break;
        case 'A':
          view.setInt32(field, this.#state.base + S.GPR, true);
          break;
        case 'B':
          view.setInt32(field, this.#state.base + S.GPR + d.vvvv * 8, true);
          break;
        case 'W':
        case 'U':
          if (!d.memory) view.setInt32(field, this.#state.base + S.XMM + d.rm * XMM_BYTES, true);
          break;
        case 'V':
          view.setInt32(field, this.#state.base + S.XMM + d.reg * XMM_BYTES, true);
          break;
        case 'Q':
        case 'N':
          if (!d.memory) view.setInt32(field, this.#state.base + S.FPR + (d.rm & 7) * XMM_BYTES, true);
          break;
        case 'P':
          view.setInt32(field, this.#state.base + S.FPR + (d.reg & 7) * XMM_BYTES, true);
          break;
        case 'S':
          view.setInt32(field, d.reg & 7, true);
          break;
        case 'T':
          view.setInt32(field, d.modrm, true);
          break;
        case 'K':
          view.setInt32(field, d.reg, true);
          break;
        case 'I':
          if (position === 1) view.setInt32(record + R.B, record + R.IMMEDIATE, true);
          immediate = true;
          break;
        case '1':
          if (position === 1) view.setInt32(record + R.B, record + R.IMMEDIATE, true);
          view.setInt32(record + R.IMMEDIATE, 1, true);
          break;
        case 'O':
          immediate = true;
          break;
        case 'F':
          immediate = true;
          view.setInt32(record + R.DISPLACEMENT, d.immediate2, true);
          break;
        case 'X':
          this.#string(record, d, width);
          break;
        case 'J':
          this.#branch(record, d, next, host);
          break;
      }
    });
    if (immediate) {
      view.setInt32(record + R.IMMEDIATE, d.immediateLow, true);
      view.setInt32(record + R.IMMEDIATE + 4, d.immediateHigh, true);
      // ENTER's nesting level.
      if (encoding.operands.length === 2 && encoding.operands[0].letter === 'I') {
        view.setUint16(record + R.IMMEDIATE, d.immediateLow & 0xffff, true);
        view.setUint16(record + R.IMMEDIATE + 2, d.immediate2, true);
      }
    }
    if (FIXED_ADDRESS.has(encoding.instruction.name)) this.#string(record, d, width);
  }

  #isByte(size: string): boolean {
    return size === 'b';
  }

  #gpr(number: number, byte: boolean, d: Decoder): number {
    const base = this.#state.base + S.GPR;
    // Without REX, 4 to 7 are AH, CH, DH, BH.
    if (byte && d.rex === 0 && number >= 4 && number < 8 && !d.encoding.vex)
      return base + (number - 4) * 8 + 1;
    return base + number * 8;
  }

  #string(record: number, d: Decoder, width: CodeWidth): void {
    const view = this.#view;
    view.setInt32(record + R.IMMEDIATE, ADDRESS_MASK_LOW[d.addressSize], true);
    view.setInt32(record + R.IMMEDIATE + 4, d.addressSize === 8 ? -1 : 0, true);
    view.setInt32(record + R.DISPLACEMENT, d.repeat, true);
    view.setUint8(record + R.EXTRA, d.segment);
    view.setUint8(record + R.ADDRESS, width === 64 ? 0 : ADDRESS_LEGACY);
  }

  #branch(record: number, d: Decoder, next: number, host: number): void {
    const view = this.#view;
    const target = next + d.immediateLow;
    view.setInt32(record + R.IMMEDIATE, target, true);
    view.setInt32(record + R.IMMEDIATE + 4, target >> 31, true);
    const same = (distance: number) => (host >= 0 && (host + distance) >>> 12 === host >>> 12 ? 1 : 0);
    view.setInt32(record + R.A, same(target), true);
    view.setInt32(record + R.B, same(next), true);
    // LOOP and JCXZ: the address size as a mask, 0 for 64 bits.
    if (d.opcode >= 0xe0 && d.opcode <= 0xe3) {
      view.setInt32(record + R.DISPLACEMENT, d.addressSize === 8 ? 0 : ADDRESS_MASK_LOW[d.addressSize], true);
    }
  }
}
