/**
 * PCI host bridge with configuration mechanism #1 (PCI Local Bus specification 3.0, section 3.2.2.3.2): an address
 * register at 0xCF8 and a data window at 0xCFC. Bus 0 holds the bridge itself and what is plugged in.
 *
 * The bridge is Red Hat's generic PCI host (1b36:0008) rather than an Intel part: kernels and firmware have quirks
 * for the companions of a 440FX or Q35, none of which are here.
 */
import { TsvError } from '../../errors.ts';
import type { AccessSize, Device, DeviceContext, DeviceState } from '../device.ts';
import { SavedState } from '../saved-state.ts';

/** CONFIG_ADDRESS: port 0xCF8. */
export const PCI_CONFIG_ADDRESS = 0;
/** CONFIG_DATA: port 0xCFC. */
export const PCI_CONFIG_DATA = 4;
/** Ports the device occupies. */
export const PCI_HOST_SIZE = 8;
/** The configuration space of bus 0 as memory (PCI Express 5.0 section 7.2.2): 4 KiB for each function. */
export const PCI_ECAM_OFFSET = 0x100000;
export const PCI_ECAM_SIZE = 0x100000;
const ECAM_FUNCTION_SIZE = 0x1000;
/** Bytes of a function's space that functions here have; the rest, which only PCI Express knows, reads 0. */
const CONFIG_SIZE = 0x100;
/** Port 0xCF9 lies within CONFIG_ADDRESS, which only takes accesses of four bytes. */
const RESET_CONTROL_OFFSET = 1;

const ENABLE = 0x80000000;
/** Enable, bus, device, function and register; the rest reads 0. */
const ADDRESS_MASK = 0x80fffffc;
const SLOTS = 32;
const FUNCTIONS = 8;

const VENDOR_RED_HAT = 0x1b36;
const DEVICE_PCIE_HOST = 0x0008;
const SUBSYSTEM_QUMRANET = 0x1af4;
const SUBSYSTEM_QEMU_VM = 0x1100;
const CLASS_HOST_BRIDGE = 0x0600;

/** A function on the bus: its configuration space. */
export interface PciFunction {
  /** @param offset 0-255, aligned to `size` @returns the value, unsigned */
  readConfig(offset: number, size: AccessSize): number;
  /** @param value unsigned, below 2^(8*size) */
  writeConfig(offset: number, size: AccessSize, value: number): void | Promise<void>;
  /** Takes addresses for its BARs, as firmware would give it. */
  assignBars?(allocate: (size: number) => number): void;
}

/** The host bridge's own configuration space: a header of type 0 in which nothing can be written. */
class HostBridge implements PciFunction {
  readonly #space = new DataView(new ArrayBuffer(256));

  constructor() {
    const put = (offset: number, value: number) => this.#space.setUint16(offset, value, true);
    put(0x00, VENDOR_RED_HAT);
    put(0x02, DEVICE_PCIE_HOST);
    put(0x0a, CLASS_HOST_BRIDGE);
    put(0x2c, SUBSYSTEM_QUMRANET);
    put(0x2e, SUBSYSTEM_QEMU_VM);
  }

  readConfig(offset: number, size: AccessSize): number {
    if (size === 1) return this.#space.getUint8(offset);
    return size === 2 ? this.#space.getUint16(offset, true) : this.#space.getUint32(offset, true);
  }

  writeConfig(): void {}
}

/** Ports 0xCF8-0xCFF, and the same configuration spaces at {@link PCI_ECAM_OFFSET}. */
export class PciHost implements Device {
  readonly name = 'pci-host';
  /** First address for BARs that has not been given away. */
  #nextBar: number;
  readonly #barsEnd: number;
  readonly #functions = new Map<number, PciFunction>([[0, new HostBridge()]]);
  readonly #resetControl: Device | undefined;
  #address = 0;

  /**
   * @param resetControl the device behind port 0xCF9. It lies within this device's ports, as on the chipsets that
   *   tell the two apart by the width of the access; it is attached, reset and saved along with this one.
   * @param window addresses for the BARs of what is plugged in; the guest may move them
   */
  constructor(resetControl?: Device, window = { first: 0, last: -1 }) {
    this.#resetControl = resetControl;
    this.#nextBar = window.first;
    this.#barsEnd = window.last + 1;
  }

  /**
   * Plugs a function into bus 0.
   * @param slot device number, 1-31 (0 is the bridge)
   * @param index function number, 0-7
   * @throws TSV_E_CONFIG when the place does not exist or is taken
   */
  plug(slot: number, index: number, device: PciFunction): void {
    const inRange = (value: number, end: number) => Number.isInteger(value) && value >= 0 && value < end;
    if (
      !inRange(slot, SLOTS) ||
      !inRange(index, FUNCTIONS) ||
      this.#functions.has(slot * FUNCTIONS + index)
    ) {
      throw new TsvError('TSV_E_CONFIG', `PCI slot ${slot}.${index} does not exist or is taken.`, {
        hint: 'Use a free device number from 1 to 31 and a function number from 0 to 7.',
      });
    }
    this.#functions.set(slot * FUNCTIONS + index, device);
    device.assignBars?.((size) => this.#allocate(size));
  }

  /** @returns 0, which is no address, when the window is full */
  #allocate(size: number): number {
    const at = Math.ceil(this.#nextBar / size) * size;
    if (at + size > this.#barsEnd) return 0;
    this.#nextBar = at + size;
    return at;
  }

  attach(context: DeviceContext): void {
    this.#resetControl?.attach?.(context);
  }

  read(offset: number, size: AccessSize): number | Promise<number> {
    const none = 2 ** (8 * size) - 1;
    if (offset >= PCI_ECAM_OFFSET) {
      const target = this.#memoryTarget(offset - PCI_ECAM_OFFSET, size);
      if (target === undefined) return none;
      return target.register < CONFIG_SIZE ? target.device.readConfig(target.register, size) : 0;
    }
    if (offset >= PCI_CONFIG_DATA) {
      const target = this.#target(offset, size);
      return target?.device.readConfig(target.register, size) ?? none;
    }
    if (offset === PCI_CONFIG_ADDRESS && size === 4) return this.#address;
    if (offset === RESET_CONTROL_OFFSET && size === 1) return this.#resetControl?.read?.(0, 1) ?? none;
    return none;
  }

  write(offset: number, size: AccessSize, value: number): void | Promise<void> {
    if (offset >= PCI_ECAM_OFFSET) {
      const target = this.#memoryTarget(offset - PCI_ECAM_OFFSET, size);
      if (target === undefined || target.register >= CONFIG_SIZE) return;
      return target.device.writeConfig(target.register, size, value);
    }
    if (offset >= PCI_CONFIG_DATA) {
      const target = this.#target(offset, size);
      return target?.device.writeConfig(target.register, size, value);
    }
    if (offset === PCI_CONFIG_ADDRESS && size === 4) {
      this.#address = (value & ADDRESS_MASK) >>> 0;
    } else if (offset === RESET_CONTROL_OFFSET && size === 1) {
      return this.#resetControl?.write?.(0, 1, value);
    }
  }

  /** The function and register that an access to the memory-mapped spaces means. */
  #memoryTarget(offset: number, size: AccessSize): { device: PciFunction; register: number } | undefined {
    if (offset % size !== 0) return undefined;
    const device = this.#functions.get(Math.floor(offset / ECAM_FUNCTION_SIZE));
    return device && { device, register: offset % ECAM_FUNCTION_SIZE };
  }

  /** The function the address register selects, and the register a data access at `offset` means. */
  #target(offset: number, size: AccessSize): { device: PciFunction; register: number } | undefined {
    const lane = offset - PCI_CONFIG_DATA;
    // An access across the window's end or off its alignment reaches no register.
    if (lane % size !== 0 || lane + size > 4) return undefined;
    const address = this.#address;
    if ((address & ENABLE) === 0 || ((address >> 16) & 0xff) !== 0) return undefined;
    const device = this.#functions.get((address >> 8) & 0xff);
    return device && { device, register: (address & 0xfc) + lane };
  }

  reset(): void {
    this.#address = 0;
    this.#resetControl?.reset?.();
  }

  /** The functions plugged in are devices of their own and save themselves. */
  save(): DeviceState {
    return { address: this.#address, resetControl: this.#resetControl?.save() ?? null };
  }

  /** @throws TSV_E_STATE */
  restore(state: DeviceState): void {
    const saved = new SavedState(this.name, state);
    const address = (saved.int('address', 0xffffffff) & ADDRESS_MASK) >>> 0;
    if (this.#resetControl !== undefined) this.#resetControl.restore(saved.state('resetControl'));
    this.#address = address;
  }
}
