/**
 * Guest time in shared memory: the machine's clock says how guest time follows the host's, and every thread can then read
 * guest time without asking. Written only while no vCPU runs, so readers need no lock.
 *
 * A virtual clock has no such relation: its machine's only vCPU moves guest time on by what it executes, and stops for the
 * devices' timers.
 */

/** Fields, 64-bit floats. */
const GUEST = 0;
const HOST = 1;
const SCALE = 2;
const WALL = 3;
const VIRTUAL = 4;
const DEADLINE = 5;
const FIELDS = 6;
/** SCALE of a clock that stands, or that its vCPU moves on. */
const STANDS = 0;

/** Monotonic host time in nanoseconds, the same on all threads of the process. */
export function hostNanoseconds(): number {
  const [seconds, nanoseconds] = process.hrtime();
  return seconds * 1e9 + nanoseconds;
}

/** One machine's guest time. */
export class SharedTime {
  readonly shared: SharedArrayBuffer;
  readonly #fields: Float64Array;
  readonly #host: () => number;

  /**
   * @param shared of another thread's; without it, new time that stands at 0
   * @param host monotonic host time in nanoseconds
   */
  constructor(shared?: SharedArrayBuffer, host = hostNanoseconds) {
    this.shared = shared ?? new SharedArrayBuffer(FIELDS * 8);
    this.#host = host;
    this.#fields = new Float64Array(this.shared);
    if (shared === undefined) this.deadline = Number.POSITIVE_INFINITY;
  }

  /** Whether guest time is moved on by {@link advance} alone. */
  get isVirtual(): boolean {
    return this.#fields[VIRTUAL] !== 0;
  }
  set isVirtual(virtual: boolean) {
    this.#fields[VIRTUAL] = virtual ? 1 : 0;
    this.deadline = Number.POSITIVE_INFINITY;
  }

  /** Virtual clock: guest time at which a device's timer is due, in whole nanoseconds; Infinity for none. */
  get deadline(): number {
    return this.#fields[DEADLINE];
  }
  set deadline(deadline: number) {
    this.#fields[DEADLINE] = Math.ceil(deadline);
  }

  /** Virtual clock: guest time is now `guest`; it never goes back. */
  advance(guest: number): void {
    if (guest > this.#fields[GUEST]) this.#fields[GUEST] = guest;
  }

  /** Wall-clock time at guest time 0, ms since 1970-01-01 UTC. */
  get wallBase(): number {
    const base = this.#fields[WALL];
    return base === 0 ? Date.now() - this.now() / 1e6 : base;
  }
  /** 0: the guest sees the host's date. */
  set wallBase(base: number) {
    this.#fields[WALL] = base;
  }

  /** Guest time, nanoseconds since the machine's start. */
  now(): number {
    const fields = this.#fields;
    const scale = fields[SCALE];
    if (scale === STANDS) return fields[GUEST];
    return Math.max(fields[GUEST], Math.floor(fields[GUEST] + (this.#host() - fields[HOST]) / scale));
  }

  /** Host milliseconds from now to a guest time; 0 when it has come, Infinity while guest time stands still. */
  until(guest: number): number {
    const left = guest - this.now();
    if (left <= 0) return 0;
    const scale = this.#fields[SCALE];
    return scale === STANDS ? Number.POSITIVE_INFINITY : (left * scale) / 1e6;
  }

  /** Guest time is `guest` now, in nanoseconds, and runs `scale` times slower than host time. */
  run(guest: number, scale: number): void {
    const fields = this.#fields;
    fields[GUEST] = guest;
    fields[HOST] = this.#host();
    fields[SCALE] = this.isVirtual ? STANDS : scale;
  }

  /** Guest time is `guest` and stands still. */
  stand(guest: number): void {
    this.#fields[GUEST] = guest;
    this.#fields[SCALE] = STANDS;
  }
}
