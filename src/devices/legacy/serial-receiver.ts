/**
 * The receiving half of a 16550A: its FIFO, and behind it the host's input that the FIFO has no room for yet.
 *
 * A break travels with the character 0 it is received as, and is shown when that character is at the top of the FIFO
 * (PC16550D data sheet, section 8.6.3).
 */
import type { DeviceState } from '../device.ts';
import type { SavedState } from '../saved-state.ts';

/** Input kept for a guest that does not read; beyond that it is refused. */
export const SERIAL_INPUT_LIMIT = 64 * 1024;

/** Bytes of FIFO (section 8.4). */
const FIFO_SIZE = 16;
/** A break among the received characters. */
const BREAK = 0x100;
/** Entries already taken from the front of the queue before it is shortened. */
const QUEUE_SLACK = 4096;

/** FIFO and line status of the receiver. */
export class SerialReceiver {
  readonly #onSpace: (() => void) | undefined;
  #fifo: number[] = [];
  #capacity = 1;
  /** Line input, from `#head` on. */
  #queue: number[] = [];
  #head = 0;
  #refused = false;
  #overrun = false;
  /** IIR has reported the line status that is still there. */
  #reported = false;

  /** @param onSpace called when it is worth trying again after input had to be refused */
  constructor(onSpace?: () => void) {
    this.#onSpace = onSpace;
  }

  /** Characters in the FIFO. */
  get length(): number {
    return this.#fifo.length;
  }
  /** A character was lost. */
  get overrun(): boolean {
    return this.#overrun;
  }
  /** The character at the top of the FIFO is a break. */
  get breakOnTop(): boolean {
    return this.#fifo[0] === BREAK;
  }
  /** There is a break in the FIFO. */
  get hasBreak(): boolean {
    return this.#fifo.includes(BREAK);
  }
  /** Characters that {@link receive} would accept. */
  get space(): number {
    return SERIAL_INPUT_LIMIT - (this.#queue.length - this.#head);
  }

  /** Queues line input and returns how many bytes were accepted. */
  receive(bytes: Uint8Array): number {
    const accepted = Math.min(bytes.length, this.space);
    for (let i = 0; i < accepted; i++) this.#queue.push(bytes[i]);
    if (accepted < bytes.length) this.#refused = true;
    return accepted;
  }

  /** Queues a break; dropped when there is no space. */
  receiveBreak(): void {
    if (this.space > 0) this.#queue.push(BREAK);
  }

  /** Moves line input into the FIFO as far as it has room. */
  fill(): void {
    while (this.#fifo.length < this.#capacity && this.#head < this.#queue.length) {
      this.#fifo.push(this.#queue[this.#head++]);
    }
    if (this.#head === this.#queue.length || this.#head >= QUEUE_SLACK) {
      this.#queue = this.#queue.slice(this.#head);
      this.#head = 0;
    }
    if (this.#refused && this.space >= SERIAL_INPUT_LIMIT / 2) {
      this.#refused = false;
      // Not from within a register access: the callback will want to call `receive`.
      if (this.#onSpace !== undefined) queueMicrotask(this.#onSpace);
    }
  }

  /** A character from the own transmitter (loopback), past the line input. */
  loopBack(value: number): void {
    if (this.#fifo.length < this.#capacity) {
      this.#fifo.push(value);
      return;
    }
    // With FIFOs the character in the shift register is lost, without them the one that was not read.
    this.#overrun = true;
    this.#reported = false;
    if (this.#capacity === 1) this.#fifo[0] = value;
  }

  /** RBR: the next character, 0 when there is none. It takes its line status with it. */
  take(): number {
    const entry = this.#fifo.shift() ?? 0;
    this.#overrun = false;
    this.#reported = false;
    return entry & 0xff;
  }

  /** Notes that IIR has reported the line status. */
  reportLineStatus(): void {
    this.#reported = true;
  }

  /** Clears a line status that IIR has reported before: the guest has had its chance to read LSR. */
  acknowledgeReported(): void {
    if (!this.#reported) return;
    this.#reported = false;
    this.#overrun = false;
    if (this.breakOnTop) this.#fifo[0] = 0;
  }

  /** Empties the FIFO and chooses between 16 entries and the single register of a 16450. */
  clear(fifoEnabled: boolean): void {
    this.#fifo = [];
    this.#capacity = fifoEnabled ? FIFO_SIZE : 1;
    this.#overrun = false;
    this.#reported = false;
  }

  save(): DeviceState {
    return {
      fifo: [...this.#fifo],
      queue: this.#queue.slice(this.#head),
      overrun: this.#overrun,
      reported: this.#reported,
    };
  }

  /** @throws TSV_E_STATE */
  restore(saved: SavedState, fifoEnabled: boolean): void {
    const capacity = fifoEnabled ? FIFO_SIZE : 1;
    const fifo = saved.ints('fifo', BREAK, capacity);
    const queue = saved.ints('queue', BREAK, SERIAL_INPUT_LIMIT);
    const overrun = saved.bool('overrun');
    const reported = saved.bool('reported');
    this.#capacity = capacity;
    this.#fifo = fifo;
    this.#queue = queue;
    this.#head = 0;
    this.#overrun = overrun;
    this.#reported = reported;
  }
}
