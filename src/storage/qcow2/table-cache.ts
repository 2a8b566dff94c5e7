/** Clusters of metadata (L2 tables, refcount blocks) in memory, written back by whoever knows the order. */
import type { ImageFile } from '../file.ts';

/** A cluster of metadata. */
export interface Table {
  /** Where it is in the image, bytes. */
  readonly offset: number;
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly view: DataView<ArrayBuffer>;
}

interface CachedTable extends Table {
  dirty: boolean;
  /** Being written; must stay, or it could be read from the image too early. */
  writing: boolean;
}

/** A table as it was when it was taken for writing. */
export interface TableCopy {
  readonly offset: number;
  readonly bytes: Uint8Array;
}

/** Least number of tables that are kept, however large clusters are. */
const MIN_TABLES = 8;

/**
 * A cache of tables by offset. Tables that differ from the image stay until they have been written. Who changes a
 * table must get it from {@link cached} and change it before the next await: after that it may be another object.
 */
export class TableCache {
  readonly #file: ImageFile;
  readonly #clusterSize: number;
  readonly #capacity: number;
  /** By offset, least recently used first. */
  readonly #tables = new Map<number, CachedTable>();
  readonly #loading = new Map<number, Promise<Table>>();
  #dirty = 0;

  /** @param budget bytes of tables that are kept */
  constructor(file: ImageFile, clusterSize: number, budget: number) {
    this.#file = file;
    this.#clusterSize = clusterSize;
    this.#capacity = Math.max(MIN_TABLES, Math.floor(budget / clusterSize));
  }

  /** True when so many tables wait to be written that they should be. */
  get crowded(): boolean {
    return this.#dirty > this.#capacity / 2;
  }

  get dirty(): boolean {
    return this.#dirty > 0;
  }

  /** The table, when it is in memory. */
  cached(offset: number): Table | undefined {
    const table = this.#tables.get(offset);
    if (table === undefined) return undefined;
    this.#tables.delete(offset);
    this.#tables.set(offset, table);
    return table;
  }

  /** Reads the table into memory. @throws TSV_E_DISK_IO */
  load(offset: number): Promise<Table> {
    const table = this.cached(offset);
    if (table !== undefined) return Promise.resolve(table);
    let loading = this.#loading.get(offset);
    if (loading === undefined) {
      loading = this.#read(offset).finally(() => this.#loading.delete(offset));
      this.#loading.set(offset, loading);
    }
    return loading;
  }

  /** A new table that is not in the image yet. */
  create(offset: number, content?: Uint8Array): Table {
    const bytes = new Uint8Array(this.#clusterSize);
    if (content !== undefined) bytes.set(content);
    const table = this.#insert(offset, bytes);
    this.markDirty(table);
    return table;
  }

  /** The table was changed. */
  markDirty(table: Table): void {
    const cached = this.#tables.get(table.offset)!;
    if (!cached.dirty) this.#dirty++;
    cached.dirty = true;
  }

  /** Copies of all changed tables, which count as written from now on; {@link written} must follow. */
  takeDirty(): TableCopy[] {
    const copies: TableCopy[] = [];
    for (const table of this.#tables.values()) {
      if (!table.dirty) continue;
      table.dirty = false;
      table.writing = true;
      copies.push({ offset: table.offset, bytes: table.bytes.slice() });
    }
    this.#dirty = 0;
    // In the order of the file, for the host's sake.
    return copies.sort((a, b) => a.offset - b.offset);
  }

  /** The copies have been written, or could not be. */
  written(copies: readonly TableCopy[], success: boolean): void {
    for (const { offset } of copies) {
      const table = this.#tables.get(offset)!;
      table.writing = false;
      if (!success) this.markDirty(table);
    }
    this.#evict();
  }

  async #read(offset: number): Promise<Table> {
    const bytes = new Uint8Array(this.#clusterSize);
    // An image need not end with a whole cluster.
    await this.#file.read(offset, [bytes.subarray(0, Math.max(1, this.#file.length - offset))]);
    // It may have been made anew meanwhile.
    return this.#tables.get(offset) ?? this.#insert(offset, bytes);
  }

  #insert(offset: number, bytes: Uint8Array<ArrayBuffer>): CachedTable {
    const table = { offset, bytes, view: new DataView(bytes.buffer), dirty: false, writing: false };
    this.#evict();
    this.#tables.set(offset, table);
    return table;
  }

  #evict(): void {
    if (this.#tables.size < this.#capacity) return;
    for (const table of this.#tables.values()) {
      if (table.dirty || table.writing) continue;
      this.#tables.delete(table.offset);
      if (this.#tables.size < this.#capacity) return;
    }
  }
}
