/** Host time for machines that run in the test's own thread. */
import type { HostTime } from '../../../src/devices/guest-clock.ts';

/** Host time whose timer the run loop fires between two runs of the CPU: the event loop's would come too late. */
export class LoopTime implements HostTime {
  #callback: (() => void) | undefined;
  /** When the timer is due, in the time of {@link monotonic}. */
  due = Number.POSITIVE_INFINITY;

  monotonic = () => performance.now();
  wall = () => Date.now();

  schedule(delay: number, callback: () => void): () => void {
    this.due = performance.now() + delay;
    this.#callback = callback;
    return () => this.#take();
  }

  /** Calls back if it is time; at most one callback. */
  fire(): void {
    if (performance.now() >= this.due) this.#take()?.();
  }

  #take(): (() => void) | undefined {
    const callback = this.#callback;
    this.#callback = undefined;
    this.due = Number.POSITIVE_INFINITY;
    return callback;
  }
}
