/** The split ring (virtio 1.2 section 2.7): descriptor table, available ring, used ring. */
import type { DeviceState } from '../../device.ts';
import type { SavedState } from '../../saved-state.ts';
import { DESC_F, DESC_SIZE } from '../abi.ts';
import { DescriptorChain, indirectTable, RingError, readDescriptor } from './chain.ts';
import { passes, type Ring, type RingConfig } from './ring.ts';
import { RingArea } from './ring-area.ts';

// Both rings begin with flags and index.
const IDX = 2;
const RING = 4;
const AVAIL_ENTRY = 2;
const USED_ENTRY = 8;
const AVAIL_F_NO_INTERRUPT = 1;

/** The device's side of a split ring. */
export class SplitRing implements Ring {
  readonly #config: RingConfig;
  readonly #table: RingArea;
  readonly #avail: RingArea;
  readonly #used: RingArea;
  /** Heads of chains in the device's hands. */
  readonly #taken = new Set<number>();
  /** Index of the next available entry, and of the next used one; modulo 2^16. */
  #nextAvail = 0;
  #nextUsed = 0;
  /** {@link #nextUsed} when an interrupt was last thought about. */
  #considered = 0;

  /** @throws RingError when the size or an address cannot be */
  constructor(config: RingConfig) {
    const { memory, size, desc, driver, device } = config;
    if (!isPowerOfTwo(size)) throw new RingError(`a split ring of ${size} entries`);
    const event = config.hasEventIdx ? 2 : 0;
    const table = RingArea.at(memory, desc, size * DESC_SIZE, 16);
    const avail = RingArea.at(memory, driver, RING + size * AVAIL_ENTRY + event, 2);
    const used = RingArea.at(memory, device, RING + size * USED_ENTRY + event, 4);
    if (table === undefined || avail === undefined || used === undefined) {
      const places = [desc, driver, device].map((gpa) => `0x${gpa.toString(16)}`).join(', ');
      throw new RingError(`a split ring of ${size} entries at ${places} is not in RAM or not aligned`);
    }
    this.#config = config;
    this.#table = table;
    this.#avail = avail;
    this.#used = used;
  }

  next(): DescriptorChain | undefined {
    const { size, hasEventIdx } = this.#config;
    let index = this.#avail.u16(IDX);
    if (index === this.#nextAvail) {
      if (!hasEventIdx) return undefined;
      // avail_event: the driver notifies when it passes this. It may have passed before it could see that.
      this.#used.setU16(RING + size * USED_ENTRY, this.#nextAvail);
      index = this.#avail.u16(IDX);
      if (index === this.#nextAvail) return undefined;
    }
    const count = (index - this.#nextAvail) & 0xffff;
    if (count > size) throw new RingError(`the available index jumps by ${count} in a ring of ${size}`);
    const head = this.#avail.u16(RING + (this.#nextAvail & (size - 1)) * AVAIL_ENTRY);
    const chain = this.#walk(head);
    this.adopt(chain);
    this.#nextAvail = (this.#nextAvail + 1) & 0xffff;
    return chain;
  }

  adopt({ head }: DescriptorChain): void {
    if (head >= this.#config.size) throw new RingError(`head ${head} in a table of ${this.#config.size}`);
    if (this.#taken.has(head)) throw new RingError(`chain ${head} is available twice`);
    this.#taken.add(head);
  }

  #walk(head: number): DescriptorChain {
    const { memory, size, maxChain, hasIndirect } = this.#config;
    const chain = new DescriptorChain(memory, head);
    let area = this.#table;
    let entries = size;
    let index = head;
    /** Descriptors seen, in all and in the present table. A chain longer than its table has a loop. */
    let total = 0;
    let inTable = 0;
    for (;;) {
      if (index >= entries) throw new RingError(`descriptor ${index} in a table of ${entries}`);
      const descriptor = readDescriptor(area, index);
      const flags = descriptor.word12;
      if (flags & DESC_F.INDIRECT) {
        if (!hasIndirect) throw new RingError('an indirect descriptor that was not negotiated');
        if (area !== this.#table) throw new RingError('an indirect descriptor in an indirect table');
        ({ area, entries } = indirectTable(memory, descriptor, flags));
        index = 0;
        inTable = 0;
        continue;
      }
      total++;
      inTable++;
      if (inTable > entries || total > maxChain) throw new RingError('a chain is too long or has a loop');
      chain.add(descriptor.gpa, descriptor.length, (flags & DESC_F.WRITE) !== 0);
      if ((flags & DESC_F.NEXT) === 0) return chain;
      index = descriptor.word14;
    }
  }

  use(chain: DescriptorChain, written: number): boolean {
    const { size, hasEventIdx } = this.#config;
    this.#taken.delete(chain.head);
    const at = RING + (this.#nextUsed & (size - 1)) * USED_ENTRY;
    this.#used.setU32(at, chain.head);
    this.#used.setU32(at + 4, written);
    this.#nextUsed = (this.#nextUsed + 1) & 0xffff;
    this.#used.setU16(IDX, this.#nextUsed);
    if (!hasEventIdx) return (this.#avail.u16(0) & AVAIL_F_NO_INTERRUPT) === 0;
    const before = this.#considered;
    this.#considered = this.#nextUsed;
    return passes(this.#avail.u16(RING + size * AVAIL_ENTRY), this.#nextUsed, before);
  }

  save(): DeviceState {
    return { nextAvail: this.#nextAvail, nextUsed: this.#nextUsed };
  }

  restore(saved: SavedState): void {
    this.#nextAvail = saved.int('nextAvail', 0xffff);
    this.#nextUsed = saved.int('nextUsed', 0xffff);
    this.#considered = this.#nextUsed;
  }
}

function isPowerOfTwo(value: number): boolean {
  return value > 0 && (value & (value - 1)) === 0;
}
