/** Reference counts of host clusters: looked up, and clusters taken and given back. */
import { TsvError } from '../../errors.ts';
import { Mutex } from '../mutex.ts';
import { EntryTable } from './entry-table.ts';
import * as q from './format.ts';
import type { Layout } from './layout.ts';
import type { MetadataMap } from './metadata-map.ts';
import { maxRefcount, readRefcount, writeRefcount } from './refcount-block.ts';
import { TableCache } from './table-cache.ts';

/** Bytes of refcount blocks that are kept; one block of 64 KiB counts for 2 GiB. */
const CACHE_BUDGET = 4 << 20;

/** Clusters that follow each other. */
export interface ClusterRun {
  readonly cluster: number;
  readonly count: number;
}

/** Clusters that were free. */
export interface NewClusters extends ClusterRun {
  /** Nothing was ever written there: they read as zeros. */
  readonly fresh: boolean;
}

/** What {@link Refcounts} must know of the use of clusters besides their refcounts. */
export type ClusterUse = Pick<MetadataMap, 'add' | 'delete' | 'kind'>;

/** The refcounts of an image that is written to. */
export class Refcounts {
  readonly blocks: TableCache;
  readonly #layout: Layout;
  readonly #metadata: ClusterUse;
  readonly #order: number;
  /** Refcounts in a block. */
  readonly #perBlock: number;
  readonly #mutex = new Mutex();
  #table: EntryTable;
  #moved = false;
  /** No cluster below is free. */
  #firstFree = 0;
  /** Nothing was ever written from this cluster on. */
  #untouched: number;
  /** Given back, but the image may still say that they are in use. */
  #released: number[] = [];

  constructor(layout: Layout, metadata: ClusterUse, table: EntryTable) {
    this.#layout = layout;
    this.#metadata = metadata;
    this.#order = layout.header.refcountOrder;
    this.#perBlock = (layout.clusterSize * 8) >> this.#order;
    this.#table = table;
    this.#untouched = Math.ceil(layout.file.length / layout.clusterSize);
    this.blocks = new TableCache(layout.file, layout.clusterSize, CACHE_BUDGET);
  }

  /** The refcount table. */
  get table(): EntryTable {
    return this.#table;
  }

  /** True when the table is in another place than the header says. */
  get moved(): boolean {
    return this.#moved;
  }

  set moved(moved: boolean) {
    this.#moved = moved;
  }

  get dirty(): boolean {
    return this.blocks.dirty || this.#table.dirty || this.#moved || this.#released.length > 0;
  }

  /** A cluster's refcount. @throws TSV_E_DISK_CORRUPT, TSV_E_DISK_IO */
  async get(cluster: number): Promise<number> {
    const known = this.getCached(cluster);
    if (known !== undefined) return known;
    const block = await this.blocks.load(this.#blockOffset(Math.floor(cluster / this.#perBlock)));
    return readRefcount(block.view, cluster % this.#perBlock, this.#order);
  }

  /** A cluster's refcount, when it is in memory. */
  getCached(cluster: number): number | undefined {
    const index = Math.floor(cluster / this.#perBlock);
    if (index >= this.#table.entries || this.#table.blockOffset(index) === 0) return 0;
    const block = this.blocks.cached(this.#blockOffset(index));
    return block === undefined ? undefined : readRefcount(block.view, cluster % this.#perBlock, this.#order);
  }

  /** Sets a refcount; repair's tool. */
  set(cluster: number, value: number): Promise<void> {
    return this.#mutex.run(() => this.#set(cluster, value));
  }

  /** One reference more to a cluster. @returns false when nothing uses it, or its refcount has no bits for that */
  share(cluster: number): Promise<boolean> {
    return this.#mutex.run(async () => {
      const count = await this.get(cluster);
      if (count === 0 || count >= maxRefcount(this.#order)) return false;
      await this.#set(cluster, count + 1);
      return true;
    });
  }

  /**
   * Takes free clusters that follow each other.
   * @returns at least one, at most `want`
   * @throws TSV_E_DISK_FULL, TSV_E_DISK_CORRUPT
   */
  allocate(want: number): Promise<NewClusters> {
    return this.#mutex.run(() => this.#allocate(want));
  }

  /** Gives back clusters that nothing refers to, on the image as in memory: they may be taken again at once. */
  giveBack(run: ClusterRun): Promise<void> {
    return this.#mutex.run(async () => {
      for (let i = 0; i < run.count; i++) await this.#decrement(run.cluster + i);
    });
  }

  /** One reference less to a cluster, as soon as the image does not have the reference any more. */
  release(cluster: number): void {
    this.#released.push(cluster);
  }

  /** The released clusters; when what they were for is written, {@link drop} must follow. */
  takeReleased(): number[] {
    const released = this.#released;
    this.#released = [];
    return released;
  }

  /** They are still referred to by the image. */
  putBackReleased(released: readonly number[]): void {
    for (const cluster of released) this.#released.push(cluster);
  }

  /**
   * Lowers the refcounts of released clusters.
   * @param onFree is told which are free now, in ascending order, before any of them is taken again
   */
  drop(released: readonly number[], onFree: (free: readonly number[]) => void): Promise<void> {
    return this.#mutex.run(async () => {
      const free: number[] = [];
      for (const cluster of released) if (await this.#decrement(cluster)) free.push(cluster);
      onFree(free.sort((a, b) => a - b));
    });
  }

  /** Starts looking for free clusters behind all that is used; repair must not take what only looks free. */
  appendFrom(cluster: number): void {
    this.#firstFree = cluster;
  }

  async #decrement(cluster: number): Promise<boolean> {
    const count = await this.get(cluster);
    if (count === 0) throw this.#layout.corrupt(`cluster ${cluster} is in use, but its refcount is 0`);
    await this.#set(cluster, count - 1);
    if (count > 1) return false;
    this.#firstFree = Math.min(this.#firstFree, cluster);
    return true;
  }

  async #set(cluster: number, value: number): Promise<void> {
    const index = Math.floor(cluster / this.#perBlock);
    if (index >= this.#table.entries) this.#grow(index);
    if (this.#table.blockOffset(index) === 0) this.#createBlock(index);
    const offset = this.#blockOffset(index);
    let block = this.blocks.cached(offset);
    for (; block === undefined; block = this.blocks.cached(offset)) await this.blocks.load(offset);
    writeRefcount(block.view, cluster % this.#perBlock, this.#order, value);
    this.blocks.markDirty(block);
  }

  async #allocate(want: number): Promise<NewClusters> {
    for (let at = this.#firstFree; ; ) {
      const index = Math.floor(at / this.#perBlock);
      if (index >= this.#table.entries) this.#grow(index);
      if (this.#table.blockOffset(index) === 0) this.#createBlock(index);
      const offset = this.#blockOffset(index);
      const block = this.blocks.cached(offset);
      if (block === undefined) {
        await this.blocks.load(offset);
        continue;
      }
      const end = (index + 1) * this.#perBlock;
      const free = (cluster: number) => readRefcount(block.view, cluster % this.#perBlock, this.#order) === 0;
      while (at < end && !free(at)) at++;
      if (at === end) continue;
      let count = 1;
      while (count < want && at + count < end && free(at + count)) count++;
      for (let i = 0; i < count; i++) {
        const kind = this.#metadata.kind(at + i);
        if (kind !== undefined)
          throw this.#layout.corrupt(`its ${kind} is in cluster ${at + i}, which counts as free`);
      }
      if ((at + count) * this.#layout.clusterSize > q.MAX_OFFSET) throw this.#full();
      for (let i = 0; i < count; i++) {
        writeRefcount(block.view, (at + i) % this.#perBlock, this.#order, 1);
      }
      this.blocks.markDirty(block);
      this.#firstFree = at + count;
      const fresh = at >= this.#untouched;
      this.#touch(at + count);
      return { cluster: at, count, fresh };
    }
  }

  #touch(end: number): void {
    this.#untouched = Math.max(this.#untouched, end);
  }

  #blockOffset(index: number): number {
    const offset = this.#table.blockOffset(index);
    // A block that was made in memory may be behind the end of the file.
    if (this.blocks.cached(offset) === undefined)
      this.#layout.checkCluster(offset, `refcount block ${index}`);
    return offset;
  }

  /** Makes a block, in the first cluster that it counts for itself. */
  #createBlock(index: number): void {
    let cluster = index * this.#perBlock;
    while (this.#metadata.kind(cluster) !== undefined) cluster++;
    if (cluster >= (index + 1) * this.#perBlock)
      throw this.#layout.corrupt(`refcount block ${index} is missing`);
    const block = this.blocks.create(cluster * this.#layout.clusterSize);
    writeRefcount(block.view, cluster % this.#perBlock, this.#order, 1);
    this.#metadata.add(cluster, 1, 'refcount block');
    this.#table.set(index, block.offset, false);
    this.#touch(cluster + 1);
  }

  /**
   * Moves the refcount table to where it is large enough. The new one lies behind everything that the old one could
   * count, together with the blocks that count for it.
   */
  #grow(index: number): void {
    const { clusterSize } = this.#layout;
    const perCluster = clusterSize / q.ENTRY_SIZE;
    const old = this.#table;
    const first = old.entries * this.#perBlock;
    let clusters = Math.max(
      Math.ceil((old.entries * 3) / 2 / perCluster),
      Math.ceil((index + 1) / perCluster),
    );
    let blocks = 0;
    for (;;) {
      blocks = Math.ceil((blocks + clusters) / this.#perBlock) || 1;
      const enough = blocks * this.#perBlock >= blocks + clusters;
      const entries = Math.max(index + 1, old.entries + blocks);
      if (enough && entries <= clusters * perCluster) break;
      clusters = Math.max(clusters, Math.ceil(entries / perCluster));
    }
    if (clusters * clusterSize > q.MAX_REFCOUNT_TABLE_SIZE) throw this.#full();
    const tableAt = first + blocks;
    const conflict =
      this.#metadata.add(first, blocks, 'refcount block') ??
      this.#metadata.add(tableAt, clusters, 'refcount table');
    if (conflict) throw this.#layout.corrupt(`its ${conflict} is where no refcount counts for it`);
    const table = new EntryTable(tableAt * clusterSize, new Uint8Array(clusters * clusterSize));
    for (let i = 0; i < old.entries; i++) table.set(i, old.blockOffset(i), false);
    for (let i = 0; i < blocks; i++) {
      const block = this.blocks.create((first + i) * clusterSize);
      const start = i * this.#perBlock;
      const used = Math.min(this.#perBlock, blocks + clusters - start);
      for (let n = 0; n < used; n++) writeRefcount(block.view, n, this.#order, 1);
      table.set(old.entries + i, block.offset, false);
    }
    table.markAllDirty();
    this.#touch(tableAt + clusters);
    const oldCluster = old.offset / clusterSize;
    const oldClusters = (old.entries * q.ENTRY_SIZE) / clusterSize;
    this.#metadata.delete(oldCluster, oldClusters);
    for (let i = 0; i < oldClusters; i++) this.release(oldCluster + i);
    this.#table = table;
    this.#moved = true;
  }

  #full(): TsvError {
    return new TsvError('TSV_E_DISK_FULL', `"${this.#layout.file.path}" cannot grow any more.`, {
      hint: 'Convert it to an image with larger clusters.',
    });
  }
}
