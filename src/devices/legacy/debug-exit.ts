/**
 * Port 0xF4 as QEMU's isa-debug-exit: writing v ends the run with exit status (v << 1) | 1, which is never 0 because
 * that is a power-off.
 */
import type { Device, DeviceContext, DeviceState } from '../device.ts';

/** Ports the device occupies. */
export const DEBUG_EXIT_SIZE = 4;

/** The exit status that writing `value` gives: odd, 1 to 255. */
export function debugExitStatus(value: number): number {
  return ((value << 1) | 1) & 0xff;
}

/** Port 0xF4. It has no state. */
export class DebugExit implements Device {
  readonly name = 'debug-exit';
  #context: DeviceContext | undefined;

  attach(context: DeviceContext): void {
    this.#context = context;
  }

  read(): number {
    return 0;
  }

  write(offset: number, _size: number, value: number): void {
    // The register is at offset 0; the other bytes only belong to a wider access of it.
    if (offset !== 0) return;
    this.#context?.stop({ kind: 'exit', status: debugExitStatus(value), by: this.name });
  }

  save(): DeviceState {
    return {};
  }

  restore(): void {}
}
