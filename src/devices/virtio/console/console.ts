/** The console device (virtio 1.2 section 5.3): a terminal, and further ports when there are several. */
import { TsvError } from '../../../errors.ts';
import type { DeviceState } from '../../device.ts';
import { SavedState } from '../../saved-state.ts';
import { VIRTIO_ID } from '../abi.ts';
import { ChainPump } from '../queue/pump.ts';
import type { Chain, VirtioDevice, VirtioHost } from '../virtio-device.ts';
import { CONSOLE_CONFIG, CONSOLE_EVENT, CONSOLE_F } from './abi.ts';
import { type ControlMessage, ControlOutbox, parseControl } from './control.ts';
import { ConsolePort, type ConsolePortOptions } from './port.ts';

const QUEUE_SIZE = 128;
/** As many as Linux takes in a device of QEMU's, whose limit this is. */
const MAX_PORTS = 31;
const CONTROL_IN = 2;
const CONTROL_OUT = 3;

/** Options of {@link VirtioConsole}. */
export interface ConsoleOptions {
  /** Unique within a machine. Default "virtio-console0". */
  name?: string;
  /** The first is the console; 1 to 31. */
  ports: readonly ConsolePortOptions[];
  /** Width of the terminal, 1 to 65535. Default 80. */
  columns?: number;
  /** Height of the terminal, 1 to 65535. Default 25. */
  rows?: number;
}

/** A console. */
export class VirtioConsole implements VirtioDevice {
  readonly name: string;
  readonly type = VIRTIO_ID.CONSOLE;
  readonly features: bigint;
  readonly queueSizes: readonly number[];
  readonly config = {
    size: CONSOLE_CONFIG.SIZE,
    read: (offset: number, size: 1 | 2 | 4) => this.#readConfig(offset, size),
    write: (offset: number, size: 1 | 2 | 4, value: number) => this.#writeConfig(offset, size, value),
  };
  readonly #ports: readonly ConsolePort[];
  readonly #config = new DataView(new ArrayBuffer(CONSOLE_CONFIG.SIZE));
  readonly #outbox = new ControlOutbox();
  #host: VirtioHost | undefined;
  #control: ChainPump | undefined;
  /** Chosen by the driver: it knows of several ports. */
  #isMultiport = false;
  /** A state was restored: ports are as open as they were. */
  #isRestored = false;

  /** @throws TSV_E_CONFIG */
  constructor({ name = 'virtio-console0', ports, columns = 80, rows = 25 }: ConsoleOptions) {
    if (!(ports.length >= 1 && ports.length <= MAX_PORTS)) {
      throw new TsvError('TSV_E_CONFIG', `A virtio console cannot have ${ports.length} ports.`, {
        hint: `Give it 1 to ${MAX_PORTS}.`,
      });
    }
    this.name = name;
    this.#ports = ports.map((port) => new ConsolePort(port));
    // Without the feature there is one port, and it is a console without a name.
    const hasSeveral = ports.length > 1 || ports[0].isConsole === false || ports[0].name !== undefined;
    this.features = CONSOLE_F.SIZE | CONSOLE_F.EMERG_WRITE | (hasSeveral ? CONSOLE_F.MULTIPORT : 0n);
    // Receive and transmit of port 0, of the control messages, of port 1 and so on.
    const pairs = hasSeveral ? ports.length + 1 : 1;
    this.queueSizes = new Array<number>(2 * pairs).fill(QUEUE_SIZE);
    this.#config.setUint32(CONSOLE_CONFIG.MAX_NR_PORTS, ports.length, true);
    this.#setSize(columns, rows);
  }

  /**
   * Input for a port.
   * @returns how many bytes were taken; `onInputSpace` of the port tells when there is room for more
   */
  receive(bytes: Uint8Array, port = 0): number {
    return this.#ports[port]?.receive(bytes) ?? 0;
  }

  /** The terminal has another size now. */
  resize(columns: number, rows: number): void {
    this.#setSize(columns, rows);
    if (this.#isMultiport) this.#sendSizes();
    else this.#host?.configChanged();
  }

  /** Someone on the host's side of a port has come, or gone; see {@link ConsolePortOptions.isConnected}. */
  setConnected(isConnected: boolean, index: number): void {
    const port = this.#ports[index];
    if (port === undefined || port.isConnected === isConnected) return;
    port.isConnected = isConnected;
    if (!port.isKnown) return;
    // Whoever comes and goes on the host must not bring down a guest that takes no messages: they are dropped then.
    this.#outbox.add({ port: index, event: CONSOLE_EVENT.OPEN, value: isConnected ? 1 : 0 });
    this.#outbox.flush(this.#host?.queue(CONTROL_IN));
  }

  start(host: VirtioHost): void {
    this.#host = host;
    this.#isMultiport = (host.features & CONSOLE_F.MULTIPORT) !== 0n;
    for (const [index, port] of this.#ports.entries()) {
      if (index > 0 && !this.#isMultiport) break;
      const first = firstQueue(index);
      // A driver that knows of one port has it always open.
      if (!this.#isMultiport) port.isOpen = true;
      else if (!this.#isRestored) port.isOpen = port.isKnown = false;
      port.start(host, host.queue(first), host.queue(first + 1));
    }
    this.#isRestored = false;
    const queue = this.#isMultiport ? host.queue(CONTROL_OUT) : undefined;
    if (queue === undefined) return;
    this.#control = new ChainPump(host.clock, queue, (chain) => {
      this.#onControl(chain);
      queue.push(chain, 0);
    });
  }

  notify(queue: number): void {
    if (this.#isMultiport && queue === CONTROL_IN) this.#outbox.flush(this.#host?.queue(CONTROL_IN));
    else if (this.#isMultiport && queue === CONTROL_OUT) this.#control?.run();
    else {
      const port = this.#ports[queue < 2 ? 0 : (queue >> 1) - 1];
      if (queue % 2 === 1) port?.transmit();
      else if (port?.isOpen) port.options.onInputSpace?.();
    }
  }

  stop(): void {
    for (const port of this.#ports) port.stop();
    this.#control?.stop();
    this.#control = undefined;
    this.#outbox.clear();
    this.#host = undefined;
    this.#isMultiport = false;
  }

  #onControl(chain: Chain): void {
    const message = parseControl(chain);
    if (message === undefined) return;
    const port = this.#ports[message.port];
    switch (message.event) {
      case CONSOLE_EVENT.DEVICE_READY:
        if (message.value !== 1) break;
        for (const index of this.#ports.keys())
          this.#send({ port: index, event: CONSOLE_EVENT.DEVICE_ADD, value: 1 });
        break;
      case CONSOLE_EVENT.PORT_READY:
        if (port !== undefined && message.value === 1) this.#introduce(message.port, port);
        break;
      case CONSOLE_EVENT.OPEN:
        if (port === undefined) break;
        port.isOpen = message.value === 1;
        port.options.onOpen?.(port.isOpen);
        if (port.isOpen) port.options.onInputSpace?.();
        break;
    }
  }

  /** What a driver has to know of a port before it is of use. */
  #introduce(index: number, port: ConsolePort): void {
    const { name, isConsole = index === 0 } = port.options;
    port.isKnown = true;
    if (isConsole) {
      this.#send({ port: index, event: CONSOLE_EVENT.CONSOLE_PORT, value: 1 });
      this.#sendSize(index);
    }
    if (name !== undefined) {
      this.#send({ port: index, event: CONSOLE_EVENT.NAME, value: 1 }, Buffer.from(name));
    }
    if (port.isConnected) this.#send({ port: index, event: CONSOLE_EVENT.OPEN, value: 1 });
  }

  #sendSizes(): void {
    for (const [index, { options }] of this.#ports.entries()) {
      if (options.isConsole ?? index === 0) this.#sendSize(index);
    }
  }

  /** Columns, then rows (section 5.3.6.2). Some kernels take the first for the rows; Debian's 6.1.0-56 does not. */
  #sendSize(index: number): void {
    const size = new DataView(new ArrayBuffer(4));
    size.setUint16(0, this.#config.getUint16(CONSOLE_CONFIG.COLS, true), true);
    size.setUint16(2, this.#config.getUint16(CONSOLE_CONFIG.ROWS, true), true);
    this.#send({ port: index, event: CONSOLE_EVENT.RESIZE, value: 0 }, new Uint8Array(size.buffer));
  }

  #send(message: ControlMessage, extra?: Uint8Array<ArrayBuffer>): void {
    if (!this.#outbox.add(message, extra)) {
      this.#host?.fail('the driver takes no control messages');
      return;
    }
    this.#outbox.flush(this.#host?.queue(CONTROL_IN));
  }

  #setSize(columns: number, rows: number): void {
    this.#config.setUint16(CONSOLE_CONFIG.COLS, columns, true);
    this.#config.setUint16(CONSOLE_CONFIG.ROWS, rows, true);
  }

  #readConfig(offset: number, size: 1 | 2 | 4): number {
    if (size === 1) return this.#config.getUint8(offset);
    return size === 2 ? this.#config.getUint16(offset, true) : this.#config.getUint32(offset, true);
  }

  /** A character to put out at once, from a driver that has no queues yet (section 5.3.4). */
  #writeConfig(offset: number, _size: number, value: number): void {
    if (offset === CONSOLE_CONFIG.EMERG_WR)
      void this.#ports[0]?.options.onOutput(Uint8Array.of(value & 0xff));
  }

  save(): DeviceState {
    return {
      columns: this.#config.getUint16(CONSOLE_CONFIG.COLS, true),
      rows: this.#config.getUint16(CONSOLE_CONFIG.ROWS, true),
      ports: this.#ports.map((port) => port.save()),
      control: this.#outbox.save(),
    };
  }

  /** @throws TSV_E_STATE */
  restore(state: DeviceState): void {
    const saved = new SavedState(this.name, state);
    const columns = saved.int('columns', 0xffff);
    const rows = saved.int('rows', 0xffff);
    const ports = saved.list('ports', this.#ports.length);
    this.#outbox.restore(saved.object('control'));
    for (const [index, port] of this.#ports.entries()) port.restore(ports[index]);
    this.#setSize(columns, rows);
    this.#isRestored = true;
  }
}

/** Index of a port's receive queue (section 5.3.2); its transmit queue is the next. */
function firstQueue(port: number): number {
  return port === 0 ? 0 : 2 * port + 2;
}
