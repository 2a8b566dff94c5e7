/** The driver's side of the MMIO transport. */

import type { TransportOptions } from '../../../../src/devices/virtio/transport/common.ts';
import { MMIO, VirtioMmio } from '../../../../src/devices/virtio/transport/mmio.ts';
import type { VirtioDevice } from '../../../../src/devices/virtio/virtio-device.ts';
import { DeviceBench } from '../../../support/device-bench.ts';
import { patchedMemory } from './patched-memory.ts';
import { type RingPlace, TransportDriver } from './transport-driver.ts';

export class MmioDriver extends TransportDriver<VirtioMmio> {
  constructor(device: VirtioDevice, options?: TransportOptions) {
    super(new DeviceBench(new VirtioMmio(device, options), { memory: patchedMemory() }));
  }

  get interrupts(): number {
    return this.bench.irq().edges;
  }

  read(offset: number): number {
    return this.bench.in(offset, 4);
  }

  write(offset: number, value: number): void {
    this.bench.out(offset, value, 4);
  }

  status(): number {
    return this.read(MMIO.STATUS);
  }

  setStatus(value: number): Promise<void> {
    return this.bench.outWait(MMIO.STATUS, value, 4);
  }

  offered(): bigint {
    const word = (index: number) => {
      this.write(MMIO.DEVICE_FEATURES_SEL, index);
      return BigInt(this.read(MMIO.DEVICE_FEATURES));
    };
    return word(0) + (word(1) << 32n);
  }

  accept(features: bigint): void {
    this.write(MMIO.DRIVER_FEATURES_SEL, 0);
    this.write(MMIO.DRIVER_FEATURES, Number(features & 0xffffffffn));
    this.write(MMIO.DRIVER_FEATURES_SEL, 1);
    this.write(MMIO.DRIVER_FEATURES, Number(features >> 32n));
  }

  queueMax(index: number): number {
    this.write(MMIO.QUEUE_SEL, index);
    return this.read(MMIO.QUEUE_NUM_MAX);
  }

  setUp(index: number, ring: RingPlace): void {
    const address = (register: number, gpa: number) => {
      this.write(register, gpa % 2 ** 32);
      this.write(register + 4, Math.floor(gpa / 2 ** 32));
    };
    this.write(MMIO.QUEUE_SEL, index);
    this.write(MMIO.QUEUE_NUM, ring.size);
    address(MMIO.QUEUE_DESC_LOW, ring.desc);
    address(MMIO.QUEUE_DRIVER_LOW, ring.driver);
    address(MMIO.QUEUE_DEVICE_LOW, ring.device);
    this.write(MMIO.QUEUE_READY, 1);
  }

  notify(index: number): void {
    this.write(MMIO.QUEUE_NOTIFY, index);
  }

  config(offset: number, size: 1 | 2 | 4): number {
    return this.bench.in(MMIO.CONFIG + offset, size);
  }

  setConfig(offset: number, size: 1 | 2 | 4, value: number): void {
    this.bench.out(MMIO.CONFIG + offset, value, size);
  }

  takeInterrupt(): number {
    const status = this.read(MMIO.INTERRUPT_STATUS);
    // The bus clears the bits by itself: the register is declared so.
    this.bench.latch(MMIO.INTERRUPT_STATUS).clear(status);
    return status;
  }
}
