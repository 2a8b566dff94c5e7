/** A function's configuration space: a header of type 0 and a list of capabilities (PCI 3.0 chapter 6). */
import type { AccessSize } from '../device.ts';

/** Registers of the header, section 6.1. */
export const PCI_REGISTER = {
  VENDOR: 0x00,
  DEVICE: 0x02,
  COMMAND: 0x04,
  STATUS: 0x06,
  REVISION: 0x08,
  CLASS: 0x09,
  BAR0: 0x10,
  SUBSYSTEM_VENDOR: 0x2c,
  SUBSYSTEM: 0x2e,
  CAPABILITIES: 0x34,
  INTERRUPT_LINE: 0x3c,
  INTERRUPT_PIN: 0x3d,
} as const;

/** Bits of the command register, table 6-1. */
export const PCI_COMMAND = { MEMORY: 1 << 1, MASTER: 1 << 2, INTX_DISABLE: 1 << 10 } as const;
const STATUS_CAPABILITIES = 1 << 4;
const FIRST_CAPABILITY = 0x40;
const SIZE = 256;

/** Who made a function and what it is. */
export interface PciIdentity {
  readonly vendor: number;
  readonly device: number;
  readonly revision: number;
  /** Base class, subclass, programming interface: 24 bits. */
  readonly classCode: number;
  readonly subsystemVendor: number;
  readonly subsystem: number;
}

/** The 256 bytes, and which of their bits the guest may write. */
export class PciConfigSpace {
  readonly #view = new DataView(new ArrayBuffer(SIZE));
  readonly #writable = new Uint8Array(SIZE);
  #lastLink: number = PCI_REGISTER.CAPABILITIES;
  #end = FIRST_CAPABILITY;

  constructor(identity: PciIdentity) {
    const put = (offset: number, value: number) => this.#view.setUint16(offset, value, true);
    put(PCI_REGISTER.VENDOR, identity.vendor);
    put(PCI_REGISTER.DEVICE, identity.device);
    this.#view.setUint32(PCI_REGISTER.REVISION, identity.classCode * 256 + identity.revision, true);
    put(PCI_REGISTER.SUBSYSTEM_VENDOR, identity.subsystemVendor);
    put(PCI_REGISTER.SUBSYSTEM, identity.subsystem);
    this.allow(PCI_REGISTER.COMMAND, 2, PCI_COMMAND.MEMORY | PCI_COMMAND.MASTER | PCI_COMMAND.INTX_DISABLE);
    this.allow(PCI_REGISTER.INTERRUPT_LINE, 1, 0xff);
  }

  /** Lets the guest write some bits of a register. */
  allow(offset: number, size: AccessSize, bits: number): void {
    for (let i = 0; i < size; i++) this.#writable[offset + i] |= bits >>> (8 * i);
  }

  /**
   * Appends a capability.
   * @param body what follows its ID and link
   * @returns its offset
   */
  addCapability(id: number, body: Uint8Array): number {
    const at = this.#end;
    this.#view.setUint8(this.#lastLink, at);
    this.#view.setUint8(at, id);
    new Uint8Array(this.#view.buffer).set(body, at + 2);
    this.#lastLink = at + 1;
    this.#end = Math.ceil((at + 2 + body.length) / 4) * 4;
    this.set(PCI_REGISTER.STATUS, 2, STATUS_CAPABILITIES);
    return at;
  }

  /** @param offset with `size` within the 256 bytes */
  read(offset: number, size: AccessSize): number {
    if (size === 1) return this.#view.getUint8(offset);
    return size === 2 ? this.#view.getUint16(offset, true) : this.#view.getUint32(offset, true);
  }

  /** A write of the guest. */
  write(offset: number, size: AccessSize, value: number): void {
    for (let i = 0; i < size; i++) {
      const mask = this.#writable[offset + i];
      const kept = this.#view.getUint8(offset + i) & ~mask;
      this.#view.setUint8(offset + i, kept | ((value >>> (8 * i)) & mask));
    }
  }

  /** A write of the device. */
  set(offset: number, size: AccessSize, value: number): void {
    for (let i = 0; i < size; i++) this.#view.setUint8(offset + i, value >>> (8 * i));
  }

  /** What the guest has written, for {@link load}. */
  save(): number[] {
    return [...new Uint8Array(this.#view.buffer)];
  }

  /** Takes over what a guest had written. */
  load(bytes: readonly number[]): void {
    for (let at = 0; at < SIZE; at++) this.write(at, 1, bytes[at] ?? 0);
  }

  /** Clears what the guest has written. */
  reset(): void {
    this.load([]);
  }
}
