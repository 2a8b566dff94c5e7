/** The PC board without a vCPU: every device on a bus, driven through the bus's own look-up from this thread. */
import { Bus } from '../../src/devices/bus.ts';
import { BusClient } from '../../src/devices/bus-client.ts';
import { SPACE } from '../../src/devices/bus-table.ts';
import { Channel } from '../../src/devices/channel.ts';
import type { AccessSize, Device, StopReason } from '../../src/devices/device.ts';
import { IrqLines } from '../../src/devices/irq-lines.ts';
import { type Board, buildBoard } from '../../src/machine/board.ts';
import type { DeviceOptions } from '../../src/machine/device-set.ts';
import type { Vm } from '../../src/machine/vm.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { ManualClock } from '../support/device-bench.ts';

/** Bytes of guest RAM, at address 0. */
export const RAM = 0x20000;
const SLACK = 0x10000;

/** RAM with room around it in the host's buffer; one for all benches, because address space is not for free. */
export const benchMemory = new GuestMemory({
  memories: [new WebAssembly.Memory({ initial: 4, maximum: 4, shared: true })],
  regions: [{ gpa: 0, size: RAM, memory: 0, offset: SLACK }],
});

/**
 * One step: a read or write of a port, memory the guest prepares, time that passes (`stall`: the host was busy and
 * fires nothing meanwhile), input from the host, a power-on reset, or a save and restore of every device.
 */
export type Step =
  | ['in', number, AccessSize]
  | ['out', number, AccessSize, number]
  | ['memory', number, string]
  | ['time' | 'stall', number]
  | ['type', string]
  | ['break' | 'button' | 'reset' | 'restore'];

/** Carries accesses out on the spot, where a real channel would wait for the thread that this is. */
class InlineChannel extends Channel {
  readonly #perform: (region: number, offset: number, size: AccessSize, value?: number) => number;

  constructor(perform: (region: number, offset: number, size: AccessSize, value?: number) => number) {
    super();
    this.#perform = perform;
  }

  override call(...[, region, offset, size, isWrite, value]: Parameters<Channel['call']>): number {
    return this.#perform(region, offset, size as AccessSize, isWrite ? value : undefined) >>> 0;
  }

  override post(...[, region, offset, size, value]: Parameters<Channel['post']>): void {
    this.#perform(region, offset, size as AccessSize, value);
  }
}

/** The board, its surroundings visible. */
export class BoardBench {
  readonly memory = benchMemory;
  readonly clock = new ManualClock();
  readonly bus: Bus;
  readonly board: Board;
  readonly devices: Device[] = [];
  readonly stops: StopReason[] = [];
  readonly errors: Error[] = [];
  /** Bytes the consoles have put out. */
  output = 0;
  readonly gsi = new Map<number, number>();
  readonly #client: BusClient;
  readonly #regions = new Map<number, { device: Device; offset: number }>();
  #pending: Promise<unknown>[] = [];

  /** @param timeScale other than 1 puts a PIT and port 0x61 on the board */
  constructor(timeScale = 2) {
    this.memory.fill(0, RAM);
    this.bus = new Bus({ onDeviceError: (error) => this.errors.push(error) });
    const irqs = new IrqLines((gsi, level) => this.gsi.set(gsi, level));
    const machine = {
      config: {
        board: 'pc',
        cpus: 2,
        timeScale,
        irqchip: 'kernel',
        disks: [],
        pmem: [],
        virtio: [],
        rng: false,
      },
      accel: { engine: 'kvm' },
      memory: this.memory,
      addDevice: (device: Device, options: DeviceOptions) => this.#add(device, options, irqs),
    };
    // The board uses nothing else of the machine.
    this.board = buildBoard(machine as unknown as Vm, {
      onOutput: (bytes) => {
        this.output += bytes.length;
      },
      onPanic: () => {},
    })!;
    const channel = new InlineChannel((region, offset, size, value) =>
      this.#perform(region, offset, size, value),
    );
    this.#client = new BusClient(this.bus.table, channel, this.bus.bell);
  }

  #add(device: Device, options: DeviceOptions, irqs: IrqLines): void {
    for (const mount of options.pio ?? []) {
      this.bus.mount(device, { space: 'pio', ...mount });
      const { id } = this.bus.table.snapshot().regions.at(-1)!;
      this.#regions.set(id, { device, offset: mount.offset ?? 0 });
    }
    const lines = (options.irq ?? []).map((gsi) => irqs.line(gsi));
    device.attach?.({
      memory: this.memory,
      clock: this.clock,
      irq: (index = 0) => lines[index] ?? { raise() {}, lower() {}, pulse() {} },
      latch: (offset) => this.bus.latch(device, offset),
      mount: (place) => this.bus.mount(device, place),
      unmount: (place) => this.bus.unmount(device, place),
      notifiedBy: () => {},
      signalMsi: () => {},
      stop: (reason) => this.stops.push(reason),
      log: () => {},
    });
    this.devices.push(device);
  }

  #perform(region: number, at: number, size: AccessSize, value?: number): number {
    const { device, offset } = this.#regions.get(region)!;
    if (value !== undefined) {
      const done = device.write?.(at + offset, size, value);
      if (done !== undefined) this.#pending.push(done);
      return 0;
    }
    const result = device.read?.(at + offset, size) ?? 0xffffffff;
    if (typeof result !== 'number') throw new Error(`${device.name} answers a read later`);
    return result;
  }

  /** A guest read, split, latched and posted as the bus does it. */
  in(port: number, size: AccessSize): number {
    return this.#client.read(SPACE.pio, port, size);
  }

  /** A guest write. */
  out(port: number, size: AccessSize, value: number): void {
    this.#client.write(SPACE.pio, port, size, value);
  }

  /** Resolves when every write has been taken. */
  async settle(): Promise<void> {
    await Promise.all(this.#pending.splice(0));
    await new Promise((resolve) => setImmediate(resolve));
  }

  /** Ports worth trying: every device's, and their neighbours. */
  get ports(): readonly number[] {
    return this.bus.mounts.flatMap(({ base, size }) =>
      Array.from({ length: size + 2 }, (_, i) => base - 1 + i).filter((port) => port >= 0 && port <= 0xffff),
    );
  }

  async close(): Promise<void> {
    for (const device of this.devices) await device.close?.();
    this.bus.close();
  }
}
