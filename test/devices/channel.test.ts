/** Mailbox, ring and doorbell between a vCPU and the owner of the devices. */
import { Worker } from 'node:worker_threads';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Channel, ChannelAborted, Doorbell } from '../../src/devices/channel.ts';

const RING_ENTRIES = 1024;
/** Words of the ring's ends within the shared buffer. */
const HEAD = 8;
const TAIL = 9;
const MODULE = new URL('../../dist/devices/channel.js', import.meta.url).href;

/** Runs a body with `channel`, `bell` and `words` on another thread. */
function onThread(channel: Channel, bell: Doorbell, words: Int32Array, body: string): Promise<unknown> {
  const source = `
    const { parentPort, workerData } = require('node:worker_threads');
    import(${JSON.stringify(MODULE)}).then(({ Channel, Doorbell, ChannelAborted }) => {
      const channel = new Channel(workerData.channel);
      const bell = new Doorbell(workerData.bell);
      const words = new Int32Array(workerData.words);
      try { ${body} } catch (error) { return error.constructor.name; }
    }).then((result) => parentPort.postMessage(result));`;
  const workerData = { channel: channel.shared, bell: bell.shared, words: words.buffer };
  const worker = new Worker(source, { eval: true, workerData });
  return new Promise((resolve, reject) => {
    worker.on('message', resolve);
    worker.on('error', reject);
  });
}

const shared = () => new Int32Array(new SharedArrayBuffer(64));
const turn = () => new Promise((resolve) => setTimeout(resolve, 1));

describe('the ring', () => {
  it('hands posted writes over as they were, in order', () => {
    const write = fc.record({
      region: fc.nat(0xffff),
      offset: fc.nat(2 ** 52 - 1),
      size: fc.constantFrom(1, 2, 4),
      value: fc.nat(0xffffffff),
    });
    fc.assert(
      fc.property(fc.array(write, { maxLength: RING_ENTRIES }), (writes) => {
        const [channel, bell] = [new Channel(), new Doorbell()];

        for (const { region, offset, size, value } of writes) channel.post(bell, region, offset, size, value);
        const taken = [];
        const { head } = channel;
        while (!channel.taken(head)) taken.push(channel.takePosted());

        expect(taken).toEqual(writes.map((access) => ({ ...access, isWrite: true })));
      }),
      { numRuns: 30 },
    );
  });

  it.each([0x7fff_fff0, -16, -1, 0x7fff_ffff])('goes on where its counters wrap, from %i', (start) => {
    const [channel, bell] = [new Channel(), new Doorbell()];
    const words = new Int32Array(channel.shared);
    words[HEAD] = words[TAIL] = start;

    const values: number[] = [];
    for (let round = 0; round < 3; round++) {
      for (let i = 0; i < RING_ENTRIES; i++) channel.post(bell, 1, 0, 4, round * RING_ENTRIES + i);
      const { head } = channel;
      while (!channel.taken(head)) values.push(channel.takePosted().value);
    }

    expect(values).toEqual(Array.from({ length: 3 * RING_ENTRIES }, (_, i) => i));
  });

  it('says of what was posted later that it is not yet taken', () => {
    const [channel, bell] = [new Channel(), new Doorbell()];
    channel.post(bell, 1, 0, 4, 1);
    const first = channel.head;
    channel.post(bell, 1, 0, 4, 2);

    channel.takePosted();

    expect(channel.taken(first)).toBe(true);
    expect(channel.taken(channel.head)).toBe(false);
  });

  it('holds its producer back when it is full, and loses nothing', async () => {
    const [channel, bell, words] = [new Channel(), new Doorbell(), shared()];
    const COUNT = 20_000;
    const producer = onThread(
      channel,
      bell,
      words,
      `for (let i = 0; i < ${COUNT}; i++) { channel.post(bell, 1, i, 4, i); Atomics.store(words, 0, i + 1); } return 'done';`,
    );
    while (Atomics.load(words, 0) < RING_ENTRIES) await turn();
    await new Promise((resolve) => setTimeout(resolve, 50));
    const held = Atomics.load(words, 0);

    let next = 0;
    while (next < COUNT) {
      const { head } = channel;
      expect((head - new Int32Array(channel.shared)[TAIL]) | 0).toBeLessThanOrEqual(RING_ENTRIES);
      while (!channel.taken(head)) {
        const access = channel.takePosted();
        if (access.value !== next || access.offset !== next)
          throw new Error(`${access.value} is not ${next}`);
        next++;
      }
      await turn();
    }

    expect(held).toBe(RING_ENTRIES);
    expect(await producer).toBe('done');
  });
});

describe('the mailbox', () => {
  it('answers each call with its own value', async () => {
    const [channel, bell, words] = [new Channel(), new Doorbell(), shared()];
    const caller = onThread(
      channel,
      bell,
      words,
      `let wrong = 0;
       for (let i = 0; i < 2000; i++) if (channel.call(bell, 3, i * 2 ** 33, 4, i % 2 === 0, i) !== (i * 7 + 0xf0000000) >>> 0) wrong++;
       Atomics.store(words, 0, 1);
       return wrong;`,
    );
    const seen: number[] = [];
    while (Atomics.load(words, 0) === 0) {
      const count = bell.count();
      const request = channel.request();
      if (request === undefined) {
        await Promise.race([bell.wait(count), turn()]);
        continue;
      }
      const i = request.offset / 2 ** 33;
      seen.push(i);
      expect(request).toEqual({ region: 3, offset: i * 2 ** 33, size: 4, isWrite: i % 2 === 0, value: i });
      channel.answer(i * 7 + 0xf0000000);
    }

    expect(await caller).toBe(0);
    expect(seen).toEqual(Array.from({ length: 2000 }, (_, i) => i));
  });

  it('is empty once answered', () => {
    const channel = new Channel();

    channel.answer(1);

    expect(channel.request()).toBeUndefined();
  });
});

describe('abort', () => {
  it('throws in a vCPU that waits for an answer', async () => {
    const [channel, bell, words] = [new Channel(), new Doorbell(), shared()];
    const caller = onThread(
      channel,
      bell,
      words,
      'channel.call(bell, 1, 0, 4, false, 0); return "answered";',
    );
    while (channel.request() === undefined) await turn();

    channel.abort();

    expect(await caller).toBe('ChannelAborted');
  });

  it('throws in a vCPU that waits for room in the ring', async () => {
    const [channel, bell, words] = [new Channel(), new Doorbell(), shared()];
    const poster = onThread(channel, bell, words, 'for (;;) channel.post(bell, 1, 0, 4, 0);');
    while (channel.head < RING_ENTRIES) await turn();

    channel.abort();

    expect(await poster).toBe('ChannelAborted');
  });

  it('throws in every later call, and an answer that comes late changes nothing', () => {
    const [channel, bell] = [new Channel(), new Doorbell()];

    channel.abort();
    channel.answer(5);

    expect(() => channel.call(bell, 1, 0, 4, false, 0)).toThrow(ChannelAborted);
    expect(() => channel.call(bell, 1, 0, 4, false, 0)).toThrow(ChannelAborted);
    expect(channel.request()).toBeUndefined();
  });
});

describe('the doorbell', () => {
  it('does not wait when it has rung since the count was taken', () => {
    const bell = new Doorbell();
    const count = bell.count();

    bell.ring();

    expect(bell.wait(count)).toBeUndefined();
  });

  it('wakes its owner on a host that has no more file descriptors, and by an event once there is one', async () => {
    const EMFILE = -24;
    const event = { fd: 77, close() {} };
    const watched: (() => void)[] = [];
    let room = 0;
    const bell = new Doorbell(undefined, {
      futexWait: () => 0,
      futexWake: () => 0,
      signalEvent: () => {
        for (const callback of watched) callback();
        return 0;
      },
      watchEvent(callback) {
        if (room-- <= 0) return EMFILE;
        watched.push(callback);
        return event;
      },
    });

    const rung = bell.wait(bell.count());
    setTimeout(() => bell.ring(), 1);
    await rung;
    expect(watched).toEqual([]);

    room = 1;
    const again = bell.wait(bell.count());
    setTimeout(() => bell.ring(), 1);
    await again;
    expect(watched).toHaveLength(1);
  });

  it('wakes its owner, however often it rings and however late the owner looks', async () => {
    const [channel, bell, words] = [new Channel(), new Doorbell(), shared()];
    const RINGS = 3000;
    const ringer = onThread(
      channel,
      bell,
      words,
      `for (let i = 1; i <= ${RINGS}; i++) {
         bell.ring();
         // Every ring must have been noticed before the next: a lost wake-up hangs here.
         if (i % 3 === 0) while (Atomics.load(words, 0) < i) Atomics.wait(words, 0, Atomics.load(words, 0), 100);
       }
       return 'done';`,
    );

    for (;;) {
      const count = bell.count();
      Atomics.store(words, 0, count);
      Atomics.notify(words, 0);
      if (count >= RINGS) break;
      await bell.wait(count);
    }

    expect(await ringer).toBe('done');
  });
});
