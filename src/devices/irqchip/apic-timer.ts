/**
 * The local APIC's timer (SDM vol. 3, 11.5.4): one-shot and periodic by a count at a divided bus clock, or by a TSC
 * deadline.
 *
 * It keeps no host timer. The vCPU's run loop asks for {@link ApicTimer.deadline} to know how long it may run or sleep,
 * and calls {@link ApicTimer.expire} when that time may have come. Periods that have passed unseen become one
 * interrupt, as they would in the one request bit of the vector, and the next is due on the original schedule.
 */

import {
  APIC_LVT_TIMER_MASK,
  APIC_LVT_TIMER_ONESHOT,
  APIC_LVT_TIMER_PERIODIC,
  APIC_LVT_TIMER_TSCDEADLINE,
} from './apic-registers.ts';

/** The vCPU's time stamp counter, as the timer needs it. */
export interface TscClock {
  /**
   * Guest time in nanoseconds at which the TSC reaches a value; in the past for one that it has reached, and the result
   * need not be exact then.
   */
  nsAt(tsc: bigint): number;
}

/** What {@link ApicTimer} is built from. */
export interface ApicTimerOptions {
  /** Guest time, nanoseconds. */
  now(): number;
  tsc: TscClock;
}

/** Largest count. */
const MAX_COUNT = 0xffff_ffff;
/** Bits of the divide configuration register; bit 2 is reserved. */
const TDCR_BITS = 0xb;
const MAX_U64 = 2n ** 64n - 1n;

/** Divisor that the divide configuration register selects (SDM vol. 3, figure 11-10). */
export function timerDivisor(tdcr: number): number {
  const select = (tdcr & 3) | ((tdcr & 8) >> 1);
  return 1 << ((select + 1) & 7);
}

/** The timer of one local APIC. */
export class ApicTimer {
  readonly #now: () => number;
  readonly #tsc: TscClock;
  #mode = APIC_LVT_TIMER_ONESHOT;
  #tdcr = 0;
  #initialCount = 0;
  #tscDeadline = 0n;
  /** Guest time of the next expiry; Infinity when none is due. */
  #deadline = Number.POSITIVE_INFINITY;

  constructor(options: ApicTimerOptions) {
    this.#now = () => options.now();
    this.#tsc = options.tsc;
  }

  /** Guest time of the next expiry in whole nanoseconds, or Infinity. */
  get deadline(): number {
    // A timer that was divided anew while it ran may be due between two.
    return Math.ceil(this.#deadline);
  }

  /** Takes the mode from the timer's LVT entry. A change into or out of TSC-deadline mode disarms the timer. */
  setMode(lvtt: number): void {
    const wasDeadline = this.#isTscDeadline;
    this.#mode = lvtt & APIC_LVT_TIMER_MASK;
    if (wasDeadline !== this.#isTscDeadline) this.disarm();
  }

  /** Initial count; writing it starts the timer, zero stops it, and in TSC-deadline mode it has no effect. */
  get initialCount(): number {
    return this.#initialCount;
  }
  set initialCount(count: number) {
    if (this.#isTscDeadline) return;
    this.#initialCount = count;
    this.#start(count);
  }

  /** Counts left to the next expiry. */
  get currentCount(): number {
    if (this.#isTscDeadline || this.#deadline === Number.POSITIVE_INFINITY) return 0;
    const left = this.#deadline - this.#now();
    if (left > 0) return Math.min(Math.ceil(left / this.#nsPerCount), MAX_COUNT);
    if (this.#mode !== APIC_LVT_TIMER_PERIODIC) return 0;
    // Periods have passed that nobody has looked at yet.
    const period = this.#initialCount * this.#nsPerCount;
    return Math.min(Math.ceil((period - (-left % period)) / this.#nsPerCount), this.#initialCount);
  }

  /** Divide configuration register; the counts that are left stay, and pass at the new rate. */
  get divideConfiguration(): number {
    return this.#tdcr;
  }
  set divideConfiguration(tdcr: number) {
    const before = this.#nsPerCount;
    this.#tdcr = tdcr & TDCR_BITS;
    if (this.#isTscDeadline || this.#deadline === Number.POSITIVE_INFINITY) return;
    const now = this.#now();
    this.#deadline = now + ((this.#deadline - now) * this.#nsPerCount) / before;
  }

  /** IA32_TSC_DEADLINE: zero when not armed; writes outside TSC-deadline mode have no effect. */
  get tscDeadline(): bigint {
    return this.#tscDeadline;
  }
  set tscDeadline(deadline: bigint) {
    if (!this.#isTscDeadline) return;
    this.#tscDeadline = deadline;
    this.#armDeadline();
  }

  /** The relation of TSC and guest time has changed: works the deadline out anew. */
  retime(): void {
    if (this.#isTscDeadline) this.#armDeadline();
  }

  /**
   * Carries out an expiry whose time has come.
   * @returns true when there was one
   */
  expire(): boolean {
    const now = this.#now();
    if (now < this.#deadline) return false;
    if (this.#mode === APIC_LVT_TIMER_PERIODIC) {
      const period = this.#initialCount * this.#nsPerCount;
      this.#deadline += (Math.floor((now - this.#deadline) / period) + 1) * period;
      // Rounding of large times must not leave it in the past.
      if (this.#deadline <= now) this.#deadline = now + period;
    } else {
      this.#deadline = Number.POSITIVE_INFINITY;
      this.#tscDeadline = 0n;
    }
    return true;
  }

  /** Stops the timer and forgets count and deadline. */
  disarm(): void {
    this.#initialCount = 0;
    this.#tscDeadline = 0n;
    this.#deadline = Number.POSITIVE_INFINITY;
  }

  /** Loads the registers of struct kvm_lapic_state; `left` is the current count. Mode bits must be set before. */
  load(initialCount: number, left: number, tdcr: number): void {
    this.#deadline = Number.POSITIVE_INFINITY;
    this.divideConfiguration = tdcr;
    this.#initialCount = this.#isTscDeadline ? 0 : initialCount;
    if (this.#isTscDeadline) this.#armDeadline();
    else if (initialCount !== 0) this.#start(Math.min(left, initialCount));
  }

  get #isTscDeadline(): boolean {
    return this.#mode === APIC_LVT_TIMER_TSCDEADLINE;
  }

  /** The undivided count passes at 1 GHz, as KVM's. */
  get #nsPerCount(): number {
    return timerDivisor(this.#tdcr);
  }

  #start(count: number): void {
    if (this.#initialCount === 0) this.#deadline = Number.POSITIVE_INFINITY;
    else if (count > 0) this.#deadline = this.#now() + count * this.#nsPerCount;
    else if (this.#mode === APIC_LVT_TIMER_PERIODIC) this.#start(this.#initialCount);
    else this.#deadline = Number.POSITIVE_INFINITY;
  }

  #armDeadline(): void {
    const tsc = this.#tscDeadline;
    if (tsc === 0n) this.#deadline = Number.POSITIVE_INFINITY;
    // All ones is what software writes for "never", and no counter gets there.
    else if (tsc === MAX_U64) this.#deadline = Number.POSITIVE_INFINITY;
    else this.#deadline = this.#tsc.nsAt(tsc);
  }
}
