import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ResetControl } from '../../src/devices/legacy/reset-control.ts';
import {
  PCI_CONFIG_ADDRESS,
  PCI_CONFIG_DATA,
  type PciFunction,
  PciHost,
} from '../../src/devices/pci/host.ts';
import { DeviceBench } from '../support/device-bench.ts';

type Size = 1 | 2 | 4;

function bench(withReset = true) {
  const device = new PciHost(withReset ? new ResetControl() : undefined);
  const port = new DeviceBench(device);
  const select = (bus: number, slot: number, fn: number, register: number) => {
    const address = 0x80000000 + bus * 65536 + slot * 2048 + fn * 256 + (register & 0xfc);
    port.out(PCI_CONFIG_ADDRESS, address, 4);
    return PCI_CONFIG_DATA + (register & 3);
  };
  return {
    device,
    port,
    read: (bus: number, slot: number, fn: number, register: number, size: Size) =>
      port.in(select(bus, slot, fn, register), size),
    write: (slot: number, fn: number, register: number, size: Size, value: number) =>
      port.out(select(0, slot, fn, register), value, size),
  };
}

/** A function that remembers the accesses it got. */
class Recorder implements PciFunction {
  readonly log: unknown[] = [];
  readConfig(offset: number, size: Size): number {
    this.log.push(['read', offset, size]);
    return 0x42;
  }
  writeConfig(offset: number, size: Size, value: number): void {
    this.log.push(['write', offset, size, value]);
  }
}

describe('configuration mechanism #1', () => {
  it('is found by the probe of Linux', () => {
    const { port } = bench();
    port.out(3, 0x01);
    const saved = port.in(0, 4);
    port.out(0, 0x80000000, 4);
    expect([saved, port.in(0, 4)]).toEqual([0, 0x80000000]);
  });

  it('shows a host bridge at 00:00.0, by bytes, words and dwords', () => {
    const { read } = bench();
    expect(read(0, 0, 0, 0, 4)).toBe(0x00081b36);
    expect(read(0, 0, 0, 0x0a, 2)).toBe(0x0600);
    expect(read(0, 0, 0, 0x0b, 1)).toBe(0x06);
    expect(read(0, 0, 0, 0x0e, 1)).toBe(0x00);
    expect(read(0, 0, 0, 0x2c, 4)).toBe(0x11001af4);
  });

  it('cannot change the host bridge', () => {
    const { read, write } = bench();
    write(0, 0, 0x04, 2, 0xffff);
    write(0, 0, 0x10, 4, 0xffffffff);
    expect([read(0, 0, 0, 0x04, 4), read(0, 0, 0, 0x10, 4)]).toEqual([0, 0]);
  });

  it('reads all ones everywhere else', () => {
    fc.assert(
      fc.property(fc.nat(255), fc.nat(31), fc.nat(7), fc.nat(63), (bus, slot, fn, register) => {
        fc.pre(bus + slot + fn > 0);
        expect(bench().read(bus, slot, fn, register * 4, 4)).toBe(0xffffffff);
      }),
    );
  });

  it('reads all ones while the enable bit is off', () => {
    const { port } = bench();
    port.out(0, 0, 4);
    expect(port.in(4, 4)).toBe(0xffffffff);
  });

  it('keeps reserved address bits at 0', () => {
    const { port } = bench();
    port.out(0, 0xffffffff, 4);
    expect(port.in(0, 4)).toBe(0x80fffffc);
  });

  it('takes the address by dword only', () => {
    const { port } = bench();
    port.out(0, 0x80000000, 4);
    port.out(0, 0x11, 1);
    port.out(2, 0x2222, 2);
    expect([port.in(0, 4), port.in(0, 1), port.in(2, 2)]).toEqual([0x80000000, 0xff, 0xffff]);
  });
});

describe('functions plugged in', () => {
  it('get the register and width of each access, and no access off its alignment', () => {
    const { device, port, read, write } = bench();
    const plugged = new Recorder();
    device.plug(3, 1, plugged);
    expect(read(0, 3, 1, 0x13, 1)).toBe(0x42);
    write(3, 1, 0x3e, 2, 0xbeef);
    const unaligned = port.in(5, 2);
    expect(plugged.log).toEqual([
      ['read', 0x13, 1],
      ['write', 0x3e, 2, 0xbeef],
    ]);
    expect(unaligned).toBe(0xffff);
  });

  it.each([
    [0, 0],
    [32, 0],
    [1, 8],
    [-1, 0],
    [1.5, 0],
  ])('cannot be at %i.%i', (slot, fn) => {
    expect(() => new PciHost().plug(slot, fn, new Recorder())).toThrow(
      expect.objectContaining({ code: 'TSV_E_CONFIG' }),
    );
  });

  it('cannot share a place', () => {
    const { device } = bench();
    device.plug(1, 0, new Recorder());
    expect(() => device.plug(1, 0, new Recorder())).toThrow(
      expect.objectContaining({ code: 'TSV_E_CONFIG' }),
    );
  });
});

describe('port 0xCF9 within the address register', () => {
  it('reaches the reset control by bytes, and the address register does not notice', () => {
    const { port } = bench();
    port.out(0, 0x80000800, 4);
    port.out(1, 0x02);
    port.out(1, 0x06);
    expect([port.in(1), port.in(0, 4)]).toEqual([0x06, 0x80000800]);
    expect(port.stops).toEqual([{ kind: 'reset', by: 'port 0xcf9' }]);
  });

  it('reads all ones without one', () => {
    const { port } = bench(false);
    port.out(1, 0x06);
    expect([port.in(1), port.stops]).toEqual([0xff, []]);
  });
});

describe('life cycle', () => {
  it('saves and restores the address and the reset control', () => {
    const { device, port } = bench();
    port.out(0, 0x80000000, 4);
    port.out(1, 0x02);
    const other = bench();
    other.device.restore(structuredClone(device.save()));
    expect([other.port.in(0, 4), other.port.in(1), other.port.in(4, 4)]).toEqual([
      0x80000000, 0x02, 0x00081b36,
    ]);
    other.device.reset();
    expect([other.port.in(0, 4), other.port.in(1)]).toEqual([0, 0]);
  });

  it.each([{ address: -1 }, { address: 2 ** 32 }, { resetControl: null }, { resetControl: { value: 256 } }])(
    'refuses a state with %j',
    (change) => {
      const { device } = bench();
      expect(() => device.restore({ ...device.save(), ...change })).toThrow(
        expect.objectContaining({ code: 'TSV_E_STATE' }),
      );
    },
  );

  it('takes any accesses, with values in range and a restorable state', () => {
    const step = fc.record({
      offset: fc.nat(7),
      size: fc.constantFrom(1 as const, 2 as const, 4 as const),
      value: fc.option(fc.integer({ min: 0, max: 0xffffffff })),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const { device, port } = bench();
        for (const { offset, size, value } of steps) {
          if (value === null) port.in(offset, size);
          else port.out(offset, value % 2 ** (8 * size), size);
        }
        const state = structuredClone(device.save());
        const other = bench();
        other.device.restore(state);
        expect(other.device.save()).toEqual(state);
      }),
    );
  });
});
