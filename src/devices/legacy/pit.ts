/**
 * 8254 programmable interval timer, paced by the guest clock. Counter 0 drives the timer interrupt, counter 1 was the
 * memory refresh, counter 2 is the speaker's, with its gate and output at port 0x61.
 *
 * Ticks that the host delivered late are not caught up with: any number of periods that have passed become one
 * interrupt edge, and the next one is due on the original schedule. A guest that counts ticks loses time on a busy
 * host instead of being flooded; one that reads a counter or the TSC does not notice.
 *
 * Powered on the counters are not programmed and no tick comes; firmware or the kernel programs them.
 */
import type { Timer } from '../clock.ts';
import type { Device, DeviceContext, DeviceState } from '../device.ts';
import { SavedState } from '../saved-state.ts';
import { PitCounter } from './pit-counter.ts';

/** Input clock of the counters: a twelfth of the PC's 14.31818 MHz crystal. */
export const PIT_HZ = 1193182;
/** Control word register; counters are at offsets 0-2. */
export const PIT_CONTROL = 3;
/** Ports the device occupies. */
export const PIT_SIZE = 4;

const COUNTERS = 3;
const NS_PER_SECOND = 1e9;
/** Read-back command: select bits are those of the counters, latch bits are active low. */
const READ_BACK = 3;
const READ_BACK_NO_COUNT = 0x20;
const READ_BACK_NO_STATUS = 0x10;

/** The PIT; IRQ 0 of the context is the timer interrupt. */
export class Pit implements Device {
  readonly name = 'pit';
  readonly maxAccess = 1 as const;
  #counters = powerOn();
  #context: DeviceContext | undefined;
  #timer: Timer | undefined;
  #irqLevel = false;
  /** The tick of counter 0's next rising edge, already worked out. */
  #rise = Number.POSITIVE_INFINITY;

  attach(context: DeviceContext): void {
    this.#context = context;
    this.#program(true);
  }

  /** Gate of counter 2. */
  get gate2(): boolean {
    return this.#counters[2].gate;
  }
  set gate2(level: boolean) {
    this.#counters[2].setGate(level, this.#tick);
  }

  /** Output of counter 2. */
  get out2(): boolean {
    return this.#counters[2].out(this.#tick);
  }

  read(offset: number): number {
    // The control word register cannot be read.
    return offset < COUNTERS ? this.#counters[offset].read(this.#tick) : 0xff;
  }

  write(offset: number, _size: number, value: number): void {
    const byte = value & 0xff;
    const tick = this.#tick;
    this.#deliver(tick);
    if (offset < COUNTERS) this.#counters[offset].write(byte, tick);
    else if (offset === PIT_CONTROL && byte >> 6 === READ_BACK) this.#readBack(byte, tick);
    else if (offset === PIT_CONTROL) this.#counters[byte >> 6].control(byte, tick);
    // Everything but counter 0 leaves the interrupt's schedule alone.
    if (offset === 0 || (offset === PIT_CONTROL && byte >> 6 === 0)) this.#program();
  }

  #readBack(command: number, tick: number): void {
    this.#counters.forEach((counter, index) => {
      if ((command & (2 << index)) === 0) return;
      if ((command & READ_BACK_NO_COUNT) === 0) counter.latchCount(tick);
      if ((command & READ_BACK_NO_STATUS) === 0) counter.latchStatus(tick);
    });
  }

  /** Ticks of the input clock since guest time 0. */
  get #tick(): number {
    return Math.floor(((this.#context?.clock.now() ?? 0) * PIT_HZ) / NS_PER_SECOND);
  }

  /** The edge that is due, one for however many have been missed. */
  #deliver(tick: number): void {
    if (tick < this.#rise) return;
    this.#rise = Number.POSITIVE_INFINITY;
    this.#setIrq(false);
    this.#setIrq(true);
  }

  /**
   * Counter 0 has been programmed or has ticked: sets the line and the timer for its next edge. Modes that idle high
   * keep the line high between edges; their short low phases only show as {@link #deliver} drops the line.
   */
  #program(force = false): void {
    const context = this.#context;
    if (context === undefined) return;
    const counter = this.#counters[0];
    const tick = this.#tick;
    this.#setIrq(counter.idlesLow ? counter.out(tick) : true, force);
    this.#rise = counter.nextRise(tick);
    this.#timer?.cancel();
    this.#timer = undefined;
    if (this.#rise === Number.POSITIVE_INFINITY) return;
    // One nanosecond on, so that rounding cannot make it the tick before.
    const deadline = Math.ceil((this.#rise * NS_PER_SECOND) / PIT_HZ) + 1;
    this.#timer = context.clock.setTimer(deadline, () => {
      this.#deliver(this.#tick);
      this.#program();
    });
  }

  #setIrq(level: boolean, force = false): void {
    if (this.#context === undefined || (level === this.#irqLevel && !force)) return;
    this.#irqLevel = level;
    if (level) this.#context.irq().raise();
    else this.#context.irq().lower();
  }

  reset(): void {
    this.#counters = powerOn();
    this.#program(true);
  }

  save(): DeviceState {
    this.#deliver(this.#tick);
    this.#program();
    return { counters: this.#counters.map((counter) => counter.save()) };
  }

  /** @throws TSV_E_STATE */
  restore(state: DeviceState): void {
    const counters = powerOn();
    const saved = new SavedState(this.name, state).list('counters', COUNTERS);
    counters.forEach((counter, index) => {
      counter.restore(saved[index]);
    });
    this.#counters = counters;
    this.#program(true);
  }
}

/** The gates of counters 0 and 1 are tied high, that of counter 2 is low until port 0x61 opens it. */
function powerOn(): PitCounter[] {
  return [new PitCounter(true), new PitCounter(true), new PitCounter(false)];
}
