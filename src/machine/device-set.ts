/** A machine's devices: where they are attached, what they are given, how they are released. */
import { inspect } from 'node:util';
import type { Logger } from 'pino';
import type { Bus, Mount } from '../devices/bus.ts';
import type { Clock } from '../devices/clock.ts';
import type { Device, DeviceContext, IrqLine, StopReason } from '../devices/device.ts';
import { IrqLines, UNCONNECTED } from '../devices/irq-lines.ts';
import type { Msi } from '../devices/irqchip/msi.ts';
import { TsvError } from '../errors.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import { LogLimit } from './log.ts';

/** Where a device is attached. */
export interface DeviceOptions {
  /** Port ranges. */
  pio?: readonly Omit<Mount, 'space'>[];
  /** Guest-physical ranges. */
  mmio?: readonly Omit<Mount, 'space'>[];
  /** Interrupts (GSI numbers) of the device's lines 0, 1, ... */
  irq?: readonly number[];
}

/** What a {@link DeviceSet} takes from its machine. */
export interface DeviceHost {
  readonly bus: Bus;
  readonly memory: GuestMemory;
  readonly clock: Clock;
  readonly log: Logger;
  /** How many GSIs there are; 0 without interrupt controllers. */
  readonly gsis: number;
  setIrqLine(gsi: number, level: 0 | 1): void;
  pulseIrqLine(gsi: number): void;
  signalMsi(message: Msi): void;
  onStop(reason: StopReason): void;
  /** Milliseconds a device may take to close; 0 for no limit. */
  readonly closeTimeout: number;
}

/** The devices of one machine. */
export class DeviceSet {
  readonly #host: DeviceHost;
  readonly #irqs: IrqLines;
  readonly #devices: Device[] = [];
  readonly #lines = new Map<Device, IrqLine[]>();

  constructor(host: DeviceHost) {
    this.#host = host;
    this.#irqs = new IrqLines(
      (gsi, level) => host.setIrqLine(gsi, level),
      (gsi) => host.pulseIrqLine(gsi),
    );
  }

  /** In order of attachment. */
  get all(): readonly Device[] {
    return this.#devices;
  }

  /**
   * Mounts a device and gives it its context; nothing is left behind when that fails.
   * @throws TSV_E_CONFIG, TSV_E_BUS_OVERLAP, TSV_E_BUS_RANGE, TSV_E_IRQ; what the device's `attach` throws
   */
  add(device: Device, options: DeviceOptions): void {
    if (this.#devices.some((other) => other.name === device.name)) {
      throw new TsvError('TSV_E_CONFIG', `There is a device named "${device.name}" already.`, {
        hint: 'Give every device a name of its own.',
      });
    }
    const { bus } = this.#host;
    const lines = (options.irq ?? []).map((gsi) => this.#irqLine(device, gsi));
    const mounts: Mount[] = [
      ...(options.pio ?? []).map((mount) => ({ space: 'pio' as const, ...mount })),
      ...(options.mmio ?? []).map((mount) => ({ space: 'mmio' as const, ...mount })),
    ];
    for (const mount of mounts) this.#checkMount(device, mount);
    try {
      for (const mount of mounts) bus.mount(device, mount);
      device.attach?.(this.#context(device, lines));
    } catch (error) {
      bus.unmount(device);
      throw error;
    }
    this.#devices.push(device);
    this.#lines.set(device, lines);
  }

  /** Takes a device off the bus and releases what it holds. */
  async remove(device: Device): Promise<void> {
    const index = this.#devices.indexOf(device);
    if (index < 0) return;
    this.#devices.splice(index, 1);
    this.#host.bus.unmount(device);
    // A line it left raised would interrupt whoever shares it for ever.
    for (const line of this.#lines.get(device) ?? []) line.lower();
    this.#lines.delete(device);
    await device.close?.();
  }

  /** Closes all devices; one that fails or takes too long is logged and left. */
  async close(): Promise<void> {
    for (const device of this.#devices) await this.#close(device);
  }

  #context(device: Device, lines: readonly IrqLine[]): DeviceContext {
    const { bus, memory, clock, log, onStop, signalMsi } = this.#host;
    const limit = new LogLimit();
    return {
      memory,
      clock,
      irq: (index = 0) => lines[index] ?? UNCONNECTED,
      latch: (offset) => bus.latch(device, offset),
      mount: (mount) => {
        this.#checkMount(device, mount);
        bus.mount(device, mount);
      },
      unmount: (mount) => bus.unmount(device, mount),
      notifiedBy: (register) => bus.notifiedBy(device, register),
      signalMsi,
      stop: onStop,
      log(level, message) {
        const suppressed = limit.admit();
        if (suppressed === undefined) return;
        log[level]({ device: device.name, ...(suppressed > 0 && { suppressed }) }, message);
      },
    };
  }

  async #close(device: Device): Promise<void> {
    const { closeTimeout, log } = this.#host;
    let timer: NodeJS.Timeout | undefined;
    try {
      const late = new Promise<never>((_, reject) => {
        if (closeTimeout === 0) return;
        timer = setTimeout(() => reject(new Error(`it takes more than ${closeTimeout} ms`)), closeTimeout);
      });
      await Promise.race([device.close?.(), late]);
    } catch (error) {
      log.error({ device: device.name }, `closing failed: ${inspect(error)}`);
    } finally {
      clearTimeout(timer);
    }
  }

  #irqLine(device: Device, gsi: number): IrqLine {
    const { gsis } = this.#host;
    if (Number.isInteger(gsi) && gsi >= 0 && gsi < gsis) return this.#irqs.line(gsi);
    throw new TsvError('TSV_E_IRQ', `Device "${device.name}" cannot have interrupt ${gsi}.`, {
      hint: gsis === 0 ? 'This machine has no interrupt controllers.' : `Choose a GSI from 0 to ${gsis - 1}.`,
    });
  }

  #checkMount(device: Device, { space, base, size }: Mount): void {
    if (space !== 'mmio') return;
    const { regions } = this.#host.memory;
    if (!regions.some((ram) => base < ram.gpa + ram.size && ram.gpa < base + size)) return;
    const where = `0x${base.toString(16)}+0x${size.toString(16)}`;
    throw new TsvError('TSV_E_BUS_OVERLAP', `Device "${device.name}" at ${where} lies in guest RAM.`, {
      hint: 'Use an address in the hole from 0xc0000000 to 0xfec00000, or above RAM.',
    });
  }
}
