/**
 * The bus as a vCPU thread sees it: finds the range behind an access and carries the access out by its mode, without
 * leaving the thread where the device allows it.
 *
 * An access that no device claims reads all ones and writes nothing, as on a PC. One that is wider than the device
 * takes, or that crosses the end of a range, is carried out as several ascending ones.
 */
import {
  type BusTable,
  READ_LATCHED,
  SPACE,
  type TableMode,
  type TableRegion,
  WRITE_POSTED,
  WRITE_W1C,
} from './bus-table.ts';
import type { Channel, Doorbell } from './channel.ts';

const PORTS = 0x10000;
/** Ranges up to this size get a per-offset table of modes; larger ones are searched. */
const FLAT_MODES = 4096;

interface Range {
  id: number;
  base: number;
  end: number;
  maxAccess: number;
  modes: TableMode[];
  /** Index+1 into `modes` for each offset; undefined for large ranges. */
  modeAt: Uint8Array | undefined;
}

/** Called for every access when tracing is on; `handled` is false when no device claims it. */
export type BusTrace = (
  space: number,
  address: number,
  size: number,
  isWrite: boolean,
  value: number,
  handled: boolean,
) => void;

/** Port and MMIO accesses from one vCPU thread. */
export class BusClient {
  readonly #table: BusTable;
  readonly #channel: Channel;
  readonly #bell: Doorbell;
  readonly #ports = new Uint16Array(PORTS);
  #version = -1;
  #ranges: Range[] = [];
  #mmio: Range[] = [];
  #lastMmio: Range | undefined;
  /** Accesses that no device claimed. */
  unclaimed = 0;
  /** Waits for every access, also where the device would let the vCPU go on: for runs that shall repeat exactly. */
  synchronous = false;
  trace: BusTrace | undefined;

  constructor(table: BusTable, channel: Channel, bell: Doorbell) {
    this.#table = table;
    this.#channel = channel;
    this.#bell = bell;
  }

  /** @param size 1, 2 or 4 bytes @returns unsigned value @throws ChannelAborted when the machine stops */
  read(space: number, address: number, size: number): number {
    const range = this.#find(space, address);
    if (range !== undefined && size <= range.maxAccess && address + size <= range.end) {
      const value = this.#readRange(range, address - range.base, size);
      if (this.trace !== undefined) this.trace(space, address, size, false, value, true);
      return value;
    }
    return this.#split(space, address, size, range, false, 0);
  }

  /** @param value unsigned @throws ChannelAborted when the machine stops */
  write(space: number, address: number, size: number, value: number): void {
    const range = this.#find(space, address);
    if (range !== undefined && size <= range.maxAccess && address + size <= range.end) {
      if (this.trace !== undefined) this.trace(space, address, size, true, value, true);
      this.#writeRange(range, address - range.base, size, value);
    } else {
      this.#split(space, address, size, range, true, value);
    }
  }

  /**
   * A read that leaves no trace and waits for nobody: that of a latched register.
   * @returns unsigned value, or -1 when {@link read} has to be asked
   */
  readAtOnce(space: number, address: number, size: number): number {
    const range = this.#find(space, address);
    if (range === undefined || this.trace !== undefined) return -1;
    const offset = address - range.base;
    const mode = this.#wholeMode(range, offset, size);
    return mode?.read === READ_LATCHED ? this.#latched(mode, offset, size) : -1;
  }

  /**
   * A write that waits for nobody: one that is posted, or clears bits of a latch.
   * @returns false when {@link write} has to be asked
   * @throws ChannelAborted when the machine stops
   */
  writeAtOnce(space: number, address: number, size: number, value: number): boolean {
    const range = this.#find(space, address);
    if (range === undefined || this.trace !== undefined || this.synchronous) return false;
    const offset = address - range.base;
    const how = this.#wholeMode(range, offset, size)?.write;
    if (how !== WRITE_POSTED && how !== WRITE_W1C) return false;
    this.#writeRange(range, offset, size, value);
    return true;
  }

  /** The mode of a register that an access, which the device takes as one, lies in as a whole. */
  #wholeMode(range: Range, offset: number, size: number): TableMode | undefined {
    if (size > range.maxAccess) return undefined;
    const mode = this.#mode(range, offset);
    return mode !== undefined && offset + size <= mode.offset + mode.size ? mode : undefined;
  }

  /** Carries out the access in the largest pieces that fit; bytes that nobody claims read as 0xff. */
  #split(
    space: number,
    address: number,
    size: number,
    first: Range | undefined,
    isWrite: boolean,
    value: number,
  ): number {
    if (size === 1 || (first === undefined && !this.#anyWithin(space, address, size))) {
      this.unclaimed++;
      const ones = size === 4 ? 0xffffffff : 2 ** (size * 8) - 1;
      if (this.trace !== undefined) this.trace(space, address, size, isWrite, isWrite ? value : ones, false);
      return ones;
    }
    const half = size / 2;
    const mask = 2 ** (half * 8) - 1;
    if (isWrite) {
      this.write(space, address, half, value & mask);
      this.write(space, address + half, half, (value >>> (half * 8)) & mask);
      return 0;
    }
    const low = this.read(space, address, half);
    return (low | (this.read(space, address + half, half) << (half * 8))) >>> 0;
  }

  #anyWithin(space: number, address: number, size: number): boolean {
    for (let at = address + 1; at < address + size; at++)
      if (this.#find(space, at) !== undefined) return true;
    return false;
  }

  #find(space: number, address: number): Range | undefined {
    if (this.#table.version !== this.#version) this.#rebuild();
    if (space === SPACE.pio) {
      const index = this.#ports[address & 0xffff];
      return index === 0 ? undefined : this.#ranges[index - 1];
    }
    const last = this.#lastMmio;
    if (last !== undefined && address >= last.base && address < last.end) return last;
    let low = 0;
    let high = this.#mmio.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      const range = this.#mmio[middle];
      if (address < range.base) high = middle;
      else if (address >= range.end) low = middle + 1;
      else {
        this.#lastMmio = range;
        return range;
      }
    }
    return undefined;
  }

  #mode(range: Range, offset: number): TableMode | undefined {
    if (range.modeAt !== undefined) {
      const index = range.modeAt[offset];
      return index === 0 ? undefined : range.modes[index - 1];
    }
    return range.modes.find((mode) => offset >= mode.offset && offset < mode.offset + mode.size);
  }

  #readRange(range: Range, offset: number, size: number): number {
    const mode = range.modes.length === 0 ? undefined : this.#mode(range, offset);
    if (mode !== undefined && mode.read === READ_LATCHED && offset + size <= mode.offset + mode.size) {
      return this.#latched(mode, offset, size);
    }
    return this.#channel.call(this.#bell, range.id, offset, size, false, 0);
  }

  #latched(mode: TableMode, offset: number, size: number): number {
    const word = Atomics.load(this.#table.latches, mode.readLatch) >>> ((offset - mode.offset) * 8);
    return size === 4 ? word >>> 0 : word & (2 ** (size * 8) - 1);
  }

  #writeRange(range: Range, offset: number, size: number, value: number): void {
    const mode = range.modes.length === 0 ? undefined : this.#mode(range, offset);
    if (mode === undefined || offset + size > mode.offset + mode.size) {
      this.#channel.call(this.#bell, range.id, offset, size, true, value);
    } else if (mode.write === WRITE_POSTED) {
      if (this.synchronous) this.#channel.call(this.#bell, range.id, offset, size, true, value);
      else this.#channel.post(this.#bell, range.id, offset, size, value);
    } else if (mode.write === WRITE_W1C) {
      const bits = value << ((offset - mode.offset) * 8);
      const old = Atomics.and(this.#table.latches, mode.w1cLatch, ~bits);
      if ((old & ~bits) !== 0) return;
      if (this.synchronous) this.#channel.call(this.#bell, range.id, offset, size, true, value);
      else this.#channel.post(this.#bell, range.id, offset, size, value);
    } else {
      this.#channel.call(this.#bell, range.id, offset, size, true, value);
    }
  }

  #rebuild(): void {
    const { version, regions } = this.#table.snapshot();
    this.#version = version;
    this.#lastMmio = undefined;
    this.#ports.fill(0);
    this.#ranges = regions.map(toRange);
    regions.forEach((region, index) => {
      if (region.space === SPACE.pio) this.#ports.fill(index + 1, region.base, region.base + region.size);
    });
    this.#mmio = regions
      .map((region, index) => ({ region, range: this.#ranges[index] }))
      .filter(({ region }) => region.space === SPACE.mmio)
      .map(({ range }) => range)
      .sort((a, b) => a.base - b.base);
  }
}

function toRange(region: TableRegion): Range {
  let modeAt: Uint8Array | undefined;
  if (region.size <= FLAT_MODES && region.modes.length < 255) {
    modeAt = new Uint8Array(region.size);
    region.modes.forEach((mode, index) => {
      modeAt?.fill(index + 1, mode.offset, mode.offset + mode.size);
    });
  }
  return {
    id: region.id,
    base: region.base,
    end: region.base + region.size,
    maxAccess: region.maxAccess,
    modes: region.modes,
    modeAt,
  };
}
