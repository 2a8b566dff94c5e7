/** The driver's side of the MMIO transport. */

import type { TransportOptions } from '../../../../src/devices/virtio/transport/common.ts';
import { MMIO, VirtioMmio } from '../../../../src/devices/virtio/transport/mmio.ts';
import type { VirtioDevice } from '../../../../src/devices/virtio/virtio-device.ts';
import { DeviceBench } from '../../../support/device-bench.ts';
import { Heap, PackedDriver, type RingDriver, SplitDriver } from './rings.ts';

/** Features of the rings and the transport. */
export const F = { INDIRECT: 1n << 28n, EVENT_IDX: 1n << 29n, VERSION_1: 1n << 32n, PACKED: 1n << 34n };

/** What a guest driver can do, whatever the transport. */
export interface TransportDriver {
  readonly bench: DeviceBench<VirtioMmio>;
  readonly heap: Heap;
  readonly rings: RingDriver[];
  /** Interrupts so far. */
  readonly interrupts: number;
  status(): number;
  setStatus(value: number): Promise<void>;
  offered(): bigint;
  accept(features: bigint): void;
  /** Reset, negotiation, one ring for each queue, DRIVER_OK. */
  start(options?: StartOptions): Promise<void>;
  setUp(index: number, ring: Pick<RingDriver, 'size' | 'desc' | 'driver' | 'device'>): void;
  notify(index: number): void;
  config(offset: number, size: 1 | 2 | 4): number;
  setConfig(offset: number, size: 1 | 2 | 4, value: number): void;
  /** Takes the pending interrupt, as its handler would. @returns the interrupt status */
  takeInterrupt(): number;
}

export interface StartOptions {
  /** Accepted besides VERSION_1. */
  features?: bigint;
  /** Ring size for queue i; default the largest. */
  size?: (max: number, index: number) => number;
}

export class MmioDriver implements TransportDriver {
  readonly bench: DeviceBench<VirtioMmio>;
  heap = new Heap();
  rings: RingDriver[] = [];

  constructor(device: VirtioDevice, options?: TransportOptions, memoryMiB = 4) {
    this.bench = new DeviceBench(new VirtioMmio(device, options), { memoryMiB });
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

  async start({ features = 0n, size = (max) => max }: StartOptions = {}): Promise<void> {
    await this.setStatus(0);
    await this.setStatus(3);
    this.accept(features | F.VERSION_1);
    await this.setStatus(11);
    const Ring = features & F.PACKED ? PackedDriver : SplitDriver;
    this.rings = [];
    for (let index = 0; ; index++) {
      this.write(MMIO.QUEUE_SEL, index);
      const max = this.read(MMIO.QUEUE_NUM_MAX);
      if (max === 0) break;
      const ring = new Ring({
        memory: this.bench.memory,
        heap: this.heap,
        size: size(max, index),
        eventIdx: (features & F.EVENT_IDX) !== 0n,
      });
      this.rings.push(ring);
      this.setUp(index, ring);
    }
    await this.setStatus(15);
  }

  setUp(index: number, ring: Pick<RingDriver, 'size' | 'desc' | 'driver' | 'device'>): void {
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
