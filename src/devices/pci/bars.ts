/** Memory BARs of a function: sizing, and appearing on the bus where the guest puts them (PCI 3.0 section 6.2.5.1). */
import type { DeviceContext } from '../device.ts';
import { PCI_COMMAND, PCI_REGISTER, type PciConfigSpace } from './config-space.ts';

/** A 32-bit memory BAR. */
export interface BarSpec {
  /** Bytes, a power of two from 16 on. */
  readonly size: number;
  /** Offset within the device that its first byte stands for. */
  readonly offset: number;
}

/** The memory BARs 0, 1, ... of a function. */
export class PciBars {
  readonly #space: PciConfigSpace;
  readonly #specs: readonly BarSpec[];
  /** Where each is on the bus now; 0 where it is not. */
  readonly #mapped: number[];
  #context: DeviceContext | undefined;

  constructor(space: PciConfigSpace, specs: readonly BarSpec[]) {
    this.#space = space;
    this.#specs = specs;
    this.#mapped = specs.map(() => 0);
    for (const [i, { size }] of specs.entries()) space.allow(register(i), 4, -size >>> 0);
  }

  attach(context: DeviceContext): void {
    this.#context = context;
  }

  /** Gives each BAR an address, as firmware would. */
  assign(allocate: (size: number) => number): void {
    for (const [i, { size }] of this.#specs.entries()) this.#space.write(register(i), 4, allocate(size));
  }

  /** Offset within the device of a BAR's byte; undefined outside of it. */
  deviceOffset(bar: number, offset: number, size: number): number | undefined {
    const spec = this.#specs[bar];
    if (spec === undefined || offset + size > spec.size) return undefined;
    return spec.offset + offset;
  }

  /** Brings the bus in line with command register and BARs. */
  update(): void {
    const isOn = (this.#space.read(PCI_REGISTER.COMMAND, 2) & PCI_COMMAND.MEMORY) !== 0;
    const wanted = this.#specs.map((_, i) => (isOn ? this.#space.read(register(i), 4) : 0));
    // Two BARs may change places: the old ones go first.
    for (const [i, base] of this.#mapped.entries()) {
      if (base === 0 || base === wanted[i]) continue;
      this.#context?.unmount({ space: 'mmio', base });
      this.#mapped[i] = 0;
    }
    for (const [i, base] of wanted.entries()) if (base !== 0 && this.#mapped[i] === 0) this.#map(i, base);
  }

  /** A guest may put a BAR where something else is: then it stays off the bus. */
  #map(index: number, base: number): void {
    const { size, offset } = this.#specs[index];
    try {
      this.#context?.mount({ space: 'mmio', base, size, offset });
      this.#mapped[index] = base;
    } catch (error) {
      this.#context?.log('warn', `BAR ${index}: ${(error as Error).message}`);
    }
  }
}

function register(index: number): number {
  return PCI_REGISTER.BAR0 + 4 * index;
}
