/**
 * MC146818A real-time clock with 128 bytes of CMOS RAM (the chip's data sheet; the PC's use of the RAM as in Ralf
 * Brown's CMOS list).
 *
 * The time is the machine's wall clock plus an offset that setting the time changes. Flags of register C are worked
 * out when somebody looks; a timer only runs while an interrupt is enabled and none is waiting to be read, so ticks
 * that the host or the guest missed become one.
 */
import type { Timer } from '../clock.ts';
import type { Device, DeviceContext, DeviceState } from '../device.ts';
import { SavedState } from '../saved-state.ts';
import * as rtc from './cmos-registers.ts';
import { alarmInRange, fromRegisters, type RtcFormat, toRegisters } from './rtc-time.ts';

/** Index register, bit 7 masks NMI: port 0x70. */
export const CMOS_INDEX = 0;
/** Data register: port 0x71. */
export const CMOS_DATA = 1;
/** Ports the device occupies. */
export const CMOS_SIZE = 2;

const RAM_SIZE = 128;
/** The divider runs from the 32.768 kHz crystal, periodic rate 1024 Hz, as a BIOS leaves it. */
const POWER_ON_A = 0x26;
const POWER_ON_B = rtc.B_24_HOUR;
/**
 * Milliseconds before the second changes in which UIP is set: 244 us notice and 1984 us of update (data sheet, table
 * 5), to the clock's milliseconds.
 */
const UPDATE_MS = 3;
const CRYSTAL_HZ = 32768;
const KIB = 1024;
const MIB = 1024 * KIB;
/** ms; the largest offset the date registers can express, and far from the end of JavaScript's dates. */
const MAX_OFFSET = 26_000 * 366 * 86400e3;

/** Options of {@link Cmos}. */
export interface CmosOptions {
  /** RAM below 4 GiB, bytes, for the memory size bytes that firmware leaves. Default 0. */
  ramBelow4G?: number;
  /** RAM above 4 GiB, bytes. Default 0. */
  ramAbove4G?: number;
}

/** Real-time clock and CMOS RAM; IRQ 0 of the context is the clock's interrupt. */
export class Cmos implements Device {
  readonly name = 'cmos';
  readonly maxAccess = 1 as const;
  #context: DeviceContext | undefined;
  #timer: Timer | undefined;
  #irqLevel = false;

  #index = 0;
  #nmiMasked = false;
  #ram: number[];
  #a = POWER_ON_A;
  #b = POWER_ON_B;
  /** Flags of register C. */
  #c = 0;
  /** Guest date minus the machine's wall clock, ms. */
  #offset = 0;
  /** The date registers while the clock is halted, as the guest wrote them; otherwise null. */
  #halted: number[] | null = null;
  /** The second up to which update and alarm have been looked at. */
  #seenSecond = 0;
  /** The periodic tick up to which PF has been looked at. */
  #seenTick = 0;

  constructor(options: CmosOptions = {}) {
    this.#ram = initialRam(options);
  }

  attach(context: DeviceContext): void {
    this.#context = context;
    this.#forgetPast();
    this.#update(true);
  }

  /** True while the guest masks NMI through bit 7 of the index port. */
  get nmiMasked(): boolean {
    return this.#nmiMasked;
  }

  read(offset: number): number {
    // The index port is write-only on PCs.
    if (offset !== CMOS_DATA) return 0xff;
    const value = this.#readRegister(this.#index);
    this.#update();
    return value;
  }

  write(offset: number, _size: number, value: number): void {
    const byte = value & 0xff;
    if (offset === CMOS_INDEX) {
      this.#index = byte & 0x7f;
      this.#nmiMasked = (byte & 0x80) !== 0;
    } else if (offset === CMOS_DATA) {
      this.#collect();
      this.#writeRegister(this.#index, byte);
      this.#update();
    }
  }

  #readRegister(index: number): number {
    const date = rtc.DATE_REGISTERS.indexOf(index);
    if (date >= 0) return this.#dateRegisters()[date];
    switch (index) {
      case rtc.A:
        return this.#a | (this.#updateInProgress ? rtc.A_UIP : 0);
      case rtc.B:
        return this.#b;
      case rtc.C: {
        this.#collect();
        const value = this.#c | (this.#interrupt ? rtc.C_IRQF : 0);
        this.#c = 0;
        return value;
      }
      case rtc.D:
        return rtc.D_VRT;
      default:
        return this.#ram[index];
    }
  }

  #writeRegister(index: number, value: number): void {
    const date = rtc.DATE_REGISTERS.indexOf(index);
    if (date >= 0) {
      this.#setDate(date, value);
      return;
    }
    switch (index) {
      case rtc.A:
        this.#control(value & 0x7f, this.#b);
        return;
      case rtc.B:
        this.#control(this.#a, value);
        return;
      case rtc.C:
      case rtc.D:
        return;
      default:
        this.#ram[index] = value;
    }
  }

  // The date ---------------------------------------------------------------------------------------------------

  /** Guest date, ms since 1970-01-01. */
  get #time(): number {
    return (this.#context?.clock.wall() ?? 0) + this.#offset;
  }

  get #format(): RtcFormat {
    return { binary: (this.#b & rtc.B_BINARY) !== 0, hours24: (this.#b & rtc.B_24_HOUR) !== 0 };
  }

  #dateRegisters(): number[] {
    return this.#halted ?? toRegisters(this.#time, this.#format);
  }

  #setDate(register: number, value: number): void {
    const registers = [...this.#dateRegisters()];
    registers[register] = value;
    if (this.#halted !== null) this.#halted = registers;
    else this.#setTime(registers, modulo(this.#time, 1000));
  }

  #setTime(registers: readonly number[], fraction: number): void {
    const seconds = fromRegisters(registers, this.#format);
    this.#offset = seconds * 1000 + fraction - (this.#context?.clock.wall() ?? 0);
    this.#seenSecond = seconds;
  }

  /** Writes registers A and B. Setting SET or holding the divider in reset halts the clock; it can be set then. */
  #control(a: number, b: number): void {
    const wasHalted = this.#halted;
    const dividerReset = isDividerReset(this.#a);
    if (wasHalted === null && isHalted(a, b)) this.#halted = [...this.#dateRegisters()];
    const fraction = modulo(this.#time, 1000);
    this.#a = a;
    this.#b = b & rtc.B_SET ? b & ~rtc.B_UIE : b; // SET clears UIE (data sheet, register B)
    if (wasHalted !== null && !isHalted(a, b)) {
      this.#halted = null;
      // The first update comes half a second after the divider is released (data sheet, divider control).
      this.#setTime(wasHalted, dividerReset ? 500 : fraction);
    }
    this.#seenTick = this.#tick;
  }

  get #updateInProgress(): boolean {
    return this.#halted === null && modulo(this.#time, 1000) >= 1000 - UPDATE_MS;
  }

  // Interrupts -------------------------------------------------------------------------------------------------

  get #interrupt(): boolean {
    return (this.#c & this.#b & rtc.INTERRUPTS) !== 0;
  }

  /** Length of a periodic tick in guest nanoseconds, 0 when there is none (data sheet, table 5). */
  get #period(): number {
    const rate = this.#a & rtc.A_RATE;
    if (rate === 0 || isDividerReset(this.#a)) return 0;
    const cycles = 2 ** (rate < 3 ? rate + 6 : rate - 1);
    return (cycles * 1e9) / CRYSTAL_HZ;
  }

  get #tick(): number {
    const period = this.#period;
    return period === 0 ? 0 : Math.floor((this.#context?.clock.now() ?? 0) / period);
  }

  #forgetPast(): void {
    this.#seenSecond = Math.floor(this.#time / 1000);
    this.#seenTick = this.#tick;
  }

  /** Sets the flags of register C for what has happened since the last look. */
  #collect(): void {
    const tick = this.#tick;
    if (tick > this.#seenTick) this.#c |= rtc.PERIODIC;
    this.#seenTick = tick;
    if (this.#halted !== null) return;
    const second = Math.floor(this.#time / 1000);
    if (second > this.#seenSecond) {
      this.#c |= rtc.UPDATE;
      const alarm = [rtc.SECONDS_ALARM, rtc.MINUTES_ALARM, rtc.HOURS_ALARM].map((index) => this.#ram[index]);
      if (alarmInRange(alarm, this.#format, this.#seenSecond, second)) this.#c |= rtc.ALARM;
    }
    this.#seenSecond = second;
  }

  #update(force = false): void {
    const context = this.#context;
    if (context === undefined) return;
    this.#timer?.cancel();
    this.#timer = undefined;
    this.#collect();
    const level = this.#interrupt;
    if (level !== this.#irqLevel || force) {
      this.#irqLevel = level;
      if (level) context.irq().raise();
      else context.irq().lower();
    }
    const deadline = this.#nextEvent;
    if (!level && deadline !== Number.POSITIVE_INFINITY) {
      this.#timer = context.clock.setTimer(deadline, () => this.#update());
    }
  }

  /** Guest time at which an enabled interrupt can come next, ns. */
  get #nextEvent(): number {
    const now = this.#context!.clock.now();
    let next = Number.POSITIVE_INFINITY;
    if (this.#b & (rtc.UPDATE | rtc.ALARM) && this.#halted === null) {
      next = now + Math.ceil((1000 - modulo(this.#time, 1000)) * 1e6);
    }
    const period = this.#period;
    if (this.#b & rtc.PERIODIC && period !== 0) {
      // One nanosecond on, so that rounding cannot make it the tick before.
      next = Math.min(next, Math.ceil((this.#seenTick + 1) * period) + 1);
    }
    return next;
  }

  // Life cycle -------------------------------------------------------------------------------------------------

  /** A reset clears the interrupt enables and flags; date and CMOS RAM are kept by the battery. */
  reset(): void {
    this.#index = 0;
    this.#nmiMasked = false;
    this.#control(POWER_ON_A, POWER_ON_B | (this.#b & (rtc.B_BINARY | rtc.B_24_HOUR)));
    this.#c = 0;
    this.#ram[rtc.SHUTDOWN_STATUS] = 0;
    this.#forgetPast();
    this.#update(true);
  }

  save(): DeviceState {
    return {
      index: this.#index,
      nmiMasked: this.#nmiMasked,
      ram: [...this.#ram],
      a: this.#a,
      b: this.#b,
      c: this.#c,
      offset: this.#offset,
      halted: this.#halted === null ? null : [...this.#halted],
      seenSecond: this.#seenSecond,
      seenTick: this.#seenTick,
    };
  }

  /** @throws TSV_E_STATE */
  restore(state: DeviceState): void {
    const saved = new SavedState(this.name, state);
    const next = {
      index: saved.int('index', 0x7f),
      nmiMasked: saved.bool('nmiMasked'),
      ram: saved.ints('ram', 0xff, RAM_SIZE, true),
      a: saved.int('a', 0x7f),
      b: saved.u8('b'),
      c: saved.int('c', rtc.INTERRUPTS),
      offset: saved.finite('offset', MAX_OFFSET),
      halted: saved.has('halted') ? saved.ints('halted', 0xff, rtc.DATE_REGISTERS.length, true) : null,
      seenSecond: saved.int('seenSecond', Number.MAX_SAFE_INTEGER, Number.MIN_SAFE_INTEGER),
      seenTick: saved.int('seenTick', Number.MAX_SAFE_INTEGER),
    };
    this.#index = next.index;
    this.#nmiMasked = next.nmiMasked;
    this.#ram = next.ram;
    this.#a = next.a;
    this.#b = next.b;
    this.#c = next.c & rtc.INTERRUPTS;
    this.#offset = next.offset;
    this.#halted = isHalted(next.a, next.b) ? (next.halted ?? toRegisters(this.#time, this.#format)) : null;
    this.#seenSecond = next.seenSecond;
    this.#seenTick = next.seenTick;
    this.#update(true);
  }
}

function isDividerReset(a: number): boolean {
  return (a & rtc.A_DIVIDER_RESET) === rtc.A_DIVIDER_RESET;
}

function isHalted(a: number, b: number): boolean {
  return (b & rtc.B_SET) !== 0 || isDividerReset(a);
}

function modulo(value: number, by: number): number {
  return ((value % by) + by) % by;
}

/** What firmware would have left in the CMOS RAM. */
function initialRam(options: CmosOptions): number[] {
  const ram = new Array<number>(RAM_SIZE).fill(0);
  const put = (index: number, value: number, bytes: number) => {
    for (let i = 0; i < bytes; i++) ram[index + i] = Math.floor(value / 2 ** (8 * i)) & 0xff;
  };
  const below = options.ramBelow4G ?? 0;
  const units = (bytes: number, unit: number, limit: number) =>
    Math.min(Math.max(Math.floor(bytes / unit), 0), limit);
  const extended = units(below - MIB, KIB, 0xffff);
  put(rtc.EQUIPMENT, rtc.EQUIPMENT_FPU, 1);
  put(rtc.BASE_MEMORY, units(below, KIB, 640), 2);
  put(rtc.EXTENDED_MEMORY, extended, 2);
  put(rtc.EXTENDED_MEMORY_POST, extended, 2);
  put(rtc.MEMORY_ABOVE_16M, units(below - 16 * MIB, 64 * KIB, 0xffff), 2);
  put(rtc.MEMORY_ABOVE_4G, units(options.ramAbove4G ?? 0, 64 * KIB, 0xffffff), 3);
  const sum = ram.slice(0x10, rtc.CHECKSUM).reduce((total, byte) => total + byte, 0);
  put(rtc.CHECKSUM, ((sum & 0xff) << 8) | (sum >> 8), 2); // high byte first
  return ram;
}
