/**
 * Time as devices see it.
 *
 * Guest time is nanoseconds since the machine was started, as a number (exact below 2^53 ns, 104 days; after
 * that to 2 ns). It stands still while the machine is paused and can run slower than the host's.
 */
export interface Clock {
  /** Guest time in nanoseconds; never goes backwards. */
  now(): number;
  /** Wall-clock time the guest's RTC should show, milliseconds since 1970-01-01 UTC. */
  wall(): number;
  /**
   * Calls `callback` once when guest time reaches `deadline`.
   * @param deadline guest time, ns; a deadline in the past fires as soon as possible, never synchronously
   */
  setTimer(deadline: number, callback: () => void): Timer;
}

/** A pending timer. */
export interface Timer {
  /** Forgets the timer; harmless after it has fired. */
  cancel(): void;
}
