/** Virtio over PCI, as a modern device (virtio 1.2 section 4.1): structures in a BAR, MSI-X or one pin. */
import type { AccessSize, Device, DeviceContext, DeviceState, RegisterMode } from '../../device.ts';
import { PciBars } from '../../pci/bars.ts';
import { PCI_COMMAND, PCI_REGISTER, PciConfigSpace } from '../../pci/config-space.ts';
import type { PciFunction } from '../../pci/host.ts';
import { MSIX_CAPABILITY, Msix } from '../../pci/msix.ts';
import { SavedState } from '../../saved-state.ts';
import { INTERRUPT } from '../abi.ts';
import type { VirtioDevice } from '../virtio-device.ts';
import { NO_VECTOR, type TransportHooks, type TransportOptions, VirtioCore } from './common.ts';
import { PciCommonConfig } from './pci-common.ts';
import {
  addVirtioCapabilities,
  LAYOUT,
  MAX_VECTORS,
  MSIX_BAR,
  MSIX_SIZE,
  NOTIFY_MULTIPLIER,
  STRUCTURES_SIZE,
  virtioIdentity,
  WINDOW,
} from './pci-layout.ts';

const STATUS_INTERRUPT = 1 << 3;
/** Offset of the message control register in its capability. */
const MSIX_CONTROL_AT = 2;

/**
 * A virtio device as a PCI function. It is attached to the machine with its INTA line, and plugged into the PCI host; its
 * registers appear on the bus where the guest puts its BARs.
 */
export class VirtioPci implements Device, PciFunction {
  readonly name: string;
  /** A vCPU does not wait for the device to notify it. */
  readonly registers: readonly RegisterMode[];
  readonly #core: VirtioCore;
  readonly #common: PciCommonConfig;
  readonly #space: PciConfigSpace;
  readonly #bars: PciBars;
  readonly #msix: Msix;
  readonly #window: number;
  readonly #msixAt: number;
  #context: DeviceContext | undefined;
  #isr = 0;

  constructor(device: VirtioDevice, options: TransportOptions = {}) {
    this.name = device.name;
    const queues = device.queueSizes.length;
    // One for each queue, one for the configuration.
    const vectors = Math.min(queues + 1, MAX_VECTORS);
    this.registers = [{ offset: LAYOUT.NOTIFY, size: queues * NOTIFY_MULTIPLIER, write: 'posted' }];
    const hooks: TransportHooks = {
      interruptForQueue: (index) => this.#interrupt(INTERRUPT.QUEUE, this.#core.queues[index].vector),
      interruptForConfig: () => this.#interrupt(INTERRUPT.CONFIG, this.#common.configVector),
      notifyRegister: (index) => ({ offset: LAYOUT.NOTIFY + index * NOTIFY_MULTIPLIER }),
    };
    this.#core = new VirtioCore(device, hooks, options);
    this.#common = new PciCommonConfig(this.#core, vectors, () => this.#setIsr(0));
    this.#space = new PciConfigSpace(virtioIdentity(device.type));
    this.#space.set(PCI_REGISTER.INTERRUPT_PIN, 1, 1);
    this.#bars = new PciBars(this.#space, [
      { size: STRUCTURES_SIZE, offset: 0 },
      { size: MSIX_SIZE, offset: LAYOUT.MSIX_TABLE },
    ]);
    this.#window = addVirtioCapabilities(this.#space, queues, device.config.size);
    this.#msix = new Msix(vectors, (message) => this.#context?.signalMsi(message));
    const capability = this.#msix.capability(MSIX_BAR, 0, LAYOUT.MSIX_PENDING - LAYOUT.MSIX_TABLE);
    this.#msixAt = this.#space.addCapability(MSIX_CAPABILITY, capability);
    this.#space.allow(this.#msixAt + MSIX_CONTROL_AT, 2, 0xc000);
  }

  attach(context: DeviceContext): void {
    this.#context = context;
    this.#core.attach(context);
    this.#bars.attach(context);
  }

  // Configuration space ------------------------------------------------------------------------------------------

  assignBars(allocate: (size: number) => number): void {
    this.#bars.assign(allocate);
  }

  readConfig(offset: number, size: AccessSize): number {
    const target = this.#windowTarget(offset, size);
    return target === undefined ? this.#space.read(offset, size) : this.read(target, size);
  }

  writeConfig(offset: number, size: AccessSize, value: number): void | Promise<void> {
    const target = this.#windowTarget(offset, size);
    if (target !== undefined) return this.write(target, size, value);
    this.#space.write(offset, size, value);
    this.#bars.update();
    this.#msix.setControl(this.#space.read(this.#msixAt + MSIX_CONTROL_AT, 2));
    this.#updatePin();
  }

  /** The register that an access to the window's data reaches (section 4.1.4.9); undefined for any other access. */
  #windowTarget(offset: number, size: AccessSize): number | undefined {
    if (offset !== this.#window + WINDOW.DATA) return undefined;
    const bar = this.#space.read(this.#window + WINDOW.BAR, 1);
    const at = this.#space.read(this.#window + WINDOW.OFFSET, 4);
    const length = this.#space.read(this.#window + WINDOW.LENGTH, 4);
    if (length !== size || at % size !== 0) return undefined;
    return this.#bars.deviceOffset(bar, at, size);
  }

  // BARs ---------------------------------------------------------------------------------------------------------

  read(offset: number, size: AccessSize): number {
    if (offset >= LAYOUT.MSIX_PENDING) return this.#msix.readPending(offset - LAYOUT.MSIX_PENDING, size);
    if (offset >= LAYOUT.MSIX_TABLE) return this.#msix.readTable(offset - LAYOUT.MSIX_TABLE, size);
    if (offset >= LAYOUT.NOTIFY) return 0;
    if (offset >= LAYOUT.CONFIG) return this.#core.readConfig(offset - LAYOUT.CONFIG, size);
    if (offset >= LAYOUT.ISR) return offset === LAYOUT.ISR ? this.#takeIsr() : 0;
    return this.#common.read(offset, size);
  }

  write(offset: number, size: AccessSize, value: number): void | Promise<void> {
    if (offset >= LAYOUT.MSIX_PENDING) return;
    if (offset >= LAYOUT.MSIX_TABLE) this.#msix.writeTable(offset - LAYOUT.MSIX_TABLE, size, value);
    else if (offset >= LAYOUT.NOTIFY) {
      this.#core.notify(Math.floor((offset - LAYOUT.NOTIFY) / NOTIFY_MULTIPLIER));
    } else if (offset >= LAYOUT.CONFIG) this.#core.writeConfig(offset - LAYOUT.CONFIG, size, value);
    else if (offset < LAYOUT.ISR) return this.#common.write(offset, size, value);
  }

  // Interrupts ---------------------------------------------------------------------------------------------------

  #interrupt(bit: number, vector: number): void {
    if (!this.#msix.isEnabled) this.#setIsr(this.#isr | bit);
    else if (vector !== NO_VECTOR) this.#msix.raise(vector);
  }

  /** Reading the ISR status clears it (section 4.1.4.5). */
  #takeIsr(): number {
    const isr = this.#isr;
    this.#setIsr(0);
    return isr;
  }

  #setIsr(isr: number): void {
    this.#isr = isr;
    this.#updatePin();
  }

  #updatePin(): void {
    const status = this.#space.read(PCI_REGISTER.STATUS, 2) & ~STATUS_INTERRUPT;
    this.#space.set(PCI_REGISTER.STATUS, 2, status | (this.#isr === 0 ? 0 : STATUS_INTERRUPT));
    const isOff =
      this.#msix.isEnabled || this.#space.read(PCI_REGISTER.COMMAND, 2) & PCI_COMMAND.INTX_DISABLE;
    const line = this.#context?.irq();
    if (this.#isr !== 0 && !isOff) line?.raise();
    else line?.lower();
  }

  // State --------------------------------------------------------------------------------------------------------

  reset(): void {
    void this.#core.reset();
    this.#common.reset();
    this.#msix.reset();
    // The addresses are what firmware gave; where the guest had moved them, they stay.
    this.#space.write(PCI_REGISTER.COMMAND, 2, 0);
    this.#space.write(this.#msixAt + MSIX_CONTROL_AT, 2, 0);
    this.#bars.update();
    this.#updatePin();
  }

  save(): DeviceState {
    return {
      space: this.#space.save(),
      msix: this.#msix.save(),
      common: this.#common.save(),
      isr: this.#isr,
      core: this.#core.save(),
    };
  }

  /** See {@link VirtioCore.restore}. @throws TSV_E_STATE */
  restore(state: DeviceState): void {
    const saved = new SavedState(this.name, state);
    const space = saved.ints('space', 0xff, 256, true);
    const isr = saved.int('isr', INTERRUPT.QUEUE | INTERRUPT.CONFIG);
    this.#common.restore(saved.object('common'));
    this.#msix.restore(saved.object('msix'));
    this.#core.restore(saved.object('core'));
    this.#space.load(space);
    this.#bars.update();
    this.#setIsr(isr);
  }

  close(): Promise<void> {
    return this.#core.close();
  }
}
