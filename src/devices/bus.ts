/**
 * The bus: which device answers which port or guest-physical address, on the thread that owns the devices.
 *
 * vCPU threads look addresses up themselves ({@link BusClient}) and hand over only what a device must do itself; here
 * those accesses are carried out, in order for each vCPU, one at a time for each device.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { inspect } from 'node:util';
import { TsvError, toTsvError } from '../errors.ts';
import { BusClient } from './bus-client.ts';
import {
  BusTable,
  LATCH_CAPACITY,
  READ_LATCHED,
  READ_SYNC,
  SPACE,
  type Space,
  type TableMode,
  WRITE_POSTED,
  WRITE_SYNC,
  WRITE_W1C,
} from './bus-table.ts';
import { type Access, Channel, Doorbell, MAX_REGION_ID, type Wakeups } from './channel.ts';
import type { AccessSize, Device, Latch, NotifyRegister, RegisterMode } from './device.ts';
import { COLLECT_MS, Flood } from './flood.ts';
import { Notifications, type OpenNotifier } from './notifications.ts';

/** Where a device's registers appear. */
export interface Mount {
  space: Space;
  /** First port or guest-physical address. */
  base: number;
  /** Length in bytes. */
  size: number;
  /** The device offset that `base` stands for; default 0. */
  offset?: number;
}

/** What a {@link Bus} reports to its machine. */
export interface BusEvents {
  /** A device threw, rejected or took longer than `deviceTimeout`. The access is answered with all ones. */
  onDeviceError(error: TsvError, device: Device): void;
}

interface Region extends Required<Mount> {
  id: number;
  device: Device;
}

/** Turn of the event loop after this much uninterrupted device work, so that timers and sockets get their share. */
const SERVICE_SLICE_MS = 5;

const PHYSICAL_LIMIT = 2 ** 52;

/** The bus of one machine. */
export class Bus {
  readonly table = new BusTable();
  readonly bell: Doorbell;
  readonly #wakeups: Wakeups | undefined;
  readonly #events: BusEvents;
  readonly #deviceTimeout: number;
  readonly #settle: boolean;
  readonly #regions: Region[] = [];
  readonly #byId = new Map<number, Region>();
  readonly #channels: Channel[] = [];
  readonly #latches = new Map<Device, Map<number, number>>();
  readonly #busy = new Map<Device, Promise<void>>();
  /** Channels that wait for a device that answered with a promise. */
  readonly #pending = new Set<Channel>();
  /** For a request that must wait: how far each channel's ring had been filled when it was made. */
  readonly #barriers = new Map<Channel, number[]>();
  readonly #timers = new Set<NodeJS.Timeout>();
  readonly #notifications: Notifications<Region>;
  /** Accesses carried out so far: posted writes, and those that a vCPU waited for. */
  #posted = 0;
  #called = 0;
  #nextId = 0;
  #nextLatch = 0;
  /** Latches of devices that are gone. */
  readonly #freeLatches: number[] = [];
  #serving = false;
  #closed = false;

  /**
   * @param options.deviceTimeout milliseconds a device may take for one access; 0 for no limit; default 30 000
   * @param options.wakeups how this thread and the vCPUs wake each other; Atomics when absent
   * @param options.settle let the event loop turn before an access is answered, so that what a device does right after
   * it comes before the vCPU's next instruction: for runs that shall repeat exactly
   * @param options.notifier how the engine watches writes that only notify; it cannot when absent
   */
  constructor(
    events: BusEvents,
    options: { deviceTimeout?: number; wakeups?: Wakeups; settle?: boolean; notifier?: OpenNotifier } = {},
  ) {
    this.#notifications = new Notifications(options.notifier ?? (() => undefined), (region, register) =>
      this.#notify(region, register),
    );
    this.#settle = options.settle ?? false;
    this.#wakeups = options.wakeups;
    this.bell = new Doorbell(undefined, options.wakeups);
    this.#events = events;
    this.#deviceTimeout = options.deviceTimeout ?? 30_000;
  }

  /**
   * Gives a device a range of ports or guest-physical addresses.
   * @throws TSV_E_BUS_OVERLAP when part of it is taken, TSV_E_BUS_RANGE when it cannot exist
   */
  mount(device: Device, mount: Mount): void {
    const region: Region = { offset: 0, ...mount, id: this.#freeId(), device };
    checkRange(region);
    const other = this.#regions.find(
      (r) => r.space === region.space && r.base < region.base + region.size && region.base < r.base + r.size,
    );
    if (other !== undefined) {
      throw new TsvError(
        'TSV_E_BUS_OVERLAP',
        `Device "${device.name}" at ${describe(region)} overlaps device "${other.device.name}" at ${describe(other)}.`,
        { hint: 'Choose a free range, or unmount the other device first.' },
      );
    }
    this.#nextId = region.id + 1;
    this.#regions.push(region);
    this.#byId.set(region.id, region);
    this.#publish();
    this.#notifications.add(region);
  }

  /**
   * Takes a device off the bus, or only one of its ranges. Accesses that are still under way to it read all ones and
   * write nothing.
   */
  unmount(device: Device, mount?: Pick<Mount, 'space' | 'base'>): void {
    const gone = (r: Region) =>
      r.device === device && (mount === undefined || (r.space === mount.space && r.base === mount.base));
    for (let i = this.#regions.length - 1; i >= 0; i--) {
      if (!gone(this.#regions[i])) continue;
      const [region] = this.#regions.splice(i, 1);
      this.#byId.delete(region.id);
      this.#notifications.remove(region);
    }
    if (mount === undefined) this.#notifications.forget(device);
    this.#publish();
    if (this.#regions.some((region) => region.device === device)) return;
    for (const index of this.#latches.get(device)?.values() ?? []) {
      Atomics.store(this.table.latches, index, 0);
      this.#freeLatches.push(index);
    }
    this.#latches.delete(device);
  }

  /** Regions are named by 16 bits in a channel; one that was unmounted long ago may give its name to another. */
  #freeId(): number {
    let id = this.#nextId & MAX_REGION_ID;
    while (this.#byId.has(id)) id = (id + 1) & MAX_REGION_ID;
    return id;
  }

  /** Every mounted range, in order of mounting. */
  get mounts(): readonly (Mount & { device: Device })[] {
    return this.#regions;
  }

  /** The latch behind the latched or w1c register at a device's offset. @throws TSV_E_BUS_RANGE when not declared */
  latch(device: Device, offset: number): Latch {
    const declared = device.registers?.some((mode) => latchOffset(mode) === offset);
    if (!declared) {
      throw new TsvError(
        'TSV_E_BUS_RANGE',
        `Device "${device.name}" declares no latch at offset ${offset}.`,
        {
          hint: 'Declare the register with read: "latched" or as the target of write: "w1c".',
        },
      );
    }
    const index = this.#latchIndex(device, offset);
    const words = this.table.latches;
    return {
      load: () => Atomics.load(words, index) >>> 0,
      store: (value) => {
        Atomics.store(words, index, value);
      },
      or: (bits) => Atomics.or(words, index, bits) >>> 0,
      clear: (bits) => Atomics.and(words, index, ~bits) >>> 0,
    };
  }

  /** What `DeviceContext.notifiedBy` does. */
  notifiedBy(device: Device, register: NotifyRegister): void {
    const regions = this.#regions.filter((region) => region.device === device);
    this.#notifications.name(device, register, regions);
  }

  /** A channel for one more vCPU. Accesses are served once {@link serve} runs. */
  addChannel(): Channel {
    const channel = new Channel(undefined, this.#wakeups);
    this.#channels.push(channel);
    return channel;
  }

  /** A client on this thread's side of the table, to look up and read latches; its sync accesses would deadlock here. */
  client(channel: Channel): BusClient {
    return new BusClient(this.table, channel, this.bell);
  }

  /** Carries out one access from this thread: for tests, debuggers and devices that forward. Reads all ones where nothing is. */
  async access(space: Space, address: number, size: AccessSize, write?: number): Promise<number> {
    const region = this.#regions.find(
      (r) => r.space === space && address >= r.base && address + size <= r.base + r.size,
    );
    if (region === undefined) return truncate(undefined, size);
    const value = await this.#perform(region, {
      region: region.id,
      offset: address - region.base,
      size,
      isWrite: write !== undefined,
      value: write ?? 0,
    });
    return value;
  }

  /** Serves the vCPUs until {@link close}. */
  async serve(): Promise<void> {
    if (this.#serving) return;
    this.#serving = true;
    const flood = new Flood();
    let sliceStart = performance.now();
    while (!this.#closed) {
      const count = this.bell.count();
      this.#serveAll();
      const collect = flood.rises(this.#posted, this.#called);
      const now = performance.now();
      const rung = this.bell.wait(count, collect ? COLLECT_MS : undefined);
      if (rung !== undefined) {
        await rung;
        sliceStart = performance.now();
        flood.woken(collect, sliceStart - now);
      } else if (now - sliceStart > SERVICE_SLICE_MS) {
        await new Promise((resolve) => setImmediate(resolve));
        sliceStart = performance.now();
      }
    }
    this.#serving = false;
  }

  /**
   * Carries out the posted writes and notifications that are still under way: for the moment after every vCPU has come to a stand.
   * @param patience milliseconds to wait for devices that answer with promises; default no limit
   * @returns false when a device was still busy then
   */
  async drain(patience = Number.POSITIVE_INFINITY): Promise<boolean> {
    const end = performance.now() + patience;
    this.#notifications.flush();
    this.#serveAll();
    while (this.#pending.size > 0) {
      const left = end - performance.now();
      if (left <= 0) return false;
      const idle = Promise.all(this.#busy.values());
      await (Number.isFinite(left) ? Promise.race([idle, delay(left, undefined, { ref: false })]) : idle);
      this.#serveAll();
    }
    return true;
  }

  /** Lets every vCPU that waits for a device go with an abort. */
  abort(): void {
    for (const channel of this.#channels) channel.abort();
  }

  /** Ends {@link serve}. */
  close(): void {
    this.#closed = true;
    this.#notifications.close();
    // A device that never answers must not keep the process alive until it is late.
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers.clear();
    this.abort();
    this.bell.ring();
    this.bell.close();
  }

  #serveAll(): void {
    for (const channel of this.#channels) this.#drainPosted(channel);
    for (const channel of this.#channels) this.#serveRequest(channel);
  }

  /** Carries out posted writes, up to what the ring held at `head`: a guest that posts on and on must not hold up others. */
  #drainPosted(channel: Channel, head = channel.head): void {
    if (this.#pending.has(channel)) return;
    while (!channel.taken(head)) {
      const access = channel.takePosted();
      this.#posted++;
      const region = this.#byId.get(access.region);
      const done = region === undefined ? 0 : this.#perform(region, access);
      if (typeof done !== 'number') {
        // The device is busy: later writes of this vCPU wait their turn, and so does the vCPU once its ring is full.
        this.#hold(channel, done);
        return;
      }
    }
  }

  #serveRequest(channel: Channel): void {
    const request = channel.request();
    if (request === undefined || this.#pending.has(channel)) return;
    // What other vCPUs had posted before this request was made comes first: a guest lock may have ordered them.
    const barrier = this.#barriers.get(channel) ?? this.#channels.map((other) => other.head);
    this.#channels.forEach((other, i) => {
      this.#drainPosted(other, barrier[i]);
    });
    if (this.#channels.some((other, i) => !other.taken(barrier[i]))) {
      this.#barriers.set(channel, barrier);
      return;
    }
    this.#barriers.delete(channel);
    if (this.#pending.has(channel)) return;
    this.#called++;
    const region = this.#byId.get(request.region);
    const value = region === undefined ? truncate(undefined, request.size) : this.#perform(region, request);
    if (this.#settle) this.#hold(channel, settled(value), true);
    else if (typeof value === 'number') channel.answer(value);
    else this.#hold(channel, value, true);
  }

  /** Whoever notifies does not wait: not for a device that is busy either. */
  #notify(region: Region, { offset, size = 4, value = 0 }: NotifyRegister): void {
    const access = { region: region.id, offset: offset - region.offset, size, isWrite: true, value };
    void this.#perform(region, access);
  }

  #hold(channel: Channel, work: Promise<number>, answer = false): void {
    this.#pending.add(channel);
    work.then((value) => {
      this.#pending.delete(channel);
      if (answer) channel.answer(value);
      this.bell.ring();
    });
  }

  /** Never throws: what goes wrong is reported and answered with all ones. */
  #perform(region: Region, access: Access): number | Promise<number> {
    const { device } = region;
    const busy = this.#busy.get(device);
    if (busy !== undefined) {
      const gone = truncate(undefined, access.size);
      return busy.then(() => (this.#byId.has(access.region) ? this.#perform(region, access) : gone));
    }
    try {
      const offset = access.offset + region.offset;
      if (access.isWrite) {
        const done = device.write?.(offset, access.size, access.value);
        return done === undefined ? 0 : this.#await(device, access, done);
      }
      const value = device.read?.(offset, access.size);
      return typeof value === 'object' ? this.#await(device, access, value) : truncate(value, access.size);
    } catch (error) {
      this.#fail(device, access, error);
      return truncate(undefined, access.size);
    }
  }

  async #await(device: Device, access: Access, work: Promise<unknown>): Promise<number> {
    let timer: NodeJS.Timeout | undefined;
    const limit =
      this.#deviceTimeout === 0
        ? []
        : [
            new Promise<never>((_, reject) => {
              timer = setTimeout(() => reject(this.#lateError(device, access)), this.#deviceTimeout);
              this.#timers.add(timer);
            }),
          ];
    const result = Promise.race([work, ...limit])
      .catch((error) => this.#fail(device, access, error))
      .finally(() => {
        clearTimeout(timer);
        if (timer !== undefined) this.#timers.delete(timer);
        this.#busy.delete(device);
      });
    this.#busy.set(
      device,
      result.then(() => undefined),
    );
    const value = await result;
    return truncate(typeof value === 'number' ? value : undefined, access.size);
  }

  #lateError(device: Device, access: Access): TsvError {
    return new TsvError(
      'TSV_E_DEVICE_TIMEOUT',
      `Device "${device.name}" did not answer a ${access.isWrite ? 'write' : 'read'} at offset 0x${access.offset.toString(16)} within ${this.#deviceTimeout} ms.`,
      { hint: 'Look for a promise in the device that is never settled, or raise deviceTimeout.' },
    );
  }

  #fail(device: Device, access: Access, error: unknown): undefined {
    const where = `${access.isWrite ? 'a write to' : 'a read of'} offset 0x${access.offset.toString(16)}`;
    const reported = toTsvError(
      error,
      'TSV_E_DEVICE',
      `Device "${device.name}" failed in ${where}: ${error instanceof Error ? error.message : inspect(error)}.`,
      'The stack of the cause shows the place in the device.',
    );
    this.#events.onDeviceError(reported, device);
  }

  #latchIndex(device: Device, offset: number): number {
    let latches = this.#latches.get(device);
    if (latches === undefined) {
      latches = new Map();
      this.#latches.set(device, latches);
    }
    let index = latches.get(offset);
    if (index === undefined) {
      if (this.#freeLatches.length === 0 && this.#nextLatch === LATCH_CAPACITY) {
        throw new TsvError('TSV_E_BUS_RANGE', `All ${LATCH_CAPACITY} latches of the bus are in use.`, {
          hint: 'Declare fewer latched registers.',
        });
      }
      index = this.#freeLatches.pop() ?? this.#nextLatch++;
      latches.set(offset, index);
    }
    return index;
  }

  #publish(): void {
    this.table.publish(
      this.#regions.map((region) => ({
        id: region.id,
        space: SPACE[region.space],
        base: region.base,
        size: region.size,
        maxAccess: region.device.maxAccess ?? 4,
        modes: this.#modes(region),
      })),
    );
  }

  /** The device's modes that fall into a region, by offsets within the region. */
  #modes(region: Region): TableMode[] {
    const modes: TableMode[] = [];
    for (const mode of region.device.registers ?? []) {
      const offset = mode.offset - region.offset;
      if (offset < 0 || offset + mode.size > region.size) continue;
      const latched = mode.read === 'latched';
      const w1c = mode.write === 'w1c';
      modes.push({
        offset,
        size: mode.size,
        read: latched ? READ_LATCHED : READ_SYNC,
        write: w1c ? WRITE_W1C : mode.write === 'posted' ? WRITE_POSTED : WRITE_SYNC,
        readLatch: latched ? this.#latchIndex(region.device, mode.offset) : -1,
        w1cLatch: w1c ? this.#latchIndex(region.device, mode.target ?? mode.offset) : -1,
      });
    }
    return modes;
  }
}

/** What a device answered, as many bits of it as were asked for; all ones when it did not. */
function truncate(value: number | undefined, size: AccessSize): number {
  const bits = value ?? 0xffffffff;
  return size === 4 ? bits >>> 0 : bits & (2 ** (size * 8) - 1);
}

async function settled(value: number | Promise<number>): Promise<number> {
  const result = await value;
  await new Promise((resolve) => setImmediate(resolve));
  return result;
}

function latchOffset(mode: RegisterMode): number | undefined {
  if (mode.write === 'w1c') return mode.target ?? mode.offset;
  return mode.read === 'latched' ? mode.offset : undefined;
}

function describe({ space, base, size }: Mount): string {
  return `${space === 'pio' ? 'port' : 'address'} 0x${base.toString(16)}+0x${size.toString(16)}`;
}

function checkRange(region: Region): void {
  const limit = region.space === 'pio' ? 0x10000 : PHYSICAL_LIMIT;
  const whole = Number.isSafeInteger(region.base) && Number.isSafeInteger(region.size) && region.size > 0;
  if (!whole || region.base < 0 || region.base + region.size > limit) {
    throw new TsvError(
      'TSV_E_BUS_RANGE',
      `Device "${region.device.name}" cannot be at ${describe(region)}.`,
      {
        hint:
          region.space === 'pio' ? 'Ports go from 0 to 0xffff.' : 'Guest-physical addresses have 52 bits.',
      },
    );
  }
  for (const mode of region.device.registers ?? []) {
    const word = mode.read === 'latched' || mode.write === 'w1c';
    if (word && ![1, 2, 4].includes(mode.size)) {
      throw new TsvError(
        'TSV_E_BUS_RANGE',
        `Device "${region.device.name}" declares a latched register of ${mode.size} bytes.`,
        {
          hint: 'A latched or w1c register has 1, 2 or 4 bytes.',
        },
      );
    }
  }
}
