/** Entries of L2 tables: where a guest cluster is. */
import * as q from './format.ts';

/** A guest cluster's place. */
export interface L2Entry {
  readonly kind: 'unallocated' | 'zero' | 'data' | 'compressed';
  /** Host offset, bytes; 0 when there is none. Compressed data need not start at a cluster. */
  readonly offset: number;
  /** Bytes of compressed data, at most. */
  readonly length: number;
  /** The cluster's refcount is one, so that it may be written in place. */
  readonly copied: boolean;
}

const UNALLOCATED: L2Entry = { kind: 'unallocated', offset: 0, length: 0, copied: false };

/** @param version of the image; version 2 has no zero flag */
export function decodeL2(high: number, low: number, clusterBits: number, version: number): L2Entry {
  if (high & q.COMPRESSED_HIGH) return decodeCompressed(high, low, clusterBits);
  const offset = (high & q.OFFSET_HIGH) * 2 ** 32 + ((low & q.OFFSET_LOW) >>> 0);
  const copied = (high & q.COPIED_HIGH) !== 0;
  if (version >= 3 && low & q.ZERO_LOW) return { kind: 'zero', offset, length: 0, copied };
  if (offset === 0) return UNALLOCATED;
  return { kind: 'data', offset, length: 0, copied };
}

function decodeCompressed(high: number, low: number, clusterBits: number): L2Entry {
  // The offset has 62 - (clusterBits - 8) bits, which is between 49 and 61; the count of sectors has the rest.
  const offsetHighBits = 30 - (clusterBits - 8);
  const offset = (high & (2 ** offsetHighBits - 1)) * 2 ** 32 + (low >>> 0);
  const sectors = (high & (q.COMPRESSED_HIGH - 1)) >>> offsetHighBits;
  const length = (sectors + 1) * q.COMPRESSED_SECTOR - (offset % q.COMPRESSED_SECTOR);
  return { kind: 'compressed', offset, length, copied: false };
}

/** The largest host offset compressed data can have. */
export function maxCompressedOffset(clusterBits: number): number {
  return Math.min(2 ** (62 - (clusterBits - 8)), q.MAX_OFFSET);
}

/** Upper and lower half of an entry. */
export type EntryHalves = readonly [high: number, low: number];

export const ENTRY_UNALLOCATED: EntryHalves = [0, 0];
export const ENTRY_ZERO: EntryHalves = [0, q.ZERO_LOW];

/** An entry for a cluster of its own, refcount one. */
export function dataEntry(offset: number): EntryHalves {
  return [(Math.floor(offset / 2 ** 32) | q.COPIED_HIGH) >>> 0, offset >>> 0];
}

/** An entry that reads as zeros and keeps its cluster. */
export function zeroEntry(offset: number): EntryHalves {
  const [high, low] = dataEntry(offset);
  return [high, (low | q.ZERO_LOW) >>> 0];
}

export function compressedEntry(offset: number, length: number, clusterBits: number): EntryHalves {
  const offsetHighBits = 30 - (clusterBits - 8);
  const first = Math.floor(offset / q.COMPRESSED_SECTOR);
  const sectors = Math.floor((offset + length - 1) / q.COMPRESSED_SECTOR) - first;
  return [
    (q.COMPRESSED_HIGH | (sectors << offsetHighBits) | Math.floor(offset / 2 ** 32)) >>> 0,
    offset >>> 0,
  ];
}
