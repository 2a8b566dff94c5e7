import { describe, expect, it } from 'vitest';
import { settle } from '../../support/device-bench.ts';
import { Echo } from './support/echo.ts';
import type { RingDriver } from './support/rings.ts';
import { F, type TransportDriver } from './support/transport-driver.ts';
import { TRANSPORTS } from './support/transports.ts';

function request(driver: TransportDriver, queue = 0, text = 'hello'): { back: number; token?: number } {
  const sent = driver.heap.take(text.length);
  const back = driver.heap.take(text.length);
  driver.bench.memory.write(sent, Buffer.from(text));
  const token = driver.rings[queue].add([
    { gpa: sent, length: text.length, isWritable: false },
    { gpa: back, length: text.length, isWritable: true },
  ]);
  return { back, token };
}

describe.each(TRANSPORTS)('%s', (_, Driver) => {
  it('offers the features of device, rings and transport', () => {
    const all = 1n | F.INDIRECT | F.EVENT_IDX | F.VERSION_1 | F.PACKED;
    expect(new Driver(new Echo()).offered()).toBe(all);
    expect(new Driver(new Echo(), { packed: false, eventIdx: false }).offered()).toBe(
      all & ~(F.PACKED | F.EVENT_IDX),
    );
  });

  it('carries requests of several queues and interrupts for each', async () => {
    const driver = new Driver(new Echo([8, 64, 16]));
    await driver.start();
    for (const queue of [2, 0, 1]) {
      const text = `queue ${queue}`;
      const { back, token } = request(driver, queue, text);
      const before = driver.interrupts;
      driver.notify(queue);
      expect(driver.rings[queue].collect()).toEqual([{ token, written: text.length }]);
      expect(Buffer.from(driver.bench.memory.read(back, text.length)).toString()).toBe(text);
      expect([driver.interrupts - before, driver.takeInterrupt(), driver.takeInterrupt()]).toEqual([1, 1, 0]);
    }
  });

  it('refuses features that were not offered, and a driver without VERSION_1', async () => {
    for (const features of [F.VERSION_1 | 2n, 1n]) {
      const driver = new Driver(new Echo());
      await driver.setStatus(3);
      driver.accept(features);
      await driver.setStatus(11);
      expect(driver.status()).toBe(3);
      await driver.setStatus(15);
      expect(driver.status()).toBe(3);
    }
  });

  it('does not let features change after FEATURES_OK, nor status bits go', async () => {
    const echo = new Echo();
    const driver = new Driver(echo);
    await driver.start({ features: 1n });
    driver.accept(0n);
    await driver.setStatus(1);
    expect([driver.status(), echo.host?.features]).toEqual([15, F.VERSION_1 | 1n]);
  });

  it('reads and writes the configuration space by any width, and nothing behind it', async () => {
    const driver = new Driver(new Echo());
    driver.setConfig(2, 2, 0xbeef);
    expect([driver.config(0, 4), driver.config(1, 1), driver.config(4, 2)]).toEqual([0xbeef0201, 2, 0x0605]);
    expect([driver.config(4, 4), driver.config(6, 1)]).toEqual([0, 0]);
  });

  it('tells of a changed configuration once the driver is ready', async () => {
    const echo = new Echo();
    const driver = new Driver(echo);
    await driver.start();
    echo.host?.configChanged();
    expect([driver.interrupts, driver.takeInterrupt()]).toEqual([1, 2]);
  });

  it('waits for a device that takes its time to stop, and then is as new', async () => {
    const echo = new Echo();
    const driver = new Driver(echo);
    await driver.start();
    let finish!: () => void;
    echo.stopped = new Promise((resolve) => {
      finish = resolve;
    });
    let isOver = false;
    const over = driver.setStatus(0).then(() => {
      isOver = true;
    });
    await settle();
    expect([isOver, driver.status()]).toEqual([false, 15]);
    finish();
    await over;
    expect(driver.status()).toBe(0);
    echo.stopped = undefined;
    await driver.start();
    request(driver);
    driver.notify(0);
    expect(driver.rings[0].collect().length).toBe(1);
  });

  it('goes on after a device that fails to stop', async () => {
    const echo = new Echo();
    const driver = new Driver(echo);
    await driver.start();
    echo.stopped = Promise.reject(new Error('stuck'));
    await driver.setStatus(0);
    expect([driver.status(), driver.bench.logs[0].level]).toEqual([0, 'error']);
  });

  it('ignores notifications of queues that are not there or not enabled', async () => {
    const echo = new Echo([8, 8]);
    const driver = new Driver(echo);
    driver.notify(0);
    await driver.start();
    driver.notify(1);
    expect(driver.bench.logs).toEqual([]);
  });

  it.each<[string, (ring: RingDriver) => Partial<RingDriver>]>([
    ['a descriptor table outside RAM', () => ({ desc: 0x400000 })],
    ['an available ring that is cut off by the end of RAM', () => ({ driver: 0x400000 - 8 })],
    ['a used ring off its alignment', ({ device }) => ({ device: device + 2 })],
    ['a table off its alignment', ({ desc }) => ({ desc: desc + 8 })],
    ['an address beyond all numbers', () => ({ desc: 2 ** 63 })],
    ['a size that is no power of two', () => ({ size: 7 })],
    ['a size of 0', () => ({ size: 0 })],
    ['a size above the largest', () => ({ size: 128 })],
  ])('needs a reset after %s', async (_what, change) => {
    const driver = new Driver(new Echo());
    const { setUp } = driver;
    driver.setUp = (index, ring) => {
      const { size, desc, driver: avail, device } = ring as RingDriver;
      setUp.call(driver, index, { size, desc, driver: avail, device, ...change(ring as RingDriver) });
    };
    await driver.start();
    expect([driver.status() & 64, driver.takeInterrupt(), driver.bench.logs.length]).toEqual([64, 2, 1]);
    driver.setUp = setUp;
    await driver.start();
    expect(driver.status()).toBe(15);
  });

  it('saves and restores a device that nobody drives yet', () => {
    const driver = new Driver(new Echo());
    driver.setConfig(0, 1, 0x77);
    const next = new Driver(new Echo());
    next.continue(driver);
    expect([next.config(0, 1), next.bench.device.save()]).toEqual([0x77, driver.bench.device.save()]);
  });

  it('goes on in a fresh object with a request under way, pending interrupts included', async () => {
    const echo = new Echo([8, 8]);
    const driver = new Driver(echo);
    await driver.start({ features: F.PACKED | F.EVENT_IDX });
    request(driver, 0);
    driver.notify(0);
    echo.isPrompt = false;
    const { token } = request(driver, 1, 'later');
    driver.notify(1);
    const next = new Driver(new Echo([8, 8]));
    next.continue(driver);
    expect(next.rings[1].collect()).toEqual([]);
    next.bench.clock.advance(1);
    expect(next.rings[1].collect()).toEqual([{ token, written: 5 }]);
    expect(next.takeInterrupt() & 1).toBe(1);
    expect(next.rings[0].collect().length).toBe(1);
  });

  it('has done its reset when it is restored in the middle of one', async () => {
    const echo = new Echo();
    const driver = new Driver(echo);
    await driver.start();
    echo.stopped = new Promise(() => {});
    void driver.setStatus(0);
    const next = new Driver(new Echo());
    next.continue(driver);
    expect([driver.status(), next.status()]).toEqual([15, 0]);
    await next.start();
    expect(next.status()).toBe(15);
  });

  it('refuses the state of a device with other features or queues, and damaged ones', async () => {
    const driver = new Driver(new Echo());
    await driver.start();
    const state = driver.bench.device.save();
    const refused = expect.objectContaining({ code: 'TSV_E_STATE' });
    expect(() => new Driver(new Echo([8, 8])).bench.device.restore(state)).toThrow(refused);
    expect(() => new Driver(new Echo(), { packed: false }).bench.device.restore(state)).toThrow(refused);
    for (const key of Object.keys(state)) {
      const { [key]: _gone, ...rest } = state;
      expect(() => new Driver(new Echo()).bench.device.restore(rest)).toThrow(refused);
    }
  });
});
