/** The threads of handover.mjs. */
import { parentPort, workerData } from 'node:worker_threads';
import { BusClient } from '../../dist/devices/bus-client.js';
import { BusTable, SPACE } from '../../dist/devices/bus-table.js';
import { Channel, Doorbell } from '../../dist/devices/channel.js';
import { loadNative } from '../../dist/kvm/native.js';

const { mode, words, arrivals } = workerData;
const now = () => Number(process.hrtime.bigint()) / 1000;
const nap = new Int32Array(new SharedArrayBuffer(4));

/** Time for the other side to fall asleep, as it does while a guest runs, ms. */
const REST = 0.02;

const ASK = 1;
const ANSWER = 0;

/** @param call one access, until it is answered */
function measure(count, call) {
  const there = [];
  const back = [];
  for (let i = 0; i < count; i++) {
    const start = now();
    call();
    const end = now();
    there.push(arrivals[0] - start);
    back.push(end - arrivals[0]);
    Atomics.wait(nap, 0, 0, REST);
  }
  return { there, back };
}

const MODES = {
  /** The vCPU's side of the bus. */
  call() {
    const { table, channel, bell, kernel } = workerData;
    const wakeups = kernel ? loadNative() : undefined;
    const bus = new BusClient(
      new BusTable(table),
      new Channel(channel, wakeups),
      new Doorbell(bell, wakeups),
    );
    return (count) => {
      const times = measure(count, () => bus.read(SPACE.pio, 0, 4));
      const ring = [];
      for (let i = 0; i < count; i++) {
        const start = now();
        bus.write(SPACE.pio, 4, 4, 1);
        ring.push(now() - start);
        Atomics.wait(nap, 0, 0, REST);
      }
      return { ...times, ring };
    };
  },
  ask: () => (count) =>
    measure(count, () => {
      Atomics.store(words, 0, ASK);
      Atomics.notify(words, 0);
      while (Atomics.load(words, 0) === ASK) Atomics.wait(words, 0, ASK);
    }),
  owner: () => () => {
    for (;;) {
      while (Atomics.load(words, 0) !== ASK) Atomics.wait(words, 0, ANSWER);
      arrivals[0] = now();
      Atomics.store(words, 0, ANSWER);
      Atomics.notify(words, 0);
    }
  },
};

const run = MODES[mode]();
parentPort.on('message', (count) => parentPort.postMessage(run(count)));
