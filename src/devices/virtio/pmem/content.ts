/** Fills persistent memory from a disk image, and leaves out what is zero: untouched pages take no memory of the host. */
import type { BlockBackend } from '../../../storage/backend.ts';
import { isZero } from '../../../storage/buffers.ts';

/** Bytes that are read at once. */
const CHUNK = 2 ** 20;
/** Reads under way: the next chunk is read while one is copied. */
const READERS = 2;
/** Bytes that are copied or left out as a whole. */
export const BLOCK = 65536;

/**
 * Copies a disk's content.
 * @param target zero, and at least as long
 * @throws what the disk's `read` throws
 */
export async function loadContent(disk: BlockBackend, target: Uint8Array): Promise<void> {
  let next = 0;
  let failed = false;
  const reader = async (): Promise<void> => {
    const buffer = new Uint8Array(CHUNK);
    while (next < disk.size && !failed) {
      const at = next;
      const chunk = buffer.subarray(0, Math.min(CHUNK, disk.size - at));
      next += chunk.length;
      const extent = await disk.extent?.(at);
      if (extent?.zero && extent.length >= chunk.length) continue;
      await disk.read(at, [chunk]);
      for (const { offset, bytes } of nonZeroBlocks(chunk)) target.set(bytes, at + offset);
    }
  };
  // All have come to an end when this settles: nothing is written to the target afterwards.
  const readers = Array.from({ length: READERS }, () =>
    reader().catch((error: unknown) => {
      failed = true;
      throw error;
    }),
  );
  for (const result of await Promise.allSettled(readers)) {
    if (result.status === 'rejected') throw result.reason;
  }
}

/** The blocks that hold anything. The last one may be shorter. */
export function* nonZeroBlocks(content: Uint8Array): Generator<{ offset: number; bytes: Uint8Array }> {
  for (let offset = 0; offset < content.length; offset += BLOCK) {
    const bytes = content.subarray(offset, offset + BLOCK);
    if (!isZero(bytes)) yield { offset, bytes };
  }
}
