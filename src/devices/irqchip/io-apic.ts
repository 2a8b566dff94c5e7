/**
 * I/O APIC (Intel 82093AA data sheet): 24 input pins, each with an entry of the redirection table that says what
 * message its interrupt becomes.
 *
 * "Raised" means asserted: as in KVM, an entry's polarity bit does not turn a pin's level round, because a device says
 * that it wants an interrupt and not how the wire shows it.
 *
 * After the same accesses its state is that of KVM's in-kernel I/O APIC, except that reserved bits of a redirection
 * entry stay zero, and that remote IRR is only set when a local APIC has taken the interrupt. As there, and as Linux and
 * Xen rely on, making an entry edge-triggered clears its remote IRR.
 */
import { TsvError } from '../../errors.ts';
import type { Device, DeviceContext, DeviceState } from '../device.ts';
import { SavedState } from '../saved-state.ts';
import type { InterruptMessage } from './apic-bus.ts';

/** Where the first I/O APIC of a PC is, and the bytes of its registers. */
export const IO_APIC_DEFAULT_BASE = 0xfec0_0000;
export const IO_APIC_SIZE = 0x100;
/** Interrupt inputs. */
export const IO_APIC_PINS = 24;

/** Offsets of the registers in the page. */
export const IOREGSEL = 0x00;
export const IOWIN = 0x10;
/**
 * Not a register of the data sheet: a write ends a vector's interrupts, as the message on the APIC bus does. A board
 * mounts this one offset where no guest can reach it, and vCPU threads write it when their local APIC broadcasts an EOI.
 */
export const IO_APIC_EOI_MESSAGE = 0x1000;

/** Indirect registers. */
const IOAPICID = 0;
const IOAPICVER = 1;
const IOAPICARB = 2;
const IOREDTBL = 0x10;

/** Without an EOI register, which later versions have. */
const VERSION_82093AA = 0x11;

/** Low word of a redirection entry (data sheet 3.2.4). */
const VECTOR = 0xff;
const DESTINATION_LOGICAL = 1 << 11;
const REMOTE_IRR = 1 << 14;
const TRIGGER_LEVEL = 1 << 15;
const MASKED = 1 << 16;
/** All but delivery status, remote IRR and what is reserved. */
const WRITABLE_LOW = 0x1_afff;
const WRITABLE_HIGH = 0xff00_0000;

/**
 * A level-triggered interrupt that is ended this many times in a row with its pin still up is given pause, so that a
 * guest whose handler does not quiet its device can still make progress; as KVM does.
 */
const STORM_LIMIT = 10_000;
const STORM_PAUSE_NS = 10_000_000;

/** What {@link IoApic} is built from. */
export interface IoApicOptions {
  /** Sends a message. @returns whether a local APIC took it */
  deliver(message: InterruptMessage): boolean;
  /**
   * A pin's entry has changed, masked or not, and its interrupts now are this message. For local APICs that must know
   * beforehand which vectors are level-triggered, as KVM's with a split irqchip.
   */
  onRoute?(pin: number, message: InterruptMessage): void;
}

/** An I/O APIC. Its pins are driven by {@link IoApic.setPin}. */
export class IoApic implements Device {
  readonly name = 'io-apic';
  readonly registers = [{ offset: IO_APIC_EOI_MESSAGE, size: 4, write: 'posted' as const }];
  readonly #deliver: (message: InterruptMessage) => boolean;
  readonly #onRoute: (pin: number, message: InterruptMessage) => void;
  readonly #low = new Uint32Array(IO_APIC_PINS);
  readonly #high = new Uint32Array(IO_APIC_PINS);
  /** Ends in a row with the pin still up. */
  readonly #storm = new Uint32Array(IO_APIC_PINS);
  #context: DeviceContext | undefined;
  #select = 0;
  #id = 0;
  /** Pins that are up, and edges among these that have been delivered. */
  #irr = 0;
  #irrDelivered = 0;

  constructor(options: IoApicOptions) {
    this.#deliver = (message) => options.deliver(message);
    this.#onRoute = (pin, message) => options.onRoute?.(pin, message);
    this.reset();
  }

  attach(context: DeviceContext): void {
    this.#context = context;
  }

  reset(): void {
    this.#select = 0;
    this.#id = 0;
    this.#low.fill(MASKED);
    this.#high.fill(0);
    this.#storm.fill(0);
    this.#irr = 0;
    this.#irrDelivered = 0;
  }

  /** Drives an input. @param pin 0-23; others do nothing */
  setPin(pin: number, level: 0 | 1): void {
    if (!(pin >= 0 && pin < IO_APIC_PINS)) return;
    const bit = 1 << pin;
    if (level === 0) {
      this.#irr &= ~bit;
      return;
    }
    const wasUp = (this.#irr & bit) !== 0;
    this.#irr |= bit;
    if (!this.#isLevel(pin)) {
      // An edge on a masked pin is neither delivered nor held (data sheet 3.2.4, interrupt mask).
      if (wasUp) return;
      this.#irrDelivered &= ~bit;
    }
    this.#service(pin);
  }

  /** A level-triggered interrupt of this vector has ended; it comes again when its pin is still up. */
  endOfInterrupt(vector: number): void {
    for (let pin = 0; pin < IO_APIC_PINS; pin++) {
      if ((this.#low[pin] & VECTOR) !== vector || !this.#isLevel(pin)) continue;
      this.#low[pin] &= ~REMOTE_IRR;
      if ((this.#low[pin] & MASKED) !== 0 || ((this.#irr >> pin) & 1) === 0) {
        this.#storm[pin] = 0;
      } else if (++this.#storm[pin] < STORM_LIMIT || this.#context === undefined) {
        this.#service(pin);
      } else {
        this.#storm[pin] = 0;
        const { clock } = this.#context;
        clock.setTimer(clock.now() + STORM_PAUSE_NS, () => this.#again(pin));
      }
    }
  }

  /** What a pin's interrupt becomes. @param pin 0-23 */
  message(pin: number): InterruptMessage {
    const low = this.#low[pin];
    return {
      destination: this.#high[pin] >>> 24,
      destinationMode: (low & DESTINATION_LOGICAL) !== 0 ? 'logical' : 'physical',
      deliveryMode: (low >> 8) & 7,
      vector: low & VECTOR,
      triggerMode: this.#isLevel(pin) ? 'level' : 'edge',
    };
  }

  read(offset: number, size: number): number {
    if (offset === IOREGSEL) return this.#select;
    return offset === IOWIN ? this.#readWindow() % 2 ** (size * 8) : 0;
  }

  write(offset: number, _size: number, value: number): void {
    if (offset === IOREGSEL) this.#select = value & 0xff;
    else if (offset === IOWIN) this.#writeWindow(value);
    else if (offset === IO_APIC_EOI_MESSAGE) this.endOfInterrupt(value & VECTOR);
  }

  #readWindow(): number {
    switch (this.#select) {
      case IOAPICID:
      case IOAPICARB:
        return this.#id << 24;
      case IOAPICVER:
        return ((IO_APIC_PINS - 1) << 16) | VERSION_82093AA;
      default: {
        const pin = (this.#select - IOREDTBL) >> 1;
        if (pin < 0 || pin >= IO_APIC_PINS) return 0xffff_ffff;
        return (this.#select & 1) !== 0 ? this.#high[pin] : this.#low[pin];
      }
    }
  }

  #writeWindow(value: number): void {
    if (this.#select === IOAPICID) {
      this.#id = (value >>> 24) & 0xf;
      return;
    }
    const pin = (this.#select - IOREDTBL) >> 1;
    if (pin < 0 || pin >= IO_APIC_PINS) return;
    if ((this.#select & 1) !== 0) {
      this.#high[pin] = value & WRITABLE_HIGH;
    } else {
      const remoteIrr = (value & TRIGGER_LEVEL) !== 0 ? this.#low[pin] & REMOTE_IRR : 0;
      this.#low[pin] = (value & WRITABLE_LOW) | remoteIrr;
    }
    this.#onRoute(pin, this.message(pin));
    this.#again(pin);
  }

  #announceRoutes(): void {
    for (let pin = 0; pin < IO_APIC_PINS; pin++) this.#onRoute(pin, this.message(pin));
  }

  /** Delivers a level that is up and waiting. */
  #again(pin: number): void {
    if (this.#isLevel(pin) && ((this.#irr >> pin) & 1) !== 0) this.#service(pin);
  }

  #isLevel(pin: number): boolean {
    return (this.#low[pin] & TRIGGER_LEVEL) !== 0;
  }

  #service(pin: number): void {
    const low = this.#low[pin];
    const isLevel = this.#isLevel(pin);
    if ((low & MASKED) !== 0 || (isLevel && (low & REMOTE_IRR) !== 0)) return;
    if (!isLevel) this.#irrDelivered |= 1 << pin;
    const taken = this.#deliver(this.message(pin));
    if (taken && isLevel) this.#low[pin] |= REMOTE_IRR;
  }

  /** struct kvm_ioapic_state, as KVM_GET_IRQCHIP would return it. @param base guest-physical address */
  exportState(base = IO_APIC_DEFAULT_BASE): Uint8Array {
    const bytes = new Uint8Array(KVM_IOAPIC_STATE.SIZE);
    const view = new DataView(bytes.buffer);
    view.setBigUint64(KVM_IOAPIC_STATE.BASE_ADDRESS, BigInt(base), true);
    view.setUint32(KVM_IOAPIC_STATE.IOREGSEL, this.#select, true);
    view.setUint32(KVM_IOAPIC_STATE.ID, this.#id, true);
    view.setUint32(KVM_IOAPIC_STATE.IRR, this.#irr & ~this.#irrDelivered, true);
    for (let pin = 0; pin < IO_APIC_PINS; pin++) {
      view.setUint32(KVM_IOAPIC_STATE.REDIRTBL + pin * 8, this.#low[pin], true);
      view.setUint32(KVM_IOAPIC_STATE.REDIRTBL + pin * 8 + 4, this.#high[pin], true);
    }
    return bytes;
  }

  /**
   * Loads struct kvm_ioapic_state. Pins of the struct's `irr` are raised again, as KVM_SET_IRQCHIP does.
   * @throws TSV_E_STATE when it is too short
   */
  importState(bytes: Uint8Array): void {
    if (bytes.length < KVM_IOAPIC_STATE.SIZE) {
      throw new TsvError('TSV_E_STATE', `An I/O APIC's state of ${bytes.length} bytes is too short.`, {
        hint: `Give the ${KVM_IOAPIC_STATE.SIZE} bytes of struct kvm_ioapic_state.`,
      });
    }
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.reset();
    this.#select = view.getUint32(KVM_IOAPIC_STATE.IOREGSEL, true) & 0xff;
    this.#id = view.getUint32(KVM_IOAPIC_STATE.ID, true) & 0xf;
    for (let pin = 0; pin < IO_APIC_PINS; pin++) {
      const low = view.getUint32(KVM_IOAPIC_STATE.REDIRTBL + pin * 8, true);
      this.#low[pin] = low & (WRITABLE_LOW | REMOTE_IRR);
      this.#high[pin] = view.getUint32(KVM_IOAPIC_STATE.REDIRTBL + pin * 8 + 4, true) & WRITABLE_HIGH;
    }
    this.#announceRoutes();
    const irr = view.getUint32(KVM_IOAPIC_STATE.IRR, true);
    for (let pin = 0; pin < IO_APIC_PINS; pin++) if (((irr >> pin) & 1) !== 0) this.setPin(pin, 1);
  }

  save(): DeviceState {
    return {
      select: this.#select,
      id: this.#id,
      irr: this.#irr,
      irrDelivered: this.#irrDelivered,
      low: [...this.#low],
      high: [...this.#high],
    };
  }

  /** @throws TSV_E_STATE */
  restore(state: DeviceState): void {
    const saved = new SavedState(this.name, state);
    const pins = 2 ** IO_APIC_PINS - 1;
    const select = saved.u8('select');
    const id = saved.int('id', 0xf);
    const irr = saved.int('irr', pins);
    const irrDelivered = saved.int('irrDelivered', pins);
    const low = saved.ints('low', 0xffff_ffff, IO_APIC_PINS, true);
    const high = saved.ints('high', 0xffff_ffff, IO_APIC_PINS, true);
    this.reset();
    this.#select = select;
    this.#id = id;
    this.#irr = irr;
    this.#irrDelivered = irrDelivered;
    low.forEach((value, pin) => {
      this.#low[pin] = value & (WRITABLE_LOW | REMOTE_IRR);
    });
    high.forEach((value, pin) => {
      this.#high[pin] = value & WRITABLE_HIGH;
    });
    this.#announceRoutes();
    // A storm's pause does not survive; the interrupt that waits for its end must.
    for (let pin = 0; pin < IO_APIC_PINS; pin++) this.#again(pin);
  }
}

/** Offsets in struct kvm_ioapic_state (Linux arch/x86/include/uapi/asm/kvm.h). */
const KVM_IOAPIC_STATE = { BASE_ADDRESS: 0, IOREGSEL: 8, ID: 12, IRR: 16, REDIRTBL: 24, SIZE: 216 } as const;
