/** A table of offsets that is contiguous in the image and kept in memory as a whole: L1 table and refcount table. */
import type { ImageFile } from '../file.ts';
import * as q from './format.ts';
import type { Layout } from './layout.ts';

/** Changes are written in pieces of this size, as they are to be whole after a crash. */
const PIECE = 512;

/** A piece of the table as it is to be written. */
export interface TablePiece {
  readonly offset: number;
  readonly bytes: Uint8Array;
}

/** Entries as upper and lower halves. */
export class EntryTable {
  /** Where the table is in the image, bytes. */
  readonly offset: number;
  readonly entries: number;
  readonly #view: DataView<ArrayBuffer>;
  readonly #dirty = new Set<number>();

  constructor(offset: number, bytes: Uint8Array<ArrayBuffer>) {
    this.offset = offset;
    this.entries = bytes.length / q.ENTRY_SIZE;
    this.#view = new DataView(bytes.buffer);
  }

  static async read(file: ImageFile, offset: number, entries: number): Promise<EntryTable> {
    return new EntryTable(offset, await file.readBytes(offset, entries * q.ENTRY_SIZE));
  }

  high(index: number): number {
    return this.#view.getUint32(index * q.ENTRY_SIZE);
  }

  low(index: number): number {
    return this.#view.getUint32(index * q.ENTRY_SIZE + 4);
  }

  /** The offset in an entry of the L1 table. */
  l2Offset(index: number): number {
    return (this.high(index) & q.OFFSET_HIGH) * 2 ** 32 + ((this.low(index) & q.OFFSET_LOW) >>> 0);
  }

  /** The offset in an entry of the refcount table; beyond 2^53 it is not exact, but still too large. */
  blockOffset(index: number): number {
    return this.high(index) * 2 ** 32 + ((this.low(index) & q.OFFSET_LOW) >>> 0);
  }

  /** True when the L2 table has refcount one. */
  copied(index: number): boolean {
    return (this.high(index) & q.COPIED_HIGH) !== 0;
  }

  /** Sets an entry to an offset. */
  set(index: number, offset: number, copied: boolean): void {
    const flag = copied ? q.COPIED_HIGH : 0;
    this.#view.setUint32(index * q.ENTRY_SIZE, (Math.floor(offset / 2 ** 32) | flag) >>> 0);
    this.#view.setUint32(index * q.ENTRY_SIZE + 4, offset >>> 0);
    this.#dirty.add(Math.floor((index * q.ENTRY_SIZE) / PIECE));
  }

  get dirty(): boolean {
    return this.#dirty.size > 0;
  }

  /** The changed pieces, which count as written from now on. */
  takeDirty(): TablePiece[] {
    const pieces = [...this.#dirty].sort((a, b) => a - b).map((piece) => this.#piece(piece));
    this.#dirty.clear();
    return pieces;
  }

  /** The pieces could not be written. */
  putBack(pieces: readonly TablePiece[]): void {
    for (const piece of pieces) this.#dirty.add((piece.offset - this.offset) / PIECE);
  }

  /** Counts the whole table as changed. */
  markAllDirty(): void {
    for (let at = 0; at < this.#view.byteLength; at += PIECE) this.#dirty.add(at / PIECE);
  }

  #piece(piece: number): TablePiece {
    const bytes = new Uint8Array(this.#view.buffer).slice(piece * PIECE, (piece + 1) * PIECE);
    return { offset: this.offset + piece * PIECE, bytes };
  }
}

/** Reads an image's refcount table. */
export function readRefcountTable({ file, header, clusterSize }: Layout): Promise<EntryTable> {
  const entries = (header.refcountTableClusters * clusterSize) / q.ENTRY_SIZE;
  return EntryTable.read(file, header.refcountTableOffset, entries);
}
