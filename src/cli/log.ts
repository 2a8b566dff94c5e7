/** The command line's logger: what the machine has to say, as plain lines on stderr. */
import pino, { type Logger } from 'pino';

/** Log levels, as pino names them. */
export const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'silent'] as const;

/** Level of what is not a TsvError: `TSVISOR_LOG`, or warnings and errors. */
export function defaultLevel(): string {
  const wanted = process.env.TSVISOR_LOG;
  return LOG_LEVELS.find((level) => level === wanted) ?? 'warn';
}

/** A logger that writes `tsvisor: warn: message`. */
export function cliLog(level = defaultLevel()): Logger {
  return pino(
    { level, base: undefined },
    { write: (line: string) => process.stderr.write(formatLine(line)) },
  );
}

/** One pino line as text; fields other than pino's own follow the message. */
export function formatLine(line: string): string {
  const { level, time: _, msg = '', ...fields } = JSON.parse(line) as Record<string, unknown>;
  const label = pino.levels.labels[Number(level)] ?? 'log';
  const extra = Object.entries(fields).map(([key, value]) => ` ${key}=${JSON.stringify(value)}`);
  return `tsvisor: ${label}: ${msg}${extra.join('')}\n`;
}
