/** Where guest clusters are: the L1 table and the L2 tables it leads to. */
import type { EntryTable } from './entry-table.ts';
import * as q from './format.ts';
import { decodeL2, type EntryHalves, type L2Entry } from './l2-entry.ts';
import type { Layout } from './layout.ts';
import type { MetadataMap } from './metadata-map.ts';
import type { Refcounts } from './refcounts.ts';
import { type Table, TableCache } from './table-cache.ts';

const UNALLOCATED = decodeL2(0, 0, 16, 3);

/** The mapping of an open image. */
export class ClusterMap {
  readonly l1: EntryTable;
  readonly tables: TableCache;
  readonly #layout: Layout;

  /** @param cacheBudget bytes of L2 tables that are kept; one of 64 KiB maps 512 MiB */
  constructor(layout: Layout, l1: EntryTable, cacheBudget: number) {
    this.#layout = layout;
    this.l1 = l1;
    this.tables = new TableCache(layout.file, layout.clusterSize, cacheBudget);
  }

  /** True when the guest cluster's L2 table exists. */
  hasTable(cluster: number): boolean {
    return this.l1.l2Offset(this.#l1Index(cluster)) !== 0;
  }

  /** The first guest cluster after this one that another L2 table maps. */
  nextTable(cluster: number): number {
    return (this.#l1Index(cluster) + 1) * this.#layout.l2Entries;
  }

  /** Where a guest cluster is, when that is in memory. */
  lookupCached(cluster: number): L2Entry | undefined {
    const offset = this.l1.l2Offset(this.#l1Index(cluster));
    if (offset === 0) return UNALLOCATED;
    const table = this.tables.cached(offset);
    return table === undefined ? undefined : this.#decode(table, cluster);
  }

  /** Where a guest cluster is. @throws TSV_E_DISK_CORRUPT, TSV_E_DISK_IO */
  async lookup(cluster: number): Promise<L2Entry> {
    const known = this.lookupCached(cluster);
    if (known !== undefined) return known;
    const index = this.#l1Index(cluster);
    return this.#decode(await this.tables.load(this.#tableOffset(index)), cluster);
  }

  /** The offset of an L2 table that is there. */
  #tableOffset(index: number): number {
    const offset = this.l1.l2Offset(index);
    if (this.tables.cached(offset) === undefined) this.#layout.checkCluster(offset, `L2 table ${index}`);
    return offset;
  }

  /**
   * Sets the entries of guest clusters that one L2 table maps, which is made or copied before if need be.
   * @returns the entries they had
   */
  async update(
    cluster: number,
    entries: readonly EntryHalves[],
    refcounts: Refcounts,
    metadata: MetadataMap,
  ): Promise<L2Entry[]> {
    const index = this.#l1Index(cluster);
    let table = this.#writable(index);
    for (; table === undefined; table = this.#writable(index))
      await this.#prepare(index, refcounts, metadata);
    const before: L2Entry[] = [];
    for (const [i, [high, low]] of entries.entries()) {
      const at = ((cluster + i) % this.#layout.l2Entries) * q.ENTRY_SIZE;
      before.push(this.#decode(table, cluster + i));
      table.view.setUint32(at, high);
      table.view.setUint32(at + 4, low);
    }
    this.tables.markDirty(table);
    return before;
  }

  /** An L2 table with refcount one that is in memory; it may be changed until the next await. */
  #writable(index: number): Table | undefined {
    return this.l1.copied(index) ? this.tables.cached(this.l1.l2Offset(index)) : undefined;
  }

  /** Does what is needed for a table to be writable. */
  async #prepare(index: number, refcounts: Refcounts, metadata: MetadataMap): Promise<void> {
    const { clusterSize } = this.#layout;
    const offset = this.l1.l2Offset(index);
    if (offset !== 0 && this.l1.copied(index)) {
      const count = await refcounts.get(offset / clusterSize);
      if (count !== 1) throw this.#layout.corrupt(`L2 table ${index} has refcount ${count} instead of 1`);
      await this.tables.load(this.#tableOffset(index));
      return;
    }
    // There is none, or a snapshot has it too.
    const run = await refcounts.allocate(1);
    try {
      const shared = offset === 0 ? undefined : await this.tables.load(this.#tableOffset(index));
      if (this.l1.l2Offset(index) !== offset) {
        await refcounts.giveBack(run); // somebody else was faster
        return;
      }
      if (offset !== 0) {
        metadata.delete(offset / clusterSize, 1);
        refcounts.release(offset / clusterSize);
      }
      metadata.add(run.cluster, 1, 'L2 table');
      const table = this.tables.create(run.cluster * clusterSize, shared?.bytes);
      this.l1.set(index, table.offset, true);
    } catch (error) {
      await refcounts.giveBack(run);
      throw error;
    }
  }

  #l1Index(cluster: number): number {
    return Math.floor(cluster / this.#layout.l2Entries);
  }

  #decode(table: Table, cluster: number): L2Entry {
    const at = (cluster % this.#layout.l2Entries) * q.ENTRY_SIZE;
    return decodeL2(
      table.view.getUint32(at),
      table.view.getUint32(at + 4),
      this.#layout.clusterBits,
      this.#layout.version,
    );
  }
}
