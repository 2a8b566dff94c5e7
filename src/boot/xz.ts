/**
 * XZ (xz-file-format 1.2.1): one stream of any number of blocks, filtered by LZMA2 and optionally x86 BCJ, which is what
 * Linux packs its payload with (scripts/xz_wrap.sh).
 */
import { createHash } from 'node:crypto';
import { crc32 } from 'node:zlib';
import { crc64 } from './crc64.ts';
import { decodeLzma2, measureLzma2 } from './lzma2.ts';
import { undoX86Bcj } from './x86-bcj.ts';

const HEADER_MAGIC = [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00] as const;
const FOOTER_MAGIC = [0x59, 0x5a] as const;
const STREAM_HEADER_SIZE = 12;
const STREAM_FOOTER_SIZE = 12;
const INDEX_INDICATOR = 0;
const FILTER_X86 = 4;
const FILTER_LZMA2 = 0x21;
/** Check types (section 2.1.1.2). */
const CHECK_NONE = 0;
const CHECK_CRC32 = 1;
const CHECK_CRC64 = 4;
const CHECK_SHA256 = 10;
const CHECK_SIZES: Readonly<Record<number, number>> = {
  [CHECK_NONE]: 0,
  [CHECK_CRC32]: 4,
  [CHECK_CRC64]: 8,
  [CHECK_SHA256]: 32,
};

/** Where a block's parts are. */
interface Block {
  readonly x86: boolean;
  /** Where the LZMA2 data and the check begin. */
  readonly dataAt: number;
  readonly checkAt: number;
  readonly unpackedSize: number;
}

/**
 * Unpacks an XZ stream.
 * @param limit largest size of the result, bytes
 * @throws Error when the data is damaged, uses what is not supported, or is larger
 */
export function decodeXz(input: Uint8Array, limit: number): Uint8Array {
  const check = readStreamHeader(input);
  const blocks: Block[] = [];
  let at = STREAM_HEADER_SIZE;
  let size = 0;
  while (input[at] !== INDEX_INDICATOR) {
    const block = readBlock(input, at);
    blocks.push(block);
    size += block.unpackedSize;
    // All sizes are known before anything is decoded or allocated.
    if (size > limit) throw new Error(`it unpacks to more than ${limit} bytes`);
    at = block.checkAt + CHECK_SIZES[check];
  }
  readStreamEnd(input, at);
  const output = new Uint8Array(size);
  let position = 0;
  for (const { x86, dataAt, checkAt, unpackedSize } of blocks) {
    decodeLzma2(input, dataAt, output, position);
    const unpacked = output.subarray(position, position + unpackedSize);
    if (x86) undoX86Bcj(unpacked);
    const expected = input.subarray(checkAt, checkAt + CHECK_SIZES[check]);
    if (Buffer.compare(expected, checksum(check, unpacked)) !== 0) throw new Error('its checksum is wrong');
    position += unpackedSize;
  }
  return output;
}

/** @returns the check type */
function readStreamHeader(input: Uint8Array): number {
  if (input.length < STREAM_HEADER_SIZE) throw new Error('it ends inside the stream header');
  if (HEADER_MAGIC.some((byte, i) => input[i] !== byte)) throw new Error('its magic number is missing');
  if (crc32(input.subarray(6, 8)) !== u32(input, 8)) throw new Error('its stream header is damaged');
  const check = input[7];
  if (input[6] !== 0 || CHECK_SIZES[check] === undefined)
    throw new Error('its kind of check is not supported');
  return check;
}

function readBlock(input: Uint8Array, at: number): Block {
  const end = at + (input[at] + 1) * 4;
  if (!(end < input.length)) throw new Error('it ends inside a block header');
  if (crc32(input.subarray(at, end - 4)) !== u32(input, end - 4))
    throw new Error('a block header is damaged');
  const flags = input[at + 1];
  const fields = new FieldReader(input.subarray(at + 2, end - 4));
  // Packed and unpacked size are optional; the chunks say both.
  if ((flags & 0x40) !== 0) fields.integer();
  if ((flags & 0x80) !== 0) fields.integer();
  const filters: number[] = [];
  for (let i = 0; i <= (flags & 3); i++) {
    const filter = fields.integer();
    const properties = fields.bytes(fields.integer());
    if (filter === FILTER_X86 && properties.some((byte) => byte !== 0)) {
      throw new Error('its x86 filter has a start offset');
    }
    filters.push(filter);
  }
  const x86 = filters.length === 2 && filters[0] === FILTER_X86;
  if (filters.at(-1) !== FILTER_LZMA2 || (filters.length > 1 && !x86)) {
    throw new Error('it uses a filter other than LZMA2 and x86');
  }
  const data = measureLzma2(input, end);
  const checkAt = end + Math.ceil((data.end - end) / 4) * 4;
  return { x86, dataAt: end, checkAt, unpackedSize: data.unpackedSize };
}

/** Checks the index as a whole and the stream footer behind it. */
function readStreamEnd(input: Uint8Array, indexAt: number): void {
  const footerAt = input.length - STREAM_FOOTER_SIZE;
  const indexSize = footerAt - indexAt;
  const sound =
    indexSize >= 8 &&
    FOOTER_MAGIC.every((byte, i) => input[footerAt + 10 + i] === byte) &&
    crc32(input.subarray(footerAt + 4, footerAt + 10)) === u32(input, footerAt) &&
    (u32(input, footerAt + 4) + 1) * 4 === indexSize &&
    crc32(input.subarray(indexAt, footerAt - 4)) === u32(input, footerAt - 4);
  if (!sound) throw new Error('its end is missing or damaged');
}

function checksum(check: number, data: Uint8Array): Uint8Array {
  const sum = Buffer.alloc(CHECK_SIZES[check]);
  if (check === CHECK_CRC32) sum.writeUInt32LE(crc32(data));
  else if (check === CHECK_CRC64) sum.writeBigUInt64LE(crc64(data));
  else if (check === CHECK_SHA256) return createHash('sha256').update(data).digest();
  return sum;
}

function u32(bytes: Uint8Array, at: number): number {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength).getUint32(at, true);
}

/** Reads variable-length integers (section 1.2) and bytes of a block header. */
class FieldReader {
  readonly #bytes: Uint8Array;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  integer(): number {
    let value = 0;
    for (let unit = 1; this.#at < this.#bytes.length && Number.isSafeInteger(unit); unit *= 0x80) {
      const byte = this.#bytes[this.#at++];
      value += (byte & 0x7f) * unit;
      if (byte < 0x80) return value;
    }
    throw new Error('a block header is damaged');
  }

  bytes(length: number): Uint8Array {
    if (length > this.#bytes.length - this.#at) throw new Error('a block header is damaged');
    this.#at += length;
    return this.#bytes.subarray(this.#at - length, this.#at);
  }
}
