/** The bus on the thread that owns the devices, with vCPUs on real threads of their own. */
import { Worker } from 'node:worker_threads';
import fc from 'fast-check';
import { afterEach, beforeAll, describe, expect, it } from 'vitest';
import { Bus } from '../../src/devices/bus.ts';
import { BusTable, SPACE, type TableRegion } from '../../src/devices/bus-table.ts';
import type { AccessSize, Device, RegisterMode } from '../../src/devices/device.ts';
import { TsvError } from '../../src/errors.ts';
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

function machine(deviceTimeout?: number): Machine {
  const made = new Machine(deviceTimeout);
  machines.push(made);
  return made;
}

interface Handlers {
  name?: string;
  maxAccess?: AccessSize;
  registers?: readonly RegisterMode[];
  read?: Device['read'];
  write?: Device['write'];
}

function device(handlers: Handlers = {}): Device {
  return { name: 'device', ...handlers, save: () => ({}), restore() {} };
}

const POSTED: readonly RegisterMode[] = [{ offset: 0, size: 4, write: 'posted' }];
const later = <T>(value: T, ms = 1): Promise<T> => new Promise((resolve) => setTimeout(resolve, ms, value));

describe('mounting', () => {
  it('refuses ranges that overlap, naming both devices, and keeps the map as it was', () => {
    const { bus } = machine();
    bus.mount(device({ name: 'first' }), { space: 'pio', base: 0x100, size: 8 });

    const overlap = () => bus.mount(device({ name: 'second' }), { space: 'pio', base: 0x107, size: 1 });

    expect(overlap).toThrow(/"second".*"first"/);
    expect(bus.mounts).toHaveLength(1);
    expect(() => bus.mount(device(), { space: 'mmio', base: 0x107, size: 1 })).not.toThrow();
  });

  it.each([
    ['a port beyond the last', { space: 'pio', base: 0xffff, size: 2 }],
    ['no length', { space: 'pio', base: 0x80, size: 0 }],
    ['a negative length', { space: 'mmio', base: 0x80, size: -1 }],
    ['a negative base', { space: 'mmio', base: -4, size: 8 }],
    ['half a byte', { space: 'pio', base: 0x80, size: 0.5 }],
    ['an address with more than 52 bits', { space: 'mmio', base: 2 ** 52, size: 1 }],
    ['not a number', { space: 'mmio', base: Number.NaN, size: 1 }],
    ['infinity', { space: 'mmio', base: 0, size: Number.POSITIVE_INFINITY }],
  ] as const)('refuses %s', (_, mount) => {
    const { bus } = machine();

    expect(() => bus.mount(device(), mount)).toThrow(expect.objectContaining({ code: 'TSV_E_BUS_RANGE' }));
    expect(bus.mounts).toHaveLength(0);
  });

  it('refuses a latched register of an odd size and a latch nobody declared', () => {
    const { bus } = machine();
    const odd = device({ registers: [{ offset: 0, size: 3, read: 'latched' }] });

    expect(() => bus.mount(odd, { space: 'pio', base: 0, size: 8 })).toThrow(/3 bytes/);
    expect(() => bus.latch(device(), 0)).toThrow(/no latch/);
  });

  it('accepts exactly the ranges that are free, whatever is mounted and unmounted', () => {
    const range = fc.record({ base: fc.nat(60), size: fc.integer({ min: 1, max: 10 }) });
    fc.assert(
      fc.property(fc.array(fc.tuple(range, fc.boolean()), { maxLength: 40 }), (steps) => {
        const bus = new Bus({ onDeviceError: () => {} });
        const taken = new Map<number, Device>();
        for (const [{ base, size }, removes] of steps) {
          if (removes) {
            const victim = taken.get(base);
            if (victim === undefined) continue;
            bus.unmount(victim);
            for (const [at, owner] of taken) if (owner === victim) taken.delete(at);
            continue;
          }
          const wanted = Array.from({ length: size }, (_, i) => base + i);
          const free = wanted.every((at) => !taken.has(at));
          const fresh = device();
          if (free) {
            bus.mount(fresh, { space: 'pio', base, size });
            for (const at of wanted) taken.set(at, fresh);
          } else expect(() => bus.mount(fresh, { space: 'pio', base, size })).toThrow(TsvError);
        }
        const covered = bus.mounts.flatMap(({ base, size }) =>
          Array.from({ length: size }, (_, i) => base + i),
        );
        expect(covered.sort((a, b) => a - b)).toEqual([...taken.keys()].sort((a, b) => a - b));
      }),
    );
  });

  it('gives back the latches of devices that are gone, as often as devices come and go', () => {
    const { bus } = machine();
    const registers = Array.from({ length: 16 }, (_, i) => ({
      offset: 4 * i,
      size: 4,
      read: 'latched' as const,
    }));

    for (let i = 0; i < 200; i++) {
      const guest = device({ registers });
      bus.mount(guest, { space: 'mmio', base: 0x1000, size: 64 });
      expect(bus.latch(guest, 60).load()).toBe(0);
      bus.latch(guest, 60).store(i + 1);
      bus.unmount(guest);
    }

    expect(bus.mounts).toHaveLength(0);
  });

  it('says so when the table or the latches are full', () => {
    const { bus } = machine();
    const fill = () => {
      for (let i = 0; i < 600; i++) bus.mount(device(), { space: 'pio', base: i, size: 1 });
    };

    expect(fill).toThrow(expect.objectContaining({ code: 'TSV_E_BUS_RANGE' }));
  });

  it('names regions anew after 65536 mounts', async () => {
    const { bus } = machine();
    const constant = device({ read: () => 0x11 });
    bus.mount(constant, { space: 'pio', base: 0x10, size: 1 });
    const guest = device({ read: () => 0x22 });
    const ids = new Set<number>();
    // The table is published each time; a small one is quick.
    for (let i = 0; i < 66_000; i++) {
      bus.mount(guest, { space: 'pio', base: 0x20, size: 1 });
      if (i > 65_500) ids.add(bus.table.snapshot().regions[1].id);
      bus.unmount(guest);
    }

    const [{ id }] = bus.table.snapshot().regions;
    expect(ids.has(id)).toBe(false);
    expect(Math.max(...ids)).toBeLessThanOrEqual(0xffff);
    expect(await bus.access('pio', 0x10, 1)).toBe(0x11);
  });
});

describe('the table in shared memory', () => {
  it('is read whole by another thread while it is replaced', async () => {
    const { bus, words, vcpu, tell } = bind(machine());
    const table = bus.table;
    // Every number of a generation follows from the number of regions.
    const generation = (n: number): TableRegion[] =>
      Array.from({ length: n }, (_, i) => ({
        id: n * 100 + i,
        space: SPACE.mmio,
        base: n * 2 ** 33 + i,
        size: n,
        maxAccess: 4,
        modes: Array.from({ length: n % 5 }, (_, m) => ({
          offset: n + m,
          size: n,
          read: 0,
          write: 0,
          readLatch: -1,
          w1cLatch: i,
        })),
      }));
    table.publish(generation(1));
    const reader = vcpu(`
      let torn = 0, seen = new Set();
      tell(0, 1);
      while (Atomics.load(words, 1) === 0) {
        const { version, regions } = table.snapshot();
        const n = regions.length;
        seen.add(version);
        const good = version % 2 === 0 && regions.every((r, i) =>
          r.id === n * 100 + i && r.base === n * 2 ** 33 + i && r.size === n && r.modes.length === n % 5 &&
          r.modes.every((mode, m) => mode.offset === n + m && mode.size === n && mode.w1cLatch === i));
        if (!good) torn++;
      }
      return { torn, versions: seen.size };`);

    while (Atomics.load(words, 0) === 0) await later(0);
    for (let i = 0; i < 300; i++) {
      for (let n = 1; n < 60; n++) table.publish(generation(n));
      await later(0, 0);
    }
    tell(1, 1);

    const result = (await reader) as { torn: number; versions: number };
    expect(result.torn).toBe(0);
    expect(result.versions).toBeGreaterThan(10);
  });

  it('takes back exactly what was published', () => {
    const number = fc.nat(2 ** 31 - 1);
    const region = fc.record({
      id: fc.nat(0xffff),
      space: fc.constantFrom<number>(SPACE.pio, SPACE.mmio),
      base: fc.nat(2 ** 52 - 1),
      size: fc.nat(2 ** 51),
      maxAccess: fc.constantFrom(1, 2, 4),
      modes: fc.array(
        fc.record({
          offset: number,
          size: number,
          read: number,
          write: number,
          readLatch: number,
          w1cLatch: number,
        }),
        { maxLength: 5 },
      ),
    });
    const table = new BusTable();
    fc.assert(
      fc.property(fc.array(region, { maxLength: 20 }), (regions) => {
        table.publish(regions);
        expect(table.snapshot().regions).toEqual(regions);
      }),
    );
  });
});

describe('threads that wake each other through Atomics', () => threads(() => undefined));
// Reported as skipped where the addon is missing.
describe.skipIf(nativeProblem() !== undefined)('threads that wake each other through the kernel', () =>
  threads(loadNative),
);

function threads(way: () => Native | undefined): void {
  beforeAll(() => {
    wakeups = way();
  });

  describe('accesses from vCPU threads', () => {
    it('reach the device in program order, whatever their modes', async () => {
      const { bus, vcpu } = bind(machine());
      const seen: unknown[] = [];
      const log = device({
        registers: POSTED,
        read: (offset) => {
          seen.push(['read', offset]);
          return seen.length;
        },
        write: (offset, _size, value) => {
          seen.push([offset, value]);
          // Now and then it takes its time.
          if (value % 7 === 0) return later(undefined);
        },
      });
      bus.mount(log, { space: 'pio', base: 0x100, size: 16 });
      void bus.serve();

      await vcpu(
        'for (let i = 0; i < 100; i++) { out(0x100, i); if (i % 3 === 0) out(0x104, i); if (i % 5 === 0) read(0x108); }',
      );
      await bus.drain();

      const expected = Array.from({ length: 100 }, (_, i) => [
        [0, i],
        ...(i % 3 === 0 ? [[4, i]] : []),
        ...(i % 5 === 0 ? [['read', 8]] : []),
      ]).flat();
      expect(seen).toEqual(expected);
    });

    it('see all ones where a device answers with nothing, and no more bits than they asked for', async () => {
      const { bus, vcpu } = bind(machine());
      const answers: Record<number, unknown> = {
        0: undefined,
        4: -1,
        8: 0x12345678,
        12: Number.NaN,
        16: 2 ** 40 + 5,
      };
      const odd = device({ read: (offset) => answers[offset] as number });
      bus.mount(odd, { space: 'pio', base: 0x100, size: 32 });
      bus.mount(device({ name: 'mute', maxAccess: 1 }), { space: 'pio', base: 0x200, size: 4 });
      void bus.serve();

      const result = await vcpu(
        'return [read(0x100, 1), read(0x104, 2), read(0x108, 1), read(0x10c), read(0x110), read(0x200, 2)];',
      );

      expect(result).toEqual([0xff, 0xffff, 0x78, 0, 5, 0xffff]);
    });

    it('of a device that is busy wait their turn', async () => {
      const { bus, vcpu } = bind(machine());
      let inside = 0;
      let most = 0;
      const slow = device({
        read: async () => {
          most = Math.max(most, ++inside);
          await later(0);
          return --inside;
        },
      });
      bus.mount(slow, { space: 'pio', base: 0x100, size: 4 });
      void bus.serve();
      const body = 'let sum = 0; for (let i = 0; i < 25; i++) sum += read(0x100); return sum;';

      const sums = await Promise.all([vcpu(body), vcpu(body), vcpu(body)]);

      expect(most).toBe(1);
      expect(sums).toEqual([0, 0, 0]);
    });

    it('go to other devices while one is busy', async () => {
      const { bus, vcpu } = bind(machine());
      let answer: ((value: number) => void) | undefined;
      const stuck = device({ read: () => new Promise<number>((resolve) => (answer = resolve)) });
      bus.mount(stuck, { space: 'pio', base: 0x100, size: 4 });
      bus.mount(device({ read: () => 42 }), { space: 'pio', base: 0x200, size: 4 });
      void bus.serve();

      const waiting = vcpu('tell(0, 1); return read(0x100);');
      const other = await vcpu('until(0, 1); return read(0x200);');
      // Telling and reading are two things: the other may have been faster.
      await expect.poll(() => answer).toBeDefined();
      answer?.(7);

      expect([other, await waiting]).toEqual([42, 7]);
    });

    it('that were posted before a lock was released are seen before those after it was taken', async () => {
      const { bus, vcpu } = bind(machine());
      const ROUNDS = 300;
      const order: string[] = [];
      const watched = device({
        registers: POSTED,
        write: (_offset, _size, value) => void order.push(`A${value}`),
        read: () => order.push('B'),
      });
      bus.mount(watched, { space: 'pio', base: 0x100, size: 16 });
      void bus.serve();

      // A posts and then hands the lock to B, who reads; then B hands it back.
      const a = vcpu(
        `for (let i = 1; i <= ${ROUNDS}; i++) { out(0x100, 2 * i); out(0x100, 2 * i + 1); tell(0, i); until(1, i); }`,
      );
      const b = vcpu(`for (let i = 1; i <= ${ROUNDS}; i++) { until(0, i); read(0x104); tell(1, i); }`);
      await Promise.all([a, b]);

      const expected = Array.from({ length: ROUNDS }, (_, i) => [
        `A${2 * i + 2}`,
        `A${2 * i + 3}`,
        'B',
      ]).flat();
      expect(order).toEqual(expected);
    });

    it('keep that order when the device takes its time over posted writes', async () => {
      const { bus, vcpu } = bind(machine());
      const ROUNDS = 20;
      const order: string[] = [];
      const slow = device({
        name: 'slow',
        registers: POSTED,
        write: async (_offset, _size, value) => {
          await later(0);
          order.push(`A${value}`);
        },
      });
      const quick = device({ name: 'quick', read: () => order.push('B') });
      bus.mount(slow, { space: 'pio', base: 0x100, size: 16 });
      bus.mount(quick, { space: 'pio', base: 0x200, size: 4 });
      void bus.serve();

      const a = vcpu(
        `for (let i = 1; i <= ${ROUNDS}; i++) { out(0x100, 3 * i); out(0x100, 3 * i + 1); out(0x100, 3 * i + 2); tell(0, i); until(1, i); }`,
      );
      const b = vcpu(
        `for (let i = 1; i <= ${ROUNDS}; i++) { until(0, i); read(0x104); read(0x200); tell(1, i); }`,
      );
      await Promise.all([a, b]);

      // The slow device's own read comes after its three writes; so does the other device's.
      const expected = Array.from({ length: ROUNDS }, (_, i) =>
        [3, 4, 5].map((n) => `A${3 * i + n}`).concat('B'),
      ).flat();
      expect(order).toEqual(expected);
    });
  });

  describe('a guest that floods a device', () => {
    it('does not keep timers and other vCPUs from their turn', async () => {
      const { bus, words, vcpu, tell } = bind(machine());
      let writes = 0;
      const slow = device({
        registers: POSTED,
        write: () => {
          writes++;
          // Slower than a vCPU can post.
          const end = performance.now() + 0.02;
          while (performance.now() < end);
        },
      });
      bus.mount(slow, { space: 'pio', base: 0x100, size: 4 });
      bus.mount(device({ read: () => 1 }), { space: 'pio', base: 0x200, size: 4 });
      void bus.serve();

      // The flood ends when a timer has fired ten times and another vCPU has been answered: never, if they starve.
      const flood = vcpu(
        'while (Atomics.load(words, 0) < 10 || Atomics.load(words, 1) === 0) out(0x100, 1);',
      );
      const other = vcpu('for (let i = 0; i < 20; i++) read(0x200); tell(1, 1);');
      const timer = setInterval(() => {
        if (writes > 0) tell(0, words[0] + 1);
      }, 1);
      await Promise.all([flood, other]);
      clearInterval(timer);

      expect(writes).toBeGreaterThan(0);
    });

    it('is held back by a device that is busy instead of filling memory', async () => {
      const { bus, words, vcpu } = bind(machine());
      let release!: () => void;
      const gate = new Promise<void>((resolve) => {
        release = resolve;
      });
      const values: number[] = [];
      const busy = device({
        registers: POSTED,
        write: (_offset, _size, value) => {
          values.push(value);
          return value === 0 ? gate : undefined;
        },
      });
      bus.mount(busy, { space: 'pio', base: 0x100, size: 4 });
      void bus.serve();

      const flood = vcpu('for (let i = 0; i < 5000; i++) { out(0x100, i); Atomics.store(words, 0, i + 1); }');
      let before = -1;
      while (words[0] === 0 || words[0] !== before) {
        before = words[0];
        await later(0, 30);
      }
      const held = words[0];
      release();
      await flood;
      await bus.drain();

      // One with the device, the rest in the ring.
      expect(held).toBeLessThanOrEqual(1025);
      expect(values).toEqual(Array.from({ length: 5000 }, (_, i) => i));
    });
  });

  describe('latches', () => {
    it('lose no bit that a device sets while the guest clears others', async () => {
      const { bus, vcpu, words } = bind(machine());
      const status = device({
        registers: [{ offset: 0, size: 4, read: 'latched', write: 'w1c' }],
        write: () => {},
      });
      bus.mount(status, { space: 'pio', base: 0x100, size: 4 });
      const latch = bus.latch(status, 0);
      void bus.serve();
      const ones =
        'let n = 0; for (let rest = bits; rest !== 0; rest = (rest & (rest - 1)) >>> 0) n++; return n;';
      const guest = vcpu(`
      const count = (bits) => { ${ones} };
      let cleared = 0;
      for (;;) {
        const last = Atomics.load(words, 0) === 1;
        const bits = read(0x100);
        if (bits !== 0) { out(0x100, bits); cleared += count(bits); }
        else if (last) return cleared;
      }`);

      const count = new Function('bits', ones) as (bits: number) => number;
      let set = 0;
      for (let round = 0; round < 400; round++) {
        for (let i = 0; i < 50; i++) {
          const bits = (1 << ((round + i) % 32)) >>> 0;
          const old = latch.or(bits);
          set += count((bits & ~old) >>> 0);
        }
        await later(0, 0);
      }
      Atomics.store(words, 0, 1);

      expect(await guest).toBe(set);
      expect(latch.load()).toBe(0);
    });

    it('show the guest what was published before a sync access returned', async () => {
      const { bus, vcpu } = bind(machine());
      const counter = device({
        registers: [{ offset: 4, size: 4, read: 'latched' }],
        write: (_offset, _size, value) => bus.latch(counter, 4).store(value * 2),
      });
      bus.mount(counter, { space: 'pio', base: 0x100, size: 8 });
      void bus.serve();

      const wrong = await vcpu(
        'let wrong = 0; for (let i = 0; i < 500; i++) { out(0x100, i); if (read(0x104) !== 2 * i) wrong++; } return wrong;',
      );

      expect(wrong).toBe(0);
    });
  });

  describe('a device that fails', () => {
    it.each([
      [
        'throws',
        () => {
          throw new Error('out of ideas');
        },
      ],
      ['rejects', () => Promise.reject(new Error('out of ideas'))],
      [
        'rejects later',
        async () => {
          await later(0);
          throw new Error('out of ideas');
        },
      ],
    ])('and %s is reported by name, its access reads all ones, and the bus goes on', async (_, read) => {
      const { bus, vcpu, errors } = bind(machine());
      bus.mount(device({ name: 'thinker', read }), { space: 'pio', base: 0x100, size: 4 });
      bus.mount(device({ read: () => 5 }), { space: 'pio', base: 0x200, size: 4 });
      void bus.serve();

      const reads = await vcpu('return [read(0x100), read(0x101, 1), read(0x200)];');

      expect(reads).toEqual([0xffffffff, 0xff, 5]);
      expect(errors.map(([error]) => error.code)).toEqual(['TSV_E_DEVICE', 'TSV_E_DEVICE']);
      expect(errors[0][0].message).toMatch(/"thinker" failed in a read of offset 0x0: out of ideas/);
    });

    it.each([
      ['nothing', undefined],
      ['null', null],
      ['text', 'oops'],
      ['an object that cannot be turned into text', Object.create(null)],
      [
        'an object whose text throws',
        {
          toString: () => {
            throw new Error('no');
          },
        },
      ],
    ])('by throwing %s is reported too', async (_, thrown) => {
      const { bus, vcpu, errors } = bind(machine());
      const write = (offset: number) => {
        if (offset === 0) throw thrown;
        return Promise.reject(thrown);
      };
      bus.mount(device({ write }), { space: 'pio', base: 0x100, size: 8 });
      void bus.serve();

      await vcpu('out(0x100, 1); out(0x104, 1);');

      expect(errors.map(([error]) => error.code)).toEqual(['TSV_E_DEVICE', 'TSV_E_DEVICE']);
    });

    it('by never answering is late, once its time is over', async () => {
      const { bus, vcpu, errors } = bind(machine(20));
      bus.mount(device({ name: 'sleeper', read: () => new Promise(() => {}) }), {
        space: 'pio',
        base: 0x100,
        size: 4,
      });
      void bus.serve();

      const reads = await vcpu('return [read(0x100), read(0x102, 1)];');

      expect(reads).toEqual([0xffffffff, 0xff]);
      expect(errors.map(([error]) => error.code)).toEqual(['TSV_E_DEVICE_TIMEOUT', 'TSV_E_DEVICE_TIMEOUT']);
      expect(errors[0][0].message).toContain('sleeper');
    });

    it('may take as long as it likes when there is no limit', async () => {
      const { bus, vcpu, errors } = bind(machine(0));
      bus.mount(device({ read: () => later(9, 60) }), { space: 'pio', base: 0x100, size: 4 });
      void bus.serve();

      expect(await vcpu('return read(0x100);')).toBe(9);
      expect(errors).toEqual([]);
    });
  });

  describe('unmounting', () => {
    it('answers with all ones what is on its way, and does not call the device again', async () => {
      const { bus, vcpu, until } = bind(machine());
      let calls = 0;
      let answer!: (value: number) => void;
      const slow = device({
        registers: POSTED,
        read: () => {
          calls++;
          return new Promise<number>((resolve) => (answer = resolve));
        },
        write: () => void calls++,
      });
      bus.mount(slow, { space: 'pio', base: 0x100, size: 8 });
      void bus.serve();

      const first = vcpu('tell(0, 1); return read(0x104);');
      await until(0, 1);
      while (calls === 0) await later(0);
      const second = vcpu('out(0x100, 1); tell(1, 1); return read(0x104);');
      await until(1, 1);
      await later(0, 20);
      bus.unmount(slow);
      answer(3);

      expect(await first).toBe(3);
      expect(await second).toBe(0xffffffff);
      expect(calls).toBe(1);
    });
  });

  describe('the end', () => {
    it('lets go of every vCPU that waits, and of those that come later', async () => {
      const { bus, vcpu, until } = bind(machine(0));
      bus.mount(
        device({ registers: POSTED, read: () => new Promise(() => {}), write: () => new Promise(() => {}) }),
        {
          space: 'pio',
          base: 0x100,
          size: 8,
        },
      );
      void bus.serve();
      const reads = vcpu('tell(0, 1); read(0x104);');
      const posts = vcpu('tell(1, 1); for (;;) out(0x100, 1);');
      await until(0, 1);
      await until(1, 1);
      await later(0, 30);

      bus.close();
      const late = vcpu('read(0x104);');

      expect(await Promise.all([reads, posts])).toEqual(['ChannelAborted: ', 'ChannelAborted: ']);
      bus.abort();
      expect(await late).toBe('ChannelAborted: ');
    });

    it('drains what was posted before, but does not wait for a device that never answers', async () => {
      const { bus, vcpu } = bind(machine(0));
      const values: number[] = [];
      bus.mount(
        device({
          registers: POSTED,
          write: (_offset, _size, value) => {
            values.push(value);
            return value === 3 ? new Promise(() => {}) : undefined;
          },
        }),
        { space: 'pio', base: 0x100, size: 8 },
      );

      await vcpu('for (let i = 1; i < 6; i++) out(0x100, i);');
      const drained = await bus.drain(30);

      expect(drained).toBe(false);
      expect(values).toEqual([1, 2, 3]);
    });
  });
}

/** A machine's methods, for taking apart. */
function bind(made: Machine) {
  return {
    bus: made.bus,
    words: made.words,
    errors: made.errors,
    vcpu: (body: string) => made.vcpu(body),
    tell: (word: number, value: number) => made.tell(word, value),
    until: (word: number, value: number) => made.until(word, value),
  };
}
