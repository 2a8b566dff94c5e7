/**
 * A place to test one device: recorded interrupt lines, a clock that moves when told to, latches as plain words, a
 * few MiB of guest RAM, and guest accesses that honour the device's register modes as the bus does.
 */
import type { Mount } from '../../src/devices/bus.ts';
import type { Clock, Timer } from '../../src/devices/clock.ts';
import type {
  AccessSize,
  Device,
  DeviceContext,
  IrqLine,
  Latch,
  RegisterMode,
  StopReason,
} from '../../src/devices/device.ts';
import type { Msi } from '../../src/devices/irqchip/msi.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';

/** Guest time that stands still until {@link ManualClock.advance}. */
export class ManualClock implements Clock {
  /** Wall-clock time at guest time 0, ms. */
  wallBase: number;
  #now = 0;
  #timers: { deadline: number; callback: () => void }[] = [];

  constructor(wallBase = Date.UTC(2024, 1, 28, 23, 59, 50)) {
    this.wallBase = wallBase;
  }

  now(): number {
    return this.#now;
  }

  wall(): number {
    return this.wallBase + this.#now / 1e6;
  }

  /** Timers not fired yet. */
  get pending(): number {
    return this.#timers.length;
  }

  setTimer(deadline: number, callback: () => void): Timer {
    const timer = { deadline, callback };
    this.#timers.push(timer);
    return {
      cancel: () => {
        this.#timers = this.#timers.filter((other) => other !== timer);
      },
    };
  }

  /**
   * Moves guest time on by `ns` and fires the timers on the way, each at its deadline.
   * @throws when timers keep coming without time moving on
   */
  advance(ns: number): void {
    const end = this.#now + ns;
    let standstill = 0;
    for (;;) {
      const next = this.#timers.reduce<{ deadline: number; callback: () => void } | undefined>(
        (best, timer) => (best === undefined || timer.deadline < best.deadline ? timer : best),
        undefined,
      );
      if (next === undefined || next.deadline > end) break;
      standstill = next.deadline > this.#now ? 0 : standstill + 1;
      if (standstill > 1000) throw new Error('timers fire without guest time moving on');
      this.#timers = this.#timers.filter((timer) => timer !== next);
      this.#now = Math.max(this.#now, next.deadline);
      next.callback();
    }
    this.#now = end;
  }

  /** Moves guest time on without firing anything: a host that was busy. */
  stall(ns: number): void {
    this.#now += ns;
  }
}

/** An interrupt line that remembers. */
export class RecordedLine implements IrqLine {
  level = false;
  /** Rising edges so far. */
  edges = 0;

  raise(): void {
    if (!this.level) this.edges++;
    this.level = true;
  }
  lower(): void {
    this.level = false;
  }
  pulse(): void {
    this.raise();
    this.lower();
  }
}

/** Options of {@link DeviceBench}. */
export interface DeviceBenchOptions {
  /** MiB of guest RAM at address 0; default 1. */
  memoryMiB?: number;
  /** Other guest RAM in its place. */
  memory?: GuestMemory;
  clock?: ManualClock;
}

/** What the machine gives a device, with everything visible. */
export class DeviceBench<D extends Device> implements DeviceContext {
  readonly device: D;
  readonly memory: GuestMemory;
  readonly clock: ManualClock;
  readonly lines: RecordedLine[] = [];
  readonly latches = new Map<number, number>();
  readonly stops: StopReason[] = [];
  /** Where the device put itself. */
  readonly mounts: Mount[] = [];
  /** Message-signalled interrupts. */
  readonly messages: Msi[] = [];
  readonly logs: { level: string; message: string }[] = [];

  /** Attaches the device. */
  constructor(device: D, options: DeviceBenchOptions = {}) {
    this.device = device;
    this.clock = options.clock ?? new ManualClock();
    this.memory = options.memory ?? plainMemory(options.memoryMiB ?? 1);
    device.attach?.(this);
  }

  // DeviceContext ------------------------------------------------------------------------------------------------

  irq(index = 0): RecordedLine {
    while (this.lines.length <= index) this.lines.push(new RecordedLine());
    return this.lines[index];
  }

  latch(offset: number): Latch {
    const words = this.latches;
    const declared = this.#modes.some(
      (mode) => (mode.read === 'latched' && mode.offset === offset) || mode.target === offset,
    );
    if (!declared) throw new Error(`no latch is declared at offset ${offset}`);
    const load = () => words.get(offset) ?? 0;
    const swap = (value: number) => {
      const old = load();
      words.set(offset, value >>> 0);
      return old;
    };
    return {
      load,
      store: (value) => void swap(value),
      or: (bits) => swap(load() | bits),
      clear: (bits) => swap(load() & ~bits),
    };
  }

  mount(mount: Mount): void {
    const { base, size } = mount;
    const isTaken = this.mounts.some((other) => base < other.base + other.size && other.base < base + size);
    if (isTaken) throw new Error(`0x${base.toString(16)} is taken`);
    this.mounts.push(mount);
  }

  unmount(mount: Pick<Mount, 'space' | 'base'>): void {
    const index = this.mounts.findIndex(({ space, base }) => space === mount.space && base === mount.base);
    if (index < 0) throw new Error(`nothing is mounted at 0x${mount.base.toString(16)}`);
    this.mounts.splice(index, 1);
  }

  /** The engine of this bench can watch no writes. */
  notifiedBy(): void {}

  signalMsi(message: Msi): void {
    this.messages.push(message);
  }

  stop(reason: StopReason): void {
    this.stops.push(reason);
  }

  log(level: 'debug' | 'info' | 'warn' | 'error', message: string): void {
    this.logs.push({ level, message });
  }

  // The guest ----------------------------------------------------------------------------------------------------

  /** A guest read: from the latch where the register has one, split where the device takes no such width. */
  in(offset: number, size: AccessSize = 1): number {
    let value = 0;
    for (const [at, width] of this.#split(offset, size)) {
      const part = this.#read(at, width);
      if (!Number.isInteger(part) || part < 0 || part >= 2 ** (8 * width)) {
        throw new Error(`offset ${at} reads ${part}, which does not fit ${width} bytes`);
      }
      value += part * 2 ** (8 * (at - offset));
    }
    return value;
  }

  /** A guest write; a promise of the device is dropped, see {@link outWait}. */
  out(offset: number, value: number, size: AccessSize = 1): void {
    this.#write(offset, value, size);
  }

  /** A guest write that resolves when the device has taken it. */
  async outWait(offset: number, value: number, size: AccessSize = 1): Promise<void> {
    await Promise.all(this.#write(offset, value, size));
  }

  #write(offset: number, value: number, size: AccessSize): (void | Promise<void>)[] {
    return this.#split(offset, size).map(([at, width]) => {
      const part = Math.floor(value / 2 ** (8 * (at - offset))) % 2 ** (8 * width);
      return this.device.write?.(at, width, part);
    });
  }

  get #modes(): readonly RegisterMode[] {
    return this.device.registers ?? [];
  }

  #read(offset: number, size: AccessSize): number {
    const latched = this.#modes.some(
      (mode) => mode.read === 'latched' && mode.offset === offset && mode.size === size,
    );
    if (latched) return this.latches.get(offset) ?? 0;
    const value = this.device.read?.(offset, size) ?? 2 ** (8 * size) - 1;
    if (typeof value !== 'number') throw new Error('asynchronous reads are not for this bench');
    return value;
  }

  #split(offset: number, size: AccessSize): [number, AccessSize][] {
    const width = Math.min(size, this.device.maxAccess ?? 4) as AccessSize;
    const parts: [number, AccessSize][] = [];
    for (let done = 0; done < size; done += width) parts.push([offset + done, width]);
    return parts;
  }
}

function plainMemory(mebibytes: number): GuestMemory {
  const pages = mebibytes * 16;
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
  return new GuestMemory({
    memories: [memory],
    regions: [{ gpa: 0, size: pages * 65536, memory: 0, offset: 0 }],
  });
}

/** Lets setImmediate callbacks and what they cause run. */
export async function settle(turns = 3): Promise<void> {
  for (let i = 0; i < turns; i++) await new Promise((resolve) => setImmediate(resolve));
}
