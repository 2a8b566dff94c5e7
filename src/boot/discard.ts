/** Gives back the memory of large buffers at once. */
import { MessageChannel } from 'node:worker_threads';

/**
 * Frees a buffer that nobody uses any more; it is empty then. Left to itself it would stay for as long as the program
 * has no reason to collect garbage: a machine that runs has none, and an unpacked kernel has 50 MB.
 */
export function discard(bytes: Uint8Array): void {
  if (!(bytes.buffer instanceof ArrayBuffer)) return;
  // What is sent to a port that is closed is gone.
  const { port1, port2 } = new MessageChannel();
  port1.postMessage(undefined, [bytes.buffer]);
  port1.close();
  port2.close();
}
