/** The vCPU's side of the bus: look-up, splitting, and the modes that never leave the thread. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Bus } from '../../src/devices/bus.ts';
import { BusClient } from '../../src/devices/bus-client.ts';
import { SPACE, type Space } from '../../src/devices/bus-table.ts';
import { Channel } from '../../src/devices/channel.ts';
import type { AccessSize, Device, RegisterMode } from '../../src/devices/device.ts';

type Carried = ['call' | 'post', number, number, number, number | undefined];

/** Carries accesses out on the spot and remembers how they came. */
class InlineChannel extends Channel {
  readonly carried: Carried[] = [];
  readonly #regions: Map<number, Device>;
  readonly #offsets: Map<number, number>;

  constructor(regions: Map<number, Device>, offsets: Map<number, number>) {
    super();
    this.#regions = regions;
    this.#offsets = offsets;
  }

  override call(...[, region, at, size, isWrite, value]: Parameters<Channel['call']>): number {
    this.carried.push(['call', region, at, size, isWrite ? value : undefined]);
    return this.#perform(region, at, size, isWrite ? value : undefined);
  }

  override post(...[, region, at, size, value]: Parameters<Channel['post']>): void {
    this.carried.push(['post', region, at, size, value]);
    this.#perform(region, at, size, value);
  }

  #perform(region: number, at: number, size: number, value?: number): number {
    const device = this.#regions.get(region)!;
    const offset = at + (this.#offsets.get(region) ?? 0);
    if (value === undefined) return device.read!(offset, size as AccessSize) as number;
    device.write!(offset, size as AccessSize, value);
    return 0;
  }
}

/** A device that is an array of bytes. */
class Bytes implements Device {
  readonly name: string;
  readonly maxAccess: AccessSize;
  readonly registers: readonly RegisterMode[];
  readonly bytes: Uint8Array;

  constructor(
    name: string,
    size: number,
    maxAccess: AccessSize = 4,
    registers: readonly RegisterMode[] = [],
  ) {
    this.name = name;
    this.bytes = new Uint8Array(size);
    this.maxAccess = maxAccess;
    this.registers = registers;
  }

  read(offset: number, size: AccessSize): number {
    expect(size).toBeLessThanOrEqual(this.maxAccess);
    let value = 0;
    for (let i = size - 1; i >= 0; i--) value = value * 256 + this.bytes[offset + i];
    return value;
  }

  write(offset: number, size: AccessSize, value: number): void {
    expect(size).toBeLessThanOrEqual(this.maxAccess);
    for (let i = 0; i < size; i++) this.bytes[offset + i] = Math.floor(value / 256 ** i);
  }

  save() {
    return {};
  }
  restore(): void {}
}

interface Rig {
  bus: Bus;
  client: BusClient;
  channel: InlineChannel;
  mount(device: Device, space: Space, base: number, size: number, offset?: number): number;
}

function rig(): Rig {
  const bus = new Bus({ onDeviceError: (error) => expect.unreachable(error.message) });
  const regions = new Map<number, Device>();
  const offsets = new Map<number, number>();
  const channel = new InlineChannel(regions, offsets);
  const client = new BusClient(bus.table, channel, bus.bell);
  return {
    bus,
    client,
    channel,
    mount(device, space, base, size, offset = 0) {
      bus.mount(device, { space, base, size, offset });
      const { id } = bus.table.snapshot().regions.at(-1)!;
      regions.set(id, device);
      offsets.set(id, offset);
      return id;
    },
  };
}

describe('an access nobody claims', () => {
  it('reads all ones of its size, writes nothing, and is counted', () => {
    const { client } = rig();

    expect([1, 2, 4].map((size) => client.read(SPACE.pio, 0x80, size))).toEqual([0xff, 0xffff, 0xffffffff]);
    client.write(SPACE.mmio, 0xd000_0000, 4, 1);
    expect(client.unclaimed).toBe(4);
  });

  it('at the last port does not wrap around', () => {
    const { client, mount } = rig();
    const first = new Bytes('first', 4);
    first.bytes.fill(0x11);
    mount(first, 'pio', 0, 4);

    expect(client.read(SPACE.pio, 0xffff, 4)).toBe(0xffffffff);
    client.write(SPACE.pio, 0xfffe, 4, 0);

    expect([...first.bytes]).toEqual([0x11, 0x11, 0x11, 0x11]);
  });
});

describe('wide and straddling accesses', () => {
  it('equal a byte-wise model for any layout of ranges and widths', () => {
    const SIZE = 64;
    const range = fc.record({
      start: fc.nat(SIZE - 1),
      length: fc.integer({ min: 1, max: 12 }),
      maxAccess: fc.constantFrom<AccessSize>(1, 2, 4),
      offset: fc.nat(3),
    });
    const access = fc.record({
      at: fc.nat(SIZE + 4),
      size: fc.constantFrom(1, 2, 4),
      value: fc.option(fc.nat(0xffffffff)),
    });
    fc.assert(
      fc.property(
        fc.constantFrom<Space>('pio', 'mmio'),
        fc.constantFrom(0x1000, 0xfff0 - SIZE),
        fc.array(range, { maxLength: 8 }),
        fc.array(access, { minLength: 1, maxLength: 40 }),
        (space, base, ranges, accesses) => {
          const { client, mount } = rig();
          const model: (number | undefined)[] = new Array(SIZE + 16).fill(undefined);
          for (const [i, { start, length, maxAccess, offset }] of ranges.entries()) {
            if (model.slice(start, start + length).some((byte) => byte !== undefined)) continue;
            const device = new Bytes(`d${i}`, length + offset, maxAccess);
            for (let at = 0; at < length; at++) model[start + at] = device.bytes[offset + at] = 16 * i + at;
            mount(device, space, base + start, length, offset);
          }

          for (const { at, size, value } of accesses) {
            if (value === null) {
              let expected = 0;
              for (let i = size - 1; i >= 0; i--) expected = expected * 256 + (model[at + i] ?? 0xff);
              expect(client.read(SPACE[space], base + at, size)).toBe(expected);
            } else {
              const bits = value % 256 ** size;
              client.write(SPACE[space], base + at, size, bits);
              for (let i = 0; i < size; i++)
                if (model[at + i] !== undefined) model[at + i] = Math.floor(bits / 256 ** i) & 0xff;
            }
          }

          for (let at = 0; at < SIZE + 12; at++)
            expect(client.read(SPACE[space], base + at, 1)).toBe(model[at] ?? 0xff);
        },
      ),
      { numRuns: 500 },
    );
  });

  it('arrive as ascending pieces no wider than the device takes', () => {
    const { client, channel, mount } = rig();
    const id = mount(new Bytes('narrow', 8, 1), 'pio', 0x100, 8);
    const wide = mount(new Bytes('wide', 4, 2), 'pio', 0x108, 4);

    client.write(SPACE.pio, 0x106, 4, 0x44332211);

    expect(channel.carried).toEqual([
      ['call', id, 6, 1, 0x11],
      ['call', id, 7, 1, 0x22],
      ['call', wide, 0, 2, 0x4433],
    ]);
  });

  it('reach addresses above 4 GiB and at the top of physical memory', () => {
    const { client, mount } = rig();
    const high = new Bytes('high', 16);
    const top = new Bytes('top', 4096);
    mount(high, 'mmio', 2 ** 40, 16);
    mount(top, 'mmio', 2 ** 52 - 4096, 4096);

    client.write(SPACE.mmio, 2 ** 40 + 4, 4, 0xdeadbeef);
    client.write(SPACE.mmio, 2 ** 52 - 4, 4, 0x01020304);

    expect(client.read(SPACE.mmio, 2 ** 40 + 4, 4)).toBe(0xdeadbeef);
    expect(client.read(SPACE.mmio, 2 ** 52 - 2, 2)).toBe(0x0102);
    expect(client.read(SPACE.mmio, 4, 4)).toBe(0xffffffff);
    expect(client.read(SPACE.mmio, 2 ** 52 - 2, 4)).toBe(0xffff0102);
  });
});

describe('the map', () => {
  it('is looked up anew after every change', () => {
    const { bus, client, mount } = rig();
    const device = new Bytes('device', 4);
    device.bytes.fill(7);

    const before = client.read(SPACE.pio, 0x10, 1);
    mount(device, 'pio', 0x10, 4);
    const mounted = client.read(SPACE.pio, 0x10, 1);
    bus.unmount(device);
    const after = client.read(SPACE.pio, 0x10, 1);

    expect([before, mounted, after]).toEqual([0xff, 7, 0xff]);
  });

  it('finds every range among the most a bus can hold', () => {
    const { client, mount } = rig();
    for (let i = 0; i < 512; i++) {
      const device = new Bytes(`d${i}`, 2);
      device.bytes.set([i & 0xff, i >> 8]);
      mount(device, i % 2 ? 'mmio' : 'pio', (i % 2 ? 0xd000_0000 : 0x400) + i * 16, 2);
    }

    const found = Array.from({ length: 512 }, (_, i) =>
      client.read(i % 2 ? SPACE.mmio : SPACE.pio, (i % 2 ? 0xd000_0000 : 0x400) + i * 16, 2),
    );

    expect(found).toEqual(Array.from({ length: 512 }, (_, i) => i));
  });
});

describe('register modes', () => {
  const REGISTERS: readonly RegisterMode[] = [
    { offset: 0, size: 4, read: 'latched' },
    { offset: 4, size: 4, write: 'posted' },
    { offset: 8, size: 4, read: 'latched', write: 'w1c' },
    { offset: 12, size: 2, write: 'w1c', target: 8 },
  ];

  const modes = (space: Space = 'mmio', base = 0x1000) => {
    const made = rig();
    const device = new Bytes('modes', 32, 4, REGISTERS);
    const id = made.mount(device, space, base, 32);
    return { ...made, device, id, latch: (offset: number) => made.bus.latch(device, offset) };
  };

  it('reads a latched register without the device, also in parts', () => {
    const { client, channel, latch } = modes();
    latch(0).store(0xdeadbeef);

    const reads = [
      client.read(SPACE.mmio, 0x1000, 4),
      client.read(SPACE.mmio, 0x1001, 2),
      client.read(SPACE.mmio, 0x1003, 1),
    ];

    expect(reads).toEqual([0xdeadbeef, 0xadbe, 0xde]);
    expect(channel.carried).toEqual([]);
  });

  it('asks the device where an access leaves the latched register', () => {
    const { client, channel, id } = modes();

    client.read(SPACE.mmio, 0x1002, 4);

    expect(channel.carried).toEqual([['call', id, 2, 4, undefined]]);
  });

  it('posts writes to a posted register and waits for those that leave it', () => {
    const { client, channel, id } = modes();

    client.write(SPACE.mmio, 0x1004, 4, 1);
    client.write(SPACE.mmio, 0x1007, 1, 2);
    client.write(SPACE.mmio, 0x1006, 4, 3);
    client.read(SPACE.mmio, 0x1004, 4);

    expect(channel.carried).toEqual([
      ['post', id, 4, 4, 1],
      ['post', id, 7, 1, 2],
      ['call', id, 6, 4, 3],
      ['call', id, 4, 4, undefined],
    ]);
  });

  it('clears the bits written to a w1c register and tells the device when none is left', () => {
    const { client, channel, latch, id } = modes();
    latch(8).store(0x8000_0013);

    client.write(SPACE.mmio, 0x1008, 4, 0x11);
    const left = latch(8).load();
    client.write(SPACE.mmio, 0x100b, 1, 0x80);
    client.write(SPACE.mmio, 0x100c, 2, 0x02);

    expect(left).toBe(0x8000_0002);
    expect(latch(8).load()).toBe(0);
    expect(channel.carried).toEqual([['post', id, 12, 2, 2]]);
  });

  it('follow the device offset when only part of a device is mounted', () => {
    const { bus, client, channel, mount } = rig();
    const device = new Bytes('part', 32, 4, REGISTERS);
    const id = mount(device, 'pio', 0x200, 8, 4);
    bus.latch(device, 0).store(1);

    client.write(SPACE.pio, 0x200, 4, 9);

    expect(channel.carried).toEqual([['post', id, 0, 4, 9]]);
    expect(device.bytes[4]).toBe(9);
  });

  it('hold in ranges too large for a table of offsets', () => {
    const { client, channel, mount } = rig();
    const registers = [{ offset: 0x10_0000, size: 4, write: 'posted' }] as const;
    const id = mount(new Bytes('large', 0x20_0000, 4, registers), 'mmio', 0xd000_0000, 0x20_0000);

    client.write(SPACE.mmio, 0xd010_0000, 4, 1);
    client.write(SPACE.mmio, 0xd010_0004, 4, 2);

    expect(channel.carried).toEqual([
      ['post', id, 0x10_0000, 4, 1],
      ['call', id, 0x10_0004, 4, 2],
    ]);
  });
});

describe('tracing', () => {
  it('sees every piece once, with who claimed it', () => {
    const { client, mount } = rig();
    mount(new Bytes('narrow', 2, 1), 'pio', 0x100, 2);
    const seen: unknown[] = [];
    client.trace = (_space, address, size, isWrite, value, handled) =>
      seen.push([address, size, isWrite, value, handled]);

    client.write(SPACE.pio, 0x101, 2, 0x2211);
    client.read(SPACE.pio, 0x300, 4);

    expect(seen).toEqual([
      [0x101, 1, true, 0x11, true],
      [0x102, 1, true, 0x22, false],
      [0x300, 4, false, 0xffffffff, false],
    ]);
  });
});
