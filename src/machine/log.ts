/** The library's own logger: warnings and errors to stderr, unless the caller brings another. */
import pino, { type Logger } from 'pino';

let logger: Logger | undefined;

/** One logger for all machines that were given none; its level is `TSVISOR_LOG` or "warn". */
export function defaultLog(): Logger {
  logger ??= pino(
    { name: 'tsvisor', level: process.env.TSVISOR_LOG ?? 'warn' },
    pino.destination({ fd: 2, sync: true }),
  );
  return logger;
}

/** Messages a device may log in a second; a guest can cause as many as it makes exits. */
const LOG_RATE = 10;

/** Keeps what a guest causes to be logged from flooding the host. */
export class LogLimit {
  #second = Number.NEGATIVE_INFINITY;
  #admitted = 0;
  #suppressed = 0;

  /** @returns undefined when the message is too many; otherwise how many were since the last one that was not */
  admit(now = performance.now()): number | undefined {
    if (now - this.#second >= 1000) {
      this.#second = now;
      this.#admitted = 0;
    }
    if (this.#admitted === LOG_RATE) {
      this.#suppressed++;
      return undefined;
    }
    this.#admitted++;
    const suppressed = this.#suppressed;
    this.#suppressed = 0;
    return suppressed;
  }
}
