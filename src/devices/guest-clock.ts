/**
 * Guest time from the host's monotonic clock.
 *
 * Precision. `now()` has the host clock's resolution (well below a microsecond). Timers sit on one host timer for the
 * earliest deadline, and the event loop counts whole milliseconds: a timer never fires early, and fires up to about
 * 1 ms of host time late, plus what the event loop is busy. With a time scale of N that is 1/N ms of guest time.
 * Shorter waits would have to spin, which on a small host takes the CPU from the guest that is waited for.
 */
import { TsvError } from '../errors.ts';
import type { Clock, Timer } from './clock.ts';
import type { DeviceState } from './device.ts';
import { SavedState } from './saved-state.ts';
import { hostNanoseconds, SharedTime } from './shared-time.ts';

/** Where host time comes from; a test can supply its own. */
export interface HostTime {
  /** Monotonic time, ms, fractions included. */
  monotonic(): number;
  /** Wall-clock time, ms since 1970-01-01 UTC. */
  wall(): number;
  /**
   * Calls back once after `delay` ms (0: in the event loop's next turn); waiting must not keep the process alive.
   * @returns forgets it
   */
  schedule(delay: number, callback: () => void): () => void;
}

/** Options of {@link GuestClock}. */
export interface GuestClockOptions {
  /** Guest time runs this many times slower than the host's; at least 1, may be fractional. Default 1. */
  timeScale?: number;
  /**
   * Wall-clock time at guest time 0, ms since 1970-01-01 UTC; the wall clock then only follows guest time. When
   * absent the guest sees the host's date, from the start of the machine on in guest time if that is scaled.
   */
  wallBase?: number;
  /**
   * Guest time is moved on by the vCPU ({@link SharedTime.advance}), which calls {@link GuestClock.tick} when a timer is
   * due. The wall clock then starts at `wallBase`, or at {@link VIRTUAL_WALL_BASE}.
   */
  virtual?: boolean;
  /** Default: the process's own clocks. */
  host?: HostTime;
}

/** Date of guest time 0 of a virtual clock: the same in every run. */
export const VIRTUAL_WALL_BASE = Date.UTC(2026, 0, 1);

const NS_PER_MS = 1e6;
/** setTimeout's longest delay, ms. */
const MAX_DELAY = 0x7fffffff;

interface Pending extends Timer {
  readonly deadline: number;
  readonly callback: () => void;
  cancelled: boolean;
}

/** A {@link Clock} that can be started, paused and saved. Created stopped, at guest time 0. */
export class GuestClock implements Clock {
  /** Host time per guest time. */
  readonly timeScale: number;
  /** The same time for other threads; they read it by the process's own clocks. */
  readonly time: SharedTime;
  readonly #host: HostTime;
  #wallBase: number | undefined;
  #last = 0;
  #running = false;
  /** By ascending deadline, equal ones in the order they were set. */
  readonly #timers: Pending[] = [];
  #scheduled: { readonly deadline: number; readonly cancel: () => void } | undefined;

  /** @throws TSV_E_CONFIG when the time scale is below 1 or the wall base is not a date */
  constructor(options: GuestClockOptions = {}) {
    this.timeScale = options.timeScale ?? 1;
    if (!Number.isFinite(this.timeScale) || this.timeScale < 1) {
      throw new TsvError('TSV_E_CONFIG', `The time scale ${this.timeScale} is not a number of at least 1.`, {
        hint: 'Give how many times slower than the host the guest should run, for example 20.',
      });
    }
    if (options.wallBase !== undefined && Number.isNaN(new Date(options.wallBase).getTime())) {
      throw new TsvError('TSV_E_CONFIG', `The wall-clock base ${options.wallBase} is not a date.`, {
        hint: 'Give milliseconds since 1970-01-01 UTC.',
      });
    }
    const host = options.host ?? processTime;
    this.#host = host;
    this.time = new SharedTime(undefined, () => host.monotonic() * NS_PER_MS);
    this.time.isVirtual = options.virtual ?? false;
    this.#setWallBase(options.wallBase ?? (options.virtual ? VIRTUAL_WALL_BASE : undefined));
  }

  /** True between {@link start} or {@link resume} and {@link pause}. */
  get running(): boolean {
    return this.#running;
  }

  /** Lets guest time run; nothing happens when it already does. */
  start(): void {
    if (this.#running) return;
    this.#running = true;
    this.time.run(this.now(), this.timeScale);
    if (this.#wallBase === undefined && this.timeScale !== 1) {
      // The host's seconds would pass faster than the guest can count them.
      this.#setWallBase(this.#host.wall() - this.now() / NS_PER_MS);
    }
    this.#schedule();
  }

  /** Lets guest time run on after {@link pause}. */
  resume(): void {
    this.start();
  }

  /** Freezes guest time; timers wait. */
  pause(): void {
    if (!this.#running) return;
    this.#running = false;
    this.time.stand(this.now());
    this.#unschedule();
  }

  /** Virtual clock: calls the timers that are due. */
  tick(): void {
    if (this.#running) this.#fire();
  }

  now(): number {
    this.#last = Math.max(this.#last, this.time.now());
    return this.#last;
  }

  wall(): number {
    if (this.#wallBase === undefined) return this.#host.wall();
    return this.#wallBase + this.now() / NS_PER_MS;
  }

  setTimer(deadline: number, callback: () => void): Timer {
    const pending: Pending = {
      // Not a number is what no device should compute; firing at once makes it visible.
      deadline: Number.isNaN(deadline) ? 0 : deadline,
      callback,
      cancelled: false,
      cancel: () => {
        if (pending.cancelled) return;
        pending.cancelled = true;
        const index = this.#timers.indexOf(pending);
        if (index < 0) return;
        this.#timers.splice(index, 1);
        this.#schedule();
      },
    };
    this.#insert(pending);
    this.#schedule();
    return pending;
  }

  /** Guest time and the wall-clock base; devices save and set their own timers. */
  save(): DeviceState {
    return { now: this.now(), wallBase: this.#wallBase ?? null };
  }

  /** Continues from a saved guest time. @throws TSV_E_STATE */
  restore(state: DeviceState): void {
    const saved = new SavedState('clock', state);
    const now = saved.int('now', Number.MAX_SAFE_INTEGER);
    const wallBase = saved.has('wallBase') ? saved.finite('wallBase') : undefined;
    this.#setWallBase(wallBase);
    this.#last = now;
    if (this.#running) this.time.run(now, this.timeScale);
    else this.time.stand(now);
    this.#unschedule();
    this.#schedule();
  }

  /** Forgets all timers and stops. */
  close(): void {
    this.pause();
    this.#timers.length = 0;
  }

  #setWallBase(base: number | undefined): void {
    this.#wallBase = base;
    this.time.wallBase = base ?? 0;
  }

  #insert(timer: Pending): void {
    let index = this.#timers.length;
    while (index > 0 && this.#timers[index - 1].deadline > timer.deadline) index--;
    this.#timers.splice(index, 0, timer);
  }

  /** Keeps the host timer on the earliest deadline. */
  #schedule(): void {
    const next = this.#timers[0];
    if (!this.#running || next === undefined) {
      this.#unschedule();
      return;
    }
    if (this.#scheduled?.deadline === next.deadline) return;
    this.#unschedule();
    if (this.time.isVirtual) {
      this.time.deadline = next.deadline;
      this.#scheduled = {
        deadline: next.deadline,
        cancel: () => {
          this.time.deadline = Number.POSITIVE_INFINITY;
        },
      };
      return;
    }
    const wait = ((next.deadline - this.now()) * this.timeScale) / NS_PER_MS;
    const delay = wait > 0 ? Math.min(Math.ceil(wait), MAX_DELAY) : 0;
    this.#scheduled = { deadline: next.deadline, cancel: this.#host.schedule(delay, () => this.#fire()) };
  }

  #unschedule(): void {
    this.#scheduled?.cancel();
    this.#scheduled = undefined;
  }

  /** Runs what is due now. Timers set meanwhile wait for the next turn, so that devices cannot starve the loop. */
  #fire(): void {
    if (this.time.isVirtual) this.#unschedule();
    this.#scheduled = undefined;
    const now = this.now();
    const firstLater = this.#timers.findIndex((timer) => timer.deadline > now);
    const due = this.#timers.splice(0, firstLater < 0 ? this.#timers.length : firstLater);
    try {
      while (due.length > 0 && this.#running) {
        const timer = due.shift()!;
        if (timer.cancelled) continue;
        timer.cancelled = true;
        timer.callback();
      }
    } finally {
      // Left over when a callback paused the clock or threw.
      for (const timer of due) if (!timer.cancelled) this.#insert(timer);
      this.#schedule();
    }
  }
}

const processTime: HostTime = {
  monotonic: () => hostNanoseconds() / NS_PER_MS,
  wall: () => Date.now(),
  schedule(delay, callback) {
    if (delay <= 0) {
      // Not unref'ed: the event loop may sleep before it runs an immediate that does not keep it awake.
      const immediate = setImmediate(callback);
      return () => clearImmediate(immediate);
    }
    const timeout = setTimeout(callback, delay).unref();
    return () => clearTimeout(timeout);
  },
};
