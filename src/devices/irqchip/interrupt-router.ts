/**
 * How a PC's interrupts are wired (on the thread that owns the devices): global system interrupts to the inputs of PIC
 * and I/O APIC, the PIC's output to the processors, the I/O APIC's messages to the local APICs.
 *
 * The local APICs are a {@link InterruptTarget}: an {@link ApicBus} over ours, or an engine that has its own.
 */
import type { Mount } from '../bus.ts';
import type { Device } from '../device.ts';
import type { InterruptMessage } from './apic-bus.ts';
import {
  IO_APIC_DEFAULT_BASE,
  IO_APIC_EOI_MESSAGE,
  IO_APIC_PINS,
  IO_APIC_SIZE,
  IoApic,
  type IoApicOptions,
} from './io-apic.ts';
import { PIC_ELCR, PIC_INPUTS, PIC_INTA, PIC_MASTER, PIC_SLAVE, Pic } from './pic.ts';

/** The local APICs, as the rest of the machine sees them. */
export interface InterruptTarget {
  /** @returns false when no local APIC took it */
  deliver(message: InterruptMessage): boolean;
  /** Level of the PIC's output: LINT0 of every local APIC. */
  setIntr(level: boolean): void;
}

/** I/O APIC pin of the timer, as ACPI's interrupt source override says. */
const TIMER_PIN = 2;

/**
 * Two bus cycles that no guest can make, at addresses beyond any guest-physical one, so that vCPU threads reach the
 * controllers by the bus, in order with their other accesses. Read `INTA` (1 byte) to acknowledge an interrupt of the PIC;
 * write a vector to `EOI` (4 bytes, posted) when a local APIC broadcasts the end of a level-triggered interrupt.
 */
export const INTERRUPT_CYCLE = { INTA: 2 ** 52 - 8192, EOI: 2 ** 52 - 4096 } as const;

/** Another one: the vCPU of a machine with a virtual clock writes 4 bytes here when a device's timer is due. */
export const TICK_CYCLE = 2 ** 52 - 12288;

/** The interrupt controllers outside the processors, and the wires between all of them. */
export class InterruptRouter {
  readonly pic: Pic;
  readonly ioApic: IoApic;

  constructor(target: InterruptTarget, options: Omit<IoApicOptions, 'deliver'> = {}) {
    this.pic = new Pic((level) => target.setIntr(level));
    this.ioApic = new IoApic({ ...options, deliver: (message) => target.deliver(message) });
  }

  /** Where both controllers are on the bus of a PC. */
  get mounts(): { device: Device; mount: Mount }[] {
    const pic = (base: number, offset: number): { device: Device; mount: Mount } => ({
      device: this.pic,
      mount: { space: 'pio', base, size: 2, offset },
    });
    const mmio = (device: Device, base: number, size: number, offset: number) => ({
      device,
      mount: { space: 'mmio' as const, base, size, offset },
    });
    return [
      pic(0x20, PIC_MASTER),
      pic(0xa0, PIC_SLAVE),
      pic(0x4d0, PIC_ELCR),
      mmio(this.ioApic, IO_APIC_DEFAULT_BASE, IO_APIC_SIZE, 0),
      mmio(this.pic, INTERRUPT_CYCLE.INTA, 1, PIC_INTA),
      mmio(this.ioApic, INTERRUPT_CYCLE.EOI, 4, IO_APIC_EOI_MESSAGE),
    ];
  }

  /**
   * Drives a global system interrupt: 0-15 go to both controllers, where the timer's GSI 0 is the I/O APIC's pin 2 and
   * GSI 2, the PIC's cascade, goes nowhere; 16-23 go to the I/O APIC. Others do nothing.
   */
  setIrqLine(gsi: number, level: 0 | 1): void {
    if (gsi === TIMER_PIN) return;
    if (gsi < PIC_INPUTS) this.pic.setInput(gsi, level);
    if (gsi < IO_APIC_PINS) this.ioApic.setPin(gsi === 0 ? TIMER_PIN : gsi, level);
  }

  /** An edge of a global system interrupt. */
  pulseIrqLine(gsi: number): void {
    this.setIrqLine(gsi, 1);
    this.setIrqLine(gsi, 0);
  }
}
