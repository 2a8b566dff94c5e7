/** System control port A, port 0x92 (PS/2 technical reference): the A20 gate and the fast reset. */
import type { Device, DeviceContext, DeviceState } from '../device.ts';
import { SavedState } from '../saved-state.ts';
import { A20Gate } from './a20.ts';

const FAST_RESET = 0x01;
const A20 = 0x02;

/** Port 0x92. */
export class Port92 implements Device {
  readonly name = 'port92';
  readonly maxAccess = 1 as const;
  readonly #a20: A20Gate;
  #context: DeviceContext | undefined;
  /** Bit 0 must rise to reset. */
  #resetBit = false;

  /** @param a20 the gate shared with the keyboard controller */
  constructor(a20: A20Gate = new A20Gate()) {
    this.#a20 = a20;
  }

  attach(context: DeviceContext): void {
    this.#context = context;
  }

  read(): number {
    return (this.#resetBit ? FAST_RESET : 0) | (this.#a20.enabled ? A20 : 0);
  }

  write(_offset: number, _size: number, value: number): void {
    const resetBit = (value & FAST_RESET) !== 0;
    const rises = resetBit && !this.#resetBit;
    this.#resetBit = resetBit;
    this.#a20.enabled = (value & A20) !== 0;
    if (rises) this.#context?.stop({ kind: 'reset', by: 'port 0x92' });
  }

  reset(): void {
    this.#resetBit = false;
    this.#a20.enabled = true;
  }

  save(): DeviceState {
    return { resetBit: this.#resetBit, a20: this.#a20.enabled };
  }

  /** @throws TSV_E_STATE */
  restore(state: DeviceState): void {
    const saved = new SavedState(this.name, state);
    const resetBit = saved.bool('resetBit');
    this.#a20.enabled = saved.bool('a20');
    this.#resetBit = resetBit;
  }
}
