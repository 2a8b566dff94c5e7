/**
 * Writes to a file descriptor without ever blocking the event loop. Node's own `process.stdout` is synchronous on
 * pipes and terminals: with a reader that has stopped (Ctrl-S, a pager) neither signals nor time limits would work.
 */
import { closeSync, fstatSync, constants as O, openSync, write } from 'node:fs';
import { isatty } from 'node:tty';

/** Backlog from which `write` asks its caller to wait, bytes. */
const HIGH_WATER = 64 * 1024;
/** How long to wait before a descriptor that takes no more is tried again, ms. */
const RETRY_DELAY = 2;

/**
 * The same pipe or terminal with an open file of its own, in non-blocking mode: a write that waits for its reader in
 * Node's thread pool would keep the process from ending. The mode of the descriptor itself is shared with whoever
 * started this process and stays as it is. Other kinds of files do not block for long and are used as they are.
 */
function nonBlocking(fd: number): number | undefined {
  try {
    if (!isatty(fd) && !fstatSync(fd).isFIFO()) return undefined;
    return openSync(`/proc/self/fd/${fd}`, O.O_WRONLY | O.O_NONBLOCK | O.O_NOCTTY);
  } catch {
    return undefined;
  }
}

/** An ordered queue of bytes in front of a descriptor, which stays the caller's. */
export class FdWriter {
  readonly #fd: number;
  readonly #ownFd: number | undefined;
  readonly #onError: (error: NodeJS.ErrnoException) => void;
  #queue: Uint8Array[] = [];
  #backlog = 0;
  #writing = false;
  #failed = false;
  #patient = true;
  #room: (() => void)[] = [];
  #idle: (() => void)[] = [];

  /** @param onError called once; everything written later is dropped */
  constructor(fd: number, onError: (error: NodeJS.ErrnoException) => void) {
    this.#ownFd = nonBlocking(fd);
    this.#fd = this.#ownFd ?? fd;
    this.#onError = onError;
  }

  /** True while bytes are on their way; ending the process would then wait for the descriptor's reader. */
  get busy(): boolean {
    return this.#writing;
  }

  /**
   * Appends bytes; the array must not change afterwards.
   * @returns a promise when the reader is behind: whoever produces the bytes waits for it
   */
  write(bytes: Uint8Array): void | Promise<void> {
    if (this.#failed || bytes.length === 0) return;
    this.#queue.push(bytes);
    this.#backlog += bytes.length;
    if (!this.#writing) this.#next();
    if (this.#backlog < HIGH_WATER || !this.#patient) return;
    return new Promise((resolve) => this.#room.push(resolve));
  }

  /** Resolves when everything has been written, or dropped after an error. */
  flush(): Promise<void> {
    if (!this.#writing) return Promise.resolve();
    return new Promise((resolve) => this.#idle.push(resolve));
  }

  /** From now on `write` asks nobody to wait: the end has come, and must not depend on the reader. */
  hurry(): void {
    this.#patient = false;
    this.#makeRoom();
  }

  /** Drops what has not been written. */
  close(): void {
    this.#failed = true;
    this.#queue = [];
    if (this.#ownFd !== undefined && !this.#writing) closeSync(this.#ownFd);
  }

  #next(): void {
    if (this.#queue.length > 1) this.#queue = [Buffer.concat(this.#queue)];
    const bytes = this.#queue.shift();
    this.#writing = bytes !== undefined;
    if (bytes !== undefined) this.#put(bytes);
    else for (const resolve of this.#idle.splice(0)) resolve();
  }

  #put(bytes: Uint8Array): void {
    write(this.#fd, bytes, (error, written) => {
      if (error?.code === 'EAGAIN' && !this.#failed) {
        setTimeout(() => this.#put(bytes), RETRY_DELAY);
      } else if (error !== null) {
        this.#fail(error);
      } else {
        this.#backlog -= written;
        if (this.#backlog < HIGH_WATER) this.#makeRoom();
        if (written < bytes.length) this.#put(bytes.subarray(written));
        else this.#next();
      }
    });
  }

  #fail(error: NodeJS.ErrnoException): void {
    const known = this.#failed;
    this.#failed = true;
    this.#queue = [];
    this.#backlog = 0;
    this.#makeRoom();
    this.#next();
    if (!known) this.#onError(error);
  }

  #makeRoom(): void {
    for (const resolve of this.#room.splice(0)) resolve();
  }
}
