/** Where in the image metadata is that the disk's content must never overwrite. */

/** The clusters of the metadata in use. */
export class MetadataMap {
  readonly #kinds = new Map<number, string>();

  /** Notes clusters. @returns what one of them was already known as, which means that the image is damaged */
  add(cluster: number, count: number, kind: string): string | undefined {
    for (let at = cluster; at < cluster + count; at++) {
      const other = this.#kinds.get(at);
      if (other !== undefined) return other;
      this.#kinds.set(at, kind);
    }
    return undefined;
  }

  /** Forgets clusters. */
  delete(cluster: number, count: number): void {
    for (let at = cluster; at < cluster + count; at++) this.#kinds.delete(at);
  }

  /** What the cluster is, if it is metadata. */
  kind(cluster: number): string | undefined {
    return this.#kinds.get(cluster);
  }
}
