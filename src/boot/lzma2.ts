/** LZMA2: chunks of LZMA data or plain bytes, each headed by both its sizes (xz-file-format section 5.3.1). */
import { LzmaDecoder, LzmaError, lzmaProperties } from './lzma.ts';

/** `control` of a chunk header. */
const END_OF_DATA = 0x00;
const PLAIN_DICTIONARY_RESET = 0x01;
const PLAIN = 0x02;
const LZMA = 0x80;
/** From these values on an LZMA chunk resets the state, brings new properties, resets the dictionary. */
const STATE_RESET = 0xa0;
const NEW_PROPERTIES = 0xc0;
const DICTIONARY_RESET = 0xe0;
/** The format's limit of lc + lp. */
const MAX_LC_PLUS_LP = 4;

interface Chunk {
  readonly control: number;
  readonly properties: number;
  readonly start: number;
  readonly end: number;
  readonly unpackedSize: number;
}

/** Follows the chunk headers without decoding. @throws LzmaError */
export function measureLzma2(input: Uint8Array, start: number): { end: number; unpackedSize: number } {
  let unpackedSize = 0;
  for (let at = start; ; ) {
    if (input[at] === END_OF_DATA) return { end: at + 1, unpackedSize };
    const chunk = readChunk(input, at);
    unpackedSize += chunk.unpackedSize;
    at = chunk.end;
  }
}

/**
 * Decodes the LZMA2 data at `start`.
 * @param output what it goes into, with room for the measured size from `position` on
 * @throws LzmaError
 */
export function decodeLzma2(input: Uint8Array, start: number, output: Uint8Array, position: number): void {
  const decoder = new LzmaDecoder(input, output);
  decoder.position = position;
  decoder.dictionaryStart = position;
  let needDictionary = true;
  let needProperties = true;
  for (let at = start; input[at] !== END_OF_DATA; ) {
    const chunk = readChunk(input, at);
    const { control } = chunk;
    if (control >= DICTIONARY_RESET || control === PLAIN_DICTIONARY_RESET) {
      decoder.dictionaryStart = decoder.position;
      needDictionary = false;
    }
    if (needDictionary) throw new LzmaError('it does not begin with a dictionary reset');
    if (control >= LZMA) {
      if (control >= NEW_PROPERTIES) {
        const properties = lzmaProperties(chunk.properties);
        if (properties.lc + properties.lp > MAX_LC_PLUS_LP)
          throw new LzmaError('its LZMA properties are impossible');
        decoder.setProperties(properties);
        needProperties = false;
      } else if (needProperties) {
        throw new LzmaError('a chunk has no properties');
      } else if (control >= STATE_RESET) {
        decoder.resetState();
      }
      decoder.start(chunk.start, chunk.end);
      decoder.decode(decoder.position + chunk.unpackedSize);
      decoder.finish();
    } else {
      decoder.copy(chunk.start, chunk.unpackedSize);
    }
    at = chunk.end;
  }
}

function readChunk(input: Uint8Array, at: number): Chunk {
  const control = input[at];
  const compressed = control >= LZMA;
  if (!compressed && control > PLAIN) throw new LzmaError('a chunk has a wrong control byte');
  const headerSize = !compressed ? 3 : control >= NEW_PROPERTIES ? 6 : 5;
  const start = at + headerSize;
  if (!(start < input.length)) throw new LzmaError('it ends inside a chunk');
  const low = input[at + 1] * 256 + input[at + 2] + 1;
  const unpackedSize = compressed ? (control & 0x1f) * 0x10000 + low : low;
  const end = start + (compressed ? input[at + 3] * 256 + input[at + 4] + 1 : low);
  if (end > input.length) throw new LzmaError('it ends inside a chunk');
  return { control, properties: input[at + 5], start, end, unpackedSize };
}
