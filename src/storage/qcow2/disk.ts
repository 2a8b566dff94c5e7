/** A disk in a qcow2 image. */
import { TsvError } from '../../errors.ts';
import { type BlockBackend, checkRange, checkWritable, type DiskExtent } from '../backend.ts';
import { totalLength, zeros } from '../buffers.ts';
import type { ImageFile } from '../file.ts';
import { RangeLock } from '../range-lock.ts';
import { Requests } from '../requests.ts';
import { ClusterMap } from './cluster-map.ts';
import { CompressedWriter } from './compressed-writer.ts';
import { packCluster } from './compression.ts';
import { EntryTable, readRefcountTable } from './entry-table.ts';
import * as q from './format.ts';
import { type Header, readHeader } from './header.ts';
import { Layout } from './layout.ts';
import { scanMetadata } from './metadata-scan.ts';
import { Reader } from './reader.ts';
import { Refcounts } from './refcounts.ts';
import { repairRefcounts } from './repair.ts';
import { WriteBack } from './write-back.ts';
import { Writer } from './writer.ts';

/** Options of {@link Qcow2Disk.open}. */
export interface Qcow2Options {
  /** What clusters are read from that the image does not have; closed with the disk. */
  readonly backing?: BlockBackend;
  /** Bytes of L2 tables that are kept in memory (default 16 MiB). */
  readonly cacheSize?: number;
  /** Told what is worth knowing, one sentence each. */
  readonly warn?: (message: string) => void;
}

/** Maps 128 GiB with clusters of 64 KiB. */
const DEFAULT_CACHE = 16 << 20;
/** Bytes of zeros that are written at once where the format has no other way. */
const ZERO_CHUNK = 1 << 20;

/** What changes an image. */
interface Parts {
  readonly writer: Writer;
  readonly compressed: CompressedWriter;
  readonly refcounts: Refcounts;
  readonly writeBack: WriteBack;
}

/** A disk in a qcow2 image, version 2 or 3. */
export class Qcow2Disk implements BlockBackend {
  readonly size: number;
  readonly #layout: Layout;
  readonly #backing: BlockBackend | undefined;
  readonly #reader: Reader;
  readonly #parts: Parts | undefined;
  /** Numbers are guest clusters. */
  readonly #locks = new RangeLock();
  readonly #requests: Requests;
  #begun: Promise<void> | undefined;
  #hasBegun = false;
  #closed: Promise<void> | undefined;

  private constructor(
    layout: Layout,
    reader: Reader,
    parts: Parts | undefined,
    backing: BlockBackend | undefined,
  ) {
    this.#layout = layout;
    this.#requests = new Requests(layout.file.path);
    this.#reader = reader;
    this.#parts = parts;
    this.#backing = backing;
    this.size = layout.header.size;
  }

  /**
   * Opens the image in a file, for writing unless the file is read-only. An image that was not closed gets its
   * refcounts repaired, if it may be written.
   * @param file closed with the disk, also when opening fails
   * @throws TSV_E_DISK_FORMAT, TSV_E_DISK_FEATURE, TSV_E_DISK_CORRUPT, TSV_E_DISK_IO
   */
  static async open(file: ImageFile, options: Qcow2Options = {}): Promise<Qcow2Disk> {
    try {
      return await Qcow2Disk.#open(file, await readHeader(file), options);
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  static async #open(file: ImageFile, header: Header, options: Qcow2Options): Promise<Qcow2Disk> {
    const { backing, cacheSize = DEFAULT_CACHE } = options;
    if (!file.readOnly && header.incompatible & q.INCOMPATIBLE_CORRUPT) {
      throw new TsvError('TSV_E_DISK_CORRUPT', `"${file.path}" is marked as damaged.`, {
        hint: 'Repair it with "tsvisor disk check --repair", or open it read-only.',
      });
    }
    if (!file.readOnly && header.incompatible & q.INCOMPATIBLE_DIRTY) {
      options.warn?.(`"${file.path}" was not closed; its refcounts are repaired.`);
      await repairRefcounts(file, header);
    }
    // Repair may have moved the refcount table.
    const layout = new Layout(file, file.readOnly ? header : await readHeader(file));
    const l1 = await EntryTable.read(file, layout.header.l1Offset, layout.header.l1Entries);
    const map = new ClusterMap(layout, l1, cacheSize);
    const reader = new Reader(layout, map, backing);
    if (file.readOnly) return new Qcow2Disk(layout, reader, undefined, backing);
    const refcountTable = await readRefcountTable(layout);
    const metadata = await scanMetadata(layout, l1, refcountTable);
    const refcounts = new Refcounts(layout, metadata, refcountTable);
    const writer = new Writer(layout, map, refcounts, metadata, reader);
    const compressed = new CompressedWriter(layout, refcounts, writer);
    const writeBack = new WriteBack(layout, map, refcounts, (clusters) => {
      compressed.forget(clusters);
      punch(layout, clusters);
    });
    return new Qcow2Disk(layout, reader, { writer, compressed, refcounts, writeBack }, backing);
  }

  /** What the image's header said when it was opened. */
  get header(): Header {
    return this.#layout.header;
  }

  get readOnly(): boolean {
    return this.#parts === undefined;
  }

  async read(offset: number, into: readonly Uint8Array[]): Promise<void> {
    const bytes = totalLength(into);
    if (this.#isSimple(offset, bytes) && this.#reader.readAtOnce(offset, into, bytes)) return;
    return this.#requests.run(async () => {
      const length = totalLength(into);
      checkRange(this, offset, length);
      if (length === 0) return;
      await this.#locked(offset, length, false, () => this.#reader.read(offset, into, length));
    });
  }

  async write(offset: number, from: readonly Uint8Array[]): Promise<void> {
    if (this.#mayChange && this.#isSimple(offset, totalLength(from))) {
      if (this.#parts!.writer.writeAtOnce(offset, from)) return;
    }
    return this.#requests.run(() => this.#write(offset, from));
  }

  /** Writes one whole cluster, compressed where that makes it smaller. @param offset of a cluster's start */
  writeCompressed(offset: number, cluster: Uint8Array): Promise<void> {
    return this.#requests.run(async () => {
      const { clusterSize, header } = this.#layout;
      const length = Math.min(clusterSize, this.size - offset);
      const { compressed } = await this.#begin(offset, length);
      const packed = await packCluster(cluster, header.compressionType);
      if (packed.length >= clusterSize) return this.#write(offset, [cluster.subarray(0, length)]);
      await this.#locked(offset, length, true, () => compressed.write(offset / clusterSize, packed));
    });
  }

  flush(): Promise<void> {
    return this.#requests.run(async () => {
      if (this.#layout.damage !== undefined) throw this.#layout.damage;
      await this.#parts?.writeBack.run();
    });
  }

  discard(offset: number, length: number): Promise<void> {
    return this.#requests.run(async () => {
      const { writer } = await this.#begin(offset, length);
      await this.#eachTable(this.#wholeClusters(offset, length), (first, end) => writer.discard(first, end));
    });
  }

  writeZeroes(offset: number, length: number, mayUnmap: boolean): Promise<void> {
    return this.#requests.run(() => this.#writeZeroes(offset, length, mayUnmap));
  }

  extent(offset: number): Promise<DiskExtent> {
    return this.#requests.run(async () => {
      checkRange(this, offset, 1);
      return this.#reader.extent(offset, this.size);
    });
  }

  /** Flushes, closes the image, and with it what it reads from. @throws what flushing throws, after closing */
  [Symbol.asyncDispose](): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    await this.#requests.end();
    try {
      await this.#finish();
    } finally {
      await this.#layout.file.close();
      await this.#backing?.[Symbol.asyncDispose]();
    }
  }

  async #finish(): Promise<void> {
    if (this.#parts === undefined || this.#layout.damage !== undefined) return;
    // What is released when the first is done is written by the second.
    do await this.#parts.writeBack.run();
    while (this.#parts.refcounts.dirty);
  }

  async #write(offset: number, from: readonly Uint8Array[]): Promise<void> {
    const length = totalLength(from);
    const { writer } = await this.#begin(offset, length);
    if (length === 0) return;
    const done = await this.#locked(offset, length, false, () => writer.writeInPlace(offset, from, length));
    if (!done) await this.#locked(offset, length, true, () => writer.write(offset, from, length));
  }

  async #writeZeroes(offset: number, length: number, mayUnmap: boolean): Promise<void> {
    const { writer } = await this.#begin(offset, length);
    const { clusterSize } = this.#layout;
    const { first, end } = this.#wholeClusters(offset, length);
    if (first >= end) return this.#writeZeros(offset, length);
    await this.#writeZeros(offset, first * clusterSize - offset);
    await this.#eachTable({ first, end }, async (from, to) => {
      if (await writer.zero(from, to, mayUnmap)) return;
      const stop = Math.min(to * clusterSize, this.size);
      for (let at = from * clusterSize; at < stop; at += ZERO_CHUNK) {
        const part = Math.min(ZERO_CHUNK, stop - at);
        await writer.write(at, zeros(part), part);
      }
    });
    const rest = Math.min(end * clusterSize, this.size);
    await this.#writeZeros(rest, offset + length - rest);
  }

  /** Whether a request may be carried out here and now if it is quick: within one cluster that nobody is changing. */
  #isSimple(offset: number, length: number): boolean {
    if (!this.#requests.isOpen || !(offset >= 0) || length === 0 || offset + length > this.size) return false;
    const { clusterSize } = this.#layout;
    const cluster = Math.floor(offset / clusterSize);
    return offset + length <= (cluster + 1) * clusterSize && this.#locks.isFree(cluster, cluster, false);
  }

  /** Whether {@link #begin} would have nothing to do. */
  get #mayChange(): boolean {
    return this.#hasBegun && this.#layout.damage === undefined && !this.#parts!.writeBack.crowded;
  }

  /** What every change begins with. */
  async #begin(offset: number, length: number): Promise<Parts> {
    checkWritable(this, offset, length);
    const { damage } = this.#layout;
    if (damage !== undefined) throw damage;
    const parts = this.#parts!;
    this.#begun ??= this.#layout.clearAutoclear().catch((error: unknown) => {
      this.#begun = undefined;
      throw error;
    });
    await this.#begun;
    this.#hasBegun = true;
    if (parts.writeBack.crowded) await parts.writeBack.run();
    return parts;
  }

  async #locked<T>(offset: number, length: number, exclusive: boolean, action: () => Promise<T>): Promise<T> {
    const { clusterSize } = this.#layout;
    const first = Math.floor(offset / clusterSize);
    const last = Math.floor((offset + length - 1) / clusterSize);
    const release = await this.#locks.take(first, last, exclusive);
    try {
      return await action();
    } finally {
      release();
    }
  }

  /** The clusters that lie in a range as a whole; the end of the disk ends a cluster too. */
  #wholeClusters(offset: number, length: number): { first: number; end: number } {
    const { clusterSize } = this.#layout;
    const stop = offset + length;
    const end = stop === this.size ? Math.ceil(stop / clusterSize) : Math.floor(stop / clusterSize);
    return { first: Math.ceil(offset / clusterSize), end };
  }

  /** Runs an action on the clusters of one L2 table after the other, each time with them locked. */
  async #eachTable(
    { first, end }: { first: number; end: number },
    action: (first: number, end: number) => Promise<unknown>,
  ): Promise<void> {
    const { clusterSize, l2Entries } = this.#layout;
    for (let at = first; at < end; ) {
      const stop = Math.min(end, (Math.floor(at / l2Entries) + 1) * l2Entries);
      const [from, length] = [at * clusterSize, (stop - at) * clusterSize];
      await this.#locked(from, length, true, () => action(at, stop));
      at = stop;
      if (this.#parts!.writeBack.crowded) await this.#parts!.writeBack.run();
    }
  }

  async #writeZeros(offset: number, length: number): Promise<void> {
    if (length > 0) await this.#write(offset, zeros(length));
  }
}

/** Gives clusters that nothing uses back to the host. */
function punch({ file, clusterSize }: Layout, clusters: readonly number[]): void {
  for (let i = 0; i < clusters.length; ) {
    const first = clusters[i];
    let end = first + 1;
    for (i++; i < clusters.length && clusters[i] === end; i++) end++;
    file.punchHole(first * clusterSize, (end - first) * clusterSize);
  }
}
