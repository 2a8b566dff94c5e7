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
