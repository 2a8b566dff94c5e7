import { describe, expect, it } from 'vitest';
import { VirtioRng } from '../../../src/devices/virtio/rng/rng.ts';
import { MmioDriver } from './support/mmio-driver.ts';
import { F } from './support/transport-driver.ts';

async function started(features = 0n, seed?: number) {
  const driver = new MmioDriver(new VirtioRng({ seed }));
  await driver.start({ features });
  const request = (length: number) => {
    const gpa = driver.heap.take(length);
    const token = driver.rings[0].add([{ gpa, length, isWritable: true }]);
    return { gpa, token };
  };
  const bytes = (gpa: number, length: number) => Buffer.from(driver.bench.memory.read(gpa, length));
  return { driver, request, bytes };
}

describe.each([
  ['split', 0n],
  ['packed', F.PACKED],
])('the entropy device over a %s ring', (_, features) => {
  it('fills a buffer and interrupts', async () => {
    const { driver, request, bytes } = await started(features);
    const { gpa, token } = request(64);
    driver.notify(0);
    expect(driver.rings[0].collect()).toEqual([{ token, written: 64 }]);
    expect(new Set(bytes(gpa, 64)).size).toBeGreaterThan(20);
    expect([driver.interrupts, driver.takeInterrupt(), driver.takeInterrupt()]).toEqual([1, 1, 0]);
  });

  it('fills at most 64 KiB of a request', async () => {
    const { driver, request } = await started(features);
    request(200_000);
    driver.notify(0);
    expect(driver.rings[0].collect()[0].written).toBe(65536);
  });

  it('repeats a seeded sequence, also from a saved state', async () => {
    const run = async (seed: number) => {
      const { driver, request, bytes } = await started(features, seed);
      const all = [24, 7, 100].map((length) => {
        const { gpa } = request(length);
        driver.notify(0);
        return bytes(gpa, length).toString('hex');
      });
      return { all, state: driver.bench.device.save() };
    };
    const [one, two, other] = [await run(5), await run(5), await run(6)];
    expect(one.all).toEqual(two.all);
    expect(one.all[0]).not.toBe(other.all[0]);
  });
});
