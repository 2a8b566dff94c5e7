/** MSI-X: a table of messages, one for each vector, and which of them are pending (PCI 3.0 section 6.8.2). */
import type { AccessSize, DeviceState } from '../device.ts';
import type { Msi } from '../irqchip/msi.ts';
import type { SavedState } from '../saved-state.ts';

/** Capability ID. */
export const MSIX_CAPABILITY = 0x11;
/** Bytes of a table entry: address, upper address, data, vector control. */
export const MSIX_ENTRY_SIZE = 16;
/** Bits of the message control register. */
export const MSIX_CONTROL = { FUNCTION_MASK: 1 << 14, ENABLE: 1 << 15 } as const;

const ENTRY_WORDS = MSIX_ENTRY_SIZE / 4;
const DATA = 2;
const CONTROL = 3;
const MASKED = 1;

/** Table and pending bits of a function. */
export class Msix {
  readonly #words: Uint32Array;
  readonly #pending: boolean[];
  readonly #send: (message: Msi) => void;
  #control = 0;

  constructor(vectors: number, send: (message: Msi) => void) {
    this.#words = new Uint32Array(vectors * ENTRY_WORDS);
    this.#pending = new Array<boolean>(vectors).fill(false);
    this.#send = send;
    this.reset();
  }

  get vectors(): number {
    return this.#pending.length;
  }

  /** The function interrupts by messages, and not by its pin. */
  get isEnabled(): boolean {
    return (this.#control & MSIX_CONTROL.ENABLE) !== 0;
  }

  /** The capability's body: message control, then where table and pending bits are. */
  capability(bar: number, tableOffset: number, pendingOffset: number): Uint8Array {
    const view = new DataView(new ArrayBuffer(10));
    view.setUint16(0, this.vectors - 1, true);
    view.setUint32(2, tableOffset | bar, true);
    view.setUint32(6, pendingOffset | bar, true);
    return new Uint8Array(view.buffer);
  }

  /** The message control register has been written. */
  setControl(control: number): void {
    this.#control = control;
    this.#deliver();
  }

  /** Sends a vector's message, now or once it is unmasked. */
  raise(vector: number): void {
    if (!this.isEnabled || vector >= this.vectors) return;
    this.#pending[vector] = true;
    this.#deliverOne(vector);
  }

  /** Reads the table; only whole words can be. */
  readTable(offset: number, size: AccessSize): number {
    return size === 4 && offset % 4 === 0 ? (this.#words[offset / 4] ?? 0) : 0;
  }

  writeTable(offset: number, size: AccessSize, value: number): void {
    if (size !== 4 || offset % 4 !== 0 || offset / 4 >= this.#words.length) return;
    const word = offset / 4;
    this.#words[word] = word % ENTRY_WORDS === CONTROL ? value & MASKED : value;
    this.#deliverOne(Math.floor(word / ENTRY_WORDS));
  }

  /** Reads the pending bits. */
  readPending(offset: number, size: AccessSize): number {
    if (size !== 4 || offset % 4 !== 0) return 0;
    let bits = 0;
    for (let i = 0; i < 32; i++) if (this.#pending[offset * 8 + i]) bits += 2 ** i;
    return bits;
  }

  #deliver(): void {
    for (const vector of this.#pending.keys()) this.#deliverOne(vector);
  }

  #deliverOne(vector: number): void {
    if (!this.#pending[vector] || (this.#control & MSIX_CONTROL.FUNCTION_MASK) !== 0 || !this.isEnabled)
      return;
    const at = vector * ENTRY_WORDS;
    if (this.#words[at + CONTROL] & MASKED) return;
    this.#pending[vector] = false;
    const address = this.#words[at + 1] * 2 ** 32 + this.#words[at];
    this.#send({ address, data: this.#words[at + DATA] });
  }

  /** All vectors are masked after a reset. */
  reset(): void {
    this.#words.fill(0);
    for (let vector = 0; vector < this.vectors; vector++)
      this.#words[vector * ENTRY_WORDS + CONTROL] = MASKED;
    this.#pending.fill(false);
    this.#control = 0;
  }

  save(): DeviceState {
    return {
      table: [...this.#words],
      pending: this.#pending.flatMap((isPending, vector) => (isPending ? [vector] : [])),
      control: this.#control,
    };
  }

  /** @throws TSV_E_STATE */
  restore(saved: SavedState): void {
    const table = saved.ints('table', 0xffffffff, this.#words.length, true);
    const pending = saved.ints('pending', this.vectors - 1, this.vectors);
    const control = saved.int('control', 0xffff);
    this.#words.set(table);
    this.#pending.fill(false);
    for (const vector of pending) this.#pending[vector] = true;
    this.#control = control;
  }
}
