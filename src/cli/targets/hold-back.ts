/** Input that waits for its guest. */
import type { Readable } from 'node:stream';
import type { TargetEvents } from './target.ts';

/**
 * Gives what a stream brings to the guest, and reads on when the guest has room for more.
 * @returns a function that ends it
 */
export function holdBack(stream: Readable, { onInput }: Pick<TargetEvents, 'onInput'>): () => void {
  let isWanted = true;
  const onData = async (bytes: Buffer): Promise<void> => {
    const wait = onInput(bytes);
    if (wait === undefined) return;
    stream.pause();
    await wait;
    if (isWanted && !stream.destroyed) stream.resume();
  };
  stream.on('data', onData);
  return () => {
    isWanted = false;
    stream.off('data', onData);
  };
}
