/** Copies a disk into a new image, leaving out what is zero. */
import { rm } from 'node:fs/promises';
import type { BlockBackend } from './backend.ts';
import { isZero } from './buffers.ts';
import { createRaw } from './create.ts';
import { ImageFile } from './file.ts';
import { type DiskFormat, openDisk } from './open.ts';
import { type CreateQcow2Options, createQcow2 } from './qcow2/create.ts';
import { Qcow2Disk } from './qcow2/disk.ts';

/** Options of {@link convertDisk}. */
export interface ConvertOptions extends Omit<CreateQcow2Options, 'size' | 'backing'> {
  readonly format: DiskFormat;
  /** Compresses clusters; only of qcow2. */
  readonly compress?: boolean;
  readonly signal?: AbortSignal;
  /** Called with the bytes of the disk that are done. */
  readonly progress?: (done: number, total: number) => void;
}

/** Bytes that are read at once. */
const CHUNK = 2 << 20;
/** Zeros of this length and alignment are left out of raw images: blocks of file systems. */
const RAW_BLOCK = 4096;

/**
 * Copies all of a disk to a new image. Nothing is left of that when it fails.
 * @param source stays open
 * @throws TSV_E_FILE when there is such a file already, TSV_E_CONFIG, TSV_E_DISK_FULL, TSV_E_DISK_IO; the signal's reason
 */
export async function convertDisk(
  source: BlockBackend,
  path: string,
  options: ConvertOptions,
): Promise<void> {
  const { format, compress = false, signal, progress, ...rest } = options;
  if (format === 'raw') await createRaw(path, source.size);
  else await createQcow2(path, { ...rest, size: source.size });
  let target: BlockBackend | undefined;
  try {
    target = format === 'raw' ? await openDisk(path, { format }) : await openQcow2(path);
    await copy(source, target, compress, signal, progress);
    await target.flush();
  } catch (error) {
    await abandon(target);
    await rm(path, { force: true });
    throw error;
  }
  await target[Symbol.asyncDispose]();
}

/** Closes a disk; the failure that led here is the one to tell. */
async function abandon(disk: BlockBackend | undefined): Promise<void> {
  try {
    await disk?.[Symbol.asyncDispose]();
  } catch {
    // It is removed.
  }
}

async function openQcow2(path: string): Promise<Qcow2Disk> {
  return Qcow2Disk.open(await ImageFile.open(path, { readOnly: false }));
}

async function copy(
  source: BlockBackend,
  target: BlockBackend,
  compress: boolean,
  signal: AbortSignal | undefined,
  progress: ConvertOptions['progress'],
): Promise<void> {
  const qcow2 = target instanceof Qcow2Disk ? target : undefined;
  const block = qcow2 === undefined ? RAW_BLOCK : 2 ** qcow2.header.clusterBits;
  const buffer = new Uint8Array(CHUNK);
  for (let at = 0; at < source.size; ) {
    signal?.throwIfAborted();
    const extent = await source.extent?.(at);
    const next = extent?.zero ? wholeBlocks(at + extent.length, source.size, block) : at;
    if (next > at) {
      at = next;
    } else {
      // Up to a block's end, so that blocks are looked at as a whole.
      const stop = Math.ceil((at + (extent?.length ?? CHUNK)) / block) * block;
      const end = Math.min(stop, (Math.floor(at / CHUNK) + 1) * CHUNK, source.size);
      const data = buffer.subarray(0, end - at);
      await source.read(at, [data]);
      if (compress && qcow2 !== undefined) await copyCompressed(data, qcow2, at, block);
      else await copyBlocks(data, target, at, block);
      at = end;
    }
    progress?.(at, source.size);
  }
}

/** The end of the last whole block; the end of the disk ends a block too. */
function wholeBlocks(end: number, size: number, block: number): number {
  return end >= size ? size : Math.floor(end / block) * block;
}

/** Writes the blocks that are not zero, those that follow each other at once. */
async function copyBlocks(
  data: Uint8Array,
  target: BlockBackend,
  offset: number,
  block: number,
): Promise<void> {
  let start: number | undefined;
  const write = async (end: number) => {
    if (start !== undefined) await target.write(offset + start, [data.subarray(start, end)]);
    start = undefined;
  };
  for (let at = 0; at < data.length; at += block) {
    if (isZero(data.subarray(at, at + block))) await write(at);
    else start ??= at;
  }
  await write(data.length);
}

async function copyCompressed(
  data: Uint8Array,
  target: Qcow2Disk,
  offset: number,
  block: number,
): Promise<void> {
  for (let at = 0; at < data.length; at += block) {
    const cluster = new Uint8Array(block);
    cluster.set(data.subarray(at, at + block));
    if (!isZero(cluster)) await target.writeCompressed(offset + at, cluster);
  }
}
