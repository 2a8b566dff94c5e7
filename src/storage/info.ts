/** What an image is, without opening its disk. */
import { ImageFile } from './file.ts';
import { type DiskFormat, detectFormat } from './open.ts';
import * as q from './qcow2/format.ts';
import { readHeader } from './qcow2/header.ts';
import { readSnapshots, type Snapshot } from './qcow2/snapshots.ts';

/** A description of an image. */
export interface DiskInfo {
  readonly path: string;
  readonly format: DiskFormat;
  /** Size of the disk, bytes. */
  readonly virtualSize: number;
  /** Bytes of the host's disk that the file takes. */
  readonly allocatedSize: number;
  /** Only of qcow2. */
  readonly qcow2?: Qcow2Info;
}

/** What only qcow2 has. */
export interface Qcow2Info {
  readonly version: 2 | 3;
  /** Bytes. */
  readonly clusterSize: number;
  readonly refcountBits: number;
  readonly compression: 'zlib' | 'zstd';
  readonly lazyRefcounts: boolean;
  /** It was not closed; refcounts are repaired when it is opened for writing. */
  readonly dirty: boolean;
  /** It is marked as damaged. */
  readonly corrupt: boolean;
  readonly backingFile?: string;
  readonly backingFormat?: string;
  readonly snapshots: readonly Snapshot[];
}

/**
 * Describes an image.
 * @param lock false describes it even while somebody writes to it
 * @throws TSV_E_FILE, TSV_E_DISK_LOCKED, TSV_E_DISK_FORMAT, TSV_E_DISK_FEATURE
 */
export async function diskInfo(path: string, options: { lock?: boolean } = {}): Promise<DiskInfo> {
  const file = await ImageFile.open(path, { readOnly: true, lock: options.lock });
  try {
    const format = await detectFormat(file);
    const allocatedSize = await file.allocatedBytes();
    if (format === 'raw') {
      return { path, format, virtualSize: Math.ceil(file.length / 512) * 512, allocatedSize };
    }
    return { path, format, ...(await qcow2Info(file)), allocatedSize };
  } finally {
    await file.close();
  }
}

async function qcow2Info(file: ImageFile): Promise<{ virtualSize: number; qcow2: Qcow2Info }> {
  const header = await readHeader(file);
  const { snapshots } = await readSnapshots(file, header);
  const qcow2 = {
    version: header.version,
    clusterSize: 2 ** header.clusterBits,
    refcountBits: 1 << header.refcountOrder,
    compression: header.compressionType === q.COMPRESSION_ZSTD ? ('zstd' as const) : ('zlib' as const),
    lazyRefcounts: (header.compatible & q.COMPATIBLE_LAZY_REFCOUNTS) !== 0n,
    dirty: (header.incompatible & q.INCOMPATIBLE_DIRTY) !== 0n,
    corrupt: (header.incompatible & q.INCOMPATIBLE_CORRUPT) !== 0n,
    backingFile: header.backingFile,
    backingFormat: header.backingFormat,
    snapshots,
  };
  return { virtualSize: header.size, qcow2 };
}
