/** What a guest's driver does alike on every transport. */
import type { Device } from '../../../../src/devices/device.ts';
import type { DeviceBench } from '../../../support/device-bench.ts';
import { Heap, PackedDriver, type RingDriver, SplitDriver } from './rings.ts';

/** Features of the rings and the transport. */
export const F = { INDIRECT: 1n << 28n, EVENT_IDX: 1n << 29n, VERSION_1: 1n << 32n, PACKED: 1n << 34n };

/** Where a ring lies. */
export type RingPlace = Pick<RingDriver, 'size' | 'desc' | 'driver' | 'device'>;

/** Options of {@link TransportDriver.start}. */
export interface StartOptions {
  /** Accepted besides VERSION_1. */
  features?: bigint;
  /** Ring size for queue i; default the largest. */
  size?: (max: number, index: number) => number;
}

/** A driver, whatever the transport. */
export abstract class TransportDriver<D extends Device = Device> {
  readonly bench: DeviceBench<D>;
  heap = new Heap();
  rings: RingDriver[] = [];

  constructor(bench: DeviceBench<D>) {
    this.bench = bench;
  }

  /** Interrupts so far. */
  abstract readonly interrupts: number;
  abstract status(): number;
  abstract setStatus(value: number): Promise<void>;
  abstract offered(): bigint;
  abstract accept(features: bigint): void;
  /** Largest size of a queue; 0 when there is none. */
  abstract queueMax(index: number): number;
  abstract setUp(index: number, ring: RingPlace): void;
  abstract notify(index: number): void;
  abstract config(offset: number, size: 1 | 2 | 4): number;
  abstract setConfig(offset: number, size: 1 | 2 | 4, value: number): void;
  /** Takes what is pending, as an interrupt handler would. @returns interrupt status bits */
  abstract takeInterrupt(): number;

  /** Reset, negotiation, one ring for each queue, DRIVER_OK. */
  async start({ features = 0n, size = (max) => max }: StartOptions = {}): Promise<void> {
    await this.setStatus(0);
    await this.setStatus(3);
    this.accept(features | F.VERSION_1);
    await this.setStatus(11);
    const Ring = features & F.PACKED ? PackedDriver : SplitDriver;
    this.rings = [];
    for (let index = 0, max = this.queueMax(0); max > 0; max = this.queueMax(++index)) {
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

  /** Goes on where another driver was, in a copy of its memory. */
  continue(other: TransportDriver): void {
    const { memory } = other.bench;
    this.bench.memory.write(0, memory.read(0, memory.size));
    this.bench.device.restore(structuredClone(other.bench.device.save()));
    this.heap = other.heap;
    this.rings = other.rings;
    for (const ring of this.rings) ring.rebase(this.bench.memory);
  }
}
