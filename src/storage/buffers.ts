/** Lists of buffers (scatter-gather lists) as if they were one. */

/** Bytes of all buffers together. */
export function totalLength(buffers: readonly Uint8Array[]): number {
  let total = 0;
  for (const buffer of buffers) total += buffer.length;
  return total;
}

/** Views of `length` bytes from `start` on. */
export function slice(buffers: readonly Uint8Array[], start: number, length: number): Uint8Array[] {
  const views: Uint8Array[] = [];
  let at = start;
  let left = length;
  for (const buffer of buffers) {
    if (left <= 0) break;
    if (at >= buffer.length) {
      at -= buffer.length;
      continue;
    }
    // Most are taken whole, and making a view costs.
    const view = at === 0 && buffer.length <= left ? buffer : buffer.subarray(at, at + left);
    views.push(view);
    left -= view.length;
    at = 0;
  }
  return views;
}

/** Fills all buffers with zeros. */
export function fillZeros(buffers: readonly Uint8Array[]): void {
  for (const buffer of buffers) buffer.fill(0);
}

/** Copies one buffer into the list, which is at least as long. */
export function scatter(source: Uint8Array, buffers: readonly Uint8Array[]): void {
  let at = 0;
  for (const buffer of buffers) {
    if (at >= source.length) return;
    buffer.set(source.subarray(at, at + buffer.length));
    at += buffer.length;
  }
}

/** Copies the list into one buffer, which is at least as long. */
export function gather(buffers: readonly Uint8Array[], target: Uint8Array): void {
  let at = 0;
  for (const buffer of buffers) {
    target.set(buffer, at);
    at += buffer.length;
  }
}

const ZEROS = Buffer.alloc(65536);

/** Zeros to write from; the buffers must not be changed. */
export function zeros(length: number): Uint8Array[] {
  const views: Uint8Array[] = [];
  for (let left = length; left > 0; left -= ZEROS.length) views.push(ZEROS.subarray(0, left));
  return views;
}

/** True when all bytes are zero. */
export function isZero(bytes: Uint8Array): boolean {
  const view = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = 0; at < view.length; at += ZEROS.length) {
    const end = Math.min(at + ZEROS.length, view.length);
    if (view.compare(ZEROS, 0, end - at, at, end) !== 0) return false;
  }
  return true;
}
