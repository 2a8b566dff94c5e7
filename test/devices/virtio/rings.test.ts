/** Both ring formats with a driver that sends random requests, and a device that answers in random order. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Echo } from './support/echo.ts';
import { MmioDriver } from './support/mmio-driver.ts';
import type { Form, Buffer as Segment } from './support/rings.ts';
import { F } from './support/transport-driver.ts';

const FORMATS = [
  ['split', 0n],
  ['packed', F.PACKED],
] as const;
const EVENTS = [
  ['flags', 0n],
  ['event indices', F.EVENT_IDX],
] as const;

const request = fc.record({
  form: fc.constantFrom<Form>('direct', 'indirect', 'mixed'),
  readable: fc.array(fc.integer({ min: 0, max: 300 }), { minLength: 1, maxLength: 4 }),
  writable: fc.array(fc.integer({ min: 0, max: 300 }), { maxLength: 4 }),
});
const turn = fc.record({
  requests: fc.array(request, { maxLength: 6 }),
  answers: fc.array(fc.nat(1000), { maxLength: 8 }),
  collects: fc.boolean(),
});

interface Sent {
  buffers: Segment[];
  data: Buffer;
}

class Conversation {
  readonly echo: Echo;
  readonly driver: MmioDriver;
  readonly #sent = new Map<number, Sent>();
  #counter = 1;

  constructor(echo = new Echo([64]), driver = new MmioDriver(echo)) {
    this.echo = echo;
    this.driver = driver;
  }

  async start(features: bigint, size: number): Promise<this> {
    this.echo.isPrompt = false;
    await this.driver.start({ features: features | F.INDIRECT, size: () => size });
    return this;
  }

  send({ form, readable, writable }: { form: Form; readable: number[]; writable: number[] }): boolean {
    const { heap, bench, rings } = this.driver;
    const buffers = [
      ...readable.map((length) => ({ gpa: heap.take(length, 1), length, isWritable: false })),
      ...writable.map((length) => ({ gpa: heap.take(length, 1), length, isWritable: true })),
    ];
    const data: Buffer[] = [];
    for (const { gpa, length, isWritable } of buffers) {
      if (isWritable) continue;
      const bytes = Buffer.from(Array.from({ length }, () => (this.#counter = (this.#counter * 75) % 65537)));
      bench.memory.write(gpa, bytes);
      data.push(bytes);
    }
    const token = rings[0].add(buffers, form);
    if (token === undefined) return false;
    this.#sent.set(token, { buffers, data: Buffer.concat(data) });
    return true;
  }

  notify(): void {
    if (this.driver.rings[0].kick()) this.driver.notify(0);
  }

  answer(choice: number): void {
    if (this.echo.held.length > 0) this.echo.answer(choice % this.echo.held.length);
  }

  /** Checks everything that came back. */
  collect(): number {
    const done = this.driver.rings[0].collect();
    for (const { token, written } of done) {
      const sent = this.#sent.get(token)!;
      this.#sent.delete(token);
      const room = sent.buffers.filter(({ isWritable }) => isWritable);
      const back = Buffer.concat(room.map(({ gpa, length }) => this.driver.bench.memory.read(gpa, length)));
      expect(written).toBe(Math.min(sent.data.length, back.length));
      expect(back.subarray(0, written).equals(sent.data.subarray(0, written))).toBe(true);
    }
    return done.length;
  }

  get pending(): number {
    return this.#sent.size;
  }

  /** The same conversation with a fresh device object, the memory copied along. */
  moved(): Conversation {
    const echo = new Echo([64]);
    echo.isPrompt = false;
    const driver = new MmioDriver(echo);
    driver.continue(this.driver);
    const next = new Conversation(echo, driver);
    for (const [token, sent] of this.#sent) next.#sent.set(token, sent);
    return next;
  }
}

describe.each(FORMATS)('%s ring', (_, format) => {
  describe.each(EVENTS)('with %s', (_, events) => {
    it('carries any requests there and back, answered in any order', async () => {
      const size = fc.constantFrom(...(format ? [3, 5, 8, 64] : [4, 8, 64]));
      await fc.assert(
        fc.asyncProperty(size, fc.array(turn, { maxLength: 30 }), async (entries, turns) => {
          const talk = await new Conversation().start(format | events, entries);
          for (const { requests, answers, collects } of turns) {
            for (const item of requests) talk.send(item);
            talk.notify();
            for (const choice of answers) talk.answer(choice);
            if (collects) {
              talk.collect();
              talk.driver.rings[0].enable();
            }
          }
          while (talk.echo.held.length > 0) talk.answer(0);
          talk.collect();
          expect([talk.pending, talk.driver.bench.logs, talk.driver.status()]).toEqual([0, [], 15]);
        }),
        { numRuns: 100 },
      );
    });

    it('never leaves a driver that waits without its interrupt', async () => {
      const lengths = fc.array(fc.integer({ min: 1, max: 5 }), { minLength: 1, maxLength: 40 });
      await fc.assert(
        fc.asyncProperty(lengths, async (batches) => {
          const talk = await new Conversation().start(format | events, 8);
          for (const count of batches) {
            talk.driver.rings[0].enable();
            for (let i = 0; i < count; i++) talk.send({ form: 'direct', readable: [1], writable: [] });
            talk.notify();
            const before = talk.driver.interrupts;
            talk.answer(0);
            expect(talk.driver.interrupts).toBe(before + 1);
            talk.driver.takeInterrupt();
            while (talk.echo.held.length > 0) talk.answer(0);
            talk.driver.takeInterrupt();
            expect(talk.collect()).toBe(count);
          }
        }),
        { numRuns: 50 },
      );
    });

    it('interrupts no driver that asked for quiet', async () => {
      const talk = await new Conversation().start(format | events, 8);
      for (let i = 0; i < 50; i++) {
        talk.driver.rings[0].disable();
        for (let n = 0; n < 3; n++) talk.send({ form: 'direct', readable: [1], writable: [] });
        talk.notify();
        while (talk.echo.held.length > 0) talk.answer(0);
        expect(talk.collect()).toBe(3);
      }
      expect(talk.driver.interrupts).toBe(0);
    });

    it('goes on in a fresh device object, with requests under way', async () => {
      await fc.assert(
        fc.asyncProperty(fc.array(turn, { minLength: 2, maxLength: 12 }), fc.nat(100), async (turns, at) => {
          let talk = await new Conversation().start(format | events, 16);
          for (const [i, { requests, answers }] of turns.entries()) {
            for (const item of requests) talk.send(item);
            talk.notify();
            for (const choice of answers) talk.answer(choice);
            if (i === at % turns.length) {
              const held = talk.echo.held.map(({ chain }) => chain.head);
              talk = talk.moved();
              talk.driver.bench.clock.advance(1);
              expect(talk.echo.held.map(({ chain }) => chain.head)).toEqual(held);
            }
          }
          while (talk.echo.held.length > 0) talk.answer(0);
          talk.collect();
          expect([talk.pending, talk.driver.bench.logs]).toEqual([0, []]);
        }),
        { numRuns: 50 },
      );
    });
  });

  it('waits for an event some requests ahead', async () => {
    const talk = await new Conversation().start(format | F.EVENT_IDX, 8);
    for (let lap = 0; lap < 20; lap++) {
      for (let n = 0; n < 5; n++) talk.send({ form: 'direct', readable: [1], writable: [] });
      talk.driver.rings[0].enable(3);
      talk.notify();
      const edges: number[] = [];
      for (let n = 0; n < 5; n++) {
        talk.answer(0);
        edges.push(talk.driver.takeInterrupt());
      }
      expect(edges).toEqual([0, 0, 0, 1, 0]);
      talk.collect();
    }
  });
});
