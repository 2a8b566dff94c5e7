/** Counts the references to every host cluster by walking through all tables of an image. */
import { countBitmaps } from './bitmaps.ts';
import { EntryTable } from './entry-table.ts';
import * as q from './format.ts';
import { decodeL2, type L2Entry, maxCompressedOffset } from './l2-entry.ts';
import type { Layout } from './layout.ts';
import { readSnapshots } from './snapshots.ts';

/** Clusters whose counts are kept together. */
const CHUNK = 1 << 14;
/** Bytes of counts at most: enough for 8 TiB of clusters of 64 KiB. */
const MAX_COUNTS = 512 << 20;

/** A reference that cannot be. */
export type Report = (problem: string) => void;

/** Counts by cluster. */
export class ClusterCounts {
  readonly #chunks = new Map<number, Uint32Array>();
  /** The cluster behind the last with a count. */
  end = 0;

  get(cluster: number): number {
    return this.#chunks.get(Math.floor(cluster / CHUNK))?.[cluster % CHUNK] ?? 0;
  }

  /** @throws RangeError when that takes too much memory */
  add(cluster: number, count: number): void {
    const index = Math.floor(cluster / CHUNK);
    let chunk = this.#chunks.get(index);
    if (chunk === undefined) {
      if (this.#chunks.size * CHUNK * 4 >= MAX_COUNTS)
        throw new RangeError('its clusters are too many to count');
      chunk = new Uint32Array(CHUNK);
      this.#chunks.set(index, chunk);
    }
    chunk[cluster % CHUNK] += count;
    this.end = Math.max(this.end, cluster + 1);
  }
}

/** What {@link countReferences} has found. */
export interface References {
  readonly counts: ClusterCounts;
  readonly l1: EntryTable;
  /** Guest clusters of the active disk that have a place. */
  readonly allocated: number;
  readonly compressed: number;
  /** Problems that refcounts cannot repair. */
  readonly broken: number;
}

/** Options of {@link countReferences}. */
export interface WalkOptions {
  readonly signal?: AbortSignal;
  /** Called with the part that is done, 0 to 1. */
  readonly progress?: (done: number) => void;
}

/** Walks through the image. Every L2 table is read once, however many refer to it. */
export async function countReferences(
  layout: Layout,
  refcountTable: EntryTable,
  report: Report,
  options: WalkOptions = {},
): Promise<References> {
  const walk = new Walk(layout, report);
  const { header, file, clusterSize } = layout;
  walk.table('header', 0, clusterSize);
  walk.table('refcount table', refcountTable.offset, refcountTable.entries * q.ENTRY_SIZE);
  for (let i = 0; i < refcountTable.entries; i++) {
    const offset = refcountTable.blockOffset(i);
    if (refcountTable.low(i) & q.RESERVED_LOW)
      walk.problem(`the entry of refcount block ${i} has reserved bits set`);
    if (offset !== 0) walk.cluster(`refcount block ${i}`, offset, 1);
  }
  const { snapshots, length } = await readSnapshots(file, header);
  if (length > 0) walk.table('snapshot table', header.snapshotsOffset, length);
  const l1 = await EntryTable.read(file, header.l1Offset, header.l1Entries);
  walk.table('L1 table', l1.offset, l1.entries * q.ENTRY_SIZE);
  walk.l1('L2 table', l1, true);
  for (const { name, l1Offset, l1Entries } of snapshots) {
    options.signal?.throwIfAborted();
    walk.table(`L1 table of snapshot "${name}"`, l1Offset, l1Entries * q.ENTRY_SIZE);
    walk.l1(`L2 table of snapshot "${name}"`, await EntryTable.read(file, l1Offset, l1Entries), false);
  }
  await walk.l2Tables(options);
  if (header.bitmaps !== undefined) {
    await countBitmaps(layout, header.bitmaps, (offset, size, what) => walk.table(what, offset, size));
  }
  const { counts, allocated, compressed, broken } = walk;
  return { counts, l1, allocated, compressed, broken };
}

/** How an L2 table is referred to. */
interface L2Use {
  references: number;
  active: boolean;
}

class Walk {
  readonly counts = new ClusterCounts();
  allocated = 0;
  compressed = 0;
  broken = 0;
  readonly #layout: Layout;
  readonly #report: Report;
  readonly #l2 = new Map<number, L2Use>();

  constructor(layout: Layout, report: Report) {
    this.#layout = layout;
    this.#report = report;
  }

  /** A table that is contiguous. */
  table(what: string, offset: number, length: number): void {
    const { clusterSize } = this.#layout;
    for (let at = 0; at < length; at += clusterSize) this.cluster(what, offset + at, 1);
  }

  /** One whole cluster. @returns false when there cannot be one */
  cluster(what: string, offset: number, references: number): boolean {
    const { clusterSize, file } = this.#layout;
    if (offset % clusterSize !== 0 || offset >= file.length) {
      this.problem(`${what} is said to be at offset ${offset}`);
      return false;
    }
    this.counts.add(offset / clusterSize, references);
    return true;
  }

  l1(what: string, table: EntryTable, active: boolean): void {
    const seen = new Set<number>();
    for (let i = 0; i < table.entries; i++) {
      const offset = table.l2Offset(i);
      if (table.low(i) & q.RESERVED_LOW || table.high(i) & q.L1_RESERVED_HIGH) {
        this.problem(`the entry of ${what} ${i} has reserved bits set`);
      }
      if (offset === 0 && table.copied(i)) this.problem(`${what} ${i} is said to be at offset 0`);
      if (offset === 0) continue;
      if (!this.cluster(`${what} ${i}`, offset, 1)) continue;
      if (seen.has(offset)) this.problem(`${what} ${i} is at offset ${offset}, where another one is`);
      seen.add(offset);
      const use = this.#l2.get(offset) ?? { references: 0, active: false };
      use.references++;
      use.active ||= active;
      this.#l2.set(offset, use);
    }
  }

  async l2Tables({ signal, progress }: WalkOptions): Promise<void> {
    const { file, clusterSize, clusterBits, version } = this.#layout;
    const bytes = new Uint8Array(clusterSize);
    const view = new DataView(bytes.buffer);
    const reservedLow = version < 3 ? q.RESERVED_LOW : q.RESERVED_LOW & ~q.ZERO_LOW;
    let done = 0;
    for (const [offset, { references, active }] of this.#l2) {
      signal?.throwIfAborted();
      bytes.fill(0);
      await file.read(offset, [bytes.subarray(0, Math.min(clusterSize, file.length - offset))]);
      for (let at = 0; at < clusterSize; at += q.ENTRY_SIZE) {
        const [high, low] = [view.getUint32(at), view.getUint32(at + 4)];
        if (high === 0 && low === 0) continue;
        if (!(high & q.COMPRESSED_HIGH) && (high & q.L2_RESERVED_HIGH || low & reservedLow)) {
          this.problem(`an entry of the L2 table at offset ${offset} has reserved bits set`);
        }
        const entry = decodeL2(high, low, clusterBits, version);
        this.#entry(entry, references);
        if (!active || entry.offset === 0) continue;
        this.allocated++;
        if (entry.kind === 'compressed') this.compressed++;
      }
      progress?.(++done / this.#l2.size);
    }
  }

  #entry(entry: L2Entry, references: number): void {
    if (entry.kind === 'compressed') this.#compressed(entry, references);
    else if (entry.offset !== 0) this.cluster('a data cluster', entry.offset, references);
  }

  #compressed({ offset, length }: L2Entry, references: number): void {
    const { clusterSize, clusterBits, file } = this.#layout;
    const end = Math.min(maxCompressedOffset(clusterBits), file.length);
    if (offset >= end) {
      this.problem(`a compressed cluster is said to be at offset ${offset}`);
      return;
    }
    const last = Math.floor((offset + length - 1) / clusterSize);
    // The last sectors need not be in the file, but the cluster they are in is counted.
    for (let at = Math.floor(offset / clusterSize); at <= last; at++) this.counts.add(at, references);
  }

  /** Something that refcounts cannot repair. */
  problem(problem: string): void {
    this.broken++;
    this.#report(problem);
  }
}
