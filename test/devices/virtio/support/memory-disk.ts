/** A disk in memory whose requests finish when the test says so. */
import type { BlockBackend } from '../../../../src/storage/backend.ts';

export class MemoryDisk implements BlockBackend {
  readonly size: number;
  readonly readOnly: boolean;
  readonly content: Uint8Array;
  /** What was asked for, in order. */
  readonly calls: string[] = [];
  /** Requests wait for {@link release}. */
  isHeld = false;
  /** The next request fails. */
  error: Error | undefined;
  #waiting: (() => void)[] = [];

  constructor(sectors = 64, readOnly = false) {
    this.size = sectors * 512;
    this.readOnly = readOnly;
    this.content = Uint8Array.from({ length: this.size }, (_, i) => (i * 7 + (i >> 8)) & 0xff);
  }

  get waiting(): number {
    return this.#waiting.length;
  }

  /** Lets the n-th waiting request go on, or all. */
  release(n?: number): void {
    for (const go of n === undefined ? this.#waiting.splice(0) : this.#waiting.splice(n, 1)) go();
  }

  async #turn(call: string): Promise<void> {
    this.calls.push(call);
    if (this.isHeld) await new Promise<void>((resolve) => this.#waiting.push(resolve));
    const { error } = this;
    this.error = undefined;
    if (error !== undefined) throw error;
  }

  async read(offset: number, into: readonly Uint8Array[]): Promise<void> {
    await this.#turn(`read ${offset}`);
    let at = offset;
    for (const view of into) {
      view.set(this.content.subarray(at, at + view.length));
      at += view.length;
    }
  }

  async write(offset: number, from: readonly Uint8Array[]): Promise<void> {
    await this.#turn(`write ${offset}`);
    let at = offset;
    for (const view of from) {
      this.content.set(view, at);
      at += view.length;
    }
  }

  flush(): Promise<void> {
    return this.#turn('flush');
  }

  discard(offset: number, length: number): Promise<void> {
    return this.#turn(`discard ${offset}+${length}`);
  }

  async writeZeroes(offset: number, length: number, mayUnmap: boolean): Promise<void> {
    await this.#turn(`zero ${offset}+${length}${mayUnmap ? ' unmap' : ''}`);
    this.content.fill(0, offset, offset + length);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.calls.push('close');
  }
}
