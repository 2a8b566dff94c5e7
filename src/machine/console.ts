/** A machine's serial console as a program uses it: write, read as a stream, wait for text. */
import { Readable } from 'node:stream';
import { TsvError } from '../errors.ts';

/** How much of the output `expect` can look back on, characters. */
const HISTORY = 1 << 20;

/** Options of {@link VmConsole.expect}. */
export interface ExpectOptions {
  /** Milliseconds; default 30 000; 0 for no limit. */
  timeout?: number;
}

interface Waiter {
  pattern: RegExp;
  resolve(match: RegExpExecArray): void;
  reject(error: TsvError): void;
  timer: NodeJS.Timeout | undefined;
}

/** Takes output of the guest. */
export type ConsoleListener = (bytes: Uint8Array) => void | Promise<void>;

/** The guest's console. */
export class VmConsole {
  readonly #send: (bytes: Uint8Array) => void;
  readonly #listeners = new Set<ConsoleListener>();
  readonly #decoder = new TextDecoder();
  readonly #waiters: Waiter[] = [];
  /** Output that no `expect` has matched yet. */
  #text = '';
  #ended: string | undefined;

  /** @param send takes bytes to the guest */
  constructor(send: (bytes: Uint8Array) => void) {
    this.#send = send;
  }

  /** Types at the guest. Text is sent as UTF-8. */
  write(input: string | Uint8Array): void {
    this.#send(typeof input === 'string' ? new TextEncoder().encode(input) : input);
  }

  /**
   * Calls `listener` with all further output. A promise it returns holds the guest's next output back.
   * @returns a function that ends it
   */
  onData(listener: ConsoleListener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /**
   * The further output as a stream, which ends with the machine. One that is not read holds the guest back once its
   * buffer is full.
   */
  get readable(): Readable {
    const waiting = new Set<() => void>();
    const goOn = () => {
      for (const resolve of waiting) resolve();
      waiting.clear();
    };
    const stream = new Readable({
      read: goOn,
      destroy(error, done) {
        stop();
        goOn();
        done(error);
      },
    });
    const stopListening = this.onData((bytes) => {
      if (stream.push(bytes) || this.#finishing) return;
      return new Promise<void>((resolve) => waiting.add(resolve));
    });
    const ending = { finish: goOn, end: () => stream.push(null) };
    const stop = () => {
      stopListening();
      this.#endings.delete(ending);
    };
    this.#endings.add(ending);
    if (this.#ended !== undefined) stream.push(null);
    return stream;
  }
  readonly #endings = new Set<{ finish(): void; end(): void }>();
  #finishing = false;

  /**
   * Waits until the output matches; what came before the match's end is then consumed.
   * @returns the match
   * @throws TSV_E_CONSOLE_TIMEOUT with the last lines of output; also when the machine ends first
   */
  expect(pattern: RegExp, { timeout = 30_000 }: ExpectOptions = {}): Promise<RegExpExecArray> {
    return new Promise((resolve, reject) => {
      const waiter: Waiter = { pattern, resolve, reject, timer: undefined };
      if (timeout > 0) {
        waiter.timer = setTimeout(() => {
          this.#waiters.splice(this.#waiters.indexOf(waiter), 1);
          reject(this.#mismatch(pattern, `within ${timeout} ms`));
        }, timeout);
      }
      this.#waiters.push(waiter);
      this.#match();
      if (this.#ended !== undefined) this.#rejectAll();
    });
  }

  /** Output that no `expect` has consumed yet (at most the last mebibyte). */
  get pending(): string {
    return this.#text;
  }

  /** The machine's side: output of the guest. */
  receive(bytes: Uint8Array): void | Promise<void> {
    const waits = [...this.#listeners]
      .map((listener) => listener(bytes))
      .filter((wait) => wait instanceof Promise);
    this.#text += this.#decoder.decode(bytes, { stream: true });
    if (this.#text.length > HISTORY) this.#text = this.#text.slice(-HISTORY / 2);
    this.#match();
    if (waits.length > 0) return Promise.all(waits).then(() => {});
  }

  /** The machine's side: the guest has stopped; what it has put out is little and not held back any more. */
  finish(): void {
    this.#finishing = true;
    for (const ending of this.#endings) ending.finish();
  }

  /** The machine's side: there will be no more output. */
  end(why: string): void {
    this.#ended = why;
    for (const ending of this.#endings) ending.end();
    this.#rejectAll();
  }

  #match(): void {
    // In order: the output belongs to the oldest expectation first.
    while (this.#waiters.length > 0) {
      const waiter = this.#waiters[0];
      waiter.pattern.lastIndex = 0;
      const match = waiter.pattern.exec(this.#text);
      if (match === null) return;
      this.#text = this.#text.slice(match.index + match[0].length);
      this.#waiters.shift();
      clearTimeout(waiter.timer);
      waiter.resolve(match);
    }
  }

  #rejectAll(): void {
    for (const waiter of this.#waiters.splice(0)) {
      clearTimeout(waiter.timer);
      waiter.reject(this.#mismatch(waiter.pattern, `before the machine ended (${this.#ended})`));
    }
  }

  #mismatch(pattern: RegExp, when: string): TsvError {
    const tail = this.#text.split('\n').slice(-8).join('\n');
    return new TsvError(
      'TSV_E_CONSOLE_TIMEOUT',
      `The console did not show ${pattern} ${when}. Last output:\n${tail}`,
      {
        hint: 'Check the pattern against the output, or give it more time.',
      },
    );
  }
}
