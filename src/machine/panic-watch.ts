/**
 * Recognises a kernel panic in console output, for guests without a pvpanic driver. Linux ends its report with a line of
 * its own; waiting for that keeps the report whole (kernel/panic.c).
 */

/** Whole lines: output comes in pieces. */
const START = /Kernel panic - not syncing: ([^\r\n]*)[\r\n]/;
const END = /(?:---\[ end Kernel panic - not syncing|Rebooting in \d+ seconds)[^\n]*\n/;
/** A line is far shorter; what is kept between two pieces of output. */
const WINDOW = 4096;

/** Watches a console. */
export class PanicWatch {
  readonly #onPanic: (message: string) => void;
  #tail = '';
  #message: string | undefined;
  #done = false;

  constructor(onPanic: (message: string) => void) {
    this.#onPanic = onPanic;
  }

  /** The panic's message once one has begun. */
  get message(): string | undefined {
    return this.#message;
  }

  /** Takes output as it comes, in pieces of any size. */
  receive(bytes: Uint8Array): void {
    if (this.#done) return;
    this.#tail = (this.#tail + Buffer.from(bytes).toString('latin1')).slice(-WINDOW);
    this.#message ??= START.exec(this.#tail)?.[1];
    if (this.#message === undefined || !END.test(this.#tail)) return;
    this.#done = true;
    this.#onPanic(this.#message);
  }
}
