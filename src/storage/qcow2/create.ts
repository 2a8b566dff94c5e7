/** Makes new qcow2 images. */
import { rm } from 'node:fs/promises';
import { TsvError } from '../../errors.ts';
import { ImageFile } from '../file.ts';
import { zstdCompressor } from './compression.ts';
import * as q from './format.ts';
import { encodeHeader, type Header } from './header.ts';
import { writeRefcount } from './refcount-block.ts';

/** What a new image is to be like. */
export interface CreateQcow2Options {
  /** Size of the disk, bytes; a multiple of 512. */
  readonly size: number;
  /** 3 unless old programs have to read it. */
  readonly version?: 2 | 3;
  /** Bytes, a power of two from 512 to 2 MiB (default 64 KiB). */
  readonly clusterSize?: number;
  /** Width of refcounts, a power of two from 1 to 64 (default 16; version 2 has no other). */
  readonly refcountBits?: number;
  /** Write refcounts late, for speed; after a crash the image is repaired when it is opened. */
  readonly lazyRefcounts?: boolean;
  /** How clusters are compressed that are written compressed (default zlib). */
  readonly compression?: 'zlib' | 'zstd';
  /** File that clusters are read from which the image does not have; its name is written as it is given. */
  readonly backing?: { readonly file: string; readonly format: 'raw' | 'qcow2' };
}

const DEFAULT_CLUSTER_SIZE = 65536;
const HOST_BLOCK = 4096;
/** Header, extensions and the longest name take less. */
const HEADER_ROOM = 2048;

/**
 * Makes an image with an empty disk. Nothing is preallocated.
 * @throws TSV_E_CONFIG for options the format cannot do, TSV_E_FILE when there is such a file already
 */
export async function createQcow2(path: string, options: CreateQcow2Options): Promise<void> {
  const header = plan(options);
  const file = await ImageFile.open(path, { readOnly: false, create: true });
  try {
    await writeEmpty(file, header);
  } catch (error) {
    await rm(path, { force: true });
    throw error;
  } finally {
    await file.close();
  }
}

async function writeEmpty(file: ImageFile, header: Header): Promise<void> {
  const clusterSize = 2 ** header.clusterBits;
  const perBlock = (clusterSize * 8) >> header.refcountOrder;
  const first = encodeHeader(header);
  const blocksAt = header.refcountTableOffset / clusterSize + header.refcountTableClusters;
  const blocks = header.l1Offset / clusterSize - blocksAt;
  const used = header.l1Offset / clusterSize + Math.ceil((header.l1Entries * q.ENTRY_SIZE) / clusterSize);
  const table = new Uint8Array(header.refcountTableClusters * clusterSize);
  const tableView = new DataView(table.buffer);
  await file.truncate(used * clusterSize);
  for (let i = 0; i < blocks; i++) {
    const offset = (blocksAt + i) * clusterSize;
    tableView.setBigUint64(i * q.ENTRY_SIZE, BigInt(offset));
    const block = new Uint8Array(clusterSize);
    const view = new DataView(block.buffer);
    const count = Math.min(perBlock, used - i * perBlock);
    for (let n = 0; n < count; n++) writeRefcount(view, n, header.refcountOrder, 1);
    await file.write(offset, [start(block, (count << header.refcountOrder) / 8)]);
  }
  await file.write(header.refcountTableOffset, [start(table, blocks * q.ENTRY_SIZE)]);
  // Last, so that half an image is none.
  await file.write(0, [start(first, HEADER_ROOM)]);
  await file.sync();
}

/** The part of a cluster that is not empty, in whole blocks of the host; the rest stays a hole. */
function start(cluster: Uint8Array, used: number): Uint8Array {
  return cluster.subarray(0, Math.ceil(used / HOST_BLOCK) * HOST_BLOCK);
}

/** Header, refcount table, refcount blocks and L1 table follow each other. */
function plan(options: CreateQcow2Options): Header {
  const { size, version = 3, clusterSize = DEFAULT_CLUSTER_SIZE, refcountBits = 16, backing } = options;
  const clusterBits = powerOfTwo('The cluster size', clusterSize, q.MIN_CLUSTER_BITS, q.MAX_CLUSTER_BITS);
  const refcountOrder = powerOfTwo('The width of refcounts', refcountBits, 0, 6);
  if (!Number.isSafeInteger(size) || size < 0 || size % 512 !== 0) {
    throw usage(`A disk cannot have ${size} bytes.`, 'Give a multiple of 512.');
  }
  const zstd = options.compression === 'zstd';
  if (version === 2 && (refcountBits !== 16 || options.lazyRefcounts || zstd)) {
    throw usage('Version 2 of qcow2 has 16-bit refcounts, exact, and zlib only.', 'Use version 3.');
  }
  if (zstd) zstdCompressor();
  const perTable = clusterSize / q.ENTRY_SIZE;
  const l1Entries = Math.ceil(Math.ceil(size / clusterSize) / perTable);
  if (l1Entries * q.ENTRY_SIZE > q.MAX_L1_SIZE) {
    throw usage(
      `A disk of ${size} bytes is too large for clusters of ${clusterSize} bytes.`,
      'Use larger clusters.',
    );
  }
  const l1Clusters = Math.ceil((l1Entries * q.ENTRY_SIZE) / clusterSize);
  const perBlock = (clusterSize * 8) >> refcountOrder;
  let [blocks, tableClusters] = [1, 1];
  for (let total = 0; total !== 1 + tableClusters + blocks + l1Clusters; ) {
    total = 1 + tableClusters + blocks + l1Clusters;
    blocks = Math.ceil(total / perBlock);
    tableClusters = Math.ceil(blocks / perTable);
  }
  checkBackingName(backing?.file, clusterSize);
  return {
    version,
    clusterBits,
    size,
    l1Offset: (1 + tableClusters + blocks) * clusterSize,
    l1Entries,
    refcountTableOffset: clusterSize,
    refcountTableClusters: tableClusters,
    snapshots: 0,
    snapshotsOffset: 0,
    incompatible: zstd ? q.INCOMPATIBLE_COMPRESSION : 0n,
    compatible: options.lazyRefcounts ? q.COMPATIBLE_LAZY_REFCOUNTS : 0n,
    autoclear: 0n,
    refcountOrder,
    compressionType: zstd ? q.COMPRESSION_ZSTD : q.COMPRESSION_ZLIB,
    backingFile: backing?.file,
    backingFormat: backing?.format,
  };
}

function checkBackingName(name: string | undefined, clusterSize: number): void {
  if (name === undefined) return;
  const length = Buffer.byteLength(name);
  const room = Math.min(q.MAX_BACKING_NAME, clusterSize - q.V3_HEADER_LENGTH - 64);
  if (length === 0 || length > room || name.includes('\0')) {
    throw usage(
      `The name of the backing file has ${length} bytes; at most ${room} fit.`,
      'Use a shorter path.',
    );
  }
}

function powerOfTwo(what: string, value: number, least: number, most: number): number {
  const order = Math.log2(value);
  if (Number.isInteger(order) && order >= least && order <= most) return order;
  throw usage(`${what} is ${value}.`, `Give a power of two from ${2 ** least} to ${2 ** most}.`);
}

function usage(message: string, hint: string): TsvError {
  return new TsvError('TSV_E_CONFIG', message, { hint });
}
