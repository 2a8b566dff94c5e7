/** Operations that take a while: progress on stderr, and Ctrl-C ends them cleanly. */
import { Progress } from './progress.ts';
import { dieOf, type EndSignal, watchSignals } from './signals.ts';

/**
 * Runs an operation that shows progress and can be interrupted. After Ctrl-C the process ends by that signal, as soon as
 * the operation has stopped what it started and removed what was unfinished.
 */
export async function longOperation<T>(
  action: (progress: Progress, signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const progress = new Progress();
  const abort = new AbortController();
  let interrupted: EndSignal | undefined;
  const unwatch = watchSignals((signal) => {
    interrupted = signal;
    abort.abort();
  });
  try {
    return await action(progress, abort.signal);
  } catch (error) {
    if (interrupted !== undefined) {
      progress.clear();
      dieOf(interrupted);
    }
    throw error;
  } finally {
    progress.clear();
    unwatch();
  }
}
