/** Small machines for tests: a bare board with one flat guest. */
import type { Device, DeviceState } from '../../src/devices/device.ts';
import type { VmConfig } from '../../src/machine/config.ts';
import { Vm } from '../../src/machine/vm.ts';
import type { EngineName } from '../../src/vcpu/engine.ts';
import { assemble, CODE16 } from './assemble.ts';

/** What {@link guestsOn} makes. */
export interface Guests {
  /** A real-mode guest on an empty bus; HLT ends it. */
  bareVm(source: string, options?: Partial<VmConfig>): Promise<Vm>;
  /** A real-mode guest on the PC board. */
  pcVm(source: string, options?: Partial<VmConfig>): Promise<Vm>;
  /** A long-mode guest on an empty bus; HLT ends it. */
  longModeVm(source: string, options?: Partial<VmConfig> & { startAll?: boolean }): Promise<Vm>;
}

/** Small machines of one engine. */
export function guestsOn(accel: EngineName): Guests {
  const real = (source: string) => ({ flat: assemble(CODE16 + source, 0x7c00) });
  return {
    bareVm: (source, options) =>
      Vm.create({ accel, memory: '2M', board: 'none', boot: real(source), ...options }),
    pcVm: (source, options) => Vm.create({ accel, memory: '4M', boot: real(source), ...options }),
    longModeVm(source, { startAll, ...options } = {}) {
      const boot = { flat: assemble(source, 0x100000), mode: 'long64', startAll } as const;
      return Vm.create({ accel, memory: '4M', board: 'none', boot, ...options });
    },
  };
}

/** Writes text to COM1 and goes on. */
export function print(text: string): string {
  const label = `t${Math.random().toString(36).slice(2)}`;
  const bytes = [...new TextEncoder().encode(text)].join(', ');
  return `
    cld; xor ax, ax; mov ds, ax; mov si, offset ${label}; mov cx, ${bytes.split(',').length}; mov dx, 0x3f8
    ${label}_next: lodsb; out dx, al; loop ${label}_next; jmp ${label}_end
    ${label}: .byte ${bytes}
    ${label}_end:`;
}

/** Powers a PC off by ACPI. */
export const POWER_OFF = 'mov dx, 0x604; mov ax, 0x3400; out dx, ax; 9: hlt; jmp 9b';

/** What a {@link RecordingDevice} saw. */
export type RecordedAccess = ['read' | 'write', number, number, number];

/** A device that records accesses and answers reads from a function. */
export class RecordingDevice implements Device {
  readonly name: string;
  readonly accesses: RecordedAccess[] = [];
  readonly #answer: (offset: number, size: number) => number | Promise<number>;

  constructor(
    answer: (offset: number, size: number) => number | Promise<number> = () => 0,
    name = 'recorder',
  ) {
    this.name = name;
    this.#answer = answer;
  }

  async read(offset: number, size: number): Promise<number> {
    const value = await this.#answer(offset, size);
    this.accesses.push(['read', offset, size, value]);
    return value;
  }

  write(offset: number, size: number, value: number): void {
    this.accesses.push(['write', offset, size, value]);
  }

  save(): DeviceState {
    return {};
  }

  restore(): void {}
}
