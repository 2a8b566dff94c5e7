/** Stands behind read-only persistent memory: a write to such memory goes to the bus, and would vanish there unseen. */
import type { Device } from '../../device.ts';
import type { VirtioPmem } from './pmem.ts';

/** Mounted where the memory is. */
export class PmemWriteGuard implements Device {
  readonly name: string;
  readonly #pmem: VirtioPmem;

  constructor(pmem: VirtioPmem) {
    this.name = `${pmem.name}-memory`;
    this.#pmem = pmem;
  }

  write(): void {
    this.#pmem.lostWrite();
  }

  save(): Record<string, never> {
    return {};
  }

  restore(): void {}
}
