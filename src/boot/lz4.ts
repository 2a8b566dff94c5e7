/**
 * The legacy LZ4 frame format, what `lz4 -l` writes and Linux uses for CONFIG_KERNEL_LZ4: the magic number, then
 * blocks of a 32-bit compressed size and LZ4 block data, each up to 8 MiB unpacked, without checksums
 * (lz4_Frame_format.md "Legacy frame", lz4_Block_format.md).
 */

/** First four bytes of a legacy frame, little-endian. */
export const LZ4_LEGACY_MAGIC = 0x184c2102;
/** First four bytes of a modern frame, which Linux's decompressor does not read. */
export const LZ4_FRAME_MAGIC = 0x184d2204;
/** Unpacked size of every block of a legacy frame except the last. */
const LEGACY_BLOCK_SIZE = 8 << 20;
/** Shortest match; a token's match length is stored less this. */
const MIN_MATCH = 4;
/** A run length of 15 in the token is continued in the following bytes. */
const RUN_CONTINUES = 15;

/** What is wrong with LZ4 data; the caller turns it into the error it reports. */
export class Lz4Error extends Error {}

/**
 * Unpacks a legacy frame.
 * @param input the frame; bytes after its last block are an error unless they are another frame's magic
 * @param output where the data goes
 * @returns the number of bytes written to `output`
 * @throws Lz4Error when the data is damaged or larger than `output`
 */
export function decodeLz4Legacy(input: Uint8Array, output: Uint8Array): number {
  const view = new DataView(input.buffer, input.byteOffset, input.byteLength);
  if (input.length < 4 || view.getUint32(0, true) !== LZ4_LEGACY_MAGIC) {
    throw new Lz4Error('the legacy LZ4 magic number is missing');
  }
  let at = 4;
  let done = 0;
  while (at < input.length) {
    if (at + 4 > input.length) throw new Lz4Error('the data ends inside a block size');
    const size = view.getUint32(at, true);
    at += 4;
    // Concatenated frames are legal: a magic number stands where a size would.
    if (size === LZ4_LEGACY_MAGIC) continue;
    if (size === 0 || at + size > input.length) throw new Lz4Error('the data ends inside a block');
    const limit = Math.min(output.length, done + LEGACY_BLOCK_SIZE);
    done = decodeBlock(input, at, at + size, output, done, limit);
    at += size;
  }
  return done;
}

/**
 * Unpacks one LZ4 block.
 * @param limit end of the space the block may fill in `output`
 * @returns the position in `output` after the block
 */
function decodeBlock(
  input: Uint8Array,
  start: number,
  end: number,
  output: Uint8Array,
  outStart: number,
  limit: number,
): number {
  let at = start;
  let out = outStart;
  for (;;) {
    if (at >= end) throw new Lz4Error('a block ends inside a sequence');
    const token = input[at++];

    let literals = token >> 4;
    if (literals === RUN_CONTINUES) {
      let more: number;
      do {
        if (at >= end) throw new Lz4Error('a block ends inside a literal length');
        more = input[at++];
        literals += more;
      } while (more === 255);
    }
    if (literals > end - at) throw new Lz4Error('a block ends inside its literals');
    if (literals > limit - out) throw new Lz4Error('a block is larger than it may be');
    if (literals > 32) {
      output.set(input.subarray(at, at + literals), out);
      at += literals;
      out += literals;
    } else {
      for (let i = 0; i < literals; i++) output[out++] = input[at++];
    }
    // The last sequence has literals only.
    if (at === end) return out;

    if (end - at < 2) throw new Lz4Error('a block ends inside a match offset');
    const distance = input[at] | (input[at + 1] << 8);
    at += 2;
    // Blocks are independent: a match cannot reach behind the start of its own.
    if (distance === 0 || distance > out - outStart) throw new Lz4Error('a match starts before its block');

    let length = token & 15;
    if (length === RUN_CONTINUES) {
      let more: number;
      do {
        if (at >= end) throw new Lz4Error('a block ends inside a match length');
        more = input[at++];
        length += more;
      } while (more === 255);
    }
    length += MIN_MATCH;
    if (length > limit - out) throw new Lz4Error('a block is larger than it may be');
    if (distance >= length && length > 32) {
      output.copyWithin(out, out - distance, out - distance + length);
      out += length;
    } else {
      // The match may overlap what it produces, so bytes are copied one by one.
      for (let from = out - distance, i = 0; i < length; i++) output[out++] = output[from++];
    }
  }
}
