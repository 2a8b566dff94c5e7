/** Progress of long operations: one line that updates itself on a terminal, plain lines otherwise. */
import type { WriteStream } from 'node:tty';

/** Least time between two updates of the line, ms. */
const INTERVAL = 100;

/** Shows what is going on, on stderr. */
export class Progress {
  readonly #stream: Pick<WriteStream, 'write' | 'isTTY' | 'columns'>;
  #shown = '';
  #pending = '';
  #lastPlain = '';
  #timer: NodeJS.Timeout | undefined;

  constructor(stream: Pick<WriteStream, 'write' | 'isTTY' | 'columns'> = process.stderr) {
    this.#stream = stream;
  }

  /**
   * Shows the present state.
   * @param step what is being done; without a terminal one line appears for each new step
   * @param detail what changes while it is being done, such as "12 of 40 MiB"; only for terminals
   */
  update(step: string, detail = ''): void {
    if (!this.#stream.isTTY) {
      if (step !== this.#lastPlain) this.#stream.write(`${step}\n`);
      this.#lastPlain = step;
      return;
    }
    this.#pending = detail === '' ? step : `${step}: ${detail}`;
    if (this.#timer !== undefined) return;
    this.#draw();
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      if (this.#pending !== this.#shown) this.#draw();
    }, INTERVAL);
    this.#timer.unref();
  }

  /** Takes the line away, so that other output can follow. */
  clear(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (this.#shown !== '') this.#stream.write('\r\x1b[K');
    this.#shown = '';
    this.#pending = '';
  }

  #draw(): void {
    const width = (this.#stream.columns || 80) - 1;
    this.#shown = this.#pending;
    this.#stream.write(`\r${this.#pending.slice(0, width)}\x1b[K`);
  }
}
