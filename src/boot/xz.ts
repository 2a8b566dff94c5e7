/**
 * XZ (xz-file-format 1.2.1). The `xz-decompress` package decodes LZMA2 but no BCJ filter, and Linux always packs its
 * payload with the x86 one (scripts/xz_wrap.sh). So a stream with that filter is taken apart here, its LZMA2 data is
 * handed over in a plain container, and the filter and the check are applied to the result.
 */
import { crc32 } from 'node:zlib';
import xz from 'xz-decompress';
import { undoX86Bcj } from './x86-bcj.ts';

const HEADER_MAGIC = [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00] as const;
const FOOTER_MAGIC = [0x59, 0x5a] as const;
const STREAM_HEADER_SIZE = 12;
const CHECK_NONE = 0;
const CHECK_CRC32 = 1;
const FILTER_X86 = 4;
const FILTER_LZMA2 = 0x21;
const FEED_BYTES = 1 << 20;

/** A block's LZMA2 data and how it is wrapped. */
interface Block {
  readonly filters: readonly number[];
  /** LZMA2 dictionary size as the format encodes it. */
  readonly dictionary: number;
  /** Where the LZMA2 data begins and ends in the stream. */
  readonly start: number;
  readonly end: number;
  readonly unpackedSize: number;
}

/**
 * Unpacks one XZ stream.
 * @param limit largest size of the result, bytes
 * @throws Error when the data is damaged, of an unsupported kind, or larger
 */
export async function decodeXz(input: Uint8Array, limit: number): Promise<Uint8Array> {
  const block = parseFirstBlock(input);
  if (block.unpackedSize > limit) throw new Error(`it unpacks to more than ${limit} bytes`);
  if (block.filters.length === 1) return unpack(input, limit);
  if (block.filters.length !== 2 || block.filters[0] !== FILTER_X86) {
    throw new Error(`its filters are ${block.filters.join(', ')}; only LZMA2 and x86 are supported`);
  }
  const output = await unpack(plainStream(input, block), limit);
  undoX86Bcj(output);
  verify(input, block, output);
  return output;
}

/** Runs the decoder, piece by piece so that the size of the result stays bounded. */
async function unpack(stream: Uint8Array, limit: number): Promise<Uint8Array> {
  let fed = 0;
  const source = new ReadableStream<Uint8Array>({
    pull(controller) {
      if (fed >= stream.length) controller.close();
      else controller.enqueue(stream.slice(fed, fed + FEED_BYTES));
      fed += FEED_BYTES;
    },
  });
  const reader = new xz.XzReadableStream(source).getReader();
  const pieces: Uint8Array[] = [];
  let size = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    size += value.length;
    if (size > limit) throw new Error(`it unpacks to more than ${limit} bytes`);
    // The decoder reuses its buffer.
    pieces.push(value.slice());
  }
  return Buffer.concat(pieces, size);
}

function parseFirstBlock(input: Uint8Array): Block {
  const view = new DataView(input.buffer, input.byteOffset, input.byteLength);
  if (input.length < STREAM_HEADER_SIZE + 8) throw new Error('it ends inside the stream header');
  if (HEADER_MAGIC.some((byte, i) => input[i] !== byte)) throw new Error('its magic number is missing');
  if (crc32(input.subarray(6, 8)) !== view.getUint32(8, true))
    throw new Error('its stream header is damaged');
  const headerAt = STREAM_HEADER_SIZE;
  const headerSize = (input[headerAt] + 1) * 4;
  if (input[headerAt] === 0) throw new Error('it is empty');
  const headerEnd = headerAt + headerSize;
  if (headerEnd > input.length) throw new Error('it ends inside a block header');
  if (crc32(input.subarray(headerAt, headerEnd - 4)) !== view.getUint32(headerEnd - 4, true)) {
    throw new Error('its block header is damaged');
  }
  const flags = input[headerAt + 1];
  const reader = new VliReader(input, headerAt + 2, headerEnd - 4);
  if ((flags & 0x40) !== 0) reader.next();
  if ((flags & 0x80) !== 0) reader.next();
  const filters: number[] = [];
  let dictionary = 0;
  for (let i = 0; i <= (flags & 3); i++) {
    filters.push(reader.next());
    const properties = reader.bytes(reader.next());
    if (filters[i] === FILTER_LZMA2) dictionary = properties[0] ?? 0;
    // A start offset other than 0 is legal for BCJ filters, and nobody uses it.
    else if (properties.some((byte) => byte !== 0)) throw new Error('its x86 filter has a start offset');
  }
  if (filters.at(-1) !== FILTER_LZMA2) throw new Error('its last filter is not LZMA2');
  return { filters, dictionary, start: headerEnd, ...measureLzma2(input, view, headerEnd) };
}

/** Follows the chunk headers of LZMA2 data, which say both sizes of each chunk. */
function measureLzma2(
  input: Uint8Array,
  view: DataView,
  start: number,
): { end: number; unpackedSize: number } {
  let at = start;
  let unpackedSize = 0;
  for (;;) {
    const control = input[at];
    if (control === 0) return { end: at + 1, unpackedSize };
    const compressed = control >= 0x80;
    if (!compressed && control > 2) throw new Error('an LZMA2 chunk has a wrong control byte');
    const headerSize = compressed ? (control >= 0xc0 ? 6 : 5) : 3;
    if (!(at + headerSize < input.length)) throw new Error('it ends inside an LZMA2 chunk');
    const low = view.getUint16(at + 1, false) + 1;
    unpackedSize += compressed ? ((control & 0x1f) << 16) + low : low;
    at += headerSize + (compressed ? view.getUint16(at + 3, false) + 1 : low);
  }
}

/** The block's LZMA2 data as a stream of its own: no other filter, no check. */
function plainStream(input: Uint8Array, block: Block): Uint8Array {
  const streamFlags = Uint8Array.of(0, CHECK_NONE);
  const blockHeader = withCrc(Uint8Array.of(2, 0, FILTER_LZMA2, 1, block.dictionary, 0, 0, 0));
  const data = input.subarray(block.start, block.end);
  const unpaddedSize = blockHeader.length + data.length;
  const index = [0, 1, ...vli(unpaddedSize), ...vli(block.unpackedSize)];
  while (index.length % 4 !== 0) index.push(0);
  const indexBytes = withCrc(Uint8Array.from(index));
  const footer = new Uint8Array(6);
  new DataView(footer.buffer).setUint32(0, indexBytes.length / 4 - 1, true);
  footer.set(streamFlags, 4);
  return Buffer.concat([
    Uint8Array.from(HEADER_MAGIC),
    withCrc(streamFlags),
    blockHeader,
    data,
    new Uint8Array((4 - (data.length % 4)) % 4),
    indexBytes,
    crcBytes(footer),
    footer,
    Uint8Array.from(FOOTER_MAGIC),
  ]);
}

function verify(input: Uint8Array, block: Block, output: Uint8Array): void {
  const check = input[7] & 0xf;
  if (check === CHECK_NONE) return;
  if (check !== CHECK_CRC32) throw new Error('its check is neither CRC32 nor none');
  const at = block.start + Math.ceil((block.end - block.start) / 4) * 4;
  if (at + 4 > input.length) throw new Error('it ends before its check');
  const view = new DataView(input.buffer, input.byteOffset, input.byteLength);
  if (view.getUint32(at, true) !== crc32(output)) throw new Error('its CRC32 is wrong');
}

function withCrc(bytes: Uint8Array): Uint8Array {
  return Buffer.concat([bytes, crcBytes(bytes)]);
}

function crcBytes(bytes: Uint8Array): Uint8Array {
  const crc = new Uint8Array(4);
  new DataView(crc.buffer).setUint32(0, crc32(bytes), true);
  return crc;
}

/** Variable-length integers: seven bits a byte, low ones first (section 1.2). */
function vli(value: number): number[] {
  const bytes: number[] = [];
  let rest = value;
  for (; rest >= 0x80; rest = Math.floor(rest / 0x80)) bytes.push((rest % 0x80) | 0x80);
  bytes.push(rest);
  return bytes;
}

/** Reads variable-length integers and bytes inside a block header. */
class VliReader {
  readonly #bytes: Uint8Array;
  readonly #end: number;
  #at: number;

  constructor(bytes: Uint8Array, at: number, end: number) {
    this.#bytes = bytes;
    this.#at = at;
    this.#end = end;
  }

  next(): number {
    let value = 0;
    for (let shift = 1; this.#at < this.#end && Number.isSafeInteger(value); shift *= 0x80) {
      const byte = this.#bytes[this.#at++];
      value += (byte & 0x7f) * shift;
      if (byte < 0x80) return value;
    }
    throw new Error('its block header is damaged');
  }

  bytes(length: number): Uint8Array {
    if (length > this.#end - this.#at) throw new Error('its block header is damaged');
    this.#at += length;
    return this.#bytes.subarray(this.#at - length, this.#at);
  }
}
