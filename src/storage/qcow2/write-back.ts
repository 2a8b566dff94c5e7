/**
 * The order in which an image's metadata is written, so that whatever is on the host's disk at any moment is consistent:
 * clusters may be counted that nothing refers to (leaks), but nothing is ever referred to that is not counted, not
 * written, or used for something else.
 *
 * 1. Data and raised refcounts, and new refcount blocks before the table that leads to them.
 * 2. L2 tables.
 * 3. The L1 table, which leads to new L2 tables.
 * 4. Only then are the refcounts of what is not referred to any more lowered, and only then is it used again.
 */
import type { ImageFile } from '../file.ts';
import { Mutex } from '../mutex.ts';
import type { ClusterMap } from './cluster-map.ts';
import type { TablePiece } from './entry-table.ts';
import * as q from './format.ts';
import type { Layout } from './layout.ts';
import type { Refcounts } from './refcounts.ts';
import type { TableCopy } from './table-cache.ts';

/** Writes the metadata of one image. */
export class WriteBack {
  readonly #layout: Layout;
  readonly #map: ClusterMap;
  readonly #refcounts: Refcounts;
  readonly #onFree: (clusters: readonly number[]) => void;
  readonly #mutex = new Mutex();
  #waiting: Promise<void> | undefined;

  /** @param onFree is told of clusters, in ascending order, that nothing uses any more */
  constructor(
    layout: Layout,
    map: ClusterMap,
    refcounts: Refcounts,
    onFree: (clusters: readonly number[]) => void,
  ) {
    this.#layout = layout;
    this.#map = map;
    this.#refcounts = refcounts;
    this.#onFree = onFree;
  }

  /** True when so much waits to be written that writers should wait for it. */
  get crowded(): boolean {
    return this.#map.tables.crowded || this.#refcounts.blocks.crowded;
  }

  /** Makes everything durable that was done before. Who asks while another run waits to start shares that one. */
  run(): Promise<void> {
    this.#waiting ??= this.#mutex.run(() => {
      this.#waiting = undefined;
      return this.#run();
    });
    return this.#waiting;
  }

  async #run(): Promise<void> {
    const { file } = this.#layout;
    // All at once, before the first await: what is done from now on belongs to the next time.
    const released = this.#refcounts.takeReleased();
    const writeRefcounts = this.#takeRefcounts();
    const l2 = this.#map.tables.takeDirty();
    const l1 = this.#map.l1.takeDirty();
    let done = false;
    try {
      await writeRefcounts();
      if (l2.length + l1.length > 0) {
        await file.sync();
        await writeAll(file, l2);
        if (l1.length > 0) {
          await file.sync();
          await writeAll(file, l1);
        }
      }
      await file.sync();
      done = true;
    } catch (error) {
      this.#refcounts.putBackReleased(released);
      throw error;
    } finally {
      this.#map.tables.written(l2, done);
      if (!done) this.#map.l1.putBack(l1);
    }
    if (released.length > 0) await this.#refcounts.drop(released, this.#onFree);
  }

  /** Takes what has changed of the refcounts. @returns what writes it, and puts it back when that fails */
  #takeRefcounts(): () => Promise<void> {
    const { file } = this.#layout;
    const { blocks: cache, table, moved } = this.#refcounts;
    const blocks = cache.takeDirty();
    const pieces = table.takeDirty();
    this.#refcounts.moved = false;
    return async () => {
      let success = false;
      try {
        await writeAll(file, blocks);
        if (pieces.length > 0) {
          await file.sync();
          await writeAll(file, pieces);
        }
        if (moved) {
          await file.sync();
          await file.write(q.REFCOUNT_TABLE_FIELDS_OFFSET, [this.#tableFields(table.offset, table.entries)]);
        }
        success = true;
      } finally {
        cache.written(blocks, success);
        if (!success) {
          table.putBack(pieces);
          if (moved) this.#refcounts.moved = true;
        }
      }
    };
  }

  /** refcount_table_offset and refcount_table_clusters, which are next to each other and change together. */
  #tableFields(offset: number, entries: number): Uint8Array {
    const fields = new Uint8Array(12);
    const view = new DataView(fields.buffer);
    view.setBigUint64(0, BigInt(offset));
    view.setUint32(8, (entries * q.ENTRY_SIZE) / this.#layout.clusterSize);
    return fields;
  }
}

/** Writes pieces, those that follow each other at once. */
async function writeAll(file: ImageFile, pieces: readonly (TableCopy | TablePiece)[]): Promise<void> {
  for (let i = 0; i < pieces.length; ) {
    const { offset } = pieces[i];
    const run = [pieces[i].bytes];
    let end = offset + pieces[i].bytes.length;
    for (i++; i < pieces.length && pieces[i].offset === end; i++) {
      run.push(pieces[i].bytes);
      end += pieces[i].bytes.length;
    }
    await file.write(offset, run);
  }
}
