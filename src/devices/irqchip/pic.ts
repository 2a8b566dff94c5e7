/**
 * The PC's interrupt controller: two cascaded 8259As and their edge/level control registers. Its output goes to LINT0 of
 * every local APIC, of which at most one is set up to take it.
 */
import type { Device, DeviceState } from '../device.ts';
import { SavedState } from '../saved-state.ts';
import { CASCADE_INPUT, I8259 } from './i8259.ts';

/** Device offsets: two ports of the master (0x20), two of the slave (0xa0), and the two of the ELCR (0x4d0). */
export const PIC_MASTER = 0;
export const PIC_SLAVE = 2;
export const PIC_ELCR = 4;
/**
 * Not a port: a read is the acknowledge cycle and gives the vector. A board mounts this one offset where no guest can
 * reach it, and a vCPU thread reads it when it takes an interrupt from LINT0.
 */
export const PIC_INTA = 6;
/** Interrupt inputs of both chips. */
export const PIC_INPUTS = 16;

/** Inputs that can be level-triggered: not the timer, keyboard, cascade and RTC, nor the FPU error. */
const ELCR_MASK = [0xf8, 0xde] as const;
/** What a chip answers when the request has gone by the time it is acknowledged. */
const SPURIOUS_INPUT = 7;

/** The PIC. Its output is given to `setOutput` whenever it changes. */
export class Pic implements Device {
  readonly name = 'pic';
  readonly maxAccess = 1 as const;
  readonly #setOutput: (level: boolean) => void;
  readonly #chips: readonly [I8259, I8259];
  #output = false;

  constructor(setOutput: (level: boolean) => void) {
    this.#setOutput = setOutput;
    const update = () => this.#update();
    this.#chips = [new I8259(true, ELCR_MASK[0], update), new I8259(false, ELCR_MASK[1], update)];
  }

  /** Level of the INT output. */
  get output(): boolean {
    return this.#output;
  }

  /** Drives an input. @param input 0-15 without 2, which is the cascade; others do nothing */
  setInput(input: number, level: 0 | 1): void {
    if (!(input >= 0 && input < PIC_INPUTS)) return;
    this.#chips[input >> 3].setInput(input & 7, level !== 0);
    this.#update();
  }

  /** The processor's acknowledge cycle. @returns the vector; a spurious one when nothing is pending any more */
  acknowledge(): number {
    const [master, slave] = this.#chips;
    const input = master.pending;
    let vector = master.vector(SPURIOUS_INPUT);
    if (input >= 0) {
      master.acknowledge(input);
      vector = input === CASCADE_INPUT ? this.#acknowledgeSlave(slave) : master.vector(input);
    }
    this.#update();
    return vector;
  }

  #acknowledgeSlave(slave: I8259): number {
    const input = slave.pending;
    if (input < 0) return slave.vector(SPURIOUS_INPUT);
    slave.acknowledge(input);
    return slave.vector(input);
  }

  read(offset: number): number {
    if (offset === PIC_INTA) return this.acknowledge();
    const chip = this.#chips[(offset >> 1) & 1];
    if (offset >= PIC_ELCR) return this.#chips[offset & 1].elcr;
    if (!chip.polled) return chip.read(offset & 1);
    // A poll is an acknowledge cycle without the vector (data sheet, poll command).
    const input = chip.pending;
    if (input >= 0) chip.acknowledge(input);
    // A slave that is polled drops its output without the master having been acknowledged.
    if (chip === this.#chips[1]) this.#chips[0].withdraw(CASCADE_INPUT);
    this.#update();
    return chip.pollAnswer(input);
  }

  write(offset: number, _size: number, value: number): void {
    if (offset === PIC_INTA) return;
    if (offset >= PIC_ELCR) this.#chips[offset & 1].elcr = value & 0xff;
    else this.#chips[(offset >> 1) & 1].write(offset & 1, value & 0xff);
    this.#updateOutput();
  }

  reset(): void {
    for (const chip of this.#chips) chip.reset();
    this.#update();
  }

  /** A request, a mask or an end: works the cascade and the output out anew. */
  #update(): void {
    const [master, slave] = this.#chips;
    if (slave.pending >= 0) {
      // A new edge each time, so that no request of the slave is lost in a master that has just been acknowledged.
      master.setInput(CASCADE_INPUT, true);
      master.setInput(CASCADE_INPUT, false);
    }
    this.#updateOutput();
  }

  #updateOutput(): void {
    const output = this.#chips[0].pending >= 0;
    if (output === this.#output) return;
    this.#output = output;
    this.#setOutput(output);
  }

  /** struct kvm_pic_state of the master and the slave, as KVM_GET_IRQCHIP would return them. */
  exportState(): [Uint8Array, Uint8Array] {
    return [this.#chips[0].exportState(), this.#chips[1].exportState()];
  }

  /** Loads what {@link exportState} gives. @throws TSV_E_STATE when one is too short */
  importState(master: Uint8Array, slave: Uint8Array): void {
    const load = [master, slave].map((bytes, index) => this.#chips[index].prepareImport(bytes));
    for (const each of load) each();
    this.#update();
  }

  save(): DeviceState {
    return { chips: this.#chips.map((chip) => chip.save()) };
  }

  /** @throws TSV_E_STATE */
  restore(state: DeviceState): void {
    const saved = new SavedState(this.name, state).list('chips', this.#chips.length);
    const load = this.#chips.map((chip, index) => chip.prepareRestore(saved[index]));
    for (const each of load) each();
    this.#updateOutput();
  }
}
