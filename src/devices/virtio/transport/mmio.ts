/** Virtio over MMIO, register layout version 2 (virtio 1.2 section 4.2). */
import type { AccessSize, Device, DeviceContext, DeviceState, Latch, RegisterMode } from '../../device.ts';
import { SavedState } from '../../saved-state.ts';
import { INTERRUPT } from '../abi.ts';
import type { VirtioDevice } from '../virtio-device.ts';
import { type TransportHooks, type TransportOptions, VirtioCore } from './common.ts';
import type { QueueSetup, RingPart } from './queue-setup.ts';

/** Bytes of a device's registers: the control registers and the configuration space. */
export const VIRTIO_MMIO_SIZE = 0x200;

/** Register offsets, section 4.2.2. */
export const MMIO = {
  MAGIC: 0x000,
  VERSION: 0x004,
  DEVICE_ID: 0x008,
  VENDOR_ID: 0x00c,
  DEVICE_FEATURES: 0x010,
  DEVICE_FEATURES_SEL: 0x014,
  DRIVER_FEATURES: 0x020,
  DRIVER_FEATURES_SEL: 0x024,
  QUEUE_SEL: 0x030,
  QUEUE_NUM_MAX: 0x034,
  QUEUE_NUM: 0x038,
  QUEUE_READY: 0x044,
  QUEUE_NOTIFY: 0x050,
  INTERRUPT_STATUS: 0x060,
  INTERRUPT_ACK: 0x064,
  STATUS: 0x070,
  QUEUE_DESC_LOW: 0x080,
  QUEUE_DRIVER_LOW: 0x090,
  QUEUE_DEVICE_LOW: 0x0a0,
  SHM_SEL: 0x0ac,
  SHM_LEN_LOW: 0x0b0,
  SHM_LEN_HIGH: 0x0b4,
  SHM_BASE_LOW: 0x0b8,
  SHM_BASE_HIGH: 0x0bc,
  CONFIG_GENERATION: 0x0fc,
  CONFIG: 0x100,
} as const;

/** "virt" */
const MAGIC = 0x74726976;
const VERSION = 2;
/** "TSVI" */
const VENDOR = 0x49565354;

/** The address registers, each a low half and, 4 bytes on, a high one. */
const RING_PARTS = new Map<number, RingPart>([
  [MMIO.QUEUE_DESC_LOW, 'desc'],
  [MMIO.QUEUE_DRIVER_LOW, 'driver'],
  [MMIO.QUEUE_DEVICE_LOW, 'device'],
]);

/** A virtio device behind MMIO registers and one edge-triggered interrupt. */
export class VirtioMmio implements Device {
  readonly name: string;
  /** A vCPU waits for the device neither to notify it nor to see and acknowledge its interrupt. */
  readonly registers: readonly RegisterMode[] = [
    { offset: MMIO.QUEUE_NOTIFY, size: 4, write: 'posted' },
    { offset: MMIO.INTERRUPT_STATUS, size: 4, read: 'latched' },
    { offset: MMIO.INTERRUPT_ACK, size: 4, write: 'w1c', target: MMIO.INTERRUPT_STATUS },
  ];
  readonly #core: VirtioCore;
  #context: DeviceContext | undefined;
  #interruptStatus: Latch | undefined;
  #deviceFeaturesSel = 0;
  #driverFeaturesSel = 0;
  #queueSel = 0;

  constructor(device: VirtioDevice, options: TransportOptions = {}) {
    this.name = device.name;
    const hooks: TransportHooks = {
      interruptForQueue: () => this.#interrupt(INTERRUPT.QUEUE),
      interruptForConfig: () => this.#interrupt(INTERRUPT.CONFIG),
      notifyRegister: (index) => ({ offset: MMIO.QUEUE_NOTIFY, size: 4, value: index }),
    };
    this.#core = new VirtioCore(device, hooks, options);
  }

  attach(context: DeviceContext): void {
    this.#context = context;
    this.#interruptStatus = context.latch(MMIO.INTERRUPT_STATUS);
    this.#core.attach(context);
  }

  /** An edge for every bit that comes up: the driver may have looked at the others already. */
  #interrupt(bit: number): void {
    const before = this.#interruptStatus?.or(bit) ?? 0;
    if ((before & bit) === 0) this.#context?.irq().pulse();
  }

  read(offset: number, size: AccessSize): number {
    if (offset >= MMIO.CONFIG) return this.#core.readConfig(offset - MMIO.CONFIG, size);
    // Section 4.2.2.2: all control registers are accessed by 32 bits.
    if (size !== 4 || offset % 4 !== 0) return 0;
    switch (offset) {
      case MMIO.MAGIC:
        return MAGIC;
      case MMIO.VERSION:
        return VERSION;
      case MMIO.DEVICE_ID:
        return this.#core.device.type;
      case MMIO.VENDOR_ID:
        return VENDOR;
      case MMIO.DEVICE_FEATURES:
        return this.#core.offered(this.#deviceFeaturesSel);
      case MMIO.QUEUE_NUM_MAX:
        return this.#selected?.maxSize ?? 0;
      case MMIO.QUEUE_READY:
        return this.#selected?.isEnabled ? 1 : 0;
      case MMIO.STATUS:
        return this.#core.status;
      case MMIO.SHM_LEN_LOW:
      case MMIO.SHM_LEN_HIGH:
      case MMIO.SHM_BASE_LOW:
      case MMIO.SHM_BASE_HIGH:
        // A region that does not exist has length and base -1.
        return 0xffffffff;
      case MMIO.CONFIG_GENERATION:
        return this.#core.generation;
      default:
        return 0;
    }
  }

  write(offset: number, size: AccessSize, value: number): void | Promise<void> {
    if (offset >= MMIO.CONFIG) return this.#core.writeConfig(offset - MMIO.CONFIG, size, value);
    if (size !== 4 || offset % 4 !== 0) return;
    switch (offset) {
      case MMIO.DEVICE_FEATURES_SEL:
        this.#deviceFeaturesSel = value;
        break;
      case MMIO.DRIVER_FEATURES_SEL:
        this.#driverFeaturesSel = value;
        break;
      case MMIO.DRIVER_FEATURES:
        this.#core.accept(this.#driverFeaturesSel, value);
        break;
      case MMIO.QUEUE_SEL:
        this.#queueSel = value;
        break;
      case MMIO.QUEUE_NOTIFY:
        this.#core.notify(value);
        break;
      case MMIO.STATUS:
        return this.#setStatus(value);
      default:
        this.#setUpQueue(offset, value);
    }
  }

  #setStatus(value: number): void | Promise<void> {
    const done = this.#core.setStatus(value);
    if (value !== 0) return;
    if (done === undefined) this.#clear();
    else return done.then(() => this.#clear());
  }

  #setUpQueue(offset: number, value: number): void {
    const setup = this.#selected;
    if (setup === undefined) return;
    if (offset === MMIO.QUEUE_READY && value === 0) setup.disable();
    if (!this.#core.maySetUp(setup)) return;
    const part = RING_PARTS.get(offset & ~4);
    if (part !== undefined) setup.setWord(part, offset & 4 ? 1 : 0, value);
    else if (offset === MMIO.QUEUE_NUM) setup.size = Math.min(value, 0xffff);
    else if (offset === MMIO.QUEUE_READY) setup.isEnabled = value === 1;
  }

  get #selected(): QueueSetup | undefined {
    return this.#core.queues[this.#queueSel];
  }

  #clear(): void {
    this.#interruptStatus?.store(0);
    this.#deviceFeaturesSel = 0;
    this.#driverFeaturesSel = 0;
    this.#queueSel = 0;
  }

  reset(): void {
    void this.#core.reset();
    this.#clear();
  }

  save(): DeviceState {
    return {
      deviceFeaturesSel: this.#deviceFeaturesSel,
      driverFeaturesSel: this.#driverFeaturesSel,
      queueSel: this.#queueSel,
      interruptStatus: this.#interruptStatus?.load() ?? 0,
      core: this.#core.save(),
    };
  }

  /** See {@link VirtioCore.restore}. @throws TSV_E_STATE */
  restore(state: DeviceState): void {
    const saved = new SavedState(this.name, state);
    const deviceFeaturesSel = saved.int('deviceFeaturesSel', 0xffffffff);
    const driverFeaturesSel = saved.int('driverFeaturesSel', 0xffffffff);
    const queueSel = saved.int('queueSel', 0xffffffff);
    const interruptStatus = saved.int('interruptStatus', 0xffffffff);
    this.#core.restore(saved.object('core'));
    this.#deviceFeaturesSel = deviceFeaturesSel;
    this.#driverFeaturesSel = driverFeaturesSel;
    this.#queueSel = queueSel;
    this.#interruptStatus?.store(interruptStatus);
  }

  close(): Promise<void> {
    return this.#core.close();
  }
}
