/**
 * Instructions that cross pages, each a block of its own. They are found by their bytes, which are compared each time:
 * what linear addresses make neighbours of two pages changes too easily to be watched, and they are few.
 */
import type { CpuState } from '../cpu-state.ts';
import { ARENA, ARENA_SIZE, RECORD } from '../layout.ts';
import type { Block } from './code-pages.ts';
import { type CodeWidth, type Decoder, MAX_LENGTH } from './decoder.ts';
import type { RecordWriter } from './record.ts';

/** Mode of a block that must be looked up each time. */
export const CROSSING = -1;
/** How many are kept; a power of two. */
const ENTRIES = 256;
/** The instruction, and the GOTO behind it. */
const ENTRY_SIZE = 2 * RECORD;
/** Bytes of the arena, at its end. */
export const CROSSING_SIZE = ENTRIES * ENTRY_SIZE;

/** Blocks of one instruction that crosses pages. */
export class CrossingBlocks {
  readonly #state: CpuState;
  readonly #decoder: Decoder;
  readonly #writer: RecordWriter;
  readonly #code = new Uint8Array(2 * MAX_LENGTH);
  /** Bytes of the instructions, MAX_LENGTH + 1 each: length first. */
  readonly #known = new Uint8Array(ENTRIES * (MAX_LENGTH + 1));
  readonly #keys = new Float64Array(ENTRIES);
  readonly #blocks: Block[];

  constructor(state: CpuState, decoder: Decoder, writer: RecordWriter) {
    this.#state = state;
    this.#decoder = decoder;
    this.#writer = writer;
    const start = state.base + ARENA + ARENA_SIZE - CROSSING_SIZE;
    this.#blocks = Array.from({ length: ENTRIES }, (_, i) => ({
      record: start + i * ENTRY_SIZE,
      count: 2,
      host: 0,
      length: 0,
      mode: CROSSING,
      entry: -1,
      hasOtherEntries: false,
      links: undefined,
    }));
  }

  /**
   * @param host address of the first byte
   * @param here bytes up to the page's end
   * @param next address of the next page
   */
  find(host: number, here: number, next: number, mode: number, width: CodeWidth): Block {
    const { bytes } = this.#state;
    const code = this.#code;
    for (let i = 0; i < here; i++) code[i] = bytes[host + i];
    for (let i = here; i < here + MAX_LENGTH; i++) code[i] = bytes[next + i - here];
    const index = ((host >>> 12) ^ (host << 4)) & (ENTRIES - 1);
    const known = index * (MAX_LENGTH + 1);
    const block = this.#blocks[index];
    const key = host * 64 + mode + 1;
    if (this.#keys[index] === key && this.#isSame(known)) return block;
    const length = this.#decode(here, width, block.record);
    this.#keys[index] = length > 0 ? key : 0;
    this.#known[known] = length;
    this.#known.set(code.subarray(0, MAX_LENGTH), known + 1);
    return block;
  }

  #isSame(known: number): boolean {
    const length = this.#known[known];
    for (let i = 0; i < length; i++) if (this.#code[i] !== this.#known[known + 1 + i]) return false;
    return true;
  }

  #decode(here: number, width: CodeWidth, record: number): number {
    const writer = this.#writer;
    const length = this.#decoder.decode(this.#code, 0, here + MAX_LENGTH, width);
    if (length <= 0) {
      writer.invalid(record, 0, 0, length);
      writer.goto(record + RECORD, 0, 1, false);
      return 0;
    }
    writer.write(record, this.#decoder, 0, 0, length, width, -1);
    writer.goto(record + RECORD, length, 1, false);
    return length;
  }
}
