/**
 * Which pages of the memory a vCPU has decoded blocks from, and which blocks: to find those that a store hits. The vCPU's
 * bit in the page map is set while it has blocks of a page.
 */
import { OWN_CODE_BITS, PAGE } from '../layout.ts';

const CHUNK_SHIFT = 6;
/**
 * How long a page that was just marked is looked at again, ms. A processor may keep a store to itself while it reads
 * ahead, so another vCPU can have read the page map before the mark and have its bytes appear after they were decoded.
 * That takes less than a microsecond; this is a hundred times what it could be stretched to.
 */
const SETTLING = 0.1;
/** Copies of pages kept for the next page that settles. */
const SPARE_COPIES = 16;
/** So many pages may settle before the vCPU is to come out of run() and look at them. */
const MOST_SETTLING = 256;

/** A decoded block. */
export interface Block {
  /** First record. */
  readonly record: number;
  readonly count: number;
  /** First byte, and how many it was made of. */
  readonly host: number;
  readonly length: number;
  readonly mode: number;
  /** Word indices of the records' fields that link to it. */
  links: number[] | undefined;
  /** Of an instruction that crosses pages: its bytes in the second page. */
  readonly tail: BlockTail | undefined;
}

/** The bytes of a block in the second of its pages. */
export interface BlockTail {
  readonly host: number;
  readonly length: number;
  /** Given when the block is. */
  head: Block | undefined;
}

/** What is made of a page's bytes. */
type Piece = Block | BlockTail;

/** The block that a piece belongs to. */
function blockOf(piece: Piece): Block {
  return 'head' in piece ? piece.head! : piece;
}

/** A page with blocks. */
export interface CodePage {
  readonly number: number;
  /** How many blocks. */
  count: number;
  /** The blocks by the 64-byte chunks that they were made of. */
  readonly chunks: (Piece[] | undefined)[];
}

const NONE: readonly Block[] = [];

interface Settling {
  readonly copy: Int32Array;
  until: number;
}

/** The pages one vCPU has decoded. */
export class CodePages {
  readonly #bytes: Uint8Array;
  readonly #words: Int32Array;
  readonly #bit: number;
  readonly #isOwnBit: boolean;
  readonly #hasOthers: boolean;
  readonly #onFull: () => void;
  readonly #pages = new Map<number, CodePage>();
  readonly #settling = new Map<number, Settling>();
  readonly #spare: Int32Array[] = [];

  /**
   * @param bit of this vCPU in the page map
   * @param hasOthers whether other vCPUs may store to the memory
   * @param onFull called when {@link settle} should be, soon
   */
  constructor(
    bytes: Uint8Array,
    words: Int32Array,
    index: number,
    bit: number,
    hasOthers: boolean,
    onFull: () => void,
  ) {
    this.#bytes = bytes;
    this.#words = words;
    this.#bit = bit;
    this.#isOwnBit = index < OWN_CODE_BITS;
    this.#hasOthers = hasOthers;
    this.#onFull = onFull;
  }

  /** The page's entry. From here on stores by others are told; its bytes must not be read before. */
  open(number: number): CodePage {
    const known = this.#pages.get(number);
    if (known !== undefined) return known;
    const page: CodePage = { number, count: 0, chunks: [] };
    this.#pages.set(number, page);
    Atomics.or(this.#bytes, number, this.#bit);
    if (this.#hasOthers) this.#beginSettling(number);
    return page;
  }

  #beginSettling(number: number): void {
    let entry = this.#settling.get(number);
    if (entry === undefined) {
      entry = { copy: this.#spare.pop() ?? new Int32Array(PAGE / 4), until: 0 };
      this.#settling.set(number, entry);
      if (this.#settling.size >= MOST_SETTLING) this.#onFull();
    }
    entry.copy.set(this.#page(number));
    entry.until = performance.now() + SETTLING;
  }

  /** Forgets a page without blocks. */
  close(page: CodePage): void {
    this.#pages.delete(page.number);
    // A shared bit may be another's too; stores to the page then stay slow.
    if (this.#isOwnBit) Atomics.and(this.#bytes, page.number, ~this.#bit);
  }

  add(page: CodePage, piece: Piece): void {
    page.count++;
    for (let chunk = firstChunk(piece); chunk <= lastChunk(piece); chunk++) {
      const list = page.chunks[chunk];
      if (list === undefined) page.chunks[chunk] = [piece];
      else list.push(piece);
    }
  }

  /** Takes out the blocks made of bytes that were stored to; the bytes lie in one page. */
  take(host: number, length: number): readonly Block[] {
    const page = this.#pages.get(host >>> 12);
    if (page === undefined) return NONE;
    const first = (host & (PAGE - 1)) >> CHUNK_SHIFT;
    const last = Math.min(PAGE - 1, (host & (PAGE - 1)) + length - 1) >> CHUNK_SHIFT;
    let hit: Block[] | undefined;
    for (let chunk = first; chunk <= last; chunk++) {
      const list = page.chunks[chunk];
      if (list === undefined) continue;
      for (const piece of list) {
        if (piece.host >= host + length || piece.host + piece.length <= host) continue;
        const block = blockOf(piece);
        if (hit === undefined) hit = [block];
        else if (!hit.includes(block)) hit.push(block);
      }
    }
    if (hit === undefined) return NONE;
    for (const block of hit) this.remove(block);
    return hit;
  }

  /** Takes out a block. */
  remove(block: Block): void {
    this.#removePiece(block);
    if (block.tail !== undefined) this.#removePiece(block.tail);
  }

  #removePiece(piece: Piece): void {
    const page = this.#pages.get(piece.host >>> 12)!;
    page.count--;
    for (let chunk = firstChunk(piece); chunk <= lastChunk(piece); chunk++) {
      const list = page.chunks[chunk]!;
      const end = list.pop()!;
      if (end !== piece) list[list.indexOf(piece)] = end;
    }
    if (page.count === 0) this.close(page);
  }

  /** Forgets all pages. */
  clear(): void {
    for (const page of this.#pages.values()) this.close(page);
    this.#settling.clear();
  }

  /** Whether {@link settle} has something to look at. */
  get isSettling(): boolean {
    return this.#settling.size > 0;
  }

  /** Calls back with pages whose bytes have changed unnoticed since shortly after they were marked. */
  settle(changed: (page: number) => void): void {
    const now = performance.now();
    for (const [page, { copy, until }] of this.#settling) {
      const words = this.#page(page);
      let i = 0;
      while (i < copy.length && copy[i] === words[i]) i++;
      if (until <= now) {
        this.#settling.delete(page);
        if (this.#spare.length < SPARE_COPIES) this.#spare.push(copy);
      }
      if (i < copy.length && this.#pages.has(page)) changed(page);
    }
  }

  #page(number: number): Int32Array {
    return this.#words.subarray(number * (PAGE / 4), (number + 1) * (PAGE / 4));
  }
}

function firstChunk({ host }: Piece): number {
  return (host & (PAGE - 1)) >> CHUNK_SHIFT;
}

function lastChunk({ host, length }: Piece): number {
  return ((host + length - 1) & (PAGE - 1)) >> CHUNK_SHIFT;
}
