/**
 * What all transports do alike (virtio 1.2 chapters 2 and 3): the device status, feature negotiation, the life of queues,
 * the configuration space. A transport gives it registers and interrupts.
 */
import { inspect } from 'node:util';
import type { GuestMemory } from '../../../memory/guest-memory.ts';
import type { Clock } from '../../clock.ts';
import type { AccessSize, DeviceContext, DeviceState, NotifyRegister } from '../../device.ts';
import type { SavedState } from '../../saved-state.ts';
import { STATUS, VIRTIO_F } from '../abi.ts';
import { RingError } from '../queue/chain.ts';
import { RingQueue } from '../queue/virtqueue.ts';
import type { VirtioDevice, VirtioHost, Virtqueue } from '../virtio-device.ts';
import { QueueSetup } from './queue-setup.ts';
import { refusedState } from './refused-state.ts';

/** What a transport offers whatever the device. */
export interface TransportOptions {
  /** Offer the packed ring format. Default true. */
  packed?: boolean;
  /** Offer VIRTIO_F_EVENT_IDX. Default true. */
  eventIdx?: boolean;
}

/** What a transport does its own way. */
export interface TransportHooks {
  /** Interrupts the driver: a queue has been used. */
  interruptForQueue(index: number): void;
  /** Interrupts the driver: the configuration has changed. */
  interruptForConfig(): void;
  /** The write by which the driver notifies a queue. */
  notifyRegister(index: number): NotifyRegister;
}

/** What a queue's vector is as long as there is none (section 4.1.5.1.1). */
export const NO_VECTOR = 0xffff;

const WORD = 2n ** 32n;
const STATUS_BITS =
  STATUS.ACKNOWLEDGE | STATUS.DRIVER | STATUS.DRIVER_OK | STATUS.FEATURES_OK | STATUS.FAILED;

/** A virtio device as its registers show it. */
export class VirtioCore implements VirtioHost {
  readonly device: VirtioDevice;
  readonly queues: readonly QueueSetup[];
  /** Counts changes of the configuration space. */
  generation = 0;
  readonly #offered: bigint;
  readonly #hooks: TransportHooks;
  #context: DeviceContext | undefined;
  #accepted = 0n;
  #status = 0;
  /** The device has been started and not been stopped. */
  #isStarted = false;
  #stopping: Promise<void> | undefined;

  constructor(device: VirtioDevice, hooks: TransportHooks, options: TransportOptions = {}) {
    const { packed = true, eventIdx = true } = options;
    this.device = device;
    this.queues = device.queueSizes.map((size) => new QueueSetup(size, NO_VECTOR));
    this.#offered =
      device.features |
      VIRTIO_F.VERSION_1 |
      VIRTIO_F.RING_INDIRECT_DESC |
      (eventIdx ? VIRTIO_F.RING_EVENT_IDX : 0n) |
      (packed ? VIRTIO_F.RING_PACKED : 0n);
    this.#hooks = hooks;
  }

  attach(context: DeviceContext): void {
    this.#context = context;
  }

  // VirtioHost ---------------------------------------------------------------------------------------------------

  get features(): bigint {
    return this.#accepted;
  }

  get memory(): GuestMemory {
    return this.#attached.memory;
  }

  get clock(): Clock {
    return this.#attached.clock;
  }

  queue(index: number): Virtqueue | undefined {
    return this.queues[index]?.queue;
  }

  configChanged(): void {
    this.generation = (this.generation + 1) >>> 0;
    if (this.#status & STATUS.DRIVER_OK) this.#hooks.interruptForConfig();
  }

  fail(reason: string): void {
    if (this.#status & STATUS.NEEDS_RESET || this.#stopping !== undefined) return;
    this.#status |= STATUS.NEEDS_RESET;
    for (const { queue } of this.queues) queue?.close();
    this.log('warn', `${this.device.name}: ${reason}; it needs a reset`);
    // Section 2.1.2: a driver that has not come to DRIVER_OK is not told.
    if (this.#status & STATUS.DRIVER_OK) this.#hooks.interruptForConfig();
  }

  log(level: 'debug' | 'info' | 'warn' | 'error', message: string): void {
    this.#context?.log(level, message);
  }

  // Registers ----------------------------------------------------------------------------------------------------

  /** 32 of the offered feature bits; from word 2 on there are none. */
  offered(word: number): number {
    return word < 2 ? Number((this.#offered >> BigInt(word * 32)) % WORD) : 0;
  }

  /** 32 of the feature bits that the driver accepts. */
  accepted(word: number): number {
    return word < 2 ? Number((this.#accepted >> BigInt(word * 32)) % WORD) : 0;
  }

  /** @param bits unsigned */
  accept(word: number, bits: number): void {
    // Section 3.1.1: the driver makes up its mind before FEATURES_OK.
    if (word > 1 || this.#status & STATUS.FEATURES_OK) return;
    const other = this.accepted(1 - word);
    const [low, high] = word === 0 ? [bits, other] : [other, bits];
    this.#accepted = BigInt(high) * WORD + BigInt(low);
  }

  get status(): number {
    return this.#status;
  }

  /** Writes the device status. @returns a promise while a reset waits for the device */
  setStatus(value: number): void | Promise<void> {
    if (value === 0) return this.reset();
    if (this.#stopping !== undefined) return;
    const added = value & STATUS_BITS & ~this.#status;
    this.#status |= added & ~(STATUS.FEATURES_OK | STATUS.DRIVER_OK);
    if (added & STATUS.FEATURES_OK && this.#featuresAreGood()) this.#status |= STATUS.FEATURES_OK;
    if (added & STATUS.DRIVER_OK && this.#status & STATUS.FEATURES_OK) {
      this.#status |= STATUS.DRIVER_OK;
      if ((this.#status & STATUS.NEEDS_RESET) === 0) this.#start();
    }
  }

  /** The driver may change a queue: it is not enabled, and the features are settled but the device not running. */
  maySetUp(setup: QueueSetup): boolean {
    return !setup.isEnabled && (this.#status & STATUS.DRIVER_OK) === 0;
  }

  /** The driver has put something into a queue. */
  notify(index: number): void {
    if (!this.#isRunning || this.queues[index]?.queue === undefined) return;
    this.device.notify(index);
  }

  readConfig(offset: number, size: AccessSize): number {
    const { config } = this.device;
    return offset + size <= config.size ? config.read(offset, size) : 0;
  }

  writeConfig(offset: number, size: AccessSize, value: number): void {
    const { config } = this.device;
    if (offset + size <= config.size) config.write?.(offset, size, value);
  }

  /** Back to the beginning (section 2.4). The status is 0 once the device has stopped. */
  reset(): void | Promise<void> {
    if (this.#stopping !== undefined) return this.#stopping;
    if (this.#isStarted) {
      this.#isStarted = false;
      const stopped = this.#stop();
      if (stopped !== undefined) {
        this.#stopping = stopped.then(() => {
          this.#stopping = undefined;
          this.#clear();
        });
        return this.#stopping;
      }
    }
    this.#clear();
  }

  async close(): Promise<void> {
    await this.reset();
    await this.device.close?.();
  }

  // State --------------------------------------------------------------------------------------------------------

  save(): DeviceState {
    return {
      status: this.#status,
      accepted: [this.accepted(0), this.accepted(1)],
      offered: [this.offered(0), this.offered(1)],
      generation: this.generation,
      started: this.#isStarted,
      resetting: this.#stopping !== undefined,
      queues: this.queues.map((setup) => setup.save()),
      device: this.device.save(),
    };
  }

  /**
   * Continues from {@link save}, with the guest memory of that moment. The device must not have been started. Unfinished
   * requests are taken up when the clock runs.
   * @throws TSV_E_STATE
   */
  restore(saved: SavedState): void {
    const offered = saved.ints('offered', 0xffffffff, 2, true);
    if (this.#isStarted || offered[0] !== this.offered(0) || offered[1] !== this.offered(1)) {
      throw refusedState(
        this.device.name,
        this.#isStarted ? 'cannot replace a running one' : 'has other features',
      );
    }
    const status = saved.int('status', 0xff);
    const [low, high] = saved.ints('accepted', 0xffffffff, 2, true);
    const generation = saved.int('generation', 0xffffffff);
    const isStarted = saved.bool('started');
    const isResetting = saved.bool('resetting');
    const setups = saved.list('queues', this.queues.length);
    this.device.restore(saved.state('device'));
    this.#status = status;
    this.#accepted = BigInt(high) * WORD + BigInt(low);
    this.generation = generation;
    this.queues.forEach((setup, index) => {
      setup.restore(setups[index]);
    });
    // The object of then may still wait for its device; this one has nothing under way.
    if (isResetting) this.#clear();
    if (!isStarted) return;
    try {
      this.#createQueues();
      this.queues.forEach(({ queue }, index) => {
        queue?.restore(setups[index].object('queue'));
        if (status & STATUS.NEEDS_RESET) queue?.close();
      });
    } catch (error) {
      this.#clear();
      if (!(error instanceof RingError)) throw error;
      throw refusedState(this.device.name, `has a bad queue: ${error.message}`);
    }
    this.#run();
    this.clock.setTimer(this.clock.now(), () => {
      for (const index of this.queues.keys()) this.notify(index);
    });
  }

  get #attached(): DeviceContext {
    if (this.#context === undefined) throw new Error(`${this.device.name} is not attached`);
    return this.#context;
  }

  get #isRunning(): boolean {
    return this.#isStarted && (this.#status & STATUS.NEEDS_RESET) === 0;
  }

  #featuresAreGood(): boolean {
    return (this.#accepted & ~this.#offered) === 0n && (this.#accepted & VIRTIO_F.VERSION_1) !== 0n;
  }

  #start(): void {
    try {
      this.#createQueues();
    } catch (error) {
      if (!(error instanceof RingError)) throw error;
      this.fail(error.message);
      return;
    }
    this.#run();
  }

  #run(): void {
    this.#isStarted = true;
    this.device.start(this);
    // Not before: while firmware and kernels look for a device they move it, and reset it.
    this.queues.forEach(({ queue }, index) => {
      if (queue !== undefined) this.#context?.notifiedBy(this.#hooks.notifyRegister(index));
    });
  }

  /** @throws RingError */
  #createQueues(): void {
    const has = (feature: bigint) => (this.#accepted & feature) !== 0n;
    this.queues.forEach((setup, index) => {
      if (!setup.isEnabled) return;
      const { size, maxSize } = setup;
      if (size > maxSize) throw new RingError(`queue ${index} of ${size} entries, where ${maxSize} are most`);
      const config = {
        memory: this.memory,
        size,
        maxChain: maxSize,
        desc: setup.address('desc'),
        driver: setup.address('driver'),
        device: setup.address('device'),
        hasIndirect: has(VIRTIO_F.RING_INDIRECT_DESC),
        hasEventIdx: has(VIRTIO_F.RING_EVENT_IDX),
      };
      setup.queue = new RingQueue(config, has(VIRTIO_F.RING_PACKED), {
        interrupt: () => this.#hooks.interruptForQueue(index),
        fail: (reason) => this.fail(`queue ${index}: ${reason}`),
      });
    });
  }

  /** A device that cannot stop must not keep the guest from going on. */
  #stop(): Promise<void> | undefined {
    const failed = (error: unknown) =>
      this.log('error', `${this.device.name} failed to stop: ${inspect(error)}`);
    try {
      return this.device.stop()?.catch(failed);
    } catch (error) {
      failed(error);
    }
  }

  #clear(): void {
    for (const setup of this.queues) setup.reset();
    this.#status = 0;
    this.#accepted = 0n;
  }
}
