/** Header extensions of qcow2. */
import { formatError } from './errors.ts';
import * as q from './format.ts';

/** What the extensions say that matters here; others are ignored, as the format allows. */
export interface Extensions {
  readonly backingFormat?: string;
  /** Names of incompatible features by bit number. */
  readonly featureNames: ReadonlyMap<number, string>;
  /** The directory of persistent bitmaps. */
  readonly bitmaps?: BitmapDirectory;
}

/** Where persistent bitmaps are described. */
export interface BitmapDirectory {
  readonly count: number;
  readonly offset: number;
  /** Bytes. */
  readonly size: number;
}

/** Bytes of the bitmaps extension. */
const BITMAPS_SIZE = 24;

/** Reads the extensions between two offsets. @throws TSV_E_DISK_FORMAT */
export function readExtensions(path: string, bytes: Uint8Array, from: number, end: number): Extensions {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const featureNames = new Map<number, string>();
  let backingFormat: string | undefined;
  let bitmaps: BitmapDirectory | undefined;
  for (let at = from; at + 8 <= end; ) {
    const type = view.getUint32(at);
    const length = view.getUint32(at + 4);
    if (type === q.EXTENSION_END) break;
    if (length > end - at - 8) throw formatError(path, 'a header extension is longer than the header');
    const data = bytes.subarray(at + 8, at + 8 + length);
    if (type === q.EXTENSION_BACKING_FORMAT) backingFormat = text(data);
    else if (type === q.EXTENSION_FEATURE_NAMES) readFeatureNames(data, featureNames);
    else if (type === q.EXTENSION_BITMAPS) bitmaps = readBitmaps(path, data);
    at += 8 + Math.ceil(length / 8) * 8;
  }
  return { backingFormat, featureNames, bitmaps };
}

function readBitmaps(path: string, data: Uint8Array): BitmapDirectory {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  if (data.length !== BITMAPS_SIZE) throw formatError(path, `its bitmaps extension has ${data.length} bytes`);
  return {
    count: view.getUint32(0),
    size: Number(view.getBigUint64(8)),
    offset: Number(view.getBigUint64(16)),
  };
}

function readFeatureNames(data: Uint8Array, names: Map<number, string>): void {
  for (let at = 0; at + q.FEATURE_NAME_SIZE <= data.length; at += q.FEATURE_NAME_SIZE) {
    if (data[at] === 0) names.set(data[at + 1], text(data.subarray(at + 2, at + q.FEATURE_NAME_SIZE)));
  }
}

/** Printable characters up to a NUL: the text is shown to people. */
function text(data: Uint8Array): string {
  const end = data.indexOf(0);
  return Buffer.from(end < 0 ? data : data.subarray(0, end))
    .toString('latin1')
    .replace(/[^ -~]/g, '?');
}

/** Writes one extension. @returns the offset behind it */
export function encodeExtension(bytes: Uint8Array, at: number, type: number, data: Uint8Array): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  view.setUint32(at, type);
  view.setUint32(at + 4, data.length);
  bytes.set(data, at + 8);
  return at + 8 + Math.ceil(data.length / 8) * 8;
}
