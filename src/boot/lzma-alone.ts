/** The .lzma format, what lzma(1) writes and CONFIG_KERNEL_LZMA uses: a 13-byte header and one LZMA stream. */
import { LzmaDecoder, LzmaError, lzmaProperties } from './lzma.ts';

/** Properties, 32-bit dictionary size, 64-bit unpacked size. */
const HEADER_SIZE = 13;
const UNKNOWN_SIZE = 0xffff_ffff_ffff_ffffn;

/**
 * Unpacks a .lzma stream.
 * @param limit largest size of the result, bytes
 * @throws LzmaError
 */
export function decodeLzmaAlone(input: Uint8Array, limit: number): Uint8Array {
  if (input.length < HEADER_SIZE) throw new LzmaError('it ends inside the header');
  const view = new DataView(input.buffer, input.byteOffset, input.byteLength);
  const announced = view.getBigUint64(5, true);
  const sized = announced !== UNKNOWN_SIZE;
  if (sized && announced > BigInt(limit)) throw new LzmaError(`it unpacks to more than ${limit} bytes`);
  // Without a size in the header a marker ends the data; one byte more shows that it does not come in time.
  const output = new Uint8Array(sized ? Number(announced) : limit + 1);
  const decoder = new LzmaDecoder(input, output);
  decoder.setProperties(lzmaProperties(input[0]));
  decoder.start(HEADER_SIZE, input.length);
  const full = decoder.decode(output.length, !sized);
  if (full && !sized) throw new LzmaError(`it unpacks to more than ${limit} bytes`);
  // A copy lets the unused rest of the buffer go.
  return decoder.position === output.length ? output : output.slice(0, decoder.position);
}
