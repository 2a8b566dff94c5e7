/** A bus whose vCPUs are threads of their own, for tests. */
import { Worker } from 'node:worker_threads';
import { afterEach, beforeAll, describe } from 'vitest';
import { Bus } from '../../src/devices/bus.ts';
import type { AccessSize, Device, RegisterMode } from '../../src/devices/device.ts';
import type { TsvError } from '../../src/errors.ts';
import { loadNative, type Native, nativeProblem } from '../../src/kvm/native.ts';

const DIST = new URL('../../dist/', import.meta.url).href;

/** What a test's vCPU has at hand: the bus, and shared words to meet other threads at. */
const PRELUDE = `
  const { parentPort, workerData } = require('node:worker_threads');
  const main = async () => {
    const load = (file) => import(${JSON.stringify(DIST)} + 'devices/' + file + '.js');
    const { BusTable, SPACE } = await load('bus-table');
    const { BusClient } = await load('bus-client');
    const { Channel, Doorbell } = await load('channel');
    const wakeups = workerData.native ? (await import(${JSON.stringify(DIST)} + 'kvm/native.js')).loadNative() : undefined;
    const table = new BusTable(workerData.table);
    const client = new BusClient(table, new Channel(workerData.channel, wakeups), new Doorbell(workerData.bell, wakeups));
    const words = new Int32Array(workerData.words);
    const until = (word, value) => { while (Atomics.load(words, word) < value) Atomics.wait(words, word, Atomics.load(words, word), 50); };
    const tell = (word, value) => { Atomics.store(words, word, value); Atomics.notify(words, word); };
    const out = (port, value, size = 4) => client.write(SPACE.pio, port, size, value);
    const read = (port, size = 4) => client.read(SPACE.pio, port, size);
    return (async () => { BODY })();
  };
  main().then((result) => parentPort.postMessage({ result }), (error) => parentPort.postMessage({ error: error.constructor.name + ': ' + error.message }));
`;

class Machine {
  readonly errors: [TsvError, Device][] = [];
  readonly bus: Bus;
  /** Shared with every vCPU. */
  readonly words = new Int32Array(new SharedArrayBuffer(256));
  readonly #workers: Worker[] = [];

  constructor(deviceTimeout?: number) {
    this.bus = new Bus(
      { onDeviceError: (error, device) => this.errors.push([error, device]) },
      { deviceTimeout, wakeups },
    );
  }

  /** Runs a body on a thread; resolves to what it returns, or the name of what it threw. */
  vcpu(body: string): Promise<unknown> {
    const { table, bell } = this.bus;
    const workerData = {
      table: table.shared,
      bell: bell.shared,
      channel: this.bus.addChannel().shared,
      words: this.words.buffer,
      native: wakeups !== undefined,
    };
    const worker = new Worker(
      PRELUDE.replace('BODY', () => body),
      { eval: true, workerData },
    );
    this.#workers.push(worker);
    return new Promise((resolve, reject) => {
      worker.on('message', ({ result, error }) => resolve(error ?? result));
      worker.on('error', reject);
    });
  }

  tell(word: number, value: number): void {
    Atomics.store(this.words, word, value);
    Atomics.notify(this.words, word);
  }

  /** Resolves when a vCPU has told so. */
  async until(word: number, value: number): Promise<void> {
    while (Atomics.load(this.words, word) < value) await new Promise((resolve) => setTimeout(resolve, 1));
  }

  async close(): Promise<void> {
    this.bus.close();
    await Promise.all(this.#workers.map((worker) => worker.terminate()));
  }
}

/** How threads wake each other in the tests at hand. */
let wakeups: Native | undefined;
const machines: Machine[] = [];
afterEach(async () => {
  for (const machine of machines.splice(0)) await machine.close();
});

/** A new bus and what belongs to it, for taking apart; closed after the test. */
export function machine(deviceTimeout?: number) {
  const made = new Machine(deviceTimeout);
  machines.push(made);
  return {
    bus: made.bus,
    words: made.words,
    errors: made.errors,
    vcpu: (body: string) => made.vcpu(body),
    tell: (word: number, value: number) => made.tell(word, value),
    until: (word: number, value: number) => made.until(word, value),
  };
}

/** Has tests run with threads that wake each other through Atomics, and through the kernel. */
export function bothWays(tests: () => void): void {
  const by = (way: () => Native | undefined) => () => {
    beforeAll(() => {
      wakeups = way();
    });
    tests();
  };
  describe(
    'threads that wake each other through Atomics',
    by(() => undefined),
  );
  // Reported as skipped where the addon is missing.
  describe.skipIf(nativeProblem() !== undefined)(
    'threads that wake each other through the kernel',
    by(loadNative),
  );
}

interface Handlers {
  name?: string;
  maxAccess?: AccessSize;
  registers?: readonly RegisterMode[];
  read?: Device['read'];
  write?: Device['write'];
}

/** A device of a few handlers. */
export function device(handlers: Handlers = {}): Device {
  return { name: 'device', ...handlers, save: () => ({}), restore() {} };
}

export const POSTED: readonly RegisterMode[] = [{ offset: 0, size: 4, write: 'posted' }];
/** A value some time later. */
export const later = <T>(value: T, ms = 1): Promise<T> =>
  new Promise((resolve) => setTimeout(resolve, ms, value));
