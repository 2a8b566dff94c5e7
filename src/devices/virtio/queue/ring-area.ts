/**
 * A part of a ring in guest RAM, which vCPUs write while the device reads. Fields are read and written atomically, which
 * also orders them: what is stored before is seen by whoever sees what is stored after.
 */
import type { GuestMemory } from '../../../memory/guest-memory.ts';

interface Piece {
  readonly start: number;
  readonly end: number;
  readonly u16: Uint16Array;
  readonly u32: Uint32Array;
}

/** Atomic access to [gpa, gpa + length). Offsets are aligned to the field's width. */
export class RingArea {
  readonly #memory: GuestMemory;
  readonly #gpa: number;
  readonly #pieces: Piece[];
  #last: Piece;

  private constructor(memory: GuestMemory, gpa: number, pieces: Piece[]) {
    this.#memory = memory;
    this.#gpa = gpa;
    this.#pieces = pieces;
    this.#last = pieces[0];
  }

  /**
   * @param alignment of `gpa`, at least 2; at least 4 for 32-bit fields
   * @returns undefined when the range is not RAM or not aligned
   */
  static at(memory: GuestMemory, gpa: number, length: number, alignment: number): RingArea | undefined {
    if (gpa % alignment !== 0 || !memory.contains(gpa, length)) return undefined;
    const views = memory.dma(gpa, length, true) ?? [];
    const pieces: Piece[] = [];
    for (const view of views) {
      const start = pieces.at(-1)?.end ?? 0;
      const { buffer, byteOffset } = view;
      pieces.push({
        start,
        end: start + view.length,
        u16: new Uint16Array(buffer, byteOffset, view.length >>> 1),
        u32: new Uint32Array(buffer, byteOffset - (byteOffset & 2), view.length >>> 2),
      });
    }
    return new RingArea(memory, gpa, pieces);
  }

  u16(offset: number): number {
    const piece = this.#piece(offset);
    return Atomics.load(piece.u16, (offset - piece.start) >>> 1);
  }

  u32(offset: number): number {
    const piece = this.#piece(offset);
    return Atomics.load(piece.u32, (offset - piece.start) >>> 2);
  }

  setU16(offset: number, value: number): void {
    const piece = this.#piece(offset);
    Atomics.store(piece.u16, (offset - piece.start) >>> 1, value);
    this.#memory.wrote(this.#gpa + offset, 2);
  }

  setU32(offset: number, value: number): void {
    const piece = this.#piece(offset);
    Atomics.store(piece.u32, (offset - piece.start) >>> 2, value);
    this.#memory.wrote(this.#gpa + offset, 4);
  }

  #piece(offset: number): Piece {
    const last = this.#last;
    if (offset >= last.start && offset < last.end) return last;
    this.#last = this.#pieces.find(({ start, end }) => offset >= start && offset < end)!;
    return this.#last;
  }
}
