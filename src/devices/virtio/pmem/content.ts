/** Fills persistent memory from a disk image, and leaves out what is zero: untouched pages take no memory of the host. */
import { TsvError } from '../../../errors.ts';
import { hostMemory } from '../../../memory/host-memory.ts';
import type { BlockBackend } from '../../../storage/backend.ts';
import { isZero } from '../../../storage/buffers.ts';

/** Bytes that are read at once. */
const CHUNK = 2 ** 20;
/** Reads under way: the next chunk is read while one is copied. */
const READERS = 2;
/** Bytes that are copied or left out as a whole. */
export const BLOCK = 65536;
/** Bytes that are copied between two looks at what memory the host has left. */
const LOOK = 2 ** 26;

/**
 * Copies a disk's content.
 * @param target zero, and at least as long
 * @throws what the disk's `read` throws; TSV_E_HOST_MEMORY when the host has no memory for the content
 */
export async function loadContent(disk: BlockBackend, target: Uint8Array): Promise<void> {
  let next = 0;
  let failed = false;
  let untilLook = 0;
  const reader = async (): Promise<void> => {
    const buffer = new Uint8Array(CHUNK);
    while (next < disk.size && !failed) {
      const at = next;
      const chunk = buffer.subarray(0, Math.min(CHUNK, disk.size - at));
      next += chunk.length;
      const extent = await disk.extent?.(at);
      if (extent?.zero && extent.length >= chunk.length) continue;
      await disk.read(at, [chunk]);
      for (const { offset, bytes } of nonZeroBlocks(chunk)) {
        if (untilLook <= 0) {
          checkHost();
          untilLook = LOOK;
        }
        untilLook -= bytes.length;
        target.set(bytes, at + offset);
      }
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

/** How much of an image is content is not known before; a host without memory would end the process. */
function checkHost(): void {
  const { available } = hostMemory();
  if (available > LOOK) return;
  throw new TsvError('TSV_E_HOST_MEMORY', 'The host has no memory left for the content of the image.', {
    hint: 'Use the image as a disk, or a smaller one.',
  });
}

/** The blocks that hold anything. The last one may be shorter. */
export function* nonZeroBlocks(content: Uint8Array): Generator<{ offset: number; bytes: Uint8Array }> {
  for (let offset = 0; offset < content.length; offset += BLOCK) {
    const bytes = content.subarray(offset, offset + BLOCK);
    if (!isZero(bytes)) yield { offset, bytes };
  }
}
