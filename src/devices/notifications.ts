/**
 * Writes that only notify a device, such as virtio's queue notifications: an engine that can see them itself passes them
 * on without the vCPU's leaving the guest (KVM's ioeventfd). Where it cannot, they travel as the bus sees fit.
 */
import type { Mount } from './bus.ts';
import type { AccessSize, Device, NotifyRegister } from './device.ts';

/** A write in guest-physical terms. */
export interface NotifyPlace extends Pick<Mount, 'space'> {
  /** Port or guest-physical address. */
  address: number;
  /** Width of the write; any when absent. */
  size?: AccessSize;
  /** The value written, unsigned; any when absent. Needs a width. */
  value?: number;
}

/** A write that an engine watches. */
export interface Notifier {
  /** Takes a notification that has come and has not been told yet. @returns whether there was one */
  take(): boolean;
  /** Such writes go to the bus from now on. */
  close(): void;
}

/**
 * How an engine is asked to watch a write.
 * @param onWrite called on this thread, once for one or several such writes
 * @returns undefined when it cannot
 */
export type OpenNotifier = (place: NotifyPlace, onWrite: () => void) => Notifier | undefined;

/** A device's range on the bus. */
interface Region extends Required<Mount> {
  device: Device;
}

interface Watch {
  register: NotifyRegister;
  notifier: Notifier;
}

/**
 * To watch a write costs an engine microseconds, to stop watching it milliseconds: a device whose ranges the guest moves
 * more often than this while they are watched is watched no more.
 */
const MOST_MOVES = 64;

/** The notifiers of all devices on a bus. */
export class Notifications<R extends Region> {
  readonly #open: OpenNotifier;
  readonly #deliver: (region: R, register: NotifyRegister) => void;
  readonly #registers = new Map<Device, NotifyRegister[]>();
  readonly #watches = new Map<R, Watch[]>();
  readonly #moves = new Map<Device, number>();
  #isClosed = false;

  /** @param deliver carries the write out */
  constructor(open: OpenNotifier, deliver: (region: R, register: NotifyRegister) => void) {
    this.#open = open;
    this.#deliver = deliver;
  }

  /** A device names one more such write; `regions` are the ranges it has now. */
  name(device: Device, register: NotifyRegister, regions: readonly R[]): void {
    const { offset, size, value } = register;
    const registers = this.#registers.get(device) ?? [];
    const isKnown = (other: NotifyRegister) =>
      other.offset === offset && other.size === size && other.value === value;
    if (registers.some(isKnown)) return;
    registers.push(register);
    this.#registers.set(device, registers);
    for (const region of regions) this.#watch(region, register);
  }

  /** The range is on the bus now. */
  add(region: R): void {
    for (const register of this.#registers.get(region.device) ?? []) this.#watch(region, register);
  }

  #watch(region: R, register: NotifyRegister): void {
    const { device, space, base, size, offset } = region;
    const at = register.offset - offset;
    const isInside = at >= 0 && at + (register.size ?? 1) <= size;
    if (!isInside || (this.#moves.get(device) ?? 0) > MOST_MOVES) return;
    const place = { space, address: base + at, size: register.size, value: register.value };
    const notifier = this.#open(place, () => {
      if (!this.#isClosed) this.#deliver(region, register);
    });
    if (notifier === undefined) return;
    const watches = this.#watches.get(region) ?? [];
    watches.push({ register, notifier });
    this.#watches.set(region, watches);
  }

  /** The range is not on the bus any more. */
  remove(region: R): void {
    const watches = this.#watches.get(region);
    if (watches === undefined) return;
    this.#watches.delete(region);
    for (const { notifier } of watches) notifier.close();
    this.#moves.set(region.device, (this.#moves.get(region.device) ?? 0) + 1);
  }

  /** The device is gone, its ranges too. */
  forget(device: Device): void {
    this.#registers.delete(device);
    this.#moves.delete(device);
  }

  /** Delivers what has come and has not been told yet. */
  flush(): void {
    for (const [region, watches] of this.#watches) {
      for (const { register, notifier } of watches) if (notifier.take()) this.#deliver(region, register);
    }
  }

  /** Delivers no more. The engine, which ends as well, gives its notifiers back faster than one by one. */
  close(): void {
    this.#isClosed = true;
  }
}
