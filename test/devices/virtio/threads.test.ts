/** A driver on a thread of its own: notifications and interrupts that either side leaves out must not be missed. */
import { Worker } from 'node:worker_threads';
import { expect, it } from 'vitest';
import { Echo } from './support/echo.ts';
import { MmioDriver } from './support/mmio-driver.ts';
import { F } from './support/transport-driver.ts';

const SIZE = 8;
const REQUESTS = 300_000;

/** A driver of a split ring with event indices: fills the ring, notifies, waits for its interrupt, looks at everything. */
const DRIVER = `
  const { parentPort, workerData } = require('node:worker_threads');
  const { buffer, at, desc, avail, used, size, requests, words } = workerData;
  const u16 = new Uint16Array(buffer);
  const u32 = new Uint32Array(buffer);
  const interrupts = new Int32Array(words);
  const load = (gpa) => Atomics.load(u16, (at + gpa) / 2);
  const store = (gpa, value) => Atomics.store(u16, (at + gpa) / 2, value);
  const needEvent = (event, next, old) => ((next - event - 1) & 0xffff) < ((next - old) & 0xffff);
  let added = 0, done = 0, notified = 0, seen = 0, notifications = 0;
  for (let i = 0; i < size; i++) {
    u32[(at + desc + i * 16) / 4] = 0x1000;
    u32[(at + desc + i * 16) / 4 + 2] = 4;
    store(avail + 4 + 2 * i, i);
  }
  while (done < requests) {
    const batch = 1 + (added * 7) % size;
    for (let i = 0; i < batch && added < requests && added - done < size; i++) {
      added++;
      store(avail + 2, added & 0xffff);
    }
    if (needEvent(load(used + 4 + 8 * size), added & 0xffff, notified & 0xffff)) {
      notifications++;
      parentPort.postMessage('notify');
    }
    notified = added;
    // Mostly it sees the answer at once, and goes on just when the device finds the ring empty.
    for (let spin = (added * 131) % 20000; spin > 0 && load(used + 2) === (done & 0xffff); spin--);
    // Asks for an interrupt at the next one that comes back, then looks whether it has come meanwhile.
    store(avail + 4 + 2 * size, done & 0xffff);
    while (load(used + 2) === (done & 0xffff)) {
      if (Atomics.wait(interrupts, 0, seen, 5000) === 'timed-out') throw new Error('no interrupt after ' + done);
      seen = Atomics.load(interrupts, 0);
    }
    done += (load(used + 2) - done) & 0xffff;
  }
  parentPort.postMessage({ done, notifications, seen });
`;

it('misses no notification and no interrupt of a driver on another thread', async () => {
  const driver = new MmioDriver(new Echo([SIZE]));
  await driver.start({ features: F.EVENT_IDX });
  const words = new Int32Array(new SharedArrayBuffer(4));
  const line = driver.bench.irq();
  line.pulse = () => {
    driver.takeInterrupt();
    Atomics.add(words, 0, 1);
    Atomics.notify(words, 0);
  };
  const [{ desc, driver: avail, device: used }] = driver.rings;
  const { buffer, byteOffset } = driver.bench.memory.bytes(desc, 1);
  const workerData = {
    buffer,
    // The rings lie in one piece of RAM.
    at: byteOffset - desc,
    desc,
    avail,
    used,
    size: SIZE,
    requests: REQUESTS,
    words: words.buffer,
  };
  const worker = new Worker(DRIVER, { eval: true, workerData });
  const result = await new Promise((resolve, reject) => {
    worker.on('message', (message) => {
      if (message === 'notify') driver.notify(0);
      else resolve(message);
    });
    worker.on('error', reject);
  });
  await worker.terminate();
  expect(result).toMatchObject({ done: REQUESTS });
  expect(driver.bench.logs).toEqual([]);
}, 120_000);
