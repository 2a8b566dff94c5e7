/** The qcow2 header: read, checked and written. */
import type { ImageFile } from '../file.ts';
import { formatError } from './errors.ts';
import { type BitmapDirectory, type Extensions, encodeExtension, readExtensions } from './extensions.ts';
import { checkFeatures } from './features.ts';
import * as q from './format.ts';

/** What the header says; offsets and sizes are bytes. */
export interface Header {
  readonly version: 2 | 3;
  readonly clusterBits: number;
  /** Size of the disk. */
  readonly size: number;
  readonly l1Offset: number;
  readonly l1Entries: number;
  readonly refcountTableOffset: number;
  readonly refcountTableClusters: number;
  readonly snapshotsOffset: number;
  readonly snapshots: number;
  readonly incompatible: bigint;
  readonly compatible: bigint;
  readonly autoclear: bigint;
  /** Refcounts have 1 << refcountOrder bits. */
  readonly refcountOrder: number;
  readonly compressionType: number;
  /** Name of the backing file as it is written in the image. */
  readonly backingFile?: string;
  /** Format of the backing file, from the header extension. */
  readonly backingFormat?: string;
  /** Where persistent bitmaps are, unless they are out of date. */
  readonly bitmaps?: BitmapDirectory;
}

/**
 * Reads and checks the header. Every table it announces lies within the file.
 * @throws TSV_E_DISK_FORMAT, TSV_E_DISK_FEATURE
 */
export async function readHeader(file: ImageFile): Promise<Header> {
  const { path } = file;
  if (file.length < q.V2_HEADER_LENGTH) throw formatError(path, 'it is shorter than a header');
  const start = new DataView((await file.readBytes(0, q.V2_HEADER_LENGTH)).buffer);
  if (start.getUint32(0) !== q.MAGIC) throw formatError(path, 'it does not start as one');
  const version = start.getUint32(4);
  const clusterBits = start.getUint32(20);
  if (version !== 2 && version !== 3) throw formatError(path, `its version is ${version}`);
  if (clusterBits < q.MIN_CLUSTER_BITS || clusterBits > q.MAX_CLUSTER_BITS) {
    throw formatError(path, `its clusters have 2^${clusterBits} bytes`);
  }
  // The header, its extensions and the backing file's name are all in the first cluster.
  const bytes = await file.readBytes(0, Math.min(file.length, 1 << clusterBits));
  const header = parse(path, bytes, version, clusterBits);
  checkTables(file, header);
  return header;
}

function parse(path: string, bytes: Uint8Array<ArrayBuffer>, version: 2 | 3, clusterBits: number): Header {
  const view = new DataView(bytes.buffer);
  const offsetAt = (at: number, what: string): number => {
    const value = view.getBigUint64(at);
    if (value > BigInt(q.MAX_OFFSET)) throw formatError(path, `its ${what} is ${value}`);
    return Number(value);
  };
  const v3 = version === 3;
  if (v3 && bytes.length < q.V3_HEADER_LENGTH) throw formatError(path, 'it is shorter than a header');
  const headerLength = v3 ? view.getUint32(100) : q.V2_HEADER_LENGTH;
  if (v3 && (headerLength < q.V3_HEADER_LENGTH || headerLength % 8 !== 0 || headerLength > bytes.length)) {
    throw formatError(path, `its header has ${headerLength} bytes`);
  }
  const refcountOrder = v3 ? view.getUint32(96) : 4;
  if (refcountOrder > 6) throw formatError(path, `its refcounts have 2^${refcountOrder} bits`);
  const incompatible = v3 ? view.getBigUint64(q.INCOMPATIBLE_FEATURES_OFFSET) : 0n;
  const autoclear = v3 ? view.getBigUint64(q.AUTOCLEAR_FEATURES_OFFSET) : 0n;
  const backingOffset = offsetAt(8, 'backing file offset');
  const end = backingOffset === 0 ? bytes.length : Math.min(backingOffset, bytes.length);
  const extensions: Extensions = readExtensions(path, bytes, headerLength, end);
  const compressionType = headerLength > q.COMPRESSION_TYPE_OFFSET ? bytes[q.COMPRESSION_TYPE_OFFSET] : 0;
  checkFeatures(path, {
    incompatible,
    cryptMethod: view.getUint32(32),
    compressionType,
    names: extensions.featureNames,
  });
  return {
    version,
    clusterBits,
    size: Math.floor(offsetAt(24, 'disk size') / 512) * 512,
    l1Entries: view.getUint32(36),
    l1Offset: offsetAt(40, 'L1 table offset'),
    refcountTableOffset: offsetAt(48, 'refcount table offset'),
    refcountTableClusters: view.getUint32(56),
    snapshots: view.getUint32(60),
    snapshotsOffset: offsetAt(64, 'snapshot table offset'),
    incompatible,
    compatible: v3 ? view.getBigUint64(80) : 0n,
    autoclear,
    refcountOrder,
    compressionType,
    backingFile:
      backingOffset === 0 ? undefined : backingName(path, bytes, backingOffset, view.getUint32(16)),
    backingFormat: extensions.backingFormat,
    bitmaps: autoclear & q.AUTOCLEAR_BITMAPS ? extensions.bitmaps : undefined,
  };
}

function backingName(path: string, bytes: Uint8Array, offset: number, length: number): string {
  if (length > q.MAX_BACKING_NAME || offset + length > bytes.length) {
    throw formatError(path, "its backing file's name is not in the first cluster");
  }
  const name = new TextDecoder().decode(bytes.subarray(offset, offset + length));
  if (name.length === 0 || name.includes('\0')) {
    throw formatError(path, "its backing file's name is none");
  }
  return name;
}

function checkTables(file: ImageFile, header: Header): void {
  const { path } = file;
  const clusterSize = 2 ** header.clusterBits;
  const table = (what: string, offset: number, size: number, limit: number) => {
    if (offset % clusterSize !== 0) throw formatError(path, `its ${what} is not at the start of a cluster`);
    if (size > limit) throw formatError(path, `its ${what} has ${size} bytes, more than ${limit}`);
    if (offset + size > file.length) throw formatError(path, `its ${what} does not lie within the file`);
    if (size > 0 && offset === 0) throw formatError(path, `its ${what} is where the header is`);
  };
  table('L1 table', header.l1Offset, header.l1Entries * q.ENTRY_SIZE, q.MAX_L1_SIZE);
  const refcountTableSize = header.refcountTableClusters * clusterSize;
  if (refcountTableSize === 0) throw formatError(path, 'it has no refcount table');
  table('refcount table', header.refcountTableOffset, refcountTableSize, q.MAX_REFCOUNT_TABLE_SIZE);
  if (header.snapshots > q.MAX_SNAPSHOTS) throw formatError(path, `it has ${header.snapshots} snapshots`);
  if (header.snapshots > 0) table('snapshot table', header.snapshotsOffset, 1, 1);
  const clusters = Math.ceil(header.size / clusterSize);
  const needed = Math.ceil(clusters / (clusterSize / q.ENTRY_SIZE));
  if (header.l1Entries < needed) {
    throw formatError(path, `its L1 table has ${header.l1Entries} entries, but its disk needs ${needed}`);
  }
}

/** Bytes of the header with its extensions and the name of the backing file: the first cluster of an image. */
export function encodeHeader(header: Header): Uint8Array {
  const bytes = new Uint8Array(2 ** header.clusterBits);
  const view = new DataView(bytes.buffer);
  const v3 = header.version === 3;
  view.setUint32(0, q.MAGIC);
  view.setUint32(4, header.version);
  view.setUint32(20, header.clusterBits);
  view.setBigUint64(24, BigInt(header.size));
  view.setUint32(36, header.l1Entries);
  view.setBigUint64(40, BigInt(header.l1Offset));
  view.setBigUint64(48, BigInt(header.refcountTableOffset));
  view.setUint32(56, header.refcountTableClusters);
  let at = q.V2_HEADER_LENGTH;
  if (v3) {
    at = q.V3_HEADER_LENGTH + 8;
    view.setBigUint64(q.INCOMPATIBLE_FEATURES_OFFSET, header.incompatible);
    view.setBigUint64(80, header.compatible);
    view.setUint32(96, header.refcountOrder);
    view.setUint32(100, at);
    bytes[q.COMPRESSION_TYPE_OFFSET] = header.compressionType;
  }
  if (header.backingFormat !== undefined) {
    at = encodeExtension(bytes, at, q.EXTENSION_BACKING_FORMAT, Buffer.from(header.backingFormat));
  }
  at = encodeExtension(bytes, at, q.EXTENSION_END, new Uint8Array(0));
  if (header.backingFile !== undefined) {
    const name = Buffer.from(header.backingFile);
    view.setBigUint64(8, BigInt(at));
    view.setUint32(16, name.length);
    bytes.set(name, at);
  }
  return bytes;
}
