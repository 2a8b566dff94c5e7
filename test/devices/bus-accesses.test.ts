/** Accesses from vCPUs on threads of their own. */
import { describe, expect, it } from 'vitest';
import { bothWays, device, later, machine, POSTED } from './bus-machine.ts';

bothWays(() => {
  describe('accesses from vCPU threads', () => {
    it('reach the device in program order, whatever their modes', async () => {
      const { bus, vcpu } = machine();
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
      const { bus, vcpu } = machine();
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
      const { bus, vcpu } = machine();
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
      const { bus, vcpu } = machine();
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
      const { bus, vcpu } = machine();
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
      const { bus, vcpu } = machine();
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
      const { bus, words, vcpu, tell } = machine();
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
      const { bus, words, vcpu } = machine();
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
      const { bus, vcpu, words } = machine();
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
      const { bus, vcpu } = machine();
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
});
