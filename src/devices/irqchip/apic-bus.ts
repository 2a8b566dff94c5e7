/**
 * Who receives an interrupt message: the destination modes of SDM vol. 3, 11.6.2, over the mailboxes of all local APICs.
 *
 * It holds no state of its own, so every thread has one: the I/O APIC's and every vCPU's.
 *
 * As in KVM, a message from outside (I/O APIC, MSI) to destination 0xff is for all local APICs also in x2APIC mode, and
 * among those of equal priority the vector decides who gets a lowest-priority interrupt. KVM hashes the vector without
 * regard to priority, and over absent processors of a logical destination too, which then lose the interrupt.
 */
import { type ApicMailbox, MODE_BITS } from './apic-mailbox.ts';
import { APIC_BROADCAST, DELIVERY, SHORTHAND, X2APIC_BROADCAST } from './apic-registers.ts';
import { decodeMsi, type Msi } from './msi.ts';

/** An interrupt message, from an I/O APIC, an MSI or another local APIC. */
export interface InterruptMessage {
  /** APIC ID or logical destination: 8 bits, from an x2APIC 32. */
  destination: number;
  destinationMode: 'physical' | 'logical';
  /** {@link DELIVERY}, 0-7. */
  deliveryMode: number;
  vector: number;
  triggerMode: 'edge' | 'level';
}

/** Models in the destination format register's top four bits; others are reserved and match nothing. */
const DFR_FLAT = 0xf;
const DFR_CLUSTER = 0x0;

/** Delivers messages to local APICs. */
export class ApicBus {
  readonly mailboxes: readonly ApicMailbox[];

  /** @param mailboxes of all vCPUs, by index */
  constructor(mailboxes: readonly ApicMailbox[]) {
    this.mailboxes = mailboxes;
  }

  /**
   * Delivers a message from outside the processors.
   * @returns false when no local APIC took it
   */
  deliver(message: InterruptMessage): boolean {
    const { destination } = message;
    const isLogical = message.destinationMode === 'logical';
    const isBroadcast = destination === APIC_BROADCAST;
    return this.#send(
      message,
      this.mailboxes.filter((mailbox) => isBroadcast || matches(mailbox, destination, isLogical)),
    );
  }

  /**
   * Delivers an inter-processor interrupt.
   * @param source index of the sender
   * @param shorthand {@link SHORTHAND}; anything but `NONE` makes the message's destination meaningless
   * @returns false when no local APIC took it
   */
  sendIpi(source: number, shorthand: number, message: InterruptMessage): boolean {
    const isLogical = message.destinationMode === 'logical';
    return this.#send(
      message,
      this.mailboxes.filter((mailbox, index) => {
        if (shorthand === SHORTHAND.SELF) return index === source;
        if (shorthand === SHORTHAND.ALL) return true;
        if (shorthand === SHORTHAND.OTHERS) return index !== source;
        return matches(mailbox, message.destination, isLogical);
      }),
    );
  }

  /**
   * Delivers a message-signalled interrupt.
   * @returns false when it is no interrupt (see {@link decodeMsi}) or no local APIC took it
   */
  signalMsi(msi: Msi): boolean {
    const message = decodeMsi(msi);
    return message !== undefined && this.deliver(message);
  }

  /** Drives the PIC's output, which is LINT0 of every local APIC. */
  setIntr(level: boolean): void {
    for (const mailbox of this.mailboxes) mailbox.setLint(0, level);
  }

  /** Pulses the NMI line, which is LINT1 of every local APIC. */
  pulseNmi(): void {
    for (const mailbox of this.mailboxes) {
      mailbox.setLint(1, true);
      mailbox.setLint(1, false);
    }
  }

  #send(message: InterruptMessage, mailboxes: readonly ApicMailbox[]): boolean {
    const present = mailboxes.filter((mailbox) => (mailbox.mode & MODE_BITS.hardwareEnabled) !== 0);
    const { vector } = message;
    const isLevel = message.triggerMode === 'level';
    switch (message.deliveryMode) {
      case DELIVERY.FIXED: {
        let taken = false;
        for (const mailbox of present) if (mailbox.post(vector, isLevel)) taken = true;
        return taken;
      }
      case DELIVERY.LOWEST:
        return lowestPriority(present, vector)?.post(vector, isLevel) ?? false;
      case DELIVERY.NMI:
        for (const mailbox of present) mailbox.postNmi();
        return present.length > 0;
      case DELIVERY.INIT:
        for (const mailbox of present) mailbox.postInit();
        return present.length > 0;
      case DELIVERY.STARTUP:
        for (const mailbox of present) mailbox.postSipi(vector);
        return present.length > 0;
      default:
        // SMI has no receiver, ExtINT reaches the processors by LINT0 only, and 3 is reserved.
        return false;
    }
  }
}

function matches(mailbox: ApicMailbox, destination: number, isLogical: boolean): boolean {
  const isX2apic = (mailbox.mode & MODE_BITS.x2apic) !== 0;
  if (destination === (isX2apic ? X2APIC_BROADCAST : APIC_BROADCAST)) return true;
  if (!isLogical) return destination === mailbox.id;
  const { ldr } = mailbox;
  if (isX2apic) return ldr >>> 16 === destination >>> 16 && (ldr & destination & 0xffff) !== 0;
  const logicalId = ldr >>> 24;
  const model = mailbox.dfr >>> 28;
  if (model === DFR_FLAT) return (logicalId & destination) !== 0;
  return (
    model === DFR_CLUSTER && logicalId >> 4 === destination >>> 4 && (logicalId & destination & 0xf) !== 0
  );
}

function lowestPriority(mailboxes: readonly ApicMailbox[], vector: number): ApicMailbox | undefined {
  const enabled = mailboxes.filter((mailbox) => (mailbox.mode & MODE_BITS.softwareEnabled) !== 0);
  const lowest = Math.min(...enabled.map((mailbox) => mailbox.priority));
  const equal = enabled.filter((mailbox) => mailbox.priority === lowest);
  return equal.length === 0 ? undefined : equal[vector % equal.length];
}
