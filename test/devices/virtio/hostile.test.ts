/** A driver that breaks every rule it can, against every device on every transport. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { VirtioBlk } from '../../../src/devices/virtio/blk/blk.ts';
import { VirtioConsole } from '../../../src/devices/virtio/console/console.ts';
import { VirtioPmem } from '../../../src/devices/virtio/pmem/pmem.ts';
import { VirtioRng } from '../../../src/devices/virtio/rng/rng.ts';
import type { VirtioDevice } from '../../../src/devices/virtio/virtio-device.ts';
import { settle } from '../../support/device-bench.ts';
import { Echo } from './support/echo.ts';
import { MemoryDisk } from './support/memory-disk.ts';
import { isUntouched } from './support/patched-memory.ts';
import { PciDriver } from './support/pci-driver.ts';
import { type RingDriver, writeDescriptor } from './support/rings.ts';
import { F, type TransportDriver } from './support/transport-driver.ts';
import { TRANSPORTS } from './support/transports.ts';

/** Runs a property, a hundred times in a nightly run. */
const RUNS = Number(process.env.TSV_VIRTIO_CASES ?? 30);

const RAM = 0x400000;
const u16 = fc.oneof(fc.nat(0xffff), fc.constantFrom(0, 1, 7, 8, 9, 0x7fff, 0x8000, 0xffff));
const u32 = fc.oneof(fc.nat(0xffffffff), fc.constantFrom(0, 1, 512, 0x7fffffff, 0x80000000, 0xffffffff));
const gpa = fc.oneof(
  fc.nat(RAM),
  fc.nat(0x40000).map((value) => value & ~15),
  fc.constantFrom(0, RAM - 1, RAM - 16, RAM, 0xfee00000, 2 ** 32 - 16, 2 ** 52, 2 ** 63, 2 ** 64 - 4096),
);
const length = fc.oneof(fc.nat(64), fc.nat(RAM), u32, fc.constant(16));

type Step = (driver: TransportDriver) => unknown;
const ring = (driver: TransportDriver, index: number): RingDriver | undefined =>
  driver.rings[index % Math.max(driver.rings.length, 1)];

/** Ignores what lies outside of RAM: a guest's CPU would write to the bus there. */
function poke(driver: TransportDriver, at: number, bytes: readonly number[]): void {
  if (driver.bench.memory.contains(at, bytes.length)) driver.bench.memory.write(at, Uint8Array.from(bytes));
}

const steps: Record<string, fc.Arbitrary<Step>> = {
  register: fc
    .tuple(fc.nat(0x5000), fc.constantFrom(1 as const, 2 as const, 4 as const), u32)
    .map(([offset, size, value]) => async (driver) => {
      const end = driver instanceof PciDriver ? 0x5000 : 0x200;
      const at = offset % end;
      await driver.bench.outWait(at, value % 2 ** (8 * size), size);
      driver.bench.in(at, size);
    }),
  configuration: fc
    .tuple(fc.nat(63), fc.constantFrom(1 as const, 2 as const, 4 as const), u32)
    .map(([word, size, value]) => async (driver) => {
      if (!(driver instanceof PciDriver)) return;
      await driver.bench.device.writeConfig(word * 4, size, value % 2 ** (8 * size));
      expect(driver.cfg(word * 4, size)).toBeLessThan(2 ** (8 * size));
    }),
  status: fc.constantFrom(0, 1, 3, 11, 15, 255).map((value) => (driver) => driver.setStatus(value)),
  start: fc
    .tuple(
      fc.constantFrom(0n, F.PACKED),
      fc.constantFrom(0n, F.EVENT_IDX),
      fc.constantFrom(1, 2, 4, 16, 64),
      fc.oneof(fc.constant(0xffffffn), fc.bigInt(0n, 0xffffffn)),
    )
    .map(([format, events, size, mask]) => (driver) => {
      driver.heap = new (driver.heap.constructor as new () => typeof driver.heap)();
      return driver.start({
        features: F.INDIRECT | format | events | (driver.offered() & mask),
        size: (max) => Math.min(max, size),
      });
    }),
  queue: fc.tuple(fc.nat(3), u16, gpa, gpa, gpa).map(([index, size, desc, avail, used]) => (driver) => {
    driver.setUp(index, { size, desc, driver: avail, device: used });
  }),
  descriptor: fc
    .tuple(fc.nat(3), fc.nat(15), gpa, length, u16, u16)
    .map(([index, slot, at, size, word12, word14]) => (driver) => {
      const place = ring(driver, index);
      if (place === undefined || !driver.bench.memory.contains(place.desc + slot * 16, 16)) return;
      writeDescriptor(
        driver.bench.memory,
        place.desc + slot * 16,
        Math.min(at, 2 ** 63),
        size,
        word12,
        word14,
      );
    }),
  available: fc.tuple(fc.nat(3), u16, u16).map(([index, head, jump]) => (driver) => {
    const place = ring(driver, index);
    if (place === undefined) return;
    const idx = (driver.bench.memory.readU16(place.driver + 2) + (jump < 0xf000 ? 1 : jump)) & 0xffff;
    poke(driver, place.driver + 4 + 2 * (idx % place.size), [head & 15, 0]);
    poke(driver, place.driver + 2, [idx & 0xff, idx >> 8]);
    driver.notify(index % driver.rings.length);
  }),
  request: fc
    .tuple(
      fc.nat(3),
      fc.constantFrom<'direct' | 'indirect' | 'mixed'>('direct', 'indirect', 'mixed'),
      fc.array(fc.tuple(gpa, length, fc.boolean()), { minLength: 1, maxLength: 6 }),
    )
    .map(([index, form, buffers]) => (driver) => {
      ring(driver, index)?.add(
        buffers.map(([at, size, isWritable]) => ({ gpa: Math.min(at, 2 ** 63), length: size, isWritable })),
        form,
      );
      driver.notify(index % Math.max(driver.rings.length, 1));
    }),
  memory: fc.tuple(fc.nat(0x20000), fc.array(fc.nat(255), { minLength: 1, maxLength: 32 })).map(
    ([at, bytes]) =>
      (driver) =>
        poke(driver, 0x10000 + at, bytes),
  ),
  notify: fc.nat(0xffff).map((index) => (driver) => {
    driver.notify(index % 4);
  }),
  time: fc.constant<Step>(async (driver) => {
    await settle(1);
    driver.bench.clock.advance(1);
    driver.takeInterrupt();
  }),
};
const weights: Record<string, number> = { start: 2, request: 4, descriptor: 4, available: 4, time: 3 };
const anyStep = fc.oneof(
  ...Object.entries(steps).map(([name, arbitrary]) => ({ weight: weights[name] ?? 1, arbitrary })),
);

const DEVICES: readonly (readonly [string, () => VirtioDevice])[] = [
  ['echo', () => new Echo([16, 64])],
  ['rng', () => new VirtioRng({ seed: 1 })],
  ['console', () => new VirtioConsole({ ports: [{ onOutput() {} }, { onOutput: () => settle(1) }] })],
  ['pmem', () => new VirtioPmem({ gpa: 2 ** 32, memory: new Uint8Array(2 ** 21), readOnly: false })],
  ['blk', () => new VirtioBlk({ backend: new MemoryDisk(), queues: 2 })],
];

describe.each(TRANSPORTS)('a hostile driver over %s', (transport, Driver) => {
  it.each(DEVICES)(
    'harms nobody but its own %s device',
    async (_, create) => {
      await fc.assert(
        fc.asyncProperty(
          fc.array(anyStep, { minLength: 5, maxLength: 60 }),
          fc.nat(60),
          async (list, moveAt) => {
            let driver = new Driver(create());
            for (const [i, step] of list.entries()) {
              try {
                await step(driver);
              } catch (error) {
                // The test's own driver may lose its registers or its way in the rings; the device must not.
                if (!/^nothing is at|was not given/.test((error as Error).message)) throw error;
              }
              if (i === moveAt) driver = await moved(driver, new Driver(create()));
            }
            await settle();
            expect(isUntouched(driver.bench.memory)).toBe(true);
            await recovers(driver);
          },
        ),
        { numRuns: RUNS },
      );
    },
    120_000,
  );

  /** What can be saved at any time can be restored. */
  async function moved(driver: TransportDriver, next: TransportDriver): Promise<TransportDriver> {
    next.continue(driver);
    await driver.bench.device.close?.();
    return next;
  }

  /** After a reset the device works for a driver that keeps the rules. */
  async function recovers(driver: TransportDriver): Promise<void> {
    if (driver instanceof PciDriver) {
      for (const [at, value] of [0xc0000000, 0xc0004000].entries()) driver.cfgWrite(0x10 + 4 * at, 4, value);
      driver.cfgWrite(4, 2, 6);
      const control = driver.capabilities.get('msix')! + 2;
      driver.cfgWrite(control, 2, driver.usesMsix ? 0x8000 : 0);
    }
    driver.heap = new (driver.heap.constructor as new () => typeof driver.heap)();
    await driver.setStatus(0);
    expect(driver.status()).toBe(0);
    driver.takeInterrupt();
    driver.bench.memory.fill(0, RAM);
    await driver.start();
    expect(driver.status()).toBe(15);
    const data = [
      { gpa: 0x1000, length: 16, isWritable: false },
      { gpa: 0x2000, length: 513, isWritable: true },
    ];
    // The second queue of a console is the one for output.
    const { name } = driver.bench.device;
    const queue = name.includes('console') ? 1 : 0;
    const buffers = { rng: data.slice(1), console: data.slice(0, 1) }[/rng|console/.exec(name)?.[0] ?? ''];
    const token = driver.rings[queue].add(buffers ?? data);
    driver.notify(queue);
    await settle();
    const [done] = driver.rings[queue].collect();
    expect([transport, done?.token]).toEqual([transport, token]);
  }
});
