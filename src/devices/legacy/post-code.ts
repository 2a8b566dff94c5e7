/**
 * Port 0x80: power-on self-test codes. Linux writes here for a short delay (`io_delay`), thousands of times at boot,
 * so writes are posted; reads are sync and therefore see them.
 */
import type { Device, DeviceState, RegisterMode } from '../device.ts';
import { SavedState } from '../saved-state.ts';

/** Codes kept. */
export const POST_CODE_HISTORY = 32;

const REGISTERS: readonly RegisterMode[] = [{ offset: 0, size: 1, write: 'posted' }];

/** Port 0x80. */
export class PostCode implements Device {
  readonly name = 'post-code';
  readonly maxAccess = 1 as const;
  readonly registers = REGISTERS;
  readonly #ring = new Uint8Array(POST_CODE_HISTORY);
  #written = 0;

  /** The last codes, oldest first. */
  get codes(): number[] {
    const kept = Math.min(this.#written, POST_CODE_HISTORY);
    return Array.from({ length: kept }, (_, i) => this.#ring[(this.#written - kept + i) % POST_CODE_HISTORY]);
  }

  /** The last code, 0 before the first. */
  read(): number {
    return this.codes.at(-1) ?? 0;
  }

  write(_offset: number, _size: number, value: number): void {
    this.#ring[this.#written++ % POST_CODE_HISTORY] = value;
  }

  reset(): void {
    this.#written = 0;
  }

  save(): DeviceState {
    return { codes: this.codes };
  }

  /** @throws TSV_E_STATE */
  restore(state: DeviceState): void {
    const codes = new SavedState(this.name, state).ints('codes', 0xff, POST_CODE_HISTORY);
    this.#written = codes.length;
    this.#ring.set(codes);
  }
}
