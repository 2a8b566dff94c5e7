/** What the split and the packed ring have in common, towards the queue. */
import type { GuestMemory } from '../../../memory/guest-memory.ts';
import type { DeviceState } from '../../device.ts';
import type { SavedState } from '../../saved-state.ts';
import type { DescriptorChain } from './chain.ts';

/** How a queue is laid out, as the driver said and the transport checked nothing of. */
export interface RingConfig {
  readonly memory: GuestMemory;
  /** Entries, 1 to 32768. */
  readonly size: number;
  /** Most descriptors of a chain, indirect ones included: the device's largest size of this queue. */
  readonly maxChain: number;
  /** Guest-physical addresses: descriptor area, driver area, device area. */
  readonly desc: number;
  readonly driver: number;
  readonly device: number;
  /** VIRTIO_F_INDIRECT_DESC was negotiated. */
  readonly hasIndirect: boolean;
  /** VIRTIO_F_EVENT_IDX was negotiated. */
  readonly hasEventIdx: boolean;
}

/** A ring format. */
export interface Ring {
  /** The next available chain. When there is none the driver is asked to notify. @throws RingError */
  next(): DescriptorChain | undefined;
  /** Marks a chain as used. @returns whether the driver wants an interrupt for it */
  use(chain: DescriptorChain, written: number): boolean;
  /** A chain that was taken before the state was saved: it is in the device's hands again. @throws RingError */
  adopt(chain: DescriptorChain): void;
  /** Positions; chains in the device's hands are not part of it. */
  save(): DeviceState;
  /** @throws TSV_E_STATE */
  restore(state: SavedState): void;
}

/**
 * Whether a position lies in what was used since the last look, all modulo 2^16: vring_need_event of virtio 1.2
 * section 2.7.7.
 */
export function passes(event: number, next: number, before: number): boolean {
  return ((next - event - 1) & 0xffff) < ((next - before) & 0xffff);
}
