/** Changes the disk of a qcow2 image: in place where a cluster is its own, else in new clusters (copy on write). */
import { slice, zeros } from '../buffers.ts';
import type { ClusterMap } from './cluster-map.ts';
import {
  dataEntry,
  ENTRY_UNALLOCATED,
  ENTRY_ZERO,
  type EntryHalves,
  type L2Entry,
  zeroEntry,
} from './l2-entry.ts';
import type { Layout } from './layout.ts';
import type { MetadataMap } from './metadata-map.ts';
import type { Reader } from './reader.ts';
import type { NewClusters, Refcounts } from './refcounts.ts';
import { settleAll } from './settle.ts';

/** Writes without locking; who calls it has locked the clusters. */
export class Writer {
  readonly #layout: Layout;
  readonly #map: ClusterMap;
  readonly #refcounts: Refcounts;
  readonly #metadata: MetadataMap;
  readonly #reader: Reader;

  constructor(layout: Layout, map: ClusterMap, refcounts: Refcounts, metadata: MetadataMap, reader: Reader) {
    this.#layout = layout;
    this.#map = map;
    this.#refcounts = refcounts;
    this.#metadata = metadata;
    this.#reader = reader;
  }

  /** Writes what needs no change of metadata, so that a shared lock will do. @returns false when it is not all so */
  async writeInPlace(offset: number, from: readonly Uint8Array[], length: number): Promise<boolean> {
    const runs: { host: number; at: number; length: number }[] = [];
    for (let at = 0; at < length; ) {
      const run = await this.#inPlace(offset + at, length - at);
      if (run === undefined) return false;
      runs.push({ ...run, at });
      at += run.length;
    }
    await settleAll(runs.map((run) => this.#layout.file.write(run.host, slice(from, run.at, run.length))));
    return true;
  }

  /**
   * Writes to one cluster in place where that is quick and nothing about it is unusual.
   * @returns false when {@link writeInPlace} or {@link write} has to, or to say what is wrong
   */
  writeAtOnce(offset: number, from: readonly Uint8Array[]): boolean {
    const { file, clusterSize } = this.#layout;
    const entry = this.#map.lookupCached(Math.floor(offset / clusterSize));
    if (entry?.kind !== 'data' || !entry.copied || entry.offset % clusterSize !== 0) return false;
    const cluster = entry.offset / clusterSize;
    const isOwn = this.#metadata.kind(cluster) === undefined && this.#refcounts.getCached(cluster) === 1;
    return (
      isOwn && entry.offset < file.length && file.writeAtOnce(entry.offset + (offset % clusterSize), from)
    );
  }

  /** Writes; the clusters are locked exclusively. */
  async write(offset: number, from: readonly Uint8Array[], length: number): Promise<void> {
    for (let at = 0; at < length; ) {
      const run = await this.#inPlace(offset + at, length - at);
      if (run !== undefined) await this.#layout.file.write(run.host, slice(from, at, run.length));
      at += run?.length ?? (await this.#writeNew(offset + at, slice(from, at, length - at), length - at));
    }
  }

  /** Makes whole clusters free where that does not bring back older content of the backing file. */
  discard(cluster: number, end: number): Promise<void> {
    return this.#replaceAll(cluster, end, (at, entry) => {
      if (entry.kind === 'unallocated') return undefined;
      if (!this.#reader.backed(at)) return ENTRY_UNALLOCATED;
      if (this.#layout.version < 3 || (entry.kind === 'zero' && entry.offset === 0)) return undefined;
      return ENTRY_ZERO;
    });
  }

  /**
   * Makes whole clusters read as zeros.
   * @returns false when the format cannot say that (version 2 over a backing file), and nothing is done
   */
  async zero(cluster: number, end: number, mayUnmap: boolean): Promise<boolean> {
    if (this.#layout.version < 3) {
      if (this.#reader.backed(cluster)) return false;
      await this.discard(cluster, end);
      return true;
    }
    await this.#replaceAll(cluster, end, (at, entry) => {
      if (this.#reader.readsAsZeros(at, entry)) return undefined;
      return entry.kind === 'data' && entry.copied && !mayUnmap ? zeroEntry(entry.offset) : ENTRY_ZERO;
    });
    return true;
  }

  /** The longest run of at most `left` bytes that can be written where it is. */
  async #inPlace(offset: number, left: number): Promise<{ host: number; length: number } | undefined> {
    const { clusterSize } = this.#layout;
    const start = offset % clusterSize;
    let cluster = Math.floor(offset / clusterSize);
    const first = this.#map.lookupCached(cluster) ?? (await this.#map.lookup(cluster));
    if (first.kind !== 'data' || !first.copied) return undefined;
    await this.#checkOwn(first.offset);
    let length = clusterSize - start;
    for (let host = first.offset + clusterSize; length < left; host += clusterSize) {
      const next = this.#map.lookupCached(++cluster);
      if (next?.kind !== 'data' || !next.copied || next.offset !== host) break;
      await this.#checkOwn(host);
      length += clusterSize;
    }
    return { host: first.offset + start, length: Math.min(length, left) };
  }

  /** The entry says that the cluster is its own: so must the refcount and the metadata. */
  async #checkOwn(host: number): Promise<void> {
    this.#layout.checkCluster(host, 'a data cluster');
    const cluster = host / this.#layout.clusterSize;
    const kind = this.#metadata.kind(cluster);
    if (kind !== undefined) throw this.#layout.corrupt(`a data cluster is where its ${kind} is`);
    const count = this.#refcounts.getCached(cluster) ?? (await this.#refcounts.get(cluster));
    if (count !== 1) throw this.#layout.corrupt(`a data cluster has refcount ${count} instead of 1`);
  }

  /** Writes to new clusters as many bytes as fit into a run of them. @returns how many */
  async #writeNew(offset: number, from: readonly Uint8Array[], left: number): Promise<number> {
    const { clusterSize, file } = this.#layout;
    const first = Math.floor(offset / clusterSize);
    const entries = await this.#notInPlace(first, Math.ceil((offset + left) / clusterSize));
    const kept = entries[0].kind === 'zero' && entries[0].copied && entries[0].offset !== 0;
    const run = kept ? await this.#keptCluster(entries[0]) : await this.#refcounts.allocate(entries.length);
    try {
      const start = offset % clusterSize;
      const length = Math.min(left, run.count * clusterSize - start);
      const end = start + length;
      const rest = run.count * clusterSize - end;
      const head = await this.#old(first, entries[0], 0, start, run.fresh);
      const last = first + run.count - 1;
      const tail = await this.#old(last, entries[run.count - 1], end % clusterSize, rest, run.fresh);
      const host = run.cluster * clusterSize + (head === undefined ? start : 0);
      await file.write(host, [...(head ?? []), ...slice(from, 0, length), ...(tail ?? [])]);
      const places = Array.from({ length: run.count }, (_, i) => dataEntry((run.cluster + i) * clusterSize));
      await this.replace(first, places, kept);
      return length;
    } catch (error) {
      if (!kept) await this.#refcounts.giveBack(run);
      throw error;
    }
  }

  /** The entries from `cluster` on that need a new cluster, as far as one L2 table maps them. */
  async #notInPlace(cluster: number, end: number): Promise<L2Entry[]> {
    const entries = [await this.#map.lookup(cluster)];
    const stop = Math.min(end, this.#map.nextTable(cluster));
    for (let at = cluster + 1; at < stop; at++) {
      const entry = await this.#map.lookup(at);
      if (entry.kind === 'zero' && entry.offset !== 0) break;
      if (entry.kind === 'data' && entry.copied) break;
      entries.push(entry);
    }
    return entries;
  }

  /** The cluster that was kept for one that reads as zeros. */
  async #keptCluster(entry: L2Entry): Promise<NewClusters> {
    await this.#checkOwn(entry.offset);
    return { cluster: entry.offset / this.#layout.clusterSize, count: 1, fresh: false };
  }

  /** A part of a cluster's content from before; undefined when it is zeros and the new cluster has them already. */
  async #old(
    cluster: number,
    entry: L2Entry,
    start: number,
    length: number,
    fresh: boolean,
  ): Promise<Uint8Array[] | undefined> {
    if (length === 0) return [];
    if (this.#reader.readsAsZeros(cluster, entry)) return fresh ? undefined : zeros(length);
    const bytes = new Uint8Array(length);
    await this.#reader.read(cluster * this.#layout.clusterSize + start, [bytes], length);
    return [bytes];
  }

  async #replaceAll(
    cluster: number,
    end: number,
    choose: (cluster: number, entry: L2Entry) => EntryHalves | undefined,
  ): Promise<void> {
    for (let at = cluster; at < end; ) {
      const stop = Math.min(end, this.#map.nextTable(at));
      let run: EntryHalves[] = [];
      for (; at < stop; at++) {
        const entry = this.#map.lookupCached(at) ?? (await this.#map.lookup(at));
        const halves = choose(at, entry);
        if (halves !== undefined) {
          run.push(halves);
        } else if (run.length > 0) {
          await this.replace(at - run.length, run, false);
          run = [];
        }
        if (entry.kind === 'unallocated' && halves === undefined && !this.#map.hasTable(at)) at = stop - 1;
      }
      if (run.length > 0) await this.replace(stop - run.length, run, false);
    }
  }

  /**
   * Sets the entries of guest clusters, and gives up what the old ones referred to.
   * @param kept true when that is what the new ones refer to
   */
  async replace(cluster: number, entries: readonly EntryHalves[], kept: boolean): Promise<void> {
    const before = await this.#map.update(cluster, entries, this.#refcounts, this.#metadata);
    if (kept) return;
    for (const [i, entry] of before.entries()) {
      const isKept = entry.kind === 'data' && (entries[i][1] & 1) === 1 && entries[i][0] !== 0;
      if (!isKept) this.#release(entry);
    }
  }

  #release(entry: L2Entry): void {
    const { clusterSize } = this.#layout;
    if (entry.offset === 0) return;
    const length = entry.kind === 'compressed' ? entry.length : clusterSize;
    if (entry.kind === 'compressed') this.#reader.forget();
    const last = Math.floor((entry.offset + length - 1) / clusterSize);
    for (let at = Math.floor(entry.offset / clusterSize); at <= last; at++) this.#refcounts.release(at);
  }
}
