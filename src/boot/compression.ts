/** The compression formats a kernel comes in, told apart by their first bytes (boot.rst, "payload_offset"). */
import { ImageBytes } from './image-bytes.ts';

/** A compression format that Linux uses for its payload, or that kernel files are distributed in. */
export type Compression = 'gzip' | 'bzip2' | 'lzma' | 'xz' | 'lzo' | 'lz4' | 'lz4-frame' | 'zstd';

const MAGICS: readonly (readonly [Compression, readonly number[]])[] = [
  ['gzip', [0x1f, 0x8b]],
  ['gzip', [0x1f, 0x9e]],
  ['bzip2', [0x42, 0x5a, 0x68]],
  ['lzma', [0x5d, 0x00, 0x00]],
  ['xz', [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00]],
  ['lzo', [0x89, 0x4c, 0x5a, 0x4f]],
  ['lz4', [0x02, 0x21, 0x4c, 0x18]],
  ['lz4-frame', [0x04, 0x22, 0x4d, 0x18]],
  ['zstd', [0x28, 0xb5, 0x2f, 0xfd]],
];

/** Which format the data is in; undefined when it is none of them. */
export function detectCompression(bytes: Uint8Array): Compression | undefined {
  const file = new ImageBytes(bytes, 'the data');
  return MAGICS.find(([, magic]) => file.startsWith(magic))?.[0];
}
