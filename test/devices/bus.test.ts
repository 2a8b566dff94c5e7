/** What can be mounted on a bus, and where. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Bus } from '../../src/devices/bus.ts';
import type { Device } from '../../src/devices/device.ts';
import { TsvError } from '../../src/errors.ts';
import { device, machine } from './bus-machine.ts';

describe('mounting', () => {
  it('refuses ranges that overlap, naming both devices, and keeps the map as it was', () => {
    const { bus } = machine();
    bus.mount(device({ name: 'first' }), { space: 'pio', base: 0x100, size: 8 });

    const overlap = () => bus.mount(device({ name: 'second' }), { space: 'pio', base: 0x107, size: 1 });

    expect(overlap).toThrow(/"second".*"first"/);
    expect(bus.mounts).toHaveLength(1);
    expect(() => bus.mount(device(), { space: 'mmio', base: 0x107, size: 1 })).not.toThrow();
  });

  it.each([
    ['a port beyond the last', { space: 'pio', base: 0xffff, size: 2 }],
    ['no length', { space: 'pio', base: 0x80, size: 0 }],
    ['a negative length', { space: 'mmio', base: 0x80, size: -1 }],
    ['a negative base', { space: 'mmio', base: -4, size: 8 }],
    ['half a byte', { space: 'pio', base: 0x80, size: 0.5 }],
    ['an address with more than 52 bits', { space: 'mmio', base: 2 ** 52, size: 1 }],
    ['not a number', { space: 'mmio', base: Number.NaN, size: 1 }],
    ['infinity', { space: 'mmio', base: 0, size: Number.POSITIVE_INFINITY }],
  ] as const)('refuses %s', (_, mount) => {
    const { bus } = machine();

    expect(() => bus.mount(device(), mount)).toThrow(expect.objectContaining({ code: 'TSV_E_BUS_RANGE' }));
    expect(bus.mounts).toHaveLength(0);
  });

  it('refuses a latched register of an odd size and a latch nobody declared', () => {
    const { bus } = machine();
    const odd = device({ registers: [{ offset: 0, size: 3, read: 'latched' }] });

    expect(() => bus.mount(odd, { space: 'pio', base: 0, size: 8 })).toThrow(/3 bytes/);
    expect(() => bus.latch(device(), 0)).toThrow(/no latch/);
  });

  it('accepts exactly the ranges that are free, whatever is mounted and unmounted', () => {
    const range = fc.record({ base: fc.nat(60), size: fc.integer({ min: 1, max: 10 }) });
    fc.assert(
      fc.property(fc.array(fc.tuple(range, fc.boolean()), { maxLength: 40 }), (steps) => {
        const bus = new Bus({ onDeviceError: () => {} });
        const taken = new Map<number, Device>();
        for (const [{ base, size }, removes] of steps) {
          if (removes) {
            const victim = taken.get(base);
            if (victim === undefined) continue;
            bus.unmount(victim);
            for (const [at, owner] of taken) if (owner === victim) taken.delete(at);
            continue;
          }
          const wanted = Array.from({ length: size }, (_, i) => base + i);
          const free = wanted.every((at) => !taken.has(at));
          const fresh = device();
          if (free) {
            bus.mount(fresh, { space: 'pio', base, size });
            for (const at of wanted) taken.set(at, fresh);
          } else expect(() => bus.mount(fresh, { space: 'pio', base, size })).toThrow(TsvError);
        }
        const covered = bus.mounts.flatMap(({ base, size }) =>
          Array.from({ length: size }, (_, i) => base + i),
        );
        expect(covered.sort((a, b) => a - b)).toEqual([...taken.keys()].sort((a, b) => a - b));
      }),
    );
  });

  it('gives back the latches of devices that are gone, as often as devices come and go', () => {
    const { bus } = machine();
    const registers = Array.from({ length: 16 }, (_, i) => ({
      offset: 4 * i,
      size: 4,
      read: 'latched' as const,
    }));

    for (let i = 0; i < 200; i++) {
      const guest = device({ registers });
      bus.mount(guest, { space: 'mmio', base: 0x1000, size: 64 });
      expect(bus.latch(guest, 60).load()).toBe(0);
      bus.latch(guest, 60).store(i + 1);
      bus.unmount(guest);
    }

    expect(bus.mounts).toHaveLength(0);
  });

  it('says so when the table or the latches are full', () => {
    const { bus } = machine();
    const fill = () => {
      for (let i = 0; i < 600; i++) bus.mount(device(), { space: 'pio', base: i, size: 1 });
    };

    expect(fill).toThrow(expect.objectContaining({ code: 'TSV_E_BUS_RANGE' }));
  });

  it('names regions anew after 65536 mounts', async () => {
    const { bus } = machine();
    const constant = device({ read: () => 0x11 });
    bus.mount(constant, { space: 'pio', base: 0x10, size: 1 });
    const guest = device({ read: () => 0x22 });
    const ids = new Set<number>();
    // The table is published each time; a small one is quick.
    for (let i = 0; i < 66_000; i++) {
      bus.mount(guest, { space: 'pio', base: 0x20, size: 1 });
      if (i > 65_500) ids.add(bus.table.snapshot().regions[1].id);
      bus.unmount(guest);
    }

    const [{ id }] = bus.table.snapshot().regions;
    expect(ids.has(id)).toBe(false);
    expect(Math.max(...ids)).toBeLessThanOrEqual(0xffff);
    expect(await bus.access('pio', 0x10, 1)).toBe(0x11);
  });
});
