/**
 * How a PC's interrupts are wired (on the thread that owns the devices): global system interrupts to the inputs of PIC
 * and I/O APIC, the PIC's output to the processors, and message-signalled interrupts to the local APICs.
 */
import type { DeviceState } from '../device.ts';
import { SavedState } from '../saved-state.ts';
import { ApicBus } from './apic-bus.ts';
import type { ApicMailbox } from './apic-mailbox.ts';
import { IO_APIC_PINS, IoApic } from './io-apic.ts';
import { PIC_INPUTS, Pic } from './pic.ts';

/** Where writes of devices are interrupts (SDM vol. 3, 11.11.1): bits 31:20 of the address. */
const MSI_BASE = 0xfee;
const MSI_DESTINATION_SHIFT = 12;
const MSI_REDIRECTION_HINT = 1 << 3;
const MSI_DESTINATION_LOGICAL = 1 << 2;
/** Bits of the data (SDM vol. 3, 11.11.2). */
const MSI_TRIGGER_LEVEL = 1 << 15;
const MSI_LEVEL_ASSERT = 1 << 14;
const LOWEST_PRIORITY = 1;

/** I/O APIC pin of the timer, as ACPI's interrupt source override says. */
const TIMER_PIN = 2;

/** What {@link InterruptRouter} is built from. */
export interface InterruptRouterOptions {
  /** All vCPUs' mailboxes, by index. */
  mailboxes: readonly ApicMailbox[];
  /** Give the I/O APIC an EOI register, see {@link IoApic}. */
  eoiRegister?: boolean;
}

/** The interrupt controllers outside the processors, and the wires between all of them. */
export class InterruptRouter {
  readonly bus: ApicBus;
  readonly pic: Pic;
  readonly ioApic: IoApic;

  constructor(options: InterruptRouterOptions) {
    const { mailboxes, eoiRegister } = options;
    this.bus = new ApicBus(mailboxes);
    this.pic = new Pic((level) => {
      for (const mailbox of mailboxes) mailbox.setLint(0, level);
    });
    this.ioApic = new IoApic({ deliver: (message) => this.bus.deliver(message), eoiRegister });
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

  /**
   * Delivers a message-signalled interrupt (SDM vol. 3, 11.11).
   * @param address what the device writes to; upper half and bits 11:4 are not looked at
   * @returns false when it is no interrupt address or no local APIC took it
   */
  signalMsi({ address, data }: { address: number; data: number }): boolean {
    const low = (address % 2 ** 32) >>> 0;
    if (low >>> 20 !== MSI_BASE) return false;
    const isLevel = (data & MSI_TRIGGER_LEVEL) !== 0;
    if (isLevel && (data & MSI_LEVEL_ASSERT) === 0) return false;
    const isLogical = (low & MSI_DESTINATION_LOGICAL) !== 0;
    // With the redirection hint a fixed interrupt for a set of processors goes to one of them.
    const redirect = (low & MSI_REDIRECTION_HINT) !== 0 && isLogical;
    const deliveryMode = (data >>> 8) & 7;
    return this.bus.deliver({
      destination: (low >>> MSI_DESTINATION_SHIFT) & 0xff,
      destinationMode: isLogical ? 'logical' : 'physical',
      deliveryMode: redirect && deliveryMode === 0 ? LOWEST_PRIORITY : deliveryMode,
      vector: data & 0xff,
      triggerMode: isLevel ? 'level' : 'edge',
    });
  }

  /** Pulses the NMI line, which is LINT1 of every local APIC. */
  pulseNmi(): void {
    for (const mailbox of this.bus.mailboxes) {
      mailbox.setLint(1, true);
      mailbox.setLint(1, false);
    }
  }

  reset(): void {
    this.pic.reset();
    this.ioApic.reset();
  }

  save(): DeviceState {
    return { pic: this.pic.save(), ioApic: this.ioApic.save() };
  }

  /** All vCPUs must be paused; their local APICs are restored by themselves. @throws TSV_E_STATE */
  restore(state: DeviceState): void {
    const saved = new SavedState('interrupt controllers', state);
    const ioApic = saved.state('ioApic');
    const before = this.ioApic.save();
    this.ioApic.restore(ioApic);
    try {
      this.pic.restore(saved.state('pic'));
    } catch (error) {
      this.ioApic.restore(before);
      throw error;
    }
  }
}
