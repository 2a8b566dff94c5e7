/** The driver's side of the PCI transport: everything is found by the capabilities, as a guest finds it. */
import { PciHost } from '../../../../src/devices/pci/host.ts';
import type { TransportOptions } from '../../../../src/devices/virtio/transport/common.ts';
import { VirtioPci } from '../../../../src/devices/virtio/transport/pci.ts';
import { COMMON } from '../../../../src/devices/virtio/transport/pci-common.ts';
import type { VirtioDevice } from '../../../../src/devices/virtio/virtio-device.ts';
import { DeviceBench } from '../../../support/device-bench.ts';
import { patchedMemory } from './patched-memory.ts';
import { type RingPlace, TransportDriver } from './transport-driver.ts';

type Size = 1 | 2 | 4;

/** Where BARs are put by the host. */
export const WINDOW = { first: 0xc0000000, last: 0xcfffffff };
/** Message data of a vector. */
const DATA = 0x4000;

export class PciDriver extends TransportDriver<VirtioPci> {
  /** Guest-physical addresses of the structures by type. */
  readonly at = new Map<number, number>();
  /** Offsets of the capabilities in configuration space, by ID and, for vendor-specific ones, structure type. */
  readonly capabilities = new Map<string, number>();
  readonly usesMsix: boolean;
  #multiplier = 0;
  #taken = 0;

  constructor(device: VirtioDevice, options?: TransportOptions, usesMsix = true) {
    super(new DeviceBench(new VirtioPci(device, options), { memory: patchedMemory() }));
    this.usesMsix = usesMsix;
    new PciHost(undefined, WINDOW).plug(1, 0, this.bench.device);
    this.cfgWrite(4, 2, 6);
    for (let at = this.cfg(0x34, 1); at !== 0; at = this.cfg(at + 1, 1)) this.#capability(at);
  }

  #capability(at: number): void {
    const id = this.cfg(at, 1);
    if (id === 0x11) {
      this.capabilities.set('msix', at);
      if (!this.usesMsix) return;
      const table = this.#bar(this.cfg(at + 4, 4) & 7) + (this.cfg(at + 4, 4) & ~7);
      const count = (this.cfg(at + 2, 2) & 0x7ff) + 1;
      for (let vector = 0; vector < count; vector++) {
        this.poke(table + vector * 16, 4, 0xfee00000);
        this.poke(table + vector * 16 + 4, 4, 0);
        this.poke(table + vector * 16 + 8, 4, DATA + vector);
        this.poke(table + vector * 16 + 12, 4, 0);
      }
      this.cfgWrite(at + 2, 2, 0x8000);
      return;
    }
    const type = this.cfg(at + 3, 1);
    this.capabilities.set(`virtio${type}`, at);
    if (type === 5) return;
    this.at.set(type, this.#bar(this.cfg(at + 4, 1)) + this.cfg(at + 8, 4));
    if (type === 2) this.#multiplier = this.cfg(at + 16, 4);
  }

  #bar(index: number): number {
    return this.cfg(0x10 + 4 * index, 4);
  }

  cfg(offset: number, size: Size): number {
    return this.bench.device.readConfig(offset, size);
  }

  cfgWrite(offset: number, size: Size, value: number): void {
    void this.bench.device.writeConfig(offset, size, value);
  }

  /** Offset within the device of a guest-physical address. */
  #offset(gpa: number): number {
    const place = this.bench.mounts.find(({ base, size }) => gpa >= base && gpa < base + size);
    if (place === undefined) throw new Error(`nothing is at 0x${gpa.toString(16)}`);
    return gpa - place.base + (place.offset ?? 0);
  }

  peek(gpa: number, size: Size): number {
    return this.bench.in(this.#offset(gpa), size);
  }

  poke(gpa: number, size: Size, value: number): void {
    this.bench.out(this.#offset(gpa), value, size);
  }

  common(field: number, size: Size): number {
    return this.peek(this.at.get(1)! + field, size);
  }

  setCommon(field: number, size: Size, value: number): void {
    this.poke(this.at.get(1)! + field, size, value);
  }

  get interrupts(): number {
    return this.usesMsix ? this.bench.messages.length : this.bench.irq().edges;
  }

  status(): number {
    return this.common(COMMON.DEVICE_STATUS, 1);
  }

  async setStatus(value: number): Promise<void> {
    await this.bench.outWait(this.#offset(this.at.get(1)!) + COMMON.DEVICE_STATUS, value, 1);
    if (value === 11 && this.usesMsix) this.setCommon(COMMON.CONFIG_VECTOR, 2, 0);
  }

  offered(): bigint {
    const word = (index: number) => {
      this.setCommon(COMMON.DEVICE_FEATURE_SELECT, 4, index);
      return BigInt(this.common(COMMON.DEVICE_FEATURE, 4));
    };
    return word(0) + (word(1) << 32n);
  }

  accept(features: bigint): void {
    this.setCommon(COMMON.DRIVER_FEATURE_SELECT, 4, 0);
    this.setCommon(COMMON.DRIVER_FEATURE, 4, Number(features & 0xffffffffn));
    this.setCommon(COMMON.DRIVER_FEATURE_SELECT, 4, 1);
    this.setCommon(COMMON.DRIVER_FEATURE, 4, Number(features >> 32n));
  }

  queueMax(index: number): number {
    this.setCommon(COMMON.QUEUE_SELECT, 2, index);
    return this.common(COMMON.QUEUE_SIZE, 2);
  }

  setUp(index: number, ring: RingPlace): void {
    const address = (field: number, gpa: number) => {
      this.setCommon(field, 4, gpa % 2 ** 32);
      this.setCommon(field + 4, 4, Math.floor(gpa / 2 ** 32));
    };
    this.setCommon(COMMON.QUEUE_SELECT, 2, index);
    this.setCommon(COMMON.QUEUE_SIZE, 2, ring.size);
    if (this.usesMsix) this.setCommon(COMMON.QUEUE_VECTOR, 2, index + 1);
    address(COMMON.QUEUE_DESC, ring.desc);
    address(COMMON.QUEUE_DRIVER, ring.driver);
    address(COMMON.QUEUE_DEVICE, ring.device);
    this.setCommon(COMMON.QUEUE_ENABLE, 2, 1);
  }

  notify(index: number): void {
    this.setCommon(COMMON.QUEUE_SELECT, 2, index);
    const gpa = this.at.get(2)! + this.common(COMMON.QUEUE_NOTIFY_OFF, 2) * this.#multiplier;
    this.poke(gpa, 2, index);
  }

  config(offset: number, size: Size): number {
    return this.peek(this.at.get(4)! + offset, size);
  }

  setConfig(offset: number, size: Size, value: number): void {
    this.poke(this.at.get(4)! + offset, size, value);
  }

  takeInterrupt(): number {
    if (!this.usesMsix) return this.peek(this.at.get(3)!, 1);
    const messages = this.bench.messages.slice(this.#taken);
    this.#taken = this.bench.messages.length;
    return messages.reduce((bits, { data }) => bits | (data === DATA ? 2 : 1), 0);
  }
}

/** A driver that interrupts by its pin. */
export class PciPinDriver extends PciDriver {
  constructor(device: VirtioDevice, options?: TransportOptions) {
    super(device, options, false);
  }
}
