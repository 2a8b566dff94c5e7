/**
 * Waits until all of the work has ended, well or not: buffers and locks are in use until then.
 * @throws the first failure
 */
export async function settleAll(work: readonly Promise<unknown>[]): Promise<void> {
  if (work.length === 1) {
    await work[0];
    return;
  }
  for (const result of await Promise.allSettled(work)) if (result.status === 'rejected') throw result.reason;
}
