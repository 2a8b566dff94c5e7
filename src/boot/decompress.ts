/**
 * Unpacking kernels on the host. The size of the result is bounded before anything is allocated, so a hostile file
 * cannot take the host's memory.
 */

import { promisify } from 'node:util';
import * as zlib from 'node:zlib';
import { constants, gunzip } from 'node:zlib';
import { Decompress as ZstdDecompress, decompress as zstdDecompressTo } from 'fzstd';
import { TsvError } from '../errors.ts';
import type { Compression } from './compression.ts';
import { decodeLz4Legacy } from './lz4.ts';
import { decodeLzmaAlone } from './lzma-alone.ts';
import { decodeXz } from './xz.ts';

/** How {@link decompress} treats its input. */
export interface DecompressOptions {
  readonly compression: Compression;
  /** Largest result that is accepted, bytes. */
  readonly maxSize: number;
  /** Exact size of the result where it is known, bytes; a different one is an error. */
  readonly expectedSize?: number;
  /** What is unpacked, for messages, such as `the kernel's payload`. */
  readonly what: string;
}

/** LZ4 cannot pack better than 255 to 1 (one length byte stands for 255 bytes). */
const LZ4_MAX_RATIO = 255;
/** `zstd --ultra -22`, which Linux uses, has a window of 128 MiB. */
const ZSTD_WINDOW_LOG_MAX = 27;
/** fzstd unpacks literals to the end of its output buffer, at most 128 KiB of them, before it moves them into place. */
const ZSTD_SLACK = 256 << 10;
const ZSTD_MARKS = [0xa5, 0x5a] as const;
const ZSTD_MARK_SIZE = 16;

const NAMES: Readonly<Record<Compression, string>> = {
  gzip: 'GZIP',
  bzip2: 'BZIP2',
  lzma: 'LZMA',
  xz: 'XZ',
  lzo: 'LZO',
  lz4: 'LZ4',
  'lz4-frame': 'LZ4 frame',
  zstd: 'ZSTD',
};

/** The format's name as people write it. */
export function compressionName(compression: Compression): string {
  return NAMES[compression];
}

/** True when {@link decompress} can unpack the format. */
export function canDecompress(compression: Compression): boolean {
  return ['gzip', 'lzma', 'xz', 'lz4', 'zstd'].includes(compression);
}

/**
 * Unpacks GZIP, LZMA, XZ, LZ4 (legacy frames) or ZSTD.
 * @throws TSV_E_KERNEL_FORMAT when the data is damaged, larger than allowed, or in a format that is not supported
 */
export async function decompress(input: Uint8Array, options: DecompressOptions): Promise<Uint8Array> {
  const { compression, maxSize, expectedSize, what } = options;
  const name = compressionName(compression);
  if (!canDecompress(compression)) {
    throw new TsvError(
      'TSV_E_KERNEL_FORMAT',
      `${capitalise(what)} is compressed with ${name}, which is not supported.`,
      {
        hint: 'GZIP, LZMA, XZ, ZSTD and LZ4 (legacy format, `lz4 -l`) are; recompress it, or let the guest unpack it with the bzimage protocol.',
      },
    );
  }
  if (expectedSize !== undefined && expectedSize > maxSize) {
    throw new TsvError(
      'TSV_E_KERNEL_FORMAT',
      `${capitalise(what)} unpacks to ${expectedSize} bytes; at most ${maxSize} are accepted.`,
      {
        hint: 'The file is damaged or no kernel.',
      },
    );
  }
  const limit = expectedSize ?? maxSize;
  let output: Uint8Array;
  try {
    if (compression === 'gzip') output = await unpackGzip(input, limit);
    else if (compression === 'zstd') output = await unpackZstd(input, limit, expectedSize);
    else if (compression === 'xz') output = decodeXz(input, limit);
    else if (compression === 'lzma') output = decodeLzmaAlone(input, limit);
    else output = unpackLz4(input, limit);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new TsvError('TSV_E_KERNEL_FORMAT', `${capitalise(what)} is not sound ${name} data: ${reason}.`, {
      hint: 'The file is cut off or damaged; copy, download or build it again.',
      cause: error,
    });
  }
  if (expectedSize !== undefined && output.length !== expectedSize) {
    throw new TsvError(
      'TSV_E_KERNEL_FORMAT',
      `${capitalise(what)} unpacks to ${output.length} bytes, but ${expectedSize} were announced.`,
      { hint: 'The file is damaged; copy, download or build it again.' },
    );
  }
  return output;
}

async function unpackGzip(input: Uint8Array, limit: number): Promise<Uint8Array> {
  return promisify(gunzip)(input, { maxOutputLength: Math.max(limit, 1) });
}

/** The part of node:zlib that exists from Node 22.15 on. */
interface ZlibWithZstd {
  zstdDecompress?: (
    input: Uint8Array,
    options: object,
    callback: (error: Error | null, output: Buffer) => void,
  ) => void;
}

async function unpackZstd(input: Uint8Array, limit: number, expectedSize?: number): Promise<Uint8Array> {
  checkZstdHeader(input, limit);
  const { zstdDecompress } = zlib as ZlibWithZstd;
  if (zstdDecompress === undefined) return unpackZstdInJs(input, limit, expectedSize);
  const { ZSTD_d_windowLogMax } = constants as unknown as { ZSTD_d_windowLogMax: number };
  const params = { [ZSTD_d_windowLogMax]: ZSTD_WINDOW_LOG_MAX };
  return promisify(zstdDecompress)(input, { maxOutputLength: Math.max(limit, 1), params });
}

/** For Node versions whose zlib has no ZSTD. */
export function unpackZstdInJs(input: Uint8Array, limit: number, expectedSize?: number): Uint8Array {
  const size = expectedSize ?? checkZstdHeader(input, limit);
  return size === undefined ? streamZstd(input, limit) : unpackZstdTo(input, size);
}

/**
 * Much faster than the stream, but the decoder neither says how much it wrote nor minds writing too much. So marks are
 * put before and behind the expected end: afterwards the first must be overwritten and the second not.
 */
function unpackZstdTo(input: Uint8Array, size: number): Uint8Array {
  const output = new Uint8Array(size + ZSTD_SLACK);
  const endsWithMark = (mark: number): boolean => {
    output.fill(mark, Math.max(0, size - 1), size + ZSTD_MARK_SIZE);
    zstdDecompressTo(input, output);
    if (output.subarray(size, size + ZSTD_MARK_SIZE).some((byte) => byte !== mark)) {
      throw new Error(`it unpacks to more than ${size} bytes`);
    }
    return size > 0 && output[size - 1] === mark;
  };
  // The data itself may end with the mark, but not with both.
  if (endsWithMark(ZSTD_MARKS[0]) && endsWithMark(ZSTD_MARKS[1])) {
    throw new Error(`it unpacks to less than ${size} bytes`);
  }
  return output.subarray(0, size);
}

function streamZstd(input: Uint8Array, limit: number): Uint8Array {
  const pieces: Uint8Array[] = [];
  let size = 0;
  const stream = new ZstdDecompress((piece) => {
    size += piece.length;
    if (size > limit) throw new Error(`it unpacks to more than ${limit} bytes`);
    pieces.push(piece.slice());
  });
  stream.push(input, true);
  return Buffer.concat(pieces, size);
}

/**
 * Decoders allocate the window, or the whole of a single-segment frame, from the header alone, so it is checked first
 * (RFC 8878 section 3.1.1.1).
 * @returns the unpacked size of the frame, where the header says it
 */
function checkZstdHeader(input: Uint8Array, limit: number): number | undefined {
  if (input.length < 6) throw new Error('it ends inside the frame header');
  const descriptor = input[4];
  const singleSegment = (descriptor & 0x20) !== 0;
  if (!singleSegment) {
    const base = 2 ** (10 + (input[5] >> 3));
    const windowSize = base + (base / 8) * (input[5] & 7);
    if (windowSize > 2 ** ZSTD_WINDOW_LOG_MAX) throw new Error(`its window has ${windowSize} bytes`);
  }
  const sizeFlag = descriptor >> 6;
  const sizeBytes = sizeFlag === 0 ? (singleSegment ? 1 : 0) : 1 << sizeFlag;
  if (sizeBytes === 0) return undefined;
  const dictionaryBytes = [0, 1, 2, 4][descriptor & 3];
  const at = (singleSegment ? 5 : 6) + dictionaryBytes;
  if (at + sizeBytes > input.length) throw new Error('it ends inside the frame header');
  let size = sizeFlag === 1 ? 256 : 0;
  for (let i = 0; i < sizeBytes; i++) size += input[at + i] * 2 ** (8 * i);
  if (size > limit) throw new Error(`it unpacks to more than ${limit} bytes`);
  return size;
}

function unpackLz4(input: Uint8Array, limit: number): Uint8Array {
  const output = new Uint8Array(Math.min(limit, input.length * LZ4_MAX_RATIO));
  const size = decodeLz4Legacy(input, output);
  return output.subarray(0, size);
}

function capitalise(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
