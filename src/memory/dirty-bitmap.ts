/**
 * A dirty log: one bit a 4 KiB page, page n in bit n % 32 of word n / 32. On a little-endian host this is the layout
 * of KVM_GET_DIRTY_LOG and KVM_CLEAR_DIRTY_LOG (Documentation/virt/kvm/api.rst 4.8 and 4.117), so a bitmap goes to
 * and from the kernel unchanged; the words may lie in shared memory, where vCPU threads mark pages themselves.
 */
import { TsvError } from '../errors.ts';

/** A run of pages whose bits are set. */
export interface PageRun {
  /** Number of the first page. */
  readonly page: number;
  /** How many pages. */
  readonly count: number;
}

/** One bit a page. */
export class DirtyBitmap {
  /** Number of pages. */
  readonly pages: number;
  /** The bits, in whole 64-bit units; bits past the last page are never set. */
  readonly words: Uint32Array;

  /**
   * @param pages how many pages
   * @param words where the bits live (e.g. in shared memory); fresh zeroes when absent
   * @throws TSV_E_STATE when `words` is too short
   */
  constructor(pages: number, words?: Uint32Array) {
    const length = DirtyBitmap.wordsFor(pages);
    if (!Number.isSafeInteger(pages) || pages < 0 || (words !== undefined && words.length < length)) {
      throw new TsvError('TSV_E_STATE', `A dirty bitmap of ${pages} pages does not fit its words.`, {
        hint: `It needs ${length} words of 32 bits.`,
      });
    }
    this.pages = pages;
    this.words = words?.subarray(0, length) ?? new Uint32Array(length);
    if (words !== undefined) for (let bit = pages; bit < length * 32; bit++) this.#unmark(bit);
  }

  /** Number of 32-bit words a bitmap of `pages` pages takes. */
  static wordsFor(pages: number): number {
    return Math.ceil(pages / 64) * 2;
  }

  /** The bits as bytes, for ioctls and files. */
  get bytes(): Uint8Array {
    return new Uint8Array(this.words.buffer, this.words.byteOffset, this.words.byteLength);
  }

  /** True when the page is marked; false for pages outside. */
  has(page: number): boolean {
    return page >= 0 && page < this.pages && ((this.words[page >>> 5] >>> (page & 31)) & 1) === 1;
  }

  /** Marks one page; atomically, so several threads may share the words. Pages outside are ignored. */
  add(page: number): void {
    if (page >= 0 && page < this.pages) Atomics.or(this.words, page >>> 5, 1 << (page & 31));
  }

  #unmark(bit: number): void {
    Atomics.and(this.words, bit >>> 5, ~(1 << (bit & 31)));
  }

  /** Marks pages [page, page+count), clipped to the bitmap. */
  addRange(page: number, count: number): void {
    this.#eachWord(page, count, (word, mask) => Atomics.or(this.words, word, mask));
  }

  /** Unmarks pages [page, page+count), clipped to the bitmap. */
  deleteRange(page: number, count: number): void {
    this.#eachWord(page, count, (word, mask) => Atomics.and(this.words, word, ~mask));
  }

  /** Unmarks all pages. */
  clear(): void {
    this.words.fill(0);
  }

  /**
   * Adds the pages of another bitmap of the same length.
   * @throws TSV_E_STATE
   */
  merge(other: DirtyBitmap): void {
    if (other.pages !== this.pages) {
      throw new TsvError(
        'TSV_E_STATE',
        `Dirty bitmaps of ${this.pages} and ${other.pages} pages do not match.`,
        { hint: 'Merge bitmaps of the same RAM region only.' },
      );
    }
    for (let i = 0; i < this.words.length; i++) {
      if (other.words[i] !== 0) Atomics.or(this.words, i, other.words[i]);
    }
  }

  /** A copy of the bits, which are zeroed at the same moment word by word: no mark of another thread is lost. */
  take(): DirtyBitmap {
    const taken = new DirtyBitmap(this.pages);
    for (let i = 0; i < this.words.length; i++) {
      if (Atomics.load(this.words, i) !== 0) taken.words[i] = Atomics.exchange(this.words, i, 0);
    }
    return taken;
  }

  /** How many pages are marked. */
  count(): number {
    let total = 0;
    for (const word of this.words) if (word !== 0) total += popcount(word);
    return total;
  }

  /** The marked pages as runs, ascending, each as long as it can be. */
  *runs(): Generator<PageRun> {
    let start = -1;
    for (let i = 0; i < this.words.length; i++) {
      const word = this.words[i];
      if (word === 0 && start < 0) continue;
      if (word === 0xffffffff && start >= 0) continue;
      for (let bit = 0; bit < 32; bit++) {
        const set = ((word >>> bit) & 1) === 1;
        const page = i * 32 + bit;
        if (set && start < 0) start = page;
        if (!set && start >= 0) {
          yield { page: start, count: page - start };
          start = -1;
        }
      }
    }
    if (start >= 0) yield { page: start, count: this.pages - start };
  }

  #eachWord(page: number, count: number, visit: (word: number, mask: number) => void): void {
    let at = Math.max(0, page);
    const end = Math.min(this.pages, page + count);
    while (at < end) {
      const bit = at & 31;
      const bits = Math.min(32 - bit, end - at);
      visit(at >>> 5, bits === 32 ? -1 : ((1 << bits) - 1) << bit);
      at += bits;
    }
  }
}

/** Number of set bits of a 32-bit word (SWAR: sums of 2, 4 and 8 bits, the bytes added by one multiplication). */
function popcount(word: number): number {
  let v = word - ((word >>> 1) & 0x55555555);
  v = (v & 0x33333333) + ((v >>> 2) & 0x33333333);
  return Math.imul((v + (v >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
}
