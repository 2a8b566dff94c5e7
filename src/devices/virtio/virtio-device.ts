/**
 * What a virtio device is to its transport, and the transport to it (virtio 1.2 chapter 2). A device knows neither
 * whether it is behind MMIO or PCI nor which ring format the driver chose.
 */
import type { GuestMemory } from '../../memory/guest-memory.ts';
import type { Clock } from '../clock.ts';
import type { DeviceState } from '../device.ts';

/** One chain of descriptors that the driver made available: buffers to read, then buffers to write. */
export interface Chain {
  /** What the driver knows the chain by: index of the first descriptor, or buffer ID in a packed ring. */
  readonly head: number;
  /**
   * Live views of guest RAM with what the driver sends, in order. The guest may change them at any time: whatever is
   * checked must be copied first.
   */
  readonly readable: readonly Uint8Array[];
  /** Live views of guest RAM for what the device answers, in order. */
  readonly writable: readonly Uint8Array[];
  /** Bytes in {@link readable}; at most 2^32. */
  readonly readableLength: number;
  /** Bytes in {@link writable}; at most 2^32. */
  readonly writableLength: number;
}

/** A queue that the driver enabled. */
export interface Virtqueue {
  /** Entries the driver gave it. */
  readonly size: number;
  /**
   * The next available chain. Everything that comes from the guest has been checked.
   * @returns undefined when there is none, or the ring is malformed: the host then knows
   */
  take(): Chain | undefined;
  /**
   * Gives a chain back as used and interrupts the driver if it wants that. Chains may come back in any order.
   * @param written bytes written from the start of the writable buffers
   */
  push(chain: Chain, written: number): void;
}

/** What a started device may use. */
export interface VirtioHost {
  /** The features that driver and device agreed on. */
  readonly features: bigint;
  /** Guest RAM. */
  readonly memory: GuestMemory;
  /** Guest time. */
  readonly clock: Clock;
  /** Undefined when the driver did not enable that queue. */
  queue(index: number): Virtqueue | undefined;
  /** The configuration space has changed: a new generation, and an interrupt. */
  configChanged(): void;
  /** The driver did what cannot be answered: DEVICE_NEEDS_RESET, logged. All queues stop. */
  fail(reason: string): void;
  /** Something for the machine's log. */
  log(level: 'debug' | 'info' | 'warn' | 'error', message: string): void;
}

/** A virtio device behind some transport. */
export interface VirtioDevice {
  /** Unique within a machine: "virtio-blk0". */
  readonly name: string;
  /** Device ID (virtio 1.2 chapter 5). */
  readonly type: number;
  /** Device-specific features it offers; the transport adds those of the rings and VERSION_1. */
  readonly features: bigint;
  /** Largest size of each queue, powers of two up to 32768. */
  readonly queueSizes: readonly number[];
  /** The device-specific configuration. Accesses lie within `size`. */
  readonly config: {
    readonly size: number;
    read(offset: number, size: 1 | 2 | 4): number;
    write?(offset: number, size: 1 | 2 | 4, value: number): void;
  };
  /** DRIVER_OK: the features are negotiated, the queues are there. Also after {@link restore}. */
  start(host: VirtioHost): void;
  /** The driver has put something into a queue. On the event loop; the vCPU does not wait. */
  notify(queue: number): void;
  /** Reset. Nothing may be written to guest memory once this has resolved. */
  stop(): void | Promise<void>;
  /** What the device knows beyond its queues: chains taken and not pushed yet are the transport's to save. */
  save(): DeviceState;
  /** Continues from {@link save}; comes before {@link start}. Unfinished chains are taken again. @throws TSV_E_STATE */
  restore(state: DeviceState): void;
  /** Releases host resources. */
  close?(): void | Promise<void>;
}
