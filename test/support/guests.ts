/** Small machines for tests: a bare board with one flat guest. */
import type { Device, DeviceState } from '../../src/devices/device.ts';
import type { VmConfig } from '../../src/machine/config.ts';
import { Vm } from '../../src/machine/vm.ts';
import { assemble, CODE16 } from './assemble.ts';

/** A real-mode guest on an empty bus; HLT ends it. */
export function bareVm(source: string, options: Partial<VmConfig> = {}): Promise<Vm> {
  return Vm.create({
    memory: '2M',
    board: 'none',
    boot: { flat: assemble(CODE16 + source, 0x7c00) },
    ...options,
  });
}

/** A long-mode guest on an empty bus; HLT ends it. */
export function longModeVm(
  source: string,
  options: Partial<VmConfig> & { startAll?: boolean } = {},
): Promise<Vm> {
  const { startAll, ...rest } = options;
  return Vm.create({
    memory: '4M',
    board: 'none',
    boot: { flat: assemble(source, 0x100000), mode: 'long64', startAll },
    ...rest,
  });
}

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
