/** Guest-physical addresses to offsets in the shared memory. */
import type { RamRegion } from '../memory/guest-memory.ts';
import type { MemorySlot, MemorySlots } from './memory-slots.ts';

/** RAM and ROM of the guest as one vCPU sees them. */
export class PhysicalMap {
  readonly #regions: readonly RamRegion[];
  readonly #table: MemorySlots | undefined;
  #version = 0;
  #slots: readonly MemorySlot[] = [];

  /**
   * @param regions RAM, all in memory 0
   * @param slots memory that comes and goes; looked at in {@link update}
   */
  constructor(regions: readonly RamRegion[], slots?: MemorySlots) {
    this.#regions = regions;
    this.#table = slots;
    this.update();
  }

  /** Takes over changes of the slots. @returns whether there were any: translations that are remembered are void then */
  update(): boolean {
    const table = this.#table;
    if (table === undefined || table.version === this.#version) return false;
    this.#version = table.version;
    this.#slots = table.read();
    return true;
  }

  /** The offset of a guest-physical address in the memory, or -1 where there is none, or none that can be written to. */
  host(gpa: number, write = false): number {
    for (const region of this.#regions) {
      const at = gpa - region.gpa;
      if (at >= 0 && at < region.size) return region.offset + at;
    }
    for (const slot of this.#slots) {
      const at = gpa - slot.gpa;
      if (at >= 0 && at < slot.size) return write && slot.readOnly ? -1 : slot.host + at;
    }
    return -1;
  }

  /** Whether an offset in the memory is that of ROM. */
  isReadOnly(host: number): boolean {
    return this.#slots.some((slot) => slot.readOnly && host >= slot.host && host < slot.host + slot.size);
  }
}
