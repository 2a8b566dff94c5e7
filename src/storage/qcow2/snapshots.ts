/** The snapshot table: read, never written. Snapshots are kept because what they share is copied on write. */
import type { ImageFile } from '../file.ts';
import { formatError } from './errors.ts';
import * as q from './format.ts';
import type { Header } from './header.ts';

/** A snapshot inside an image. */
export interface Snapshot {
  readonly id: string;
  readonly name: string;
  /** Milliseconds since 1970-01-01 UTC. */
  readonly date: number;
  /** Bytes. */
  readonly vmStateSize: number;
  readonly l1Offset: number;
  readonly l1Entries: number;
}

/** The snapshot table. */
export interface SnapshotTable {
  readonly snapshots: readonly Snapshot[];
  /** Bytes of the table. */
  readonly length: number;
}

/** Bytes of an entry's fixed part. */
const ENTRY_FIXED = 40;
/** Bytes of the longest entry. */
const ENTRY_MAX = ENTRY_FIXED + q.MAX_SNAPSHOT_EXTRA + 2 * 65535 + 8;

/**
 * Reads the snapshot table.
 * @throws TSV_E_DISK_FORMAT when an entry is impossible
 */
export async function readSnapshots(file: ImageFile, header: Header): Promise<SnapshotTable> {
  const snapshots: Snapshot[] = [];
  const start = header.snapshotsOffset;
  let at = start;
  let chunk = new Uint8Array(0);
  let chunkAt = at;
  for (let i = 0; i < header.snapshots; i++) {
    if (at - chunkAt + ENTRY_MAX > chunk.length && chunkAt + chunk.length < file.length) {
      chunkAt = at;
      chunk = await file.readBytes(at, Math.min(ENTRY_MAX * 4, file.length - at));
    }
    const { snapshot, length } = parseEntry(file, chunk.subarray(at - chunkAt), header);
    snapshots.push(snapshot);
    at += length;
  }
  return { snapshots, length: at - start };
}

function parseEntry(
  file: ImageFile,
  bytes: Uint8Array,
  header: Header,
): { snapshot: Snapshot; length: number } {
  const fail = (problem: string) => formatError(file.path, `its snapshot table is damaged: ${problem}`);
  if (bytes.length < ENTRY_FIXED) throw fail('it ends inside an entry');
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const l1Offset = view.getBigUint64(0);
  const l1Entries = view.getUint32(8);
  const idLength = view.getUint16(12);
  const nameLength = view.getUint16(14);
  const extraLength = view.getUint32(36);
  if (extraLength > q.MAX_SNAPSHOT_EXTRA) throw fail(`an entry has ${extraLength} bytes of extra data`);
  const end = ENTRY_FIXED + extraLength + idLength + nameLength;
  if (end > bytes.length) throw fail('it ends inside an entry');
  const l1Size = l1Entries * q.ENTRY_SIZE;
  if (l1Size > q.MAX_L1_SIZE) throw fail(`an L1 table has ${l1Size} bytes`);
  if (l1Offset % BigInt(2 ** header.clusterBits) !== 0n || l1Offset + BigInt(l1Size) > BigInt(file.length)) {
    throw fail('an L1 table does not lie within the file');
  }
  const text = (from: number, length: number) =>
    Buffer.from(bytes.subarray(from, from + length))
      .toString('utf8')
      .replace(/\p{Cc}/gu, '?');
  const vmState = extraLength >= 8 ? view.getBigUint64(ENTRY_FIXED) : BigInt(view.getUint32(32));
  return {
    snapshot: {
      id: text(ENTRY_FIXED + extraLength, idLength),
      name: text(ENTRY_FIXED + extraLength + idLength, nameLength),
      date: view.getUint32(16) * 1000 + Math.floor(view.getUint32(20) / 1e6),
      vmStateSize: Number(vmState),
      l1Offset: Number(l1Offset),
      l1Entries,
    },
    length: Math.ceil(end / 8) * 8,
  };
}
