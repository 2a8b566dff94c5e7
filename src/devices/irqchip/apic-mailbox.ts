/**
 * The part of a local APIC that other threads see.
 *
 * A local APIC belongs to its vCPU's thread. What others do to it (I/O APIC, MSIs, other vCPUs' IPIs) is to set bits
 * in the words below, atomically, and to wake the vCPU; what they must know of it to choose a destination it publishes
 * here. All of it is one Int32Array, so it may lie in a WebAssembly memory, where translated code polls
 * the wake word like any other; an engine that has such a word already gives that one.
 *
 * Order: a request bit is set before the wake word, and the vCPU clears the wake word before it looks at the requests,
 * so no request is ever missed; at worst a vCPU looks once for nothing. The wake bits are hints about what to look for: a
 * vCPU that looks at everything may also set and clear the word as a whole.
 */
import { FIRST_LEGAL_VECTOR } from './apic-registers.ts';

const WAKE_WORD = 0;
const MODE = 1;
const ID = 2;
const LDR = 3;
const DFR = 4;
const PRIORITY = 5;
const NMI = 6;
const INIT = 7;
const SIPI = 8;
const LINT = 9;
const LINT_EDGES = 10;
const ILLEGAL = 11;
const IRR = 16;
const TMR = 24;
/** Length of a mailbox in 32-bit words. */
export const MAILBOX_WORDS = 32;

/** Words of a 256-vector bit set. */
export const VECTOR_WORDS = 8;

/** Bits of the wake word that a mailbox sets. Bits from 8 up are the engine's own (stop, TLB flush and the like). */
export const WAKE = { interrupt: 1, nmi: 2, init: 4, sipi: 8, lint: 16 } as const;

/** Bits of {@link ApicMailbox.mode}: which interrupts this APIC takes and how it is addressed. */
export const MODE_BITS = {
  /** Enabled in IA32_APIC_BASE. */
  hardwareEnabled: 1,
  /** Enabled in the spurious-interrupt vector register; otherwise only NMI, INIT and SIPI are taken. */
  softwareEnabled: 2,
  x2apic: 4,
} as const;

/** Interrupt pins of a local APIC. */
export type LintPin = 0 | 1;

const SIPI_VALID = 0x100;

/** A word of shared memory that a vCPU polls while it runs and sleeps on while it is halted. */
export interface WakeWord {
  words: Int32Array;
  index: number;
}

/** One local APIC's shared words. Every method is safe from any thread unless it says whose it is. */
export class ApicMailbox {
  readonly words: Int32Array;
  readonly #wake: WakeWord;

  /**
   * @param words {@link MAILBOX_WORDS} words of shared memory, zero when new
   * @param wake the wake word, when it is not to be the mailbox's own
   */
  constructor(
    words: Int32Array = new Int32Array(new SharedArrayBuffer(MAILBOX_WORDS * 4)),
    wake: WakeWord = { words, index: WAKE_WORD },
  ) {
    this.words = words;
    this.#wake = wake;
  }

  // Senders ------------------------------------------------------------------------------------------------------

  /**
   * Requests a fixed interrupt. A vector below 16 is an error of the receiver's (SDM vol. 3, 11.5.3) and no interrupt.
   * @param vector 0-255
   * @param level level-triggered: its EOI goes to the I/O APICs
   * @returns false when the APIC is not enabled and the request is lost
   */
  post(vector: number, level = false): boolean {
    const enabled = MODE_BITS.hardwareEnabled | MODE_BITS.softwareEnabled;
    if ((this.mode & enabled) !== enabled) return false;
    if (vector < FIRST_LEGAL_VECTOR) {
      Atomics.store(this.words, ILLEGAL, 1);
    } else {
      const word = vector >> 5;
      const bit = 1 << (vector & 31);
      // The trigger mode goes first: it belongs to the request that is about to become visible.
      if (level) Atomics.or(this.words, TMR + word, bit);
      else Atomics.and(this.words, TMR + word, ~bit);
      Atomics.or(this.words, IRR + word, bit);
    }
    this.wake(WAKE.interrupt);
    return true;
  }

  /** Requests a non-maskable interrupt; a second one before the first is taken is lost, as on the processor. */
  postNmi(): void {
    Atomics.store(this.words, NMI, 1);
    this.wake(WAKE.nmi);
  }

  /** Requests INIT. It undoes a start-up request that was not taken yet. */
  postInit(): void {
    Atomics.store(this.words, SIPI, 0);
    Atomics.store(this.words, INIT, 1);
    this.wake(WAKE.init);
  }

  /** Requests a start-up; whether the vCPU waits for one is its own business. @param vector page number, 0-255 */
  postSipi(vector: number): void {
    Atomics.store(this.words, SIPI, SIPI_VALID | (vector & 0xff));
    this.wake(WAKE.sipi);
  }

  /** Drives an interrupt pin: LINT0 is the PIC's output, LINT1 is NMI on a PC. */
  setLint(pin: LintPin, level: boolean): void {
    const bit = 1 << pin;
    if (!level) {
      Atomics.and(this.words, LINT, ~bit);
      return;
    }
    if ((Atomics.or(this.words, LINT, bit) & bit) !== 0) return;
    Atomics.or(this.words, LINT_EDGES, bit);
    this.wake(WAKE.lint);
  }

  /** Sets wake bits and wakes the vCPU if it sleeps in {@link sleep}. */
  wake(bits: number): void {
    const { words, index } = this.#wake;
    Atomics.or(words, index, bits);
    Atomics.notify(words, index);
  }

  // What senders read --------------------------------------------------------------------------------------------

  /** {@link MODE_BITS}. */
  get mode(): number {
    return Atomics.load(this.words, MODE);
  }
  /** Physical APIC ID: 8 bits, in x2APIC mode 32. */
  get id(): number {
    return Atomics.load(this.words, ID) >>> 0;
  }
  /** Logical destination register. */
  get ldr(): number {
    return Atomics.load(this.words, LDR) >>> 0;
  }
  /** Destination format register. */
  get dfr(): number {
    return Atomics.load(this.words, DFR) >>> 0;
  }
  /** Processor priority, for lowest-priority delivery. */
  get priority(): number {
    return Atomics.load(this.words, PRIORITY);
  }

  // The vCPU -----------------------------------------------------------------------------------------------------

  /** vCPU: says how it is addressed. */
  publish(mode: number, id: number, ldr: number, dfr: number): void {
    Atomics.store(this.words, ID, id | 0);
    Atomics.store(this.words, LDR, ldr | 0);
    Atomics.store(this.words, DFR, dfr | 0);
    Atomics.store(this.words, MODE, mode);
  }

  /** vCPU: says its processor priority. */
  publishPriority(priority: number): void {
    Atomics.store(this.words, PRIORITY, priority);
  }

  /** vCPU: takes the wake bits; call it before looking at what is requested. */
  takeWake(): number {
    return Atomics.exchange(this.#wake.words, this.#wake.index, 0);
  }

  /**
   * vCPU: sleeps until a wake bit is set or the time is over.
   * @param milliseconds of host time, fractions included; Infinity for no limit
   */
  sleep(milliseconds: number): void {
    Atomics.wait(this.#wake.words, this.#wake.index, 0, milliseconds);
  }

  /** vCPU: takes the pending NMI. */
  takeNmi(): boolean {
    return Atomics.exchange(this.words, NMI, 0) !== 0;
  }

  /** vCPU: takes the pending INIT. */
  takeInit(): boolean {
    return Atomics.exchange(this.words, INIT, 0) !== 0;
  }

  /** vCPU: takes the pending start-up. @returns its vector, or -1 */
  takeSipi(): number {
    const sipi = Atomics.exchange(this.words, SIPI, 0);
    return sipi === 0 ? -1 : sipi & 0xff;
  }

  /** vCPU: takes the rising edges of the interrupt pins, one bit for each. */
  takeLintEdges(): number {
    return Atomics.exchange(this.words, LINT_EDGES, 0);
  }

  /** vCPU: whether illegal vectors have arrived since the last call. */
  takeIllegal(): boolean {
    return Atomics.exchange(this.words, ILLEGAL, 0) !== 0;
  }

  /** Level of an interrupt pin. */
  lint(pin: LintPin): boolean {
    return ((Atomics.load(this.words, LINT) >> pin) & 1) !== 0;
  }

  /** The highest requested vector, or -1. */
  highestRequest(): number {
    for (let word = VECTOR_WORDS - 1; word >= 0; word--) {
      const bits = Atomics.load(this.words, IRR + word);
      if (bits !== 0) return word * 32 + 31 - Math.clz32(bits);
    }
    return -1;
  }

  /** vCPU: withdraws a request. */
  clearRequest(vector: number): void {
    Atomics.and(this.words, IRR + (vector >> 5), ~(1 << (vector & 31)));
  }

  /** Whether the vector's last request was level-triggered. */
  isLevel(vector: number): boolean {
    return (Atomics.load(this.words, TMR + (vector >> 5)) & (1 << (vector & 31))) !== 0;
  }

  /** One of the eight words of the interrupt request register. */
  requestWord(word: number): number {
    return Atomics.load(this.words, IRR + word) >>> 0;
  }

  /** One of the eight words of the trigger mode register. */
  levelWord(word: number): number {
    return Atomics.load(this.words, TMR + word) >>> 0;
  }

  /** vCPU: replaces request and trigger mode words, when state is loaded. */
  setWords(word: number, request: number, level: number): void {
    const legal = word === 0 ? 0xffff_0000 : 0xffff_ffff;
    Atomics.store(this.words, TMR + word, level & legal);
    Atomics.store(this.words, IRR + word, request & legal);
  }
}

/** Options of {@link apicMailboxes}. */
export interface ApicMailboxesOptions {
  /**
   * Another thread's mailboxes. Without it they are new, each addressed as its local APIC will be after power-up, so that
   * nothing sent before that vCPU's thread has come up is lost.
   */
  shared?: SharedArrayBuffer;
  /** Each vCPU's wake word, when the engine has its own. */
  wake?: (index: number) => WakeWord;
  /** APIC IDs by vCPU index; default the index. */
  ids?: readonly number[];
}

/** Mailboxes for `count` vCPUs; `mailboxes[0].words.buffer` is what other threads give as `shared`. */
export function apicMailboxes(
  count: number,
  { shared, wake, ids }: ApicMailboxesOptions = {},
): ApicMailbox[] {
  const buffer = shared ?? new SharedArrayBuffer(count * MAILBOX_WORDS * 4);
  return Array.from({ length: count }, (_, index) => {
    const words = new Int32Array(buffer, index * MAILBOX_WORDS * 4, MAILBOX_WORDS);
    const mailbox = new ApicMailbox(words, wake?.(index));
    if (shared === undefined)
      mailbox.publish(MODE_BITS.hardwareEnabled, ids?.[index] ?? index, 0, 0xffff_ffff);
    return mailbox;
  });
}
