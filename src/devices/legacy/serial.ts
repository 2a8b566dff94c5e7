/**
 * 16550A UART (PC16550D data sheet; "section" below refers to it).
 *
 * The line is infinitely fast: a byte written is gone at once, a byte received is there at once, and the character
 * time-out (section 8.5.2: four character times without traffic) has passed as soon as no further input waits.
 * The divisor is stored and has no effect.
 *
 * How accesses travel. A kernel's console loop reads LSR and writes THR for every byte, so these two must not wait
 * for the device:
 * - offset 0 write (THR, with DLAB the low divisor byte): posted. Posted writes stay in order with later accesses of
 *   the same vCPU and reads of offset 0 are sync, so both banks read back what was written.
 * - LSR read: latched. Hardware clears OE and BI when LSR is read, which a latched read cannot do. Here they go when
 *   the character they came with is read from RBR or its FIFO is reset, or when IIR has reported them once and is
 *   read again: drivers read IIR, LSR, RBR or IIR, LSR, IIR and see what they would see on hardware.
 * - IER/DLM, LCR, MCR and SCR read: latched, reading them has no effect. Their writes are sync, so that the latch is
 *   up to date before the vCPU goes on (LCR also switches what offset 1 shows).
 * - RBR, IIR and MSR read: sync, they pop the FIFO, acknowledge the transmitter and clear the deltas.
 */
import type { Device, DeviceContext, DeviceState, Latch, RegisterMode } from '../device.ts';
import { SavedState } from '../saved-state.ts';
import { OutputBatch, type OutputSink } from './output-batch.ts';
import { SerialReceiver } from './serial-receiver.ts';
import * as uart from './serial-registers.ts';

/** Ports the device occupies. */
export const SERIAL_SIZE = 8;

/** Modem inputs with a terminal attached: carrier, data set ready, clear to send. */
const CONNECTED = uart.MSR_DCD | uart.MSR_DSR | uart.MSR_CTS;

/** Options of {@link Serial}. */
export interface SerialOptions {
  /** Unique device name; default `serial`. */
  name?: string;
  /** Where transmitted bytes go; discarded when absent. */
  output?: OutputSink;
  /** Called once there is room again after {@link Serial.receive} had to refuse bytes. */
  onInputSpace?: () => void;
}

const REGISTERS: readonly RegisterMode[] = [
  { offset: uart.THR, size: 1, write: 'posted' },
  { offset: uart.IER, size: 1, read: 'latched' },
  { offset: uart.LCR, size: 1, read: 'latched' },
  { offset: uart.MCR, size: 1, read: 'latched' },
  { offset: uart.LSR, size: 1, read: 'latched' },
  { offset: uart.SCR, size: 1, read: 'latched' },
];
const LATCHED = REGISTERS.filter((mode) => mode.read === 'latched').map((mode) => mode.offset);

/**
 * The transmitter's interrupt: `pending` while "THR empty" is to be reported, `sending` while a burst is on its way
 * (it becomes pending in the event loop's next turn, one interrupt for a burst), `idle` once acknowledged.
 */
type Transmitter = 'idle' | 'sending' | 'pending';
const TRANSMITTER = ['idle', 'sending', 'pending'] as const;

/** A 16550A serial port; IRQ 0 of the context is its interrupt. */
export class Serial implements Device {
  readonly name: string;
  readonly maxAccess = 1 as const;
  readonly registers = REGISTERS;
  readonly #output: OutputBatch;
  readonly #receiver: SerialReceiver;
  #context: DeviceContext | undefined;
  /** The latches by offset, with what each was last given: a byte sent must not cost five stores. */
  #latches: { readonly offset: number; readonly latch: Latch; value: number }[] = [];
  #irqLevel = false;
  #burst: NodeJS.Immediate | undefined;

  #ier = 0;
  #fcr = 0;
  #lcr = 0;
  #mcr = 0;
  #scr = 0;
  /** Power-on value is undefined on hardware; 12 is 9600 baud at 1.8432 MHz. */
  #divisor = 12;
  #transmitter: Transmitter = 'idle';
  /** Modem inputs from outside, MSR bits 4-7. */
  #lines = CONNECTED;
  /** What MSR showed last, to find the deltas. */
  #shownLines = CONNECTED;
  #deltas = 0;

  constructor(options: SerialOptions = {}) {
    this.name = options.name ?? 'serial';
    this.#receiver = new SerialReceiver(options.onInputSpace);
    this.#output = new OutputBatch(options.output ?? (() => {}), {
      drained: () => {
        this.#endBurst();
        this.#update();
      },
      failed: (error) => this.#context?.log('error', `${this.name}: output failed: ${String(error)}`),
    });
  }

  attach(context: DeviceContext): void {
    this.#context = context;
    this.#latches = LATCHED.map((offset) => ({ offset, latch: context.latch(offset), value: -1 }));
    this.#update(true);
  }

  // Host side --------------------------------------------------------------------------------------------------

  /**
   * Input for the guest. At most SERIAL_INPUT_LIMIT bytes wait; the rest is refused, and `onInputSpace` is
   * called when it is worth trying again.
   * @returns how many bytes, from the start, were accepted
   */
  receive(bytes: Uint8Array): number {
    const accepted = this.#receiver.receive(bytes);
    this.#fill();
    this.#update();
    return accepted;
  }

  /** Bytes {@link receive} would accept now. */
  get inputSpace(): number {
    return this.#receiver.space;
  }

  /** A break on the line, after the input received so far. Dropped when no input is accepted either. */
  sendBreak(): void {
    this.#receiver.receiveBreak();
    this.#fill();
    this.#update();
  }

  /** Sets the modem inputs that are active: `MSR_CTS`, `MSR_DSR`, `MSR_RI`, `MSR_DCD`. */
  setModemInputs(lines: number): void {
    this.#lines = lines & uart.MSR_LINES;
    this.#update();
  }

  /** Modem outputs the guest drives: MCR bits DTR and RTS; inactive in loopback. */
  get modemOutputs(): number {
    return this.#loopback ? 0 : this.#mcr & (uart.MCR_DTR | uart.MCR_RTS);
  }

  /** Resolves when the sink has taken everything the guest has written so far. */
  flush(): Promise<void> {
    return this.#output.flush();
  }

  close(): Promise<void> {
    clearImmediate(this.#burst);
    this.#burst = undefined;
    return this.flush();
  }

  // Guest side -------------------------------------------------------------------------------------------------

  read(offset: number): number {
    const value = this.#readRegister(offset);
    this.#update();
    return value;
  }

  write(offset: number, _size: number, value: number): void | Promise<void> {
    const wait = this.#writeRegister(offset, value & 0xff);
    this.#update();
    return wait;
  }

  #readRegister(offset: number): number {
    switch (offset) {
      case uart.RBR:
        return this.#dlab ? this.#divisor & 0xff : this.#receiveData();
      case uart.IIR:
        return this.#identifyInterrupt();
      case uart.MSR: {
        const value = this.#shownLines | this.#deltas;
        this.#deltas = 0;
        return value;
      }
      default:
        return this.#stored(offset);
    }
  }

  /** Registers that can be read without effect: those behind the latches. */
  #stored(offset: number): number {
    switch (offset) {
      case uart.IER:
        return this.#dlab ? this.#divisor >> 8 : this.#ier;
      case uart.LCR:
        return this.#lcr;
      case uart.MCR:
        return this.#mcr;
      case uart.LSR:
        return this.#lsr;
      case uart.SCR:
        return this.#scr;
      default:
        return 0xff;
    }
  }

  #writeRegister(offset: number, value: number): void | Promise<void> {
    switch (offset) {
      case uart.THR:
        if (!this.#dlab) return this.#transmit(value);
        this.#divisor = (this.#divisor & 0xff00) | value;
        return;
      case uart.IER:
        if (this.#dlab) this.#divisor = (this.#divisor & 0x00ff) | (value << 8);
        else this.#enableInterrupts(value & uart.IER_MASK);
        return;
      case uart.FCR:
        this.#controlFifo(value);
        return;
      case uart.LCR:
        this.#lcr = value;
        return;
      case uart.MCR:
        this.#mcr = value & uart.MCR_MASK;
        this.#fill();
        return;
      case uart.SCR:
        this.#scr = value;
        return;
      // LSR is for factory tests (section 8.4), MSR is read-only here.
    }
  }

  #receiveData(): number {
    const value = this.#receiver.take();
    this.#fill();
    return value;
  }

  #transmit(value: number): void | Promise<void> {
    if (this.#loopback) {
      // The own receiver has no queue behind it (section 8.6.7).
      this.#receiver.loopBack(value);
      this.#transmitter = 'pending';
      return;
    }
    const wait = this.#output.push(value);
    this.#transmitter = 'sending';
    this.#burst ??= setImmediate(() => {
      this.#burst = undefined;
      if (this.#output.congested) return;
      this.#endBurst();
      this.#update();
    });
    return wait;
  }

  #endBurst(): void {
    if (this.#transmitter === 'sending') this.#transmitter = 'pending';
  }

  /** Enabling the THRE interrupt with an empty transmitter raises it, as Linux's 8250 driver tests at start-up. */
  #enableInterrupts(value: number): void {
    const enabled = value & ~this.#ier;
    if (enabled & uart.IER_THRI && !this.#output.congested) this.#transmitter = 'pending';
    this.#ier = value;
  }

  #controlFifo(value: number): void {
    // Bits 1-7 are only programmed together with bit 0; changing bit 0 empties the FIFOs (section 8.4.1).
    const next = value & uart.FCR_ENABLE ? value & (uart.FCR_ENABLE | uart.FCR_TRIGGER_MASK) : 0;
    const switched = ((next ^ this.#fcr) & uart.FCR_ENABLE) !== 0;
    this.#fcr = next;
    if (switched || (next && value & uart.FCR_CLEAR_RECEIVER)) {
      this.#receiver.clear(this.#fifoEnabled);
    }
    this.#fill();
  }

  #identifyInterrupt(): number {
    this.#receiver.acknowledgeReported();
    const id = this.#interrupt();
    if (id === uart.IIR_THRI) this.#transmitter = 'idle';
    if (id === uart.IIR_RLSI) this.#receiver.reportLineStatus();
    return id | (this.#fifoEnabled ? uart.IIR_FIFO_ENABLED : 0);
  }

  // State that follows from the registers ----------------------------------------------------------------------

  get #dlab(): boolean {
    return (this.#lcr & uart.LCR_DLAB) !== 0;
  }
  get #loopback(): boolean {
    return (this.#mcr & uart.MCR_LOOP) !== 0;
  }
  get #fifoEnabled(): boolean {
    return (this.#fcr & uart.FCR_ENABLE) !== 0;
  }

  get #lsr(): number {
    let value = this.#output.congested ? 0 : uart.LSR_THRE | uart.LSR_TEMT;
    if (this.#receiver.length > 0) value |= uart.LSR_DR;
    if (this.#receiver.breakOnTop) value |= uart.LSR_BI;
    if (this.#receiver.overrun) value |= uart.LSR_OE;
    if (this.#fifoEnabled && this.#receiver.hasBreak) value |= uart.LSR_FIFO_ERROR;
    return value;
  }

  /** The interrupt of highest priority, as IIR bits 0-3 (section 8.4, table III). */
  #interrupt(): number {
    const { length: received, overrun, breakOnTop } = this.#receiver;
    if (this.#ier & uart.IER_RLSI && (overrun || breakOnTop)) return uart.IIR_RLSI;
    if (this.#ier & uart.IER_RDI && received > 0) {
      const trigger = this.#fifoEnabled ? uart.FCR_TRIGGER_LEVELS[this.#fcr >> 6] : 1;
      return received >= trigger ? uart.IIR_RDI : uart.IIR_CTI;
    }
    if (this.#ier & uart.IER_THRI && this.#transmitter === 'pending') return uart.IIR_THRI;
    if (this.#ier & uart.IER_MSI && this.#deltas !== 0) return uart.IIR_MSI;
    return uart.IIR_NO_INT;
  }

  /** In loopback the receiver is disconnected from the line. */
  #fill(): void {
    if (!this.#loopback) this.#receiver.fill();
  }

  /** Modem inputs as MSR shows them: in loopback the outputs of MCR (section 8.6.7). */
  get #modemInputs(): number {
    if (!this.#loopback) return this.#lines;
    return (
      (this.#mcr & uart.MCR_RTS ? uart.MSR_CTS : 0) |
      (this.#mcr & uart.MCR_DTR ? uart.MSR_DSR : 0) |
      (this.#mcr & uart.MCR_OUT1 ? uart.MSR_RI : 0) |
      (this.#mcr & uart.MCR_OUT2 ? uart.MSR_DCD : 0)
    );
  }

  /** Brings everything the guest can see into line with the state: MSR deltas, latches, the interrupt. */
  #update(force = false): void {
    const lines = this.#modemInputs;
    const changed = lines ^ this.#shownLines;
    if (changed !== 0) {
      // The ring indicator only reports its trailing edge (TERI).
      const reported = changed & ~(lines & uart.MSR_RI);
      this.#deltas |= reported >> 4;
      this.#shownLines = lines;
    }
    const context = this.#context;
    if (context === undefined) return;
    for (const entry of this.#latches) {
      const value = this.#stored(entry.offset);
      if (value !== entry.value) entry.latch.store(value);
      entry.value = value;
    }
    // OUT2 connects the interrupt pin to the bus on every PC.
    const level = (this.#mcr & uart.MCR_OUT2) !== 0 && this.#interrupt() !== uart.IIR_NO_INT;
    if (level === this.#irqLevel && !force) return;
    this.#irqLevel = level;
    if (level) context.irq().raise();
    else context.irq().lower();
  }

  // Life cycle -------------------------------------------------------------------------------------------------

  /** Power-on state of the registers; input that waits on the line stays there. */
  reset(): void {
    this.#ier = this.#fcr = this.#lcr = this.#mcr = this.#scr = 0;
    this.#divisor = 12;
    this.#transmitter = 'idle';
    this.#receiver.clear(false);
    this.#shownLines = this.#lines;
    this.#deltas = 0;
    this.#fill();
    this.#update(true);
  }

  /** Bytes already transmitted belong to the host and are not part of the state. */
  save(): DeviceState {
    return {
      ier: this.#ier,
      fcr: this.#fcr,
      lcr: this.#lcr,
      mcr: this.#mcr,
      scr: this.#scr,
      divisor: this.#divisor,
      transmitter: this.#transmitter === 'sending' ? 'pending' : this.#transmitter,
      lines: this.#lines,
      shownLines: this.#shownLines,
      deltas: this.#deltas,
      receiver: this.#receiver.save(),
    };
  }

  /** @throws TSV_E_STATE */
  restore(state: DeviceState): void {
    const saved = new SavedState(this.name, state);
    const fcr = saved.u8('fcr') & (uart.FCR_ENABLE | uart.FCR_TRIGGER_MASK);
    const next = {
      ier: saved.int('ier', uart.IER_MASK),
      lcr: saved.u8('lcr'),
      mcr: saved.int('mcr', uart.MCR_MASK),
      scr: saved.u8('scr'),
      divisor: saved.int('divisor', 0xffff),
      transmitter: saved.oneOf('transmitter', TRANSMITTER),
      lines: saved.u8('lines') & uart.MSR_LINES,
      shownLines: saved.u8('shownLines') & uart.MSR_LINES,
      deltas: saved.int('deltas', 0x0f),
    };
    this.#receiver.restore(saved.object('receiver'), (fcr & uart.FCR_ENABLE) !== 0);
    this.#fcr = fcr;
    this.#ier = next.ier;
    this.#lcr = next.lcr;
    this.#mcr = next.mcr;
    this.#scr = next.scr;
    this.#divisor = next.divisor;
    this.#transmitter = next.transmitter;
    this.#lines = next.lines;
    this.#shownLines = next.shownLines;
    this.#deltas = next.deltas;
    this.#fill();
    this.#update(true);
  }
}
