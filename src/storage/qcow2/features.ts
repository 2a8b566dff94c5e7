/** Which qcow2 images are refused for what they need, by name. */
import { featureError, formatError } from './errors.ts';
import * as q from './format.ts';

/** The fields that say what an image needs. */
export interface NeededFeatures {
  readonly incompatible: bigint;
  readonly cryptMethod: number;
  readonly compressionType: number;
  /** The image's own names of incompatible features, by bit number. */
  readonly names: ReadonlyMap<number, string>;
}

const KNOWN = q.INCOMPATIBLE_DIRTY | q.INCOMPATIBLE_CORRUPT | q.INCOMPATIBLE_COMPRESSION;
const CONVERT = 'Convert it with "qemu-img convert -O qcow2".';

/** @throws TSV_E_DISK_FEATURE, TSV_E_DISK_FORMAT */
export function checkFeatures(path: string, needed: NeededFeatures): void {
  const { incompatible, cryptMethod, compressionType, names } = needed;
  if (cryptMethod !== 0) {
    throw featureError(path, `encryption (method ${cryptMethod})`, 'Decrypt it with "qemu-img convert".');
  }
  if (incompatible & q.INCOMPATIBLE_DATA_FILE) throw featureError(path, 'an external data file', CONVERT);
  if (incompatible & q.INCOMPATIBLE_EXTENDED_L2) {
    throw featureError(path, 'extended L2 entries (subclusters)', CONVERT);
  }
  const unknown = incompatible & ~KNOWN;
  if (unknown !== 0n) {
    const bit = unknown.toString(2).length - 1;
    const name = names.get(bit);
    const what = name ? `the feature "${name}"` : `incompatible feature bit ${bit}`;
    throw featureError(path, what, 'Convert it with the program that made it, without that feature.');
  }
  if (((incompatible & q.INCOMPATIBLE_COMPRESSION) !== 0n) !== (compressionType !== q.COMPRESSION_ZLIB)) {
    throw formatError(path, 'its compression type and its features contradict each other');
  }
  if (compressionType > q.COMPRESSION_ZSTD) {
    throw featureError(path, `compression type ${compressionType}`, CONVERT);
  }
}
