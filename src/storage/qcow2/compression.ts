/** Compressed clusters: zlib (raw deflate) and zstd. */
import { promisify } from 'node:util';
import * as zlib from 'node:zlib';
import { unpackZstdInJs } from '../../boot/decompress.ts';
import { TsvError } from '../../errors.ts';
import * as q from './format.ts';

/** Readers of the format need no more than this window of 4 KiB, so writers must not use more. */
const DEFLATE_WINDOW_BITS = 12;

/** The part of node:zlib that exists from Node 22.15 on. */
interface ZlibWithZstd {
  zstdCompress?: (input: Uint8Array, callback: (error: Error | null, output: Buffer) => void) => void;
  zstdDecompress?: (
    input: Uint8Array,
    options: object,
    callback: (error: Error | null, output: Buffer) => void,
  ) => void;
}

const inflateRaw = promisify<Uint8Array, zlib.ZlibOptions, Buffer>(zlib.inflateRaw);
const deflateRaw = promisify<Uint8Array, zlib.ZlibOptions, Buffer>(zlib.deflateRaw);

/**
 * Unpacks a cluster. The data may be followed by anything.
 * @throws Error when it is damaged or not a whole cluster
 */
export async function unpackCluster(
  data: Uint8Array,
  type: number,
  clusterSize: number,
): Promise<Uint8Array> {
  const output =
    type === q.COMPRESSION_ZSTD
      ? await unpackZstd(data.subarray(0, zstdFrameLength(data)), clusterSize)
      : await inflateRaw(data, {
          maxOutputLength: clusterSize,
          finishFlush: zlib.constants.Z_SYNC_FLUSH,
        });
  if (output.length !== clusterSize) throw new Error(`it unpacks to ${output.length} bytes`);
  return output;
}

async function unpackZstd(frame: Uint8Array, clusterSize: number): Promise<Uint8Array> {
  const { zstdDecompress } = zlib as ZlibWithZstd;
  if (zstdDecompress === undefined) return unpackZstdInJs(frame, clusterSize, clusterSize);
  return promisify(zstdDecompress)(frame, { maxOutputLength: clusterSize });
}

/** Packs a cluster. @throws TSV_E_DISK_FEATURE for zstd where Node has none */
export async function packCluster(cluster: Uint8Array, type: number): Promise<Uint8Array> {
  if (type !== q.COMPRESSION_ZSTD) return deflateRaw(cluster, { windowBits: DEFLATE_WINDOW_BITS });
  return promisify(zstdCompressor())(cluster);
}

/** Node's packer. @throws TSV_E_DISK_FEATURE where it has none */
export function zstdCompressor(): NonNullable<ZlibWithZstd['zstdCompress']> {
  const { zstdCompress } = zlib as ZlibWithZstd;
  if (zstdCompress !== undefined) return zstdCompress;
  throw new TsvError('TSV_E_DISK_FEATURE', 'This Node.js cannot compress with zstd.', {
    hint: 'Use zlib, or Node.js 22.15 or newer.',
  });
}

/** Bytes of the first frame (RFC 8878 section 3.1.1), without what follows it. */
function zstdFrameLength(data: Uint8Array): number {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const descriptor = view.getUint8(4);
  const singleSegment = (descriptor & 0x20) !== 0;
  const sizeFlag = descriptor >> 6;
  const sizeBytes = sizeFlag === 0 ? (singleSegment ? 1 : 0) : 1 << sizeFlag;
  const dictionaryBytes = [0, 1, 2, 4][descriptor & 3];
  let at = 5 + (singleSegment ? 0 : 1) + dictionaryBytes + sizeBytes;
  for (let last = false; !last; ) {
    const block = view.getUint16(at, true) | (view.getUint8(at + 2) << 16);
    last = (block & 1) !== 0;
    const runLength = ((block >> 1) & 3) === 1; // RLE_Block: one byte, however long
    at += 3 + (runLength ? 1 : block >> 3);
  }
  const end = at + (descriptor & 4 ? 4 : 0);
  if (end > data.length) throw new Error('it ends inside a frame');
  return end;
}
