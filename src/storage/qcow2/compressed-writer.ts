/** Writes compressed clusters one behind the other, so that they share host clusters. */

import { Mutex } from '../mutex.ts';
import { compressedEntry, maxCompressedOffset } from './l2-entry.ts';
import type { Layout } from './layout.ts';
import type { Refcounts } from './refcounts.ts';
import type { Writer } from './writer.ts';

/** Places compressed clusters. */
export class CompressedWriter {
  readonly #layout: Layout;
  readonly #refcounts: Refcounts;
  readonly #writer: Writer;
  readonly #mutex = new Mutex();
  /** Where the last one ends; at the start of a cluster there is no room left behind it. */
  #end = 0;

  constructor(layout: Layout, refcounts: Refcounts, writer: Writer) {
    this.#layout = layout;
    this.#refcounts = refcounts;
    this.#writer = writer;
  }

  /** Writes a guest cluster, which is locked. @param packed shorter than a cluster */
  async write(cluster: number, packed: Uint8Array): Promise<void> {
    const { clusterBits, file } = this.#layout;
    const { offset, taken } = await this.#mutex.run(() => this.#place(packed.length));
    try {
      await file.write(offset, [packed]);
      await this.#writer.replace(cluster, [compressedEntry(offset, packed.length, clusterBits)], false);
    } catch (error) {
      for (const host of taken) await this.#refcounts.giveBack({ cluster: host, count: 1 });
      throw error;
    }
  }

  /** Nothing uses these clusters any more. */
  forget(clusters: readonly number[]): void {
    if (clusters.includes(Math.floor(this.#end / this.#layout.clusterSize))) this.#end = 0;
  }

  /** Finds a place and counts the references. */
  async #place(length: number): Promise<{ offset: number; taken: number[] }> {
    const { clusterSize, clusterBits } = this.#layout;
    const room = this.#end % clusterSize === 0 ? 0 : clusterSize - (this.#end % clusterSize);
    const current = Math.floor(this.#end / clusterSize);
    const taken: number[] = [];
    if (room > 0 && (await this.#refcounts.share(current))) {
      // Unless it was given up and taken for something else meanwhile.
      if (this.#end > 0) taken.push(current);
      else await this.#refcounts.giveBack({ cluster: current, count: 1 });
    }
    let offset = current * clusterSize + (clusterSize - room);
    if (taken.length === 0 || room < length) {
      const next = (await this.#refcounts.allocate(1)).cluster;
      if (taken.length > 0 && next !== current + 1) {
        await this.#refcounts.giveBack({ cluster: current, count: 1 });
        taken.pop();
      }
      if (taken.length === 0) offset = next * clusterSize;
      taken.push(next);
    }
    if (offset >= maxCompressedOffset(clusterBits)) {
      throw this.#layout.corrupt(`its compressed clusters reach offset ${offset}`);
    }
    this.#end = offset + length;
    return { offset, taken };
  }
}
