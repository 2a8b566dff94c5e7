/**
 * One 8259A programmable interrupt controller (Intel 8259A data sheet): request, service and mask registers, priorities,
 * and the command words. Two of them make a PC's PIC (pic.ts).
 *
 * As in KVM and other emulators an edge stays latched when its input drops before the acknowledge (the chip would then
 * answer with IR7), and ICW1's and ICW4's bits for single mode, 8085 mode and buffered mode have no effect. Other than in
 * KVM special mask mode works, the poll command takes the interrupt into service, and ICW1 clears the service register.
 */
import { TsvError } from '../../errors.ts';
import type { SavedState } from '../saved-state.ts';

/** Bytes of struct kvm_pic_state. */
export const KVM_PIC_STATE_SIZE = 16;

/** ICW1 and ICW4. */
const ICW1 = 0x10;
const ICW1_IC4 = 0x01;
const ICW4_AEOI = 0x02;
const ICW4_SFNM = 0x10;
/** OCW3 and its bits. */
const OCW3 = 0x08;
const OCW3_POLL = 0x04;
const OCW3_READ = 0x02;
const OCW3_READ_ISR = 0x01;
const OCW3_ESMM = 0x40;
const OCW3_SMM = 0x20;
/** A poll's answer when there is an interrupt. */
const POLL_INTERRUPT = 0x80;

/** Steps of the initialization sequence. */
const STEP = { READY: 0, ICW2: 1, ICW3: 2, ICW4: 3 } as const;

/** Commands of OCW2, its upper three bits. */
const OCW2 = {
  CLEAR_ROTATE_AEOI: 0,
  EOI: 1,
  SPECIFIC_EOI: 3,
  SET_ROTATE_AEOI: 4,
  ROTATE_EOI: 5,
  SET_PRIORITY: 6,
  ROTATE_SPECIFIC_EOI: 7,
} as const;

/** No request: below every priority. */
const NONE = 8;

/** Fields in the order of struct kvm_pic_state, one byte each. */
const FIELDS = [
  'lastIrr',
  'irr',
  'imr',
  'isr',
  'priorityAdd',
  'irqBase',
  'readRegSelect',
  'poll',
  'specialMask',
  'initState',
  'autoEoi',
  'rotateOnAutoEoi',
  'specialFullyNestedMode',
  'init4',
  'elcr',
  'elcrMask',
] as const;
/** Largest value of each field. */
const LIMITS = [0xff, 0xff, 0xff, 0xff, 7, 0xf8, 1, 1, 1, 3, 1, 1, 1, 1, 0xff, 0xff] as const;

/** Registers of one chip, under the names of struct kvm_pic_state. */
export type I8259State = Record<(typeof FIELDS)[number], number>;

/** One 8259A. Interrupt inputs are 0-7. */
export class I8259 {
  readonly #state: I8259State;
  readonly #isMaster: boolean;
  /** Called when its output may have changed because of a command. */
  readonly #onChange: () => void;

  /** @param elcrMask inputs that the edge/level control register may make level-triggered */
  constructor(isMaster: boolean, elcrMask: number, onChange: () => void) {
    this.#isMaster = isMaster;
    this.#onChange = onChange;
    this.#state = powerOn(elcrMask);
  }

  reset(): void {
    Object.assign(this.#state, powerOn(this.#state.elcrMask));
  }

  /** Drives an input. */
  setInput(input: number, level: boolean): void {
    const state = this.#state;
    const bit = 1 << input;
    if (!level) {
      state.lastIrr &= ~bit;
      if ((state.elcr & bit) !== 0) state.irr &= ~bit;
      return;
    }
    if ((state.elcr & bit) !== 0 || (state.lastIrr & bit) === 0) state.irr |= bit;
    state.lastIrr |= bit;
  }

  /** The input whose interrupt is to be acknowledged next, or -1: the INT output is up unless it is. */
  get pending(): number {
    const state = this.#state;
    const priority = this.#priority(state.irr & ~state.imr);
    let service = state.isr;
    // The slave's further requests are not held back by one of its own in service.
    if (state.specialFullyNestedMode !== 0 && this.#isMaster) service &= ~(1 << CASCADE_INPUT);
    if (state.specialMask !== 0) service &= ~state.imr;
    return priority < this.#priority(service) ? (priority + state.priorityAdd) & 7 : -1;
  }

  /** The acknowledge cycle of an input's interrupt. */
  acknowledge(input: number): void {
    const state = this.#state;
    const bit = 1 << input;
    if ((state.elcr & bit) === 0) state.irr &= ~bit;
    if (state.autoEoi === 0) state.isr |= bit;
    else if (state.rotateOnAutoEoi !== 0) state.priorityAdd = (input + 1) & 7;
  }

  /** Forgets the latched request of an input that has dropped. */
  withdraw(input: number): void {
    this.#state.irr &= ~(1 << input);
  }

  /** The vector of an input. */
  vector(input: number): number {
    return this.#state.irqBase + input;
  }

  /** Edge/level control register, port 0x4d0 or 0x4d1. */
  get elcr(): number {
    return this.#state.elcr;
  }
  set elcr(value: number) {
    this.#state.elcr = value & this.#state.elcrMask;
  }

  /** Reads port 0 (A0 low) or 1. A poll command pending for this chip must be answered with {@link pollAnswer} instead. */
  read(port: number): number {
    const state = this.#state;
    if (port !== 0) return state.imr;
    return state.readRegSelect !== 0 ? state.isr : state.irr;
  }

  /** Whether the next read is a poll's. */
  get polled(): boolean {
    return this.#state.poll !== 0;
  }

  /** Ends the poll command. @param input the input taken, or -1 */
  pollAnswer(input: number): number {
    this.#state.poll = 0;
    return input < 0 ? 7 : POLL_INTERRUPT | input;
  }

  /** Writes port 0 (A0 low) or 1. */
  write(port: number, value: number): void {
    if (port !== 0) this.#writeData(value);
    else if ((value & ICW1) !== 0) this.#initialize(value);
    else if ((value & OCW3) !== 0) this.#control(value);
    else this.#end(value >> 5, value & 7);
  }

  /** ICW1. */
  #initialize(value: number): void {
    const state = this.#state;
    state.init4 = value & ICW1_IC4;
    state.lastIrr = 0;
    state.irr &= state.elcr;
    state.imr = 0;
    state.isr = 0;
    state.priorityAdd = 0;
    state.specialMask = 0;
    state.readRegSelect = 0;
    if (state.init4 === 0) {
      state.specialFullyNestedMode = 0;
      state.autoEoi = 0;
    }
    state.initState = STEP.ICW2;
  }

  /** ICW2 to ICW4, or OCW1. */
  #writeData(value: number): void {
    const state = this.#state;
    switch (state.initState) {
      case STEP.ICW2:
        state.irqBase = value & 0xf8;
        state.initState = STEP.ICW3;
        return;
      case STEP.ICW3:
        // The cascade is wired, not programmed.
        state.initState = state.init4 !== 0 ? STEP.ICW4 : STEP.READY;
        return;
      case STEP.ICW4:
        state.specialFullyNestedMode = (value & ICW4_SFNM) !== 0 ? 1 : 0;
        state.autoEoi = (value & ICW4_AEOI) !== 0 ? 1 : 0;
        state.initState = STEP.READY;
        return;
      default:
        state.imr = value;
        this.#onChange();
    }
  }

  /** OCW3. */
  #control(value: number): void {
    const state = this.#state;
    if ((value & OCW3_POLL) !== 0) state.poll = 1;
    if ((value & OCW3_READ) !== 0) state.readRegSelect = value & OCW3_READ_ISR;
    if ((value & OCW3_ESMM) !== 0) {
      state.specialMask = (value & OCW3_SMM) !== 0 ? 1 : 0;
      this.#onChange();
    }
  }

  /** OCW2: ends of interrupt and rotations. */
  #end(command: number, input: number): void {
    const state = this.#state;
    switch (command) {
      case OCW2.CLEAR_ROTATE_AEOI:
      case OCW2.SET_ROTATE_AEOI:
        state.rotateOnAutoEoi = command >> 2;
        return;
      case OCW2.EOI:
      case OCW2.ROTATE_EOI: {
        // What special mask mode has let others past is not what a non-specific EOI means.
        const service = state.specialMask !== 0 ? state.isr & ~state.imr : state.isr;
        const priority = this.#priority(service);
        if (priority === NONE) return;
        const ended = (priority + state.priorityAdd) & 7;
        if (command === OCW2.ROTATE_EOI) state.priorityAdd = (ended + 1) & 7;
        state.isr &= ~(1 << ended);
        break;
      }
      case OCW2.SPECIFIC_EOI:
        state.isr &= ~(1 << input);
        break;
      case OCW2.SET_PRIORITY:
        state.priorityAdd = (input + 1) & 7;
        break;
      case OCW2.ROTATE_SPECIFIC_EOI:
        state.priorityAdd = (input + 1) & 7;
        state.isr &= ~(1 << input);
        break;
      default:
        return;
    }
    this.#onChange();
  }

  /** Place of the highest of these inputs in the current order, 0 being the highest; 8 for none. */
  #priority(inputs: number): number {
    if (inputs === 0) return NONE;
    let place = 0;
    while ((inputs & (1 << ((place + this.#state.priorityAdd) & 7))) === 0) place++;
    return place;
  }

  /** struct kvm_pic_state. */
  exportState(): Uint8Array {
    return Uint8Array.from(FIELDS, (field) => this.#state[field]);
  }

  /**
   * Checks struct kvm_pic_state and returns what loads it, so that both chips are loaded or none. `elcr_mask` is not taken.
   * @throws TSV_E_STATE when it is too short
   */
  prepareImport(bytes: Uint8Array): () => void {
    if (bytes.length < KVM_PIC_STATE_SIZE) {
      throw new TsvError('TSV_E_STATE', `A PIC's state of ${bytes.length} bytes is too short.`, {
        hint: `Give the ${KVM_PIC_STATE_SIZE} bytes of struct kvm_pic_state.`,
      });
    }
    return () => {
      FIELDS.forEach((field, index) => {
        if (field !== 'elcrMask') this.#state[field] = bytes[index] & LIMITS[index];
      });
      this.#state.elcr &= this.#state.elcrMask;
    };
  }

  save(): I8259State {
    return { ...this.#state };
  }

  /** Checks a saved state and returns what loads it. @throws TSV_E_STATE */
  prepareRestore(saved: SavedState): () => void {
    return this.prepareImport(Uint8Array.from(FIELDS, (field, index) => saved.int(field, LIMITS[index])));
  }
}

/** The master's input that the slave's output is wired to. */
export const CASCADE_INPUT = 2;

function powerOn(elcrMask: number): I8259State {
  return {
    lastIrr: 0,
    irr: 0,
    imr: 0,
    isr: 0,
    priorityAdd: 0,
    irqBase: 0,
    readRegSelect: 0,
    poll: 0,
    specialMask: 0,
    initState: STEP.READY,
    autoEoi: 0,
    rotateOnAutoEoi: 0,
    specialFullyNestedMode: 0,
    init4: 0,
    elcr: 0,
    elcrMask,
  };
}
