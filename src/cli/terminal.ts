/** The terminal's raw mode, and its way back whatever happens to the process. */

import { writeSync } from 'node:fs';
import type { ReadStream } from 'node:tty';

/**
 * What a guest may have left switched on: attributes, a hidden cursor, bracketed paste, application cursor keys and
 * keypad (ECMA-48 SGR; DEC private modes 25, 2004, 1; DECKPNM).
 */
const RESET_SEQUENCE = '\x1b[0m\x1b[?25h\x1b[?2004l\x1b[?1l\x1b>';

let raw: ReadStream | undefined;

/** Leaves raw mode, if it is on. Called at every end of the process; safe at any time. */
export function restoreTerminal(): void {
  const stdin = raw;
  raw = undefined;
  process.off('exit', restoreTerminal);
  process.off('SIGCONT', reenter);
  process.off('SIGTSTP', suspend);
  if (stdin === undefined) return;
  try {
    stdin.setRawMode(false);
    if (process.stdout.isTTY) writeSync(1, RESET_SEQUENCE);
  } catch {
    // The terminal is gone (a closed window, a dropped connection): there is nothing left to restore.
  }
}

/**
 * Puts the terminal in raw mode: every key goes to the guest, Ctrl-C too.
 * @param stdin standard input, which must be a terminal
 */
export function enterRawMode(stdin: ReadStream): void {
  stdin.setRawMode(true);
  raw = stdin;
  process.on('exit', restoreTerminal);
  process.on('SIGCONT', reenter);
  process.on('SIGTSTP', suspend);
}

/** A shell sets its own modes while a job is stopped, and some do not set back ours. */
function reenter(): void {
  raw?.setRawMode(false);
  raw?.setRawMode(true);
}

/** Stopped from outside (`kill -TSTP`): the shell must get a usable terminal meanwhile. */
function suspend(): void {
  raw?.setRawMode(false);
  process.kill(process.pid, 'SIGSTOP');
}
