import { describe, expect, it } from 'vitest';
import { CONSOLE_CONFIG, CONSOLE_EVENT, CONSOLE_F } from '../../../src/devices/virtio/console/abi.ts';
import { type ConsoleOptions, VirtioConsole } from '../../../src/devices/virtio/console/console.ts';
import { settle } from '../../support/device-bench.ts';
import { MmioDriver } from './support/mmio-driver.ts';
import { F } from './support/transport-driver.ts';

/** A guest with a console, and what its host sees. */
class Guest {
  readonly output: string[] = [];
  readonly events: string[] = [];
  /** The host is busy with output until this resolves. */
  busy: Promise<void> | undefined;
  readonly device: VirtioConsole;
  readonly driver: MmioDriver;
  readonly #buffers = new Map<number, Map<number, number>>();

  constructor(ports = 1, options: Partial<ConsoleOptions> = {}) {
    this.device = new VirtioConsole({
      ports: Array.from({ length: ports }, (_, i) => ({
        name: i === 0 ? undefined : `port.${i}`,
        onOutput: (bytes) => {
          this.output.push(`${i}:${Buffer.from(bytes).toString()}`);
          return this.busy;
        },
        onInputSpace: () => this.events.push(`space ${i}`),
        onOpen: (isOpen) => this.events.push(`${isOpen ? 'open' : 'closed'} ${i}`),
      })),
      ...options,
    });
    this.driver = new MmioDriver(this.device);
  }

  async start(features = this.device.features): Promise<this> {
    await this.driver.start({ features: features | F.INDIRECT });
    return this;
  }

  write(queue: number, bytes: Uint8Array | string): void {
    const data = Buffer.from(bytes);
    const gpa = this.driver.heap.take(data.length);
    this.driver.bench.memory.write(gpa, data);
    this.driver.rings[queue].add([{ gpa, length: data.length, isWritable: false }]);
    this.driver.notify(queue);
  }

  /** Provides a buffer for input. */
  provide(queue: number, length: number): void {
    const gpa = this.driver.heap.take(length);
    const token = this.driver.rings[queue].add([{ gpa, length, isWritable: true }])!;
    if (!this.#buffers.has(queue)) this.#buffers.set(queue, new Map());
    this.#buffers.get(queue)!.set(token, gpa);
    this.driver.notify(queue);
  }

  read(queue: number): Buffer[] {
    return this.driver.rings[queue].collect().map(({ token, written }) => {
      const gpa = this.#buffers.get(queue)!.get(token)!;
      return Buffer.from(this.driver.bench.memory.read(gpa, written));
    });
  }

  control(port: number, event: number, value: number): void {
    const message = Buffer.alloc(8);
    message.writeUInt32LE(port, 0);
    message.writeUInt16LE(event, 4);
    message.writeUInt16LE(value, 6);
    this.write(3, message);
    this.driver.rings[3].collect();
  }

  /** Control messages from the device: port, event, value, the rest. */
  messages(): [number, number, number, string][] {
    return this.read(2).map((m) => [
      m.readUInt32LE(0),
      m.readUInt16LE(4),
      m.readUInt16LE(6),
      m.subarray(8).toString('latin1'),
    ]);
  }
}

describe('a console with one port', () => {
  it('puts out what the guest writes, in order, and gives the buffers back', async () => {
    const guest = await new Guest().start();
    guest.write(1, 'hello ');
    guest.write(1, 'world');
    expect([guest.output, guest.driver.rings[1].collect().length]).toEqual([['0:hello ', '0:world'], 2]);
  });

  it('waits for a slow host', async () => {
    const guest = await new Guest().start();
    let finish!: () => void;
    guest.busy = new Promise((resolve) => {
      finish = resolve;
    });
    guest.write(1, 'a');
    guest.write(1, 'b');
    await settle();
    expect(guest.output).toEqual(['0:a']);
    guest.busy = undefined;
    finish();
    await settle();
    expect(guest.output).toEqual(['0:a', '0:b']);
  });

  it('takes as much input as the guest has room for, and tells of more room', async () => {
    const guest = await new Guest().start();
    expect(guest.device.receive(Buffer.from('lost'))).toBe(0);
    guest.provide(0, 3);
    guest.provide(0, 4);
    expect(guest.events).toEqual(['space 0', 'space 0']);
    expect(guest.device.receive(Buffer.from('0123456789'))).toBe(7);
    expect(guest.read(0).map(String)).toEqual(['012', '3456']);
  });

  it('tells its size, and when that changes', async () => {
    const guest = await new Guest(1, { columns: 100, rows: 30 }).start();
    guest.device.resize(132, 43);
    const { driver } = guest;
    expect([driver.config(CONSOLE_CONFIG.COLS, 2), driver.config(CONSOLE_CONFIG.ROWS, 2)]).toEqual([132, 43]);
    expect(driver.takeInterrupt()).toBe(2);
  });

  it('puts out emergency characters without any queue', () => {
    const guest = new Guest();
    guest.driver.setConfig(CONSOLE_CONFIG.EMERG_WR, 4, 0x21);
    expect(guest.output).toEqual(['0:!']);
  });

  it('goes on in the middle of a long output in a fresh object', async () => {
    const guest = await new Guest().start();
    guest.busy = new Promise(() => {});
    const text = Array.from({ length: 20_000 }, (_, i) => `${i},`).join('');
    guest.write(1, text);
    const next = new Guest();
    next.driver.continue(guest.driver);
    next.driver.bench.clock.advance(1);
    await settle();
    const all = [...guest.output, ...next.output].map((piece) => piece.slice(2)).join('');
    expect([guest.output.length, all === text, next.driver.rings[1].collect().length]).toEqual([1, true, 1]);
  });
});

describe('a console with several ports', () => {
  const introduced = async () => {
    const guest = await new Guest(3).start();
    for (let i = 0; i < 20; i++) guest.provide(2, 64);
    guest.control(0, CONSOLE_EVENT.DEVICE_READY, 1);
    return guest;
  };

  it('introduces its ports to the driver', async () => {
    const guest = await introduced();
    expect(guest.messages()).toEqual([0, 1, 2].map((port) => [port, CONSOLE_EVENT.DEVICE_ADD, 1, '']));
    guest.control(0, CONSOLE_EVENT.PORT_READY, 1);
    guest.control(2, CONSOLE_EVENT.PORT_READY, 1);
    expect(guest.messages()).toEqual([
      [0, CONSOLE_EVENT.CONSOLE_PORT, 1, ''],
      [0, CONSOLE_EVENT.RESIZE, 0, '\x50\0\x19\0'],
      [0, CONSOLE_EVENT.OPEN, 1, ''],
      [2, CONSOLE_EVENT.NAME, 1, 'port.2'],
      [2, CONSOLE_EVENT.OPEN, 1, ''],
    ]);
  });

  it('carries every port over queues of its own, once someone has opened it', async () => {
    const guest = await introduced();
    guest.provide(6, 16);
    expect(guest.device.receive(Buffer.from('early'), 2)).toBe(0);
    guest.control(2, CONSOLE_EVENT.OPEN, 1);
    expect(guest.events).toEqual(['open 2', 'space 2']);
    expect(guest.device.receive(Buffer.from('in'), 2)).toBe(2);
    guest.write(7, 'out');
    expect([guest.read(6).map(String), guest.output]).toEqual([['in'], ['2:out']]);
    guest.control(2, CONSOLE_EVENT.OPEN, 0);
    expect(guest.device.receive(Buffer.from('late'), 2)).toBe(0);
  });

  it('tells when someone on the host comes and goes', async () => {
    const ports = [{ onOutput() {} }, { name: 'port', isConnected: false, onOutput() {} }];
    const guest = await new Guest(2, { ports }).start();
    for (let i = 0; i < 20; i++) guest.provide(2, 64);
    guest.device.setConnected(true, 1);
    guest.device.setConnected(false, 1);
    expect(guest.messages()).toEqual([]);
    guest.control(1, CONSOLE_EVENT.PORT_READY, 1);
    expect(guest.messages()).toEqual([[1, CONSOLE_EVENT.NAME, 1, 'port']]);
    for (const isConnected of [true, true, false]) guest.device.setConnected(isConnected, 1);
    expect(guest.messages()).toEqual([
      [1, CONSOLE_EVENT.OPEN, 1, ''],
      [1, CONSOLE_EVENT.OPEN, 0, ''],
    ]);
  });

  it('lets no one on the host stop it by coming and going while the driver takes no messages', async () => {
    const guest = await new Guest(2).start();
    guest.control(1, CONSOLE_EVENT.PORT_READY, 1);
    for (let i = 0; i < 2000; i++) guest.device.setConnected(i % 2 === 1, 1);
    expect(guest.driver.status() & 64).toBe(0);
  });

  it('works as one port for a driver that knows no more', async () => {
    const guest = await new Guest(3).start(CONSOLE_F.SIZE);
    guest.write(1, 'plain');
    guest.provide(0, 8);
    expect([guest.output, guest.device.receive(Buffer.from('x'))]).toEqual([['0:plain'], 1]);
  });

  it('keeps messages that the driver has no buffers for, also in a fresh object', async () => {
    const guest = await new Guest(2).start();
    guest.control(0, CONSOLE_EVENT.DEVICE_READY, 1);
    guest.control(1, CONSOLE_EVENT.OPEN, 1);
    const next = new Guest(2);
    next.driver.continue(guest.driver);
    for (let i = 0; i < 4; i++) next.provide(2, 64);
    expect(next.messages().map(([port, event]) => [port, event])).toEqual([
      [0, CONSOLE_EVENT.DEVICE_ADD],
      [1, CONSOLE_EVENT.DEVICE_ADD],
    ]);
    next.provide(4, 8);
    expect(next.device.receive(Buffer.from('open'), 1)).toBe(4);
  });

  it('stops for a driver that asks for ever more messages and takes none', async () => {
    const guest = await new Guest(31).start();
    for (let i = 0; i < 40; i++) guest.control(0, CONSOLE_EVENT.DEVICE_READY, 1);
    expect([guest.driver.status() & 64, guest.driver.bench.logs.length]).toEqual([64, 1]);
  });

  it.each([0, 32])('cannot be %i', (ports) => {
    expect(() => new Guest(ports)).toThrow(expect.objectContaining({ code: 'TSV_E_CONFIG' }));
  });
});
