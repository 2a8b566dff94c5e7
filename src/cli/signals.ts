/** Ctrl-C and its like: the first asks for a clean end, the second ends the process at once. */
import { constants } from 'node:os';
import { restoreTerminal } from './terminal.ts';

/** Signals that ask a program to end. */
export type EndSignal = 'SIGINT' | 'SIGTERM' | 'SIGHUP';

const END_SIGNALS: readonly EndSignal[] = ['SIGINT', 'SIGTERM', 'SIGHUP'];

/** The status a shell reports for a program that a signal ended. */
export function signalStatus(signal: NodeJS.Signals): number {
  return 128 + constants.signals[signal];
}

/**
 * Watches for the signals until the returned function is called.
 * @param onSignal called for the first; a second ends the process at once, with the terminal restored
 */
export function watchSignals(onSignal: (signal: EndSignal) => void): () => void {
  let seen = false;
  const listener = (signal: NodeJS.Signals): void => {
    if (seen) dieOf(signal as EndSignal);
    seen = true;
    onSignal(signal as EndSignal);
  };
  for (const signal of END_SIGNALS) process.on(signal, listener);
  return () => {
    for (const signal of END_SIGNALS) process.off(signal, listener);
  };
}

/**
 * Ends the process by the signal itself, so that whoever started it sees what happened; this also works while a write
 * to standard output is stuck, when `process.exit` would wait for it.
 */
export function dieOf(signal: EndSignal): never {
  restoreTerminal();
  process.removeAllListeners(signal);
  process.kill(process.pid, signal);
  // Only the first process of a container gets here: signals without a handler do not end it.
  process.exit(signalStatus(signal));
}
