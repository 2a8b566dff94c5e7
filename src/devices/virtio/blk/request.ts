/** One request to the block device (virtio 1.2 section 5.2.6), taken apart. */
import { gather, slice } from '../../../storage/buffers.ts';
import type { Chain } from '../virtio-device.ts';
import { BLK_HEADER_SIZE, BLK_RANGE_SIZE } from './abi.ts';
import { MAX_RANGES } from './config.ts';

/** A request: the header copied, the data as views of guest RAM. */
export interface BlkRequest {
  readonly type: number;
  /** First sector; inexact above 2^53, where no disk has any. */
  readonly sector: number;
  /** What the driver sends. */
  readonly sent: readonly Uint8Array[];
  readonly sentLength: number;
  /** Where the answer goes. */
  readonly answer: readonly Uint8Array[];
  readonly answerLength: number;
  /** The byte behind the answer. */
  readonly status: Uint8Array;
}

/** The request in a chain, however its parts are spread over descriptors; undefined when it is too short to be one. */
export function parseRequest(chain: Chain): BlkRequest | undefined {
  const { readable, readableLength, writable, writableLength } = chain;
  if (readableLength < BLK_HEADER_SIZE || writableLength < 1) return undefined;
  const header = copy(readable, BLK_HEADER_SIZE);
  const last = writable[writable.length - 1];
  const sentLength = readableLength - BLK_HEADER_SIZE;
  const answerLength = writableLength - 1;
  return {
    type: header.getUint32(0, true),
    sector: header.getUint32(12, true) * 2 ** 32 + header.getUint32(8, true),
    sent: slice(readable, BLK_HEADER_SIZE, sentLength),
    sentLength,
    answer: slice(writable, 0, answerLength),
    answerLength,
    status: last.subarray(last.length - 1),
  };
}

/** A range to discard or to zero. */
export interface BlkRange {
  readonly sector: number;
  readonly sectors: number;
  readonly flags: number;
}

/** The ranges that a discard or write-zeroes request names; undefined when they are too many or cut short. */
export function parseRanges({ sent, sentLength }: BlkRequest): BlkRange[] | undefined {
  if (sentLength === 0 || sentLength % BLK_RANGE_SIZE !== 0 || sentLength > MAX_RANGES * BLK_RANGE_SIZE) {
    return undefined;
  }
  const view = copy(sent, sentLength);
  return Array.from({ length: sentLength / BLK_RANGE_SIZE }, (_, i) => {
    const at = i * BLK_RANGE_SIZE;
    return {
      sector: view.getUint32(at + 4, true) * 2 ** 32 + view.getUint32(at, true),
      sectors: view.getUint32(at + 8, true),
      flags: view.getUint32(at + 12, true),
    };
  });
}

/** A copy that the guest cannot change any more. */
function copy(views: readonly Uint8Array[], length: number): DataView {
  const bytes = new Uint8Array(length);
  gather(slice(views, 0, length), bytes);
  return new DataView(bytes.buffer);
}
