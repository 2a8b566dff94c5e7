/**
 * Memory that a machine got besides its RAM (EngineVm.mapMemory): a table in shared memory that the machine's thread
 * writes and every vCPU reads. Its bytes lie behind RAM in the same WebAssembly memory.
 */
import { TsvError } from '../errors.ts';
import { PAGE } from './layout.ts';

/** Most slots at a time. */
const MOST = 32;
/** Words: version, end of the slots in use, then each slot. */
const VERSION = 0;
const SLOTS = 2;
const SLOT_WORDS = 4;
/** Words of a slot: first page of guest-physical memory, pages (0: free), first page in the memory, flags. */
const GPA = 0;
const PAGES = 1;
const HOST = 2;
const FLAGS = 3;
const READ_ONLY = 1;
const MAX_PAGE = 2 ** 31;

/** A slot, in bytes. */
export interface MemorySlot {
  readonly gpa: number;
  readonly size: number;
  /** Offset in the memory. */
  readonly host: number;
  readonly readOnly: boolean;
}

/** The table. */
export class MemorySlots {
  readonly shared: SharedArrayBuffer;
  readonly #words: Int32Array;

  constructor(shared = new SharedArrayBuffer((SLOTS + MOST * SLOT_WORDS) * 4)) {
    this.shared = shared;
    this.#words = new Int32Array(shared);
  }

  /** Changes whenever the table does. */
  get version(): number {
    return Atomics.load(this.#words, VERSION);
  }

  /**
   * Adds a slot.
   * @returns its number
   * @throws TSV_E_CONFIG when it is not made of pages, lies in another slot, or there are too many
   */
  add({ gpa, size, host, readOnly }: MemorySlot): number {
    const wrong = [gpa, size, host].some((n) => !Number.isSafeInteger(n) || n < 0 || n % PAGE !== 0);
    if (wrong || size === 0 || (gpa + size) / PAGE > MAX_PAGE) {
      throw refused('Memory can be mapped in whole pages of 4 KiB only', 'Align address and length to 4096.');
    }
    const overlaps = this.read().some((slot) => gpa < slot.gpa + slot.size && slot.gpa < gpa + size);
    if (overlaps)
      throw refused('There is memory at that address already', 'Unmap it first, or choose another address.');
    const words = this.#words;
    const index = Array.from({ length: MOST }, (_, i) => i).find((i) => words[at(i) + PAGES] === 0);
    if (index === undefined)
      throw refused(`A machine can have ${MOST} such pieces of memory`, 'Unmap one first.');
    words[at(index) + GPA] = gpa / PAGE;
    words[at(index) + HOST] = host / PAGE;
    words[at(index) + FLAGS] = readOnly ? READ_ONLY : 0;
    Atomics.store(words, at(index) + PAGES, size / PAGE);
    Atomics.add(words, VERSION, 1);
    return index;
  }

  /** Removes a slot; nothing happens when there is none. */
  remove(index: number): void {
    if (!(index >= 0 && index < MOST)) return;
    Atomics.store(this.#words, at(index) + PAGES, 0);
    Atomics.add(this.#words, VERSION, 1);
  }

  /** All slots, as they are together at one moment. */
  read(): MemorySlot[] {
    for (;;) {
      const { version } = this;
      const slots = this.#read();
      // Otherwise one may have gone, and another come in its place, while its fields were read.
      if (this.version === version) return slots;
    }
  }

  #read(): MemorySlot[] {
    const words = this.#words;
    const slots: MemorySlot[] = [];
    for (let index = 0; index < MOST; index++) {
      const size = Atomics.load(words, at(index) + PAGES) * PAGE;
      if (size === 0) continue;
      slots.push({
        gpa: words[at(index) + GPA] * PAGE,
        size,
        host: words[at(index) + HOST] * PAGE,
        readOnly: (words[at(index) + FLAGS] & READ_ONLY) !== 0,
      });
    }
    return slots;
  }
}

function at(slot: number): number {
  return SLOTS + slot * SLOT_WORDS;
}

function refused(message: string, hint: string): TsvError {
  return new TsvError('TSV_E_CONFIG', `${message}.`, { hint });
}
