/** The common configuration structure of virtio over PCI (virtio 1.2 section 4.1.4.3). */
import type { AccessSize, DeviceState } from '../../device.ts';
import type { SavedState } from '../../saved-state.ts';
import { NO_VECTOR, type VirtioCore } from './common.ts';
import type { QueueSetup, RingPart } from './queue-setup.ts';

/** Offsets of the fields. */
export const COMMON = {
  DEVICE_FEATURE_SELECT: 0,
  DEVICE_FEATURE: 4,
  DRIVER_FEATURE_SELECT: 8,
  DRIVER_FEATURE: 12,
  CONFIG_VECTOR: 16,
  NUM_QUEUES: 18,
  DEVICE_STATUS: 20,
  CONFIG_GENERATION: 21,
  QUEUE_SELECT: 22,
  QUEUE_SIZE: 24,
  QUEUE_VECTOR: 26,
  QUEUE_ENABLE: 28,
  QUEUE_NOTIFY_OFF: 30,
  QUEUE_DESC: 32,
  QUEUE_DRIVER: 40,
  QUEUE_DEVICE: 48,
} as const;

/** Width of each field; the addresses are accessed by halves. */
const SIZES = new Map<number, AccessSize>([
  [COMMON.DEVICE_FEATURE_SELECT, 4],
  [COMMON.DEVICE_FEATURE, 4],
  [COMMON.DRIVER_FEATURE_SELECT, 4],
  [COMMON.DRIVER_FEATURE, 4],
  [COMMON.CONFIG_VECTOR, 2],
  [COMMON.NUM_QUEUES, 2],
  [COMMON.DEVICE_STATUS, 1],
  [COMMON.CONFIG_GENERATION, 1],
  [COMMON.QUEUE_SELECT, 2],
  [COMMON.QUEUE_SIZE, 2],
  [COMMON.QUEUE_VECTOR, 2],
  [COMMON.QUEUE_ENABLE, 2],
  [COMMON.QUEUE_NOTIFY_OFF, 2],
]);
const RING_PARTS = new Map<number, RingPart>([
  [COMMON.QUEUE_DESC, 'desc'],
  [COMMON.QUEUE_DRIVER, 'driver'],
  [COMMON.QUEUE_DEVICE, 'device'],
]);

/** The structure's registers. Accesses of other widths than the fields have read 0 and write nothing. */
export class PciCommonConfig {
  /** MSI-X vector of configuration changes. */
  configVector = NO_VECTOR;
  readonly #core: VirtioCore;
  readonly #vectors: number;
  readonly #onReset: () => void;
  #deviceFeatureSelect = 0;
  #driverFeatureSelect = 0;
  #queueSelect = 0;

  /** @param vectors how many there are; a queue cannot have another */
  constructor(core: VirtioCore, vectors: number, onReset: () => void) {
    this.#core = core;
    this.#vectors = vectors;
    this.#onReset = onReset;
  }

  read(offset: number, size: AccessSize): number {
    const part = ringPart(offset, size);
    if (part !== undefined) return this.#selected?.word(part, half(offset)) ?? 0;
    if (SIZES.get(offset) !== size) return 0;
    switch (offset) {
      case COMMON.DEVICE_FEATURE_SELECT:
        return this.#deviceFeatureSelect;
      case COMMON.DEVICE_FEATURE:
        return this.#core.offered(this.#deviceFeatureSelect);
      case COMMON.DRIVER_FEATURE_SELECT:
        return this.#driverFeatureSelect;
      case COMMON.DRIVER_FEATURE:
        return this.#core.accepted(this.#driverFeatureSelect);
      case COMMON.CONFIG_VECTOR:
        return this.configVector;
      case COMMON.NUM_QUEUES:
        return this.#core.queues.length;
      case COMMON.DEVICE_STATUS:
        return this.#core.status;
      case COMMON.CONFIG_GENERATION:
        return this.#core.generation & 0xff;
      case COMMON.QUEUE_SELECT:
        return this.#queueSelect;
      default:
        return this.#readQueue(offset);
    }
  }

  /** Section 4.1.4.3.1: a queue that does not exist has size 0. */
  #readQueue(offset: number): number {
    const setup = this.#selected;
    if (setup === undefined) return offset === COMMON.QUEUE_VECTOR ? NO_VECTOR : 0;
    switch (offset) {
      case COMMON.QUEUE_SIZE:
        return setup.size;
      case COMMON.QUEUE_VECTOR:
        return setup.vector;
      case COMMON.QUEUE_ENABLE:
        return setup.isEnabled ? 1 : 0;
      default:
        return this.#queueSelect;
    }
  }

  write(offset: number, size: AccessSize, value: number): void | Promise<void> {
    const part = ringPart(offset, size);
    if (part === undefined && SIZES.get(offset) !== size) return;
    switch (offset) {
      case COMMON.DEVICE_FEATURE_SELECT:
        this.#deviceFeatureSelect = value;
        break;
      case COMMON.DRIVER_FEATURE_SELECT:
        this.#driverFeatureSelect = value;
        break;
      case COMMON.DRIVER_FEATURE:
        this.#core.accept(this.#driverFeatureSelect, value);
        break;
      case COMMON.CONFIG_VECTOR:
        this.configVector = this.#vector(value);
        break;
      case COMMON.DEVICE_STATUS:
        return this.#setStatus(value);
      case COMMON.QUEUE_SELECT:
        this.#queueSelect = value;
        break;
      default:
        this.#setUpQueue(offset, part, value);
    }
  }

  #setUpQueue(offset: number, part: RingPart | undefined, value: number): void {
    const setup = this.#selected;
    if (setup === undefined) return;
    // A vector may be taken back while the device runs.
    if (offset === COMMON.QUEUE_VECTOR) setup.vector = this.#vector(value);
    if (!this.#core.maySetUp(setup)) return;
    if (part !== undefined) setup.setWord(part, half(offset), value);
    else if (offset === COMMON.QUEUE_SIZE) setup.size = value;
    else if (offset === COMMON.QUEUE_ENABLE) setup.isEnabled = value === 1;
  }

  /** Section 4.1.5.1.2: what cannot be had reads back as no vector. */
  #vector(value: number): number {
    return value < this.#vectors ? value : NO_VECTOR;
  }

  #setStatus(value: number): void | Promise<void> {
    const done = this.#core.setStatus(value);
    if (value !== 0) return;
    if (done === undefined) this.reset();
    else return done.then(() => this.reset());
  }

  get #selected(): QueueSetup | undefined {
    return this.#core.queues[this.#queueSelect];
  }

  /** The device has been reset. */
  reset(): void {
    this.configVector = NO_VECTOR;
    this.#deviceFeatureSelect = 0;
    this.#driverFeatureSelect = 0;
    this.#queueSelect = 0;
    this.#onReset();
  }

  save(): DeviceState {
    return {
      configVector: this.configVector,
      deviceFeatureSelect: this.#deviceFeatureSelect,
      driverFeatureSelect: this.#driverFeatureSelect,
      queueSelect: this.#queueSelect,
    };
  }

  /** @throws TSV_E_STATE */
  restore(saved: SavedState): void {
    const configVector = saved.int('configVector', NO_VECTOR);
    const deviceFeatureSelect = saved.int('deviceFeatureSelect', 0xffffffff);
    const driverFeatureSelect = saved.int('driverFeatureSelect', 0xffffffff);
    this.#queueSelect = saved.int('queueSelect', 0xffff);
    this.configVector = configVector;
    this.#deviceFeatureSelect = deviceFeatureSelect;
    this.#driverFeatureSelect = driverFeatureSelect;
  }
}

function ringPart(offset: number, size: AccessSize): RingPart | undefined {
  return size === 4 ? RING_PARTS.get(offset & ~4) : undefined;
}

function half(offset: number): 0 | 1 {
  return offset & 4 ? 1 : 0;
}
