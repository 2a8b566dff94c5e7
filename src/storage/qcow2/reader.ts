/** Reads the disk of a qcow2 image: from its clusters, its compressed clusters, its backing file, or zeros. */
import type { BlockBackend, DiskExtent } from '../backend.ts';
import { fillZeros, scatter, slice } from '../buffers.ts';
import type { ClusterMap } from './cluster-map.ts';
import { unpackCluster } from './compression.ts';
import { type L2Entry, maxCompressedOffset } from './l2-entry.ts';
import type { Layout } from './layout.ts';
import { settleAll } from './settle.ts';

/** Bytes of unpacked clusters that are kept. */
const UNPACKED_BUDGET = 1 << 20;

/** Clusters that are looked at to find the end of an extent. */
const EXTENT_CLUSTERS = 256;

/** Guest bytes that are in one place. */
interface Run {
  readonly entry: L2Entry;
  readonly length: number;
}

/** Reads without locking; who calls it has locked the clusters. */
export class Reader {
  readonly #layout: Layout;
  readonly #map: ClusterMap;
  readonly #backing: BlockBackend | undefined;
  /** By host offset, the oldest first. */
  readonly #unpacked = new Map<number, Promise<Uint8Array>>();

  constructor(layout: Layout, map: ClusterMap, backing: BlockBackend | undefined) {
    this.#layout = layout;
    this.#map = map;
    this.#backing = backing;
  }

  /** Fills `into`, which has `length` bytes. */
  async read(offset: number, into: readonly Uint8Array[], length: number): Promise<void> {
    const work: Promise<void>[] = [];
    try {
      for (let at = 0; at < length; ) {
        const run = await this.#run(offset + at, length - at);
        const whole = run.length === length;
        const piece = this.#readRun(offset + at, run, whole ? into : slice(into, at, run.length));
        // It is looked at below; until then a failure must not count as one that nobody looks at.
        piece.catch(() => {});
        work.push(piece);
        at += run.length;
      }
    } catch (error) {
      await Promise.allSettled(work);
      throw error;
    }
    await settleAll(work);
  }

  /**
   * Fills `into` from one cluster where that is quick and nothing about it is unusual.
   * @returns false when {@link read} has to, or to say what is wrong
   */
  readAtOnce(offset: number, into: readonly Uint8Array[], length: number): boolean {
    const { file, clusterSize } = this.#layout;
    const entry = this.#map.lookupCached(Math.floor(offset / clusterSize));
    if (entry?.kind !== 'data' || entry.offset === 0 || entry.offset % clusterSize !== 0) return false;
    const host = entry.offset + (offset % clusterSize);
    return host + length <= file.length && file.readAtOnce(host, into);
  }

  /** True when a guest cluster is known to read as zeros without looking into the backing file. */
  readsAsZeros(cluster: number, entry: L2Entry): boolean {
    return entry.kind === 'zero' || (entry.kind === 'unallocated' && !this.backed(cluster));
  }

  /** True when a guest cluster, if unallocated, is read from the backing file. */
  backed(cluster: number): boolean {
    return this.#backing !== undefined && cluster * this.#layout.clusterSize < this.#backing.size;
  }

  /** What was unpacked from a cluster may be out of date. */
  forget(): void {
    this.#unpacked.clear();
  }

  /** How far from `offset` on the disk is zero, or has to be read; not always as far as it could say. */
  async extent(offset: number, size: number): Promise<DiskExtent> {
    const { clusterSize } = this.#layout;
    const first = Math.floor(offset / clusterSize);
    const next = this.#map.nextTable(first);
    if (!this.#map.hasTable(first) && !this.backed(first)) {
      return { length: Math.min(next * clusterSize, size) - offset, zero: true };
    }
    const end = Math.min(next, first + EXTENT_CLUSTERS, Math.ceil(size / clusterSize));
    const kind = (entry: L2Entry, cluster: number) =>
      entry.kind === 'unallocated' && this.backed(cluster) ? 'backing' : this.readsAsZeros(cluster, entry);
    const wanted = kind(await this.#map.lookup(first), first);
    let cluster = first + 1;
    while (cluster < end && kind(await this.#map.lookup(cluster), cluster) === wanted) cluster++;
    const length = Math.min(cluster * clusterSize, size) - offset;
    if (wanted !== 'backing') return { length, zero: wanted };
    if (offset >= this.#backing!.size) return { length, zero: true };
    const below = (await this.#backing!.extent?.(offset)) ?? { length, zero: false };
    return { length: Math.min(length, below.length), zero: below.zero };
  }

  /** The longest run of at most `left` bytes. */
  async #run(offset: number, left: number): Promise<Run> {
    const { clusterSize } = this.#layout;
    let cluster = Math.floor(offset / clusterSize);
    const entry = this.#map.lookupCached(cluster) ?? (await this.#map.lookup(cluster));
    let length = clusterSize - (offset % clusterSize);
    let host = entry.offset;
    while (length < left && entry.kind !== 'compressed') {
      const next = this.#map.lookupCached(++cluster);
      host += clusterSize;
      if (next?.kind !== entry.kind || (entry.kind === 'data' && next.offset !== host)) break;
      length += clusterSize;
    }
    return { entry, length: Math.min(length, left) };
  }

  async #readRun(offset: number, run: Run, into: readonly Uint8Array[]): Promise<void> {
    switch (run.entry.kind) {
      case 'zero':
        fillZeros(into);
        return;
      case 'unallocated':
        return this.#readBacking(offset, run.length, into);
      case 'data':
        return this.#readData(run.entry.offset + (offset % this.#layout.clusterSize), run, into);
      case 'compressed': {
        const start = offset % this.#layout.clusterSize;
        scatter((await this.#unpack(run.entry)).subarray(start, start + run.length), into);
      }
    }
  }

  async #readBacking(offset: number, length: number, into: readonly Uint8Array[]): Promise<void> {
    const inside = Math.max(0, Math.min(length, (this.#backing?.size ?? 0) - offset));
    if (inside > 0) await this.#backing!.read(offset, inside === length ? into : slice(into, 0, inside));
    if (inside < length) fillZeros(slice(into, inside, length - inside));
  }

  async #readData(host: number, { entry, length }: Run, into: readonly Uint8Array[]): Promise<void> {
    const { file, clusterSize } = this.#layout;
    this.#layout.checkCluster(entry.offset, 'a data cluster');
    const last = host + length - 1;
    this.#layout.checkCluster(last - (last % clusterSize), 'a data cluster');
    // An image need not end with a whole cluster; the rest of it is zeros.
    const inside = Math.max(0, Math.min(length, file.length - host));
    await file.read(host, inside === length ? into : slice(into, 0, inside));
    if (inside < length) fillZeros(slice(into, inside, length - inside));
  }

  #unpack(entry: L2Entry): Promise<Uint8Array> {
    const known = this.#unpacked.get(entry.offset);
    if (known !== undefined) return known;
    const unpacked = this.#readCompressed(entry);
    this.#unpacked.set(entry.offset, unpacked);
    unpacked.catch(() => this.#unpacked.delete(entry.offset));
    const [oldest] = this.#unpacked.keys();
    const most = Math.max(1, UNPACKED_BUDGET / this.#layout.clusterSize);
    if (this.#unpacked.size > most) this.#unpacked.delete(oldest);
    return unpacked;
  }

  async #readCompressed({ offset, length }: L2Entry): Promise<Uint8Array> {
    const { file, clusterBits, clusterSize, header } = this.#layout;
    if (offset < clusterSize || offset >= Math.min(file.length, maxCompressedOffset(clusterBits))) {
      throw this.#layout.corrupt(`a compressed cluster is said to be at offset ${offset}`);
    }
    const data = await file.readBytes(offset, Math.min(length, file.length - offset));
    try {
      return await unpackCluster(data, header.compressionType, clusterSize);
    } catch (error) {
      throw this.#layout.corrupt(
        `the compressed cluster at offset ${offset} cannot be unpacked (${(error as Error).message})`,
      );
    }
  }
}
