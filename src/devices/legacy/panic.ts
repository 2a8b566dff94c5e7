/**
 * Panic notification, port 0x505, as QEMU's pvpanic (docs/specs/pvpanic): the guest reads the events it may report
 * and writes the one that has happened. Linux finds it through ACPI, device QEMU0001.
 */
import type { Device, DeviceContext, DeviceState } from '../device.ts';

/** The guest has panicked and will not go on. */
export const PVPANIC_PANICKED = 0x01;
/** The guest has panicked and its crash kernel takes over. */
export const PVPANIC_CRASH_LOADED = 0x02;

/** Port 0x505. It has no state. */
export class Panic implements Device {
  readonly name = 'pvpanic';
  readonly maxAccess = 1 as const;
  #context: DeviceContext | undefined;

  attach(context: DeviceContext): void {
    this.#context = context;
  }

  read(): number {
    return PVPANIC_PANICKED | PVPANIC_CRASH_LOADED;
  }

  write(_offset: number, _size: number, value: number): void {
    if (value & PVPANIC_PANICKED) {
      this.#context?.stop({ kind: 'panic', message: 'it reported so through pvpanic', by: this.name });
    } else if (value & PVPANIC_CRASH_LOADED) {
      this.#context?.log('warn', 'The guest reported a panic and runs its crash kernel.');
    }
  }

  save(): DeviceState {
    return {};
  }

  restore(): void {}
}
