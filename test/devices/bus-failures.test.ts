/** Devices that fail, go, or never answer, and the end of a bus. */
import { describe, expect, it } from 'vitest';
import { bothWays, device, later, machine, POSTED } from './bus-machine.ts';

bothWays(() => {
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
      const { bus, vcpu, errors } = machine();
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
      const { bus, vcpu, errors } = machine();
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
      const { bus, vcpu, errors } = machine(20);
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
      const { bus, vcpu, errors } = machine(0);
      bus.mount(device({ read: () => later(9, 60) }), { space: 'pio', base: 0x100, size: 4 });
      void bus.serve();

      expect(await vcpu('return read(0x100);')).toBe(9);
      expect(errors).toEqual([]);
    });
  });

  describe('unmounting', () => {
    it('answers with all ones what is on its way, and does not call the device again', async () => {
      const { bus, vcpu, until } = machine();
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
      const { bus, vcpu, until } = machine(0);
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
      const { bus, vcpu } = machine(0);
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
});
