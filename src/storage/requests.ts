/** The requests of a disk that are under way: it is closed when they have ended. */
import { closedError } from './errors.ts';

/** Counts requests. */
export class Requests {
  readonly #path: string;
  #active = 0;
  #ended = false;
  #idle: (() => void) | undefined;

  /** @param path for messages */
  constructor(path: string) {
    this.#path = path;
  }

  /** Whether the disk takes requests. */
  get isOpen(): boolean {
    return !this.#ended;
  }

  /** Runs a request. @throws TSV_E_DISK_IO when the disk has been closed */
  async run<T>(request: () => Promise<T>): Promise<T> {
    if (this.#ended) throw closedError(this.#path);
    this.#active++;
    try {
      return await request();
    } finally {
      if (--this.#active === 0) this.#idle?.();
    }
  }

  /** Refuses further requests, and waits for those under way. */
  async end(): Promise<void> {
    this.#ended = true;
    if (this.#active > 0) await new Promise<void>((idle) => (this.#idle = idle));
  }
}
