/** The packed ring (virtio 1.2 section 2.8): one ring of descriptors that both sides write, and two event areas. */
import type { DeviceState } from '../../device.ts';
import type { SavedState } from '../../saved-state.ts';
import { DESC_F, DESC_SIZE, MAX_QUEUE_SIZE } from '../abi.ts';
import { type Descriptor, DescriptorChain, indirectTable, RingError, readDescriptor } from './chain.ts';
import type { Ring, RingConfig } from './ring.ts';
import { RingArea } from './ring-area.ts';

// Event suppression structure, section 2.8.14: offset and wrap counter, then flags.
const EVENT_FLAGS = 2;
const EVENT_SIZE = 4;
const EVENT_DISABLE = 1;
const EVENT_DESC = 2;
const EVENT_WRAP = 0x8000;
const FLAGS = 14;
const ID = 12;
const LENGTH = 8;

/** The device's side of a packed ring. */
export class PackedRing implements Ring {
  readonly #config: RingConfig;
  readonly #ring: RingArea;
  readonly #driverEvent: RingArea;
  readonly #deviceEvent: RingArea;
  /** Ring slots of chains in the device's hands. */
  #outstanding = 0;
  #nextAvail = 0;
  #availWrap = true;
  #nextUsed = 0;
  #usedWrap = true;
  /** Slots used since an interrupt was last thought about. */
  #unconsidered = 0;

  /** @throws RingError when the size or an address cannot be */
  constructor(config: RingConfig) {
    const { memory, size, desc, driver, device } = config;
    const possible = size > 0 && size <= MAX_QUEUE_SIZE;
    const ring = possible ? RingArea.at(memory, desc, size * DESC_SIZE, 16) : undefined;
    const driverEvent = RingArea.at(memory, driver, EVENT_SIZE, 4);
    const deviceEvent = RingArea.at(memory, device, EVENT_SIZE, 4);
    if (ring === undefined || driverEvent === undefined || deviceEvent === undefined) {
      const places = [desc, driver, device].map((gpa) => `0x${gpa.toString(16)}`).join(', ');
      throw new RingError(`a packed ring of ${size} entries at ${places} is not in RAM or not aligned`);
    }
    this.#config = config;
    this.#ring = ring;
    this.#driverEvent = driverEvent;
    this.#deviceEvent = deviceEvent;
  }

  next(): DescriptorChain | undefined {
    if (!this.#isAvailable()) {
      if (!this.#config.hasEventIdx) return undefined;
      // The driver notifies when it passes this slot. It may have passed before it could see that.
      this.#deviceEvent.setU16(0, this.#nextAvail | (this.#availWrap ? EVENT_WRAP : 0));
      this.#deviceEvent.setU16(EVENT_FLAGS, EVENT_DESC);
      if (!this.#isAvailable()) return undefined;
    }
    const chain = this.#walk();
    this.adopt(chain);
    this.#nextAvail += chain.slots;
    if (this.#nextAvail >= this.#config.size) {
      this.#nextAvail -= this.#config.size;
      this.#availWrap = !this.#availWrap;
    }
    return chain;
  }

  adopt({ slots }: DescriptorChain): void {
    if (this.#outstanding + slots > this.#config.size) {
      throw new RingError(`more than ${this.#config.size} descriptors are available`);
    }
    this.#outstanding += slots;
  }

  /** Section 2.8.1: the AVAIL bit is the driver's wrap counter, and the USED bit its inverse. */
  #isAvailable(): boolean {
    const flags = this.#ring.u16(this.#nextAvail * DESC_SIZE + FLAGS);
    const avail = (flags & DESC_F.AVAIL) !== 0;
    const used = (flags & DESC_F.USED) !== 0;
    return avail !== used && avail === this.#availWrap;
  }

  #walk(): DescriptorChain {
    const { memory, size, maxChain } = this.#config;
    const descriptors: Descriptor[] = [];
    let at = this.#nextAvail;
    for (;;) {
      const descriptor = readDescriptor(this.#ring, at);
      descriptors.push(descriptor);
      if ((descriptor.word14 & DESC_F.NEXT) === 0) break;
      if (descriptors.length >= Math.min(size, maxChain)) throw new RingError('a chain is too long');
      at = (at + 1) % size;
    }
    // The buffer ID is that of the last descriptor (section 2.8.6).
    const chain = new DescriptorChain(memory, descriptors[descriptors.length - 1].word12);
    chain.slots = descriptors.length;
    let total = 0;
    for (const descriptor of descriptors) {
      const flags = descriptor.word14;
      if (flags & DESC_F.INDIRECT) total += this.#indirect(chain, descriptor, maxChain - total);
      else {
        chain.add(descriptor.gpa, descriptor.length, (flags & DESC_F.WRITE) !== 0);
        total++;
      }
    }
    return chain;
  }

  /** Section 2.8.7: all entries of the table belong to the chain, in order. @returns how many they are */
  #indirect(chain: DescriptorChain, descriptor: Descriptor, room: number): number {
    if (!this.#config.hasIndirect) throw new RingError('an indirect descriptor that was not negotiated');
    const { area, entries } = indirectTable(this.#config.memory, descriptor, descriptor.word14);
    if (entries > room) throw new RingError('a chain is too long');
    for (let i = 0; i < entries; i++) {
      const { gpa, length, word14: flags } = readDescriptor(area, i);
      if (flags & DESC_F.INDIRECT) throw new RingError('an indirect descriptor in an indirect table');
      chain.add(gpa, length, (flags & DESC_F.WRITE) !== 0);
    }
    return entries;
  }

  use(chain: DescriptorChain, written: number): boolean {
    const { size } = this.#config;
    this.#outstanding -= chain.slots;
    const at = this.#nextUsed * DESC_SIZE;
    this.#ring.setU32(at + LENGTH, written);
    this.#ring.setU16(at + ID, chain.head);
    const wrap = this.#usedWrap ? DESC_F.AVAIL | DESC_F.USED : 0;
    this.#ring.setU16(at + FLAGS, wrap | (written > 0 ? DESC_F.WRITE : 0));
    this.#nextUsed += chain.slots;
    if (this.#nextUsed >= size) {
      this.#nextUsed -= size;
      this.#usedWrap = !this.#usedWrap;
    }
    this.#unconsidered += chain.slots;
    return this.#wantsInterrupt();
  }

  #wantsInterrupt(): boolean {
    const { size, hasEventIdx } = this.#config;
    const flags = this.#driverEvent.u16(EVENT_FLAGS) & 3;
    const count = this.#unconsidered;
    this.#unconsidered = 0;
    if (flags !== EVENT_DESC || !hasEventIdx) return flags !== EVENT_DISABLE;
    const event = this.#driverEvent.u16(0);
    const offset = event & (EVENT_WRAP - 1);
    // Slots from the event to where the device is now; an event with the other wrap counter is a lap behind.
    const sameLap = ((event & EVENT_WRAP) !== 0) === this.#usedWrap;
    const passed = this.#nextUsed - offset + (sameLap ? 0 : size);
    return passed > 0 && passed <= count;
  }

  save(): DeviceState {
    const { size } = this.#config;
    return {
      nextAvail: this.#nextAvail + (this.#availWrap ? size : 0),
      nextUsed: this.#nextUsed + (this.#usedWrap ? size : 0),
    };
  }

  restore(saved: SavedState): void {
    const { size } = this.#config;
    const nextAvail = saved.int('nextAvail', 2 * size - 1);
    const nextUsed = saved.int('nextUsed', 2 * size - 1);
    this.#nextAvail = nextAvail % size;
    this.#availWrap = nextAvail >= size;
    this.#nextUsed = nextUsed % size;
    this.#usedWrap = nextUsed >= size;
    this.#unconsidered = 0;
  }
}
