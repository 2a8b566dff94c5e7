/**
 * One counter of the 8254 programmable interval timer (Intel 8254 data sheet; "mode definitions" below is its section
 * of that name).
 *
 * Nothing runs: counts and outputs are worked out from the number of clock ticks since the count was loaded. Time is
 * given to every method as `tick`, the whole ticks of the 1.193182 MHz clock since guest time 0. Loading takes no
 * clock of its own, so outputs change one tick earlier than the data sheet draws them.
 */
import type { DeviceState } from '../device.ts';
import type { SavedState } from '../saved-state.ts';

/** Access modes of the control word, bits 4-5. */
export const ACCESS_LOW = 1;
export const ACCESS_HIGH = 2;
export const ACCESS_BOTH = 3;

const INTERRUPT_ON_TERMINAL_COUNT = 0;
const ONE_SHOT = 1;
const RATE_GENERATOR = 2;
const SQUARE_WAVE = 3;
const HARDWARE_STROBE = 5;

const STATUS_OUT = 0x80;
const STATUS_NULL_COUNT = 0x40;

/** A count of 0 stands for the largest. */
const MAX_BINARY = 0x10000;
const MAX_BCD = 10000;
/** The largest value four digits make when they are not decimal. */
const MAX_RELOAD = 0x10000;

const NONE = -1;

/** A counter with its gate and output. */
export class PitCounter {
  #mode = INTERRUPT_ON_TERMINAL_COUNT;
  #access: number = ACCESS_BOTH;
  #bcd = false;
  #gate: boolean;
  /** The count the counting element was loaded with. */
  #reload = MAX_BINARY;
  /** A complete count has been written since the control word. */
  #loaded = false;
  /** The tick at which the count was loaded; {@link NONE} while modes 1 and 5 wait for their first trigger. */
  #start = NONE;
  /** Ticks counted when the gate stopped the counter, {@link NONE} while it counts. */
  #held = NONE;
  /** A count that waits: for the next trigger in modes 1 and 5, for tick `#nextAt` in modes 2 and 3. */
  #next = NONE;
  #nextAt = NONE;
  /** First byte of a two-byte count. */
  #low = NONE;
  /** The next read of a two-byte count gives the high byte. */
  #highNext = false;
  #latchedCount = NONE;
  #latchedStatus = NONE;

  /** @param gate level of the gate input at power-on */
  constructor(gate: boolean) {
    this.#gate = gate;
  }

  get gate(): boolean {
    return this.#gate;
  }

  /** True for the modes whose output stays low for long: the others idle high. */
  get idlesLow(): boolean {
    return this.#mode === INTERRUPT_ON_TERMINAL_COUNT || this.#mode === ONE_SHOT;
  }

  /** A control word: programs access, mode and BCD, or latches the count when access is 0. */
  control(value: number, tick: number): void {
    const access = (value >> 4) & 3;
    if (access === 0) {
      this.latchCount(tick);
      return;
    }
    const mode = (value >> 1) & 7;
    this.#access = access;
    this.#mode = mode > HARDWARE_STROBE ? mode & 3 : mode; // bit 2 is "don't care" for modes 2 and 3
    this.#bcd = (value & 1) !== 0;
    // The last mode's count is still there to be read, but it must be one this mode can have.
    if (this.#isPeriodic) this.#reload = Math.max(this.#reload, 2);
    this.#loaded = false;
    this.#start = this.#held = this.#next = this.#nextAt = this.#low = NONE;
    this.#latchedCount = this.#latchedStatus = NONE;
    this.#highNext = false;
  }

  /** Read-back command or counter latch; a count already latched stays until it is read. */
  latchCount(tick: number): void {
    if (this.#latchedCount === NONE) this.#latchedCount = this.#count(tick);
  }

  /** Read-back command; like the count, a latched status stays until it is read. */
  latchStatus(tick: number): void {
    if (this.#latchedStatus !== NONE) return;
    const out = this.out(tick);
    const waiting = !this.#loaded || this.#next !== NONE;
    this.#latchedStatus =
      (out ? STATUS_OUT : 0) |
      (waiting ? STATUS_NULL_COUNT : 0) |
      (this.#access << 4) |
      (this.#mode << 1) |
      (this.#bcd ? 1 : 0);
  }

  /** A byte of the count. */
  write(value: number, tick: number): void {
    if (this.#access === ACCESS_LOW) this.#writeCount(value, tick);
    else if (this.#access === ACCESS_HIGH) this.#writeCount(value << 8, tick);
    else if (this.#low === NONE) {
      this.#low = value;
      // The first byte stops mode 0 and sets OUT low (mode definitions, mode 0).
      if (this.#mode === INTERRUPT_ON_TERMINAL_COUNT) this.#loaded = false;
    } else {
      const count = this.#low | (value << 8);
      this.#low = NONE;
      this.#writeCount(count, tick);
    }
  }

  /** A byte of the status or count latched, else of the count as it is. */
  read(tick: number): number {
    if (this.#latchedStatus !== NONE) {
      const status = this.#latchedStatus;
      this.#latchedStatus = NONE;
      return status;
    }
    const count = this.#latchedCount === NONE ? this.#count(tick) : this.#latchedCount;
    const high = this.#access === ACCESS_HIGH || (this.#access === ACCESS_BOTH && this.#highNext);
    const last = this.#access !== ACCESS_BOTH || this.#highNext;
    this.#highNext = this.#access === ACCESS_BOTH && !this.#highNext;
    if (last) this.#latchedCount = NONE;
    return high ? count >> 8 : count & 0xff;
  }

  setGate(level: boolean, tick: number): void {
    if (level === this.#gate) return;
    this.#takeNext(tick);
    const elapsed = this.#elapsed(tick);
    this.#gate = level;
    if (this.#isTriggered) {
      if (level && this.#loaded) this.#trigger(tick);
      return;
    }
    if (!this.#loaded) return;
    if (!level) {
      this.#held = elapsed;
      // What waits for the end of a period that does not end now waits for the trigger.
      this.#nextAt = NONE;
    } else if (this.#isPeriodic) this.#trigger(tick);
    else {
      this.#start = tick - this.#held;
      this.#held = NONE;
    }
  }

  /** Level of OUT. */
  out(tick: number): boolean {
    this.#takeNext(tick);
    if (!this.#loaded || this.#start === NONE) return this.#mode !== INTERRUPT_ON_TERMINAL_COUNT;
    const elapsed = this.#elapsed(tick);
    switch (this.#mode) {
      case INTERRUPT_ON_TERMINAL_COUNT:
      case ONE_SHOT:
        return elapsed >= this.#reload;
      case RATE_GENERATOR:
        return !this.#gate || elapsed % this.#reload !== this.#reload - 1;
      case SQUARE_WAVE:
        return !this.#gate || elapsed % this.#reload < highTicks(this.#reload);
      default:
        return elapsed !== this.#reload;
    }
  }

  /** The first tick after `tick` at which OUT rises, if nothing else happens; Infinity when it does not. */
  nextRise(tick: number): number {
    this.#takeNext(tick);
    if (!this.#loaded || this.#start === NONE || this.#held !== NONE) return Number.POSITIVE_INFINITY;
    const elapsed = this.#elapsed(tick);
    if (this.#isPeriodic) {
      // A new count taken in the high half of a square wave changes the low half that follows.
      if (this.#mode === SQUARE_WAVE && this.#next !== NONE && this.#inHighHalf(elapsed)) {
        return this.#nextAt + this.#next - highTicks(this.#next);
      }
      return this.#periodEnd(elapsed);
    }
    const end = this.idlesLow ? this.#reload : this.#reload + 1;
    return elapsed < end ? this.#start + end : Number.POSITIVE_INFINITY;
  }

  get #isTriggered(): boolean {
    return this.#mode === ONE_SHOT || this.#mode === HARDWARE_STROBE;
  }
  get #isPeriodic(): boolean {
    return this.#mode === RATE_GENERATOR || this.#mode === SQUARE_WAVE;
  }
  #inHighHalf(elapsed: number): boolean {
    return elapsed % this.#reload < highTicks(this.#reload);
  }
  #periodEnd(elapsed: number): number {
    return this.#start + (Math.floor(elapsed / this.#reload) + 1) * this.#reload;
  }

  #elapsed(tick: number): number {
    if (this.#held !== NONE) return this.#held;
    return this.#start === NONE ? 0 : Math.max(0, tick - this.#start);
  }

  /** A gate's rising edge in modes 1, 2, 3 and 5 starts from the count written last. */
  #trigger(tick: number): void {
    if (this.#next !== NONE) this.#reload = this.#next;
    this.#next = this.#nextAt = this.#held = NONE;
    this.#start = tick;
  }

  #writeCount(written: number, tick: number): void {
    const count = this.#toReload(written);
    if (this.#loaded && (this.#isTriggered || this.#isPeriodic)) {
      this.#takeNext(tick);
      this.#next = count;
      if (this.#isPeriodic && this.#gate) {
        const elapsed = this.#elapsed(tick);
        this.#nextAt = this.#periodEnd(elapsed);
        if (this.#mode === SQUARE_WAVE && this.#inHighHalf(elapsed)) {
          this.#nextAt -= this.#reload - highTicks(this.#reload);
        }
      }
      return;
    }
    this.#loaded = true;
    if (this.#isTriggered) {
      this.#next = count;
      return;
    }
    this.#reload = count;
    this.#start = tick;
    this.#held = this.#gate ? NONE : 0;
  }

  /** Loads the waiting count of modes 2 and 3 once its moment has come. */
  #takeNext(tick: number): void {
    if (this.#nextAt === NONE || tick < this.#nextAt) return;
    const intoLowHalf = this.#mode === SQUARE_WAVE && this.#inHighHalf(this.#nextAt - 1 - this.#start);
    this.#reload = this.#next;
    this.#start = intoLowHalf ? this.#nextAt - highTicks(this.#reload) : this.#nextAt;
    this.#next = this.#nextAt = NONE;
  }

  /** 1 is not allowed in modes 2 and 3 (mode definitions); it counts as the shortest period. */
  #toReload(written: number): number {
    const count = this.#bcd ? fromBcd(written) : written;
    if (count === 0) return this.#bcd ? MAX_BCD : MAX_BINARY;
    return this.#isPeriodic ? Math.max(count, 2) : count;
  }

  /** The counting element as it is read, 16 bits. */
  #count(tick: number): number {
    this.#takeNext(tick);
    const elapsed = this.#elapsed(tick);
    let count: number;
    if (this.#mode === RATE_GENERATOR) count = this.#reload - (elapsed % this.#reload);
    else if (this.#mode === SQUARE_WAVE) {
      const position = elapsed % this.#reload;
      const high = highTicks(this.#reload);
      count = (this.#reload & ~1) - 2 * (position < high ? position : position - high);
    } else count = this.#reload - elapsed; // goes on below 0 after the terminal count
    const wrap = this.#bcd ? MAX_BCD : MAX_BINARY;
    const wrapped = ((count % wrap) + wrap) % wrap;
    return this.#bcd ? toBcd(wrapped) : wrapped;
  }

  save(): DeviceState {
    return {
      mode: this.#mode,
      access: this.#access,
      bcd: this.#bcd,
      gate: this.#gate,
      reload: this.#reload,
      loaded: this.#loaded,
      start: this.#start,
      held: this.#held,
      next: this.#next,
      nextAt: this.#nextAt,
      low: this.#low,
      highNext: this.#highNext,
      latchedCount: this.#latchedCount,
      latchedStatus: this.#latchedStatus,
    };
  }

  /** @throws TSV_E_STATE */
  restore(saved: SavedState): void {
    const mode = saved.int('mode', HARDWARE_STROBE);
    const shortest = mode === RATE_GENERATOR || mode === SQUARE_WAVE ? 2 : 1;
    const next = {
      access: saved.int('access', ACCESS_BOTH, ACCESS_LOW),
      bcd: saved.bool('bcd'),
      gate: saved.bool('gate'),
      reload: saved.int('reload', MAX_RELOAD, shortest),
      loaded: saved.bool('loaded'),
      start: saved.int('start', MAX_TICK, -MAX_RELOAD),
      held: saved.int('held', MAX_TICK, NONE),
      next: saved.int('next', MAX_RELOAD, NONE),
      nextAt: saved.int('nextAt', MAX_TICK, NONE),
      low: saved.int('low', 0xff, NONE),
      highNext: saved.bool('highNext'),
      latchedCount: saved.int('latchedCount', 0xffff, NONE),
      latchedStatus: saved.int('latchedStatus', 0xff, NONE),
    };
    this.#mode = mode;
    this.#access = next.access;
    this.#bcd = next.bcd;
    this.#gate = next.gate;
    this.#reload = next.reload;
    this.#loaded = next.loaded;
    this.#start = next.start;
    this.#held = next.held;
    const waits = next.next >= shortest;
    this.#next = waits ? next.next : NONE;
    this.#nextAt = waits ? next.nextAt : NONE;
    this.#low = next.low;
    this.#highNext = next.highNext;
    this.#latchedCount = next.latchedCount;
    this.#latchedStatus = next.latchedStatus;
  }
}

const MAX_TICK = 2 ** 50;

/** Ticks a square wave of that period is high: the longer half of an odd one. */
function highTicks(reload: number): number {
  return Math.ceil(reload / 2);
}

/** Four digits; those above 9, which hardware leaves undefined, count as they are. */
function fromBcd(value: number): number {
  return (value >> 12) * 1000 + ((value >> 8) & 15) * 100 + ((value >> 4) & 15) * 10 + (value & 15);
}

function toBcd(value: number): number {
  const digit = (unit: number) => Math.floor(value / unit) % 10;
  return (digit(1000) << 12) | (digit(100) << 8) | (digit(10) << 4) | digit(1);
}
