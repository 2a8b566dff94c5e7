/**
 * Reset control register, port 0xCF9 (Intel ICH data sheets, RST_CNT). It is also what the FADT's RESET_REG names:
 * writing {@link RESET_VALUE} resets the machine.
 */
import type { Device, DeviceContext, DeviceState } from '../device.ts';
import { SavedState } from '../saved-state.ts';

/** A hard reset takes place; without it only the processor is reset, which is the same here. */
const SYS_RST = 0x02;
/** Its rising edge resets. */
const RST_CPU = 0x04;
/** A full reset with a power cycle. */
const FULL_RST = 0x08;

/** What the FADT should give as RESET_VALUE: RST_CPU and SYS_RST. */
export const RESET_VALUE = SYS_RST | RST_CPU;

/** Port 0xCF9. It lies within the PCI host's 0xCF8-0xCFF; {@link PciHost} decodes it when it is given one. */
export class ResetControl implements Device {
  readonly name = 'reset-control';
  readonly maxAccess = 1 as const;
  #context: DeviceContext | undefined;
  #value = 0;

  attach(context: DeviceContext): void {
    this.#context = context;
  }

  read(): number {
    return this.#value;
  }

  write(_offset: number, _size: number, value: number): void {
    const rises = (value & RST_CPU & ~this.#value) !== 0;
    this.#value = value & (SYS_RST | RST_CPU | FULL_RST);
    if (rises) this.#context?.stop({ kind: 'reset', by: 'port 0xcf9' });
  }

  reset(): void {
    this.#value = 0;
  }

  save(): DeviceState {
    return { value: this.#value };
  }

  /** @throws TSV_E_STATE */
  restore(state: DeviceState): void {
    this.#value = new SavedState(this.name, state).u8('value') & (SYS_RST | RST_CPU | FULL_RST);
  }
}
