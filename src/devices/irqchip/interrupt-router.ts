/**
 * How a PC's interrupts are wired (on the thread that owns the devices): global system interrupts to the inputs of PIC
 * and I/O APIC, the PIC's output to the processors, and message-signalled interrupts to the local APICs.
 *
 * The local APICs are a {@link InterruptTarget}: an {@link ApicBus} over ours, or an engine that has its own.
 */
import type { Mount } from '../bus.ts';
import type { Device, DeviceState } from '../device.ts';
import { SavedState } from '../saved-state.ts';
import type { InterruptMessage } from './apic-bus.ts';
import {
  IO_APIC_DEFAULT_BASE,
  IO_APIC_EOI_MESSAGE,
  IO_APIC_PINS,
  IO_APIC_SIZE,
  IoApic,
  type IoApicOptions,
} from './io-apic.ts';
import { decodeMsi, type Msi } from './msi.ts';
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

/** struct kvm_irqchip: which chip, and its state in 512 bytes. */
const KVM_IRQCHIP = { CHIP: 8, SIZE: 520 } as const;

/** The interrupt controllers outside the processors, and the wires between all of them. */
export class InterruptRouter {
  readonly pic: Pic;
  readonly ioApic: IoApic;
  readonly #target: InterruptTarget;

  constructor(target: InterruptTarget, options: Omit<IoApicOptions, 'deliver'> = {}) {
    this.#target = target;
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

  /**
   * Delivers a message-signalled interrupt.
   * @returns false when it is no interrupt (see {@link decodeMsi}) or no local APIC took it
   */
  signalMsi(msi: Msi): boolean {
    const message = decodeMsi(msi);
    return message !== undefined && this.#target.deliver(message);
  }

  reset(): void {
    this.pic.reset();
    this.ioApic.reset();
  }

  /** struct kvm_irqchip of the master, the slave and the I/O APIC, as KVM_GET_IRQCHIP would return them. */
  exportIrqchips(): Uint8Array[] {
    return [...this.pic.exportState(), this.ioApic.exportState()].map((state, id) => {
      const chip = new Uint8Array(KVM_IRQCHIP.SIZE);
      new DataView(chip.buffer).setUint32(0, id, true);
      chip.set(state, KVM_IRQCHIP.CHIP);
      return chip;
    });
  }

  /** Loads what {@link exportIrqchips} or KVM gives, in its order. @throws TSV_E_STATE when one is too short */
  importIrqchips([master, slave, ioApic]: readonly Uint8Array[]): void {
    const state = (chip: Uint8Array | undefined) => chip?.subarray(KVM_IRQCHIP.CHIP) ?? new Uint8Array(0);
    const before = this.pic.save();
    this.pic.importState(state(master), state(slave));
    this.#orElse(
      () => this.ioApic.importState(state(ioApic)),
      () => this.pic.restore(before),
    );
  }

  save(): DeviceState {
    return { pic: this.pic.save(), ioApic: this.ioApic.save() };
  }

  /** All vCPUs must be paused; their local APICs are restored by themselves, and before. @throws TSV_E_STATE */
  restore(state: DeviceState): void {
    const saved = new SavedState('interrupt controllers', state);
    const before = this.pic.save();
    this.pic.restore(saved.state('pic'));
    this.#orElse(
      () => this.ioApic.restore(saved.state('ioApic')),
      () => this.pic.restore(before),
    );
  }

  #orElse(load: () => void, undo: () => void): void {
    try {
      load();
    } catch (error) {
      undo();
      throw error;
    }
  }
}
