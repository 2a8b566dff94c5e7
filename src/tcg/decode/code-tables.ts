/**
 * What run() looks at when the jump cache has no entry: translations of code pages, and blocks by the address of their first
 * byte. Both are direct-mapped tables in the vCPU's area. A switch of address spaces voids the jump cache; most of what is
 * executed after it is found here again, without TypeScript.
 */
import type { CpuState } from '../cpu-state.ts';
import {
  BLOCK_ENTRIES,
  BLOCK_ENTRY,
  BLOCK_TABLE,
  CODE_TLB,
  CODE_TLB_ENTRIES,
  CODE_TLB_ENTRY,
  PAGE,
} from '../layout.ts';

/** Mode of the blocks in the table: 64-bit code that may use every instruction, several a block (Blocks.#mode). */
export const TABLE_MODE = 4;
/** No block begins here: it is in the page map. */
const NOWHERE = 0;

/** The tables of one vCPU. */
export class CodeTables {
  readonly #words: Int32Array;
  readonly #translations: number;
  readonly #blocks: number;

  constructor({ words, base }: CpuState) {
    this.#words = words;
    this.#translations = (base + CODE_TLB) >> 2;
    this.#blocks = (base + BLOCK_TABLE) >> 2;
  }

  /** Address of the code at a linear address in halves; -1 when it is not known under this key. */
  translation(low: number, high: number, key: number): number {
    const words = this.#words;
    const at = this.#translation(low);
    if (words[at] !== (low & -PAGE) || words[at + 1] !== high || words[at + 2] !== key) return -1;
    return (words[at + 3] >>> 0) + (low & (PAGE - 1));
  }

  /** The code at a linear address is at this address as long as the key is current. */
  keepTranslation(low: number, high: number, key: number, host: number): void {
    const words = this.#words;
    const at = this.#translation(low);
    words[at] = low & -PAGE;
    words[at + 1] = high;
    words[at + 2] = key;
    words[at + 3] = host - (low & (PAGE - 1));
  }

  /** Voids the translations. */
  clearTranslations(): void {
    const start = this.#translations;
    this.#words.fill(-1, start, start + (CODE_TLB_ENTRIES * CODE_TLB_ENTRY) / 4);
  }

  /** A block of {@link TABLE_MODE}. */
  keepBlock(host: number, record: number): void {
    const at = this.#block(host);
    this.#words[at] = host;
    this.#words[at + 1] = record;
  }

  /** There is no block at this address any more. */
  dropBlock(host: number): void {
    const at = this.#block(host);
    if (this.#words[at] === (host | 0)) this.#words[at] = NOWHERE;
  }

  clearBlocks(): void {
    this.#words.fill(NOWHERE, this.#blocks, this.#blocks + (BLOCK_ENTRIES * BLOCK_ENTRY) / 4);
  }

  /** The same indices as in run(). */
  #translation(low: number): number {
    return this.#translations + ((low >>> 12) & (CODE_TLB_ENTRIES - 1)) * (CODE_TLB_ENTRY / 4);
  }

  #block(host: number): number {
    return this.#blocks + ((host ^ (host >>> 16)) & (BLOCK_ENTRIES - 1)) * (BLOCK_ENTRY / 4);
  }
}
