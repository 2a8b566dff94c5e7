/**
 * Guest output on its way to the host: bytes are gathered and handed to a sink in batches, and a sink that is slow
 * slows the guest instead of growing the host's memory.
 */

/**
 * Takes a batch of output bytes; it may keep the array. While a returned promise is pending no further batch is
 * handed over.
 */
export type OutputSink = (bytes: Uint8Array) => void | Promise<void>;

/** Buffered bytes from which the device should tell the guest to wait. */
export const OUTPUT_HIGH_WATER = 64 * 1024;
/** Buffered bytes from which `push` makes the vCPU wait, for guests that do not look before they write. */
export const OUTPUT_LIMIT = 128 * 1024;
/** A batch this large is not held back any longer. */
const BATCH_BYTES = 16 * 1024;
/**
 * Batches follow each other at least this far apart, ms: the first byte after a silence goes at once, a flood goes
 * in a thousand batches a second instead of one for each byte.
 */
const BATCH_INTERVAL = 1;

/**
 * The longest a byte beyond the limit is made to wait, ms. Then it is kept all the same: a byte a second cannot fill
 * the host's memory, and a terminal that was stopped overnight must not look like a device that hangs.
 */
const PATIENCE = 1000;

/** What the owner of an {@link OutputBatch} wants to hear. */
export interface OutputEvents {
  /** The sink took a batch that had reached the high-water mark: there is room again. */
  drained?: () => void;
  /** The sink threw or rejected; its batch is lost, the output goes on. */
  failed?: (error: unknown) => void;
}

/** A byte stream from a device to a sink. */
export class OutputBatch {
  readonly #sink: OutputSink;
  readonly #events: OutputEvents;
  #buffer = new Uint8Array(256);
  #length = 0;
  #sinkBusy = false;
  #congested = false;
  #lastBatch = Number.NEGATIVE_INFINITY;
  #immediate: NodeJS.Immediate | undefined;
  #timeout: NodeJS.Timeout | undefined;
  #room: PromiseWithResolve | undefined;
  #idle: PromiseWithResolve | undefined;
  #patience: NodeJS.Timeout | undefined;

  constructor(sink: OutputSink, events: OutputEvents = {}) {
    this.#sink = sink;
    this.#events = events;
  }

  /** True from the high-water mark until the sink takes the next batch. */
  get congested(): boolean {
    return this.#congested;
  }

  /** Bytes not yet handed to the sink. */
  get pending(): number {
    return this.#length;
  }

  /**
   * Appends a byte; it is never lost.
   * @returns a promise when the buffer is full: whoever produces bytes waits for it, a second at most
   */
  push(byte: number): void | Promise<void> {
    if (this.#length === this.#buffer.length) this.#grow();
    this.#buffer[this.#length++] = byte;
    if (this.#length >= OUTPUT_HIGH_WATER) this.#congested = true;
    if (!this.#sinkBusy) this.#schedule();
    if (this.#length >= OUTPUT_LIMIT) {
      this.#room ??= promiseWithResolve();
      this.#patience ??= setTimeout(() => this.#letGo(), PATIENCE).unref();
      return this.#room.promise;
    }
  }

  /** Hands over what is there; resolves when the sink has taken all of it. */
  flush(): Promise<void> {
    if (!this.#sinkBusy) this.#handOver();
    if (!this.#sinkBusy && this.#length === 0) return Promise.resolve();
    this.#idle ??= promiseWithResolve();
    return this.#idle.promise;
  }

  #schedule(): void {
    if (this.#immediate !== undefined) return;
    if (this.#timeout !== undefined && this.#length < BATCH_BYTES) return;
    if (this.#length < BATCH_BYTES && performance.now() - this.#lastBatch < BATCH_INTERVAL) {
      this.#timeout = setTimeout(() => this.#handOver(), BATCH_INTERVAL);
      return;
    }
    this.#immediate = setImmediate(() => this.#handOver());
  }

  #handOver(): void {
    clearImmediate(this.#immediate);
    clearTimeout(this.#timeout);
    this.#immediate = undefined;
    this.#timeout = undefined;
    if (this.#sinkBusy) return;
    if (this.#length > 0) {
      const batch = this.#buffer.slice(0, this.#length);
      this.#length = 0;
      this.#makeRoom();
      this.#lastBatch = performance.now();
      const result = this.#callSink(batch);
      if (result !== undefined) {
        this.#sinkBusy = true;
        const done = () => {
          this.#sinkBusy = false;
          this.#handOver();
        };
        Promise.resolve(result).then(done, (error) => {
          this.#events.failed?.(error);
          done();
        });
        return;
      }
    }
    this.#idle?.resolve();
    this.#idle = undefined;
  }

  #callSink(batch: Uint8Array): void | Promise<void> {
    try {
      return this.#sink(batch);
    } catch (error) {
      this.#events.failed?.(error);
    }
  }

  /** The buffer is empty, though its last batch may still be with the sink: the next one can fill meanwhile. */
  #makeRoom(): void {
    if (this.#congested) {
      this.#congested = false;
      this.#events.drained?.();
    }
    this.#letGo();
  }

  #letGo(): void {
    clearTimeout(this.#patience);
    this.#patience = undefined;
    this.#room?.resolve();
    this.#room = undefined;
  }

  /** Doubles the buffer; {@link push} makes its callers wait long before this could run away. */
  #grow(): void {
    const grown = new Uint8Array(this.#buffer.length * 2);
    grown.set(this.#buffer);
    this.#buffer = grown;
  }
}

interface PromiseWithResolve {
  readonly promise: Promise<void>;
  readonly resolve: () => void;
}

/** Promise.withResolvers, which Node 20 lacks. */
function promiseWithResolve(): PromiseWithResolve {
  let resolve = () => {};
  const promise = new Promise<void>((settle) => {
    resolve = settle;
  });
  return { promise, resolve };
}
