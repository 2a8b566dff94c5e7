/**
 * Where the time of a `sync` access goes: the way from a vCPU's thread to the event loop that owns the devices, and
 * the way back, without any guest. Against the same between two threads that sleep on Atomics.wait, and in C.
 */
import { Worker } from 'node:worker_threads';
import { Bus } from '../dist/devices/bus.js';
import { loadNative, nativeProblem } from '../dist/kvm/native.js';
import { compile, impossible } from './lib/host.mjs';
import { talkTo } from './lib/programs.mjs';
import { interleave, summarize } from './lib/stats.mjs';

const WORKER = new URL('./lib/handover-worker.mjs', import.meta.url);
/** Accesses in a sample; short, so that many samples meet no other load. */
const BATCH = 50;

/** Microseconds on the clock that all threads and processes share. */
const now = () => Number(process.hrtime.bigint()) / 1000;

function worker(workerData) {
  const thread = new Worker(WORKER, { workerData });
  const run = () =>
    new Promise((resolve) => {
      thread.once('message', resolve);
      thread.postMessage(BATCH);
    });
  return { run, close: () => thread.terminate() };
}

/**
 * A vCPU's side in a worker, the real bus with a device that notes when it is reached on this thread.
 * @param kernel wake through the addon's futexes and eventfd, as machines do, or by Atomics alone
 */
function eventLoop(kernel) {
  const wakeups = kernel ? loadNative() : undefined;
  const bus = new Bus({ onDeviceError: (error) => console.error(error) }, { wakeups });
  const arrivals = new Float64Array(new SharedArrayBuffer(8));
  const device = {
    name: 'clock',
    registers: [{ offset: 4, size: 4, write: 'posted' }],
    read() {
      arrivals[0] = now();
      return 1;
    },
    write() {
      arrivals[0] = now();
    },
  };
  bus.mount(device, { space: 'pio', base: 0, size: 8 });
  const channel = bus.addChannel();
  void bus.serve();
  const shared = {
    table: bus.table.shared,
    channel: channel.shared,
    bell: bus.bell.shared,
    arrivals,
    kernel,
  };
  const call = worker({ ...shared, mode: 'call' });
  return {
    run: call.run,
    async close() {
      bus.close();
      await call.close();
    },
  };
}

/** Both sides in workers that sleep on Atomics.wait: what is left without the event loop. */
function blocked() {
  const words = new Int32Array(new SharedArrayBuffer(8));
  const arrivals = new Float64Array(new SharedArrayBuffer(8));
  const owner = worker({ mode: 'owner', words, arrivals });
  void owner.run();
  const asker = worker({ mode: 'ask', words, arrivals });
  return {
    run: asker.run,
    async close() {
      await Promise.all([owner.close(), asker.close()]);
    },
  };
}

function inC(program) {
  const { ask, close } = talkTo([program]);
  const run = async () => {
    const times = (await ask(BATCH))
      .trim()
      .split(' ')
      .map((ns) => Number(ns) / 1000);
    return { there: times.filter((_, i) => i % 2 === 0), back: times.filter((_, i) => i % 2 === 1) };
  };
  return { run, close };
}

/** The benchmark. */
export async function handover({ quick, progress }) {
  progress('');
  const program = compile('handover.c');
  const problem = nativeProblem();
  const subjects = {
    ...(problem === undefined && { 'event loop': eventLoop(true) }),
    'event loop, Atomics': eventLoop(false),
    'blocked worker': blocked(),
    ...(program && { 'C futex': inC(program) }),
  };
  const series = Object.fromEntries(Object.entries(subjects).map(([name, { run }]) => [name, run]));
  const samples = await interleave(series, quick ? 20 : 100);
  for (const { close } of Object.values(subjects)) await close();
  const rows = Object.entries(samples).flatMap(([name, batches]) => {
    const there = batches.flatMap((batch) => batch.there);
    const back = batches.flatMap((batch) => batch.back);
    const ring = batches.flatMap((batch) => batch.ring ?? []);
    return [
      { name: `${name}: there`, value: summarize(there) },
      { name: `${name}: back`, value: summarize(back) },
      { name: `${name}: round trip`, value: summarize(there.map((time, i) => time + back[i])) },
      ...(ring.length > 0 ? [{ name: `${name}: posting, owner asleep`, value: summarize(ring) }] : []),
    ];
  });
  if (problem !== undefined) rows.unshift(impossible('event loop', problem.message));
  const notes = [
    '"there" is from the vCPU thread to the first line of the device, "back" from there to the vCPU thread going on.',
    '"event loop" is what a sync access pays beyond the exit itself; "Atomics" is the same without the addon. "C futex" is what the kernel takes for waking two sleeping threads; the rest is the event loop (epoll, a callback, a promise).',
  ];
  return { title: 'Hand-over of a sync access', unit: 'us', rows, notes };
}
