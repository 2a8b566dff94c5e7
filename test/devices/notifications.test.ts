import { describe, expect, it } from 'vitest';
import { Bus } from '../../src/devices/bus.ts';
import type { Device, RegisterMode } from '../../src/devices/device.ts';
import type { NotifyPlace } from '../../src/devices/notifications.ts';

/** A bus whose engine watches writes as long as it has room. */
class Bench {
  readonly watched: { place: NotifyPlace; write(): void }[] = [];
  readonly written: [number, number, number][] = [];
  room = Number.POSITIVE_INFINITY;
  closed = 0;
  /** Notifications the engine has not told of. */
  readonly untold = new Set<number>();
  readonly bus = new Bus(
    {
      onDeviceError(error) {
        throw error;
      },
    },
    {
      notifier: (place, onWrite) => {
        if (this.watched.length >= this.room) return undefined;
        const entry = { place, write: onWrite };
        this.watched.push(entry);
        return {
          take: () => this.untold.delete(place.address),
          close: () => {
            this.closed++;
            this.watched.splice(this.watched.indexOf(entry), 1);
          },
        };
      },
    },
  );
  readonly device: Device = {
    name: 'bell',
    registers: [{ offset: 0x10, size: 8, write: 'posted' }] satisfies RegisterMode[],
    write: (offset, size, value) => void this.written.push([offset, size, value]),
    save: () => ({}),
    restore() {},
  };

  get places(): NotifyPlace[] {
    return this.watched.map(({ place }) => place);
  }
}

const at = (base: number, offset = 0) => ({ space: 'mmio', base, size: 0x20, offset }) as const;

describe('writes that only notify', () => {
  it('are watched wherever the device is, and arrive as writes', () => {
    const { bus, device, ...bench } = new Bench();
    bus.mount(device, at(0x1000));
    bus.notifiedBy(device, { offset: 0x10, size: 4, value: 7 });
    bus.notifiedBy(device, { offset: 0x14 });
    bus.mount(device, at(0x8000, 0x10));

    expect(bench.watched.map(({ place }) => place)).toEqual([
      { space: 'mmio', address: 0x1010, size: 4, value: 7 },
      { space: 'mmio', address: 0x1014, size: undefined, value: undefined },
      { space: 'mmio', address: 0x8000, size: 4, value: 7 },
      { space: 'mmio', address: 0x8004, size: undefined, value: undefined },
    ]);

    bench.watched[2].write();
    bench.watched[1].write();
    expect(bench.written).toEqual([
      [0x10, 4, 7],
      [0x14, 4, 0],
    ]);
  });

  it('are watched once when they are named again, and not outside of a range', () => {
    const bench = new Bench();
    bench.bus.mount(bench.device, { space: 'mmio', base: 0x1000, size: 0x12 });

    bench.bus.notifiedBy(bench.device, { offset: 0x10, size: 2 });
    bench.bus.notifiedBy(bench.device, { offset: 0x10, size: 2 });
    bench.bus.notifiedBy(bench.device, { offset: 0x10, size: 4 });

    expect(bench.places).toHaveLength(1);
  });

  it('are not watched where the engine cannot, which is no error', () => {
    const bench = new Bench();
    bench.room = 1;
    bench.bus.mount(bench.device, at(0x1000));

    for (const value of [0, 1, 2]) bench.bus.notifiedBy(bench.device, { offset: 0x10, size: 4, value });

    expect(bench.places.map(({ value }) => value)).toEqual([0]);
  });

  it('move with the device, and end with it', () => {
    const bench = new Bench();
    bench.bus.notifiedBy(bench.device, { offset: 0x10 });
    bench.bus.mount(bench.device, at(0x1000));
    bench.bus.unmount(bench.device, { space: 'mmio', base: 0x1000 });
    expect(bench.places).toEqual([]);
    bench.bus.mount(bench.device, at(0x2000));
    expect(bench.places.map(({ address }) => address)).toEqual([0x2010]);

    bench.bus.unmount(bench.device);
    bench.bus.mount(bench.device, at(0x3000));

    expect(bench.places).toEqual([]);
    expect(bench.closed).toBe(2);
  });

  it('are not watched any more where a guest moves the device again and again', () => {
    const bench = new Bench();
    bench.bus.notifiedBy(bench.device, { offset: 0x10 });

    for (let i = 0; i < 1000; i++) {
      bench.bus.mount(bench.device, at(0x1000));
      bench.bus.unmount(bench.device, { space: 'mmio', base: 0x1000 });
    }

    expect(bench.closed).toBeLessThan(100);
  });

  it('arrive before all vCPUs have come to a stand, told or not', async () => {
    const bench = new Bench();
    bench.bus.mount(bench.device, at(0x1000));
    bench.bus.notifiedBy(bench.device, { offset: 0x10 });
    bench.untold.add(0x1010);

    await bench.bus.drain();
    await bench.bus.drain();

    expect(bench.written).toEqual([[0x10, 4, 0]]);
  });

  it('do not arrive at a bus that is closed', () => {
    const bench = new Bench();
    bench.bus.mount(bench.device, at(0x1000));
    bench.bus.notifiedBy(bench.device, { offset: 0x10 });
    const [{ write }] = bench.watched;

    bench.bus.close();
    write();

    expect(bench.written).toEqual([]);
  });
});
