import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FW_CFG_DATA, FW_CFG_DMA, FW_CFG_SELECTOR, FwCfg } from '../../src/devices/fw-cfg/fw-cfg.ts';
import {
  BOOT_ORDER_FILE,
  bootOrderFile,
  E820_FILE,
  e820File,
  numberItem,
} from '../../src/devices/fw-cfg/items.ts';
import * as key from '../../src/devices/fw-cfg/keys.ts';
import { DeviceBench } from '../support/device-bench.ts';

const MIB = 2 ** 20;
const DESCRIPTOR = 0x1000;

function bench(device = new FwCfg()) {
  const port = new DeviceBench(device);
  const select = (at: number) => port.out(FW_CFG_SELECTOR, at, 2);
  const read = (at: number, length: number) => {
    select(at);
    return Array.from({ length }, () => port.in(FW_CFG_DATA));
  };
  /** Carries out a DMA access and returns the control field afterwards. */
  const dma = (control: number, length: number, address: bigint, at = DESCRIPTOR) => {
    const descriptor = new DataView(new ArrayBuffer(16));
    descriptor.setUint32(0, control);
    descriptor.setUint32(4, length);
    descriptor.setBigUint64(8, address);
    if (port.memory.contains(at, 16)) port.memory.write(at, new Uint8Array(descriptor.buffer));
    const register = new DataView(new ArrayBuffer(8));
    register.setBigUint64(0, BigInt(at));
    port.out(FW_CFG_DMA, register.getUint32(0, true), 4);
    port.out(FW_CFG_DMA + 4, register.getUint32(4, true), 4);
    if (!port.memory.contains(at, 16)) return undefined;
    return new DataView(port.memory.read(at, 4).buffer).getUint32(0);
  };
  return { device, port, select, read, dma };
}

const text = (bytes: readonly number[] | Uint8Array) => String.fromCharCode(...bytes);
const { FW_CFG_DMA_CTL_READ: READ, FW_CFG_DMA_CTL_SELECT: SELECT, FW_CFG_DMA_CTL_SKIP: SKIP } = key;
const { FW_CFG_DMA_CTL_WRITE: WRITE, FW_CFG_DMA_CTL_ERROR: ERROR } = key;

describe('selector and data', () => {
  it('show the signature and the features', () => {
    const { read } = bench();
    expect(text(read(key.FW_CFG_SIGNATURE, 4))).toBe('QEMU');
    expect(read(key.FW_CFG_ID, 4)).toEqual([3, 0, 0, 0]);
  });

  it('read zeros past the end and for keys without an item', () => {
    const { read } = bench();
    expect(text(read(key.FW_CFG_SIGNATURE, 6))).toBe('QEMU\0\0');
    expect(read(0x3fff, 2)).toEqual([0, 0]);
    expect(read(0xffff, 2)).toEqual([0, 0]);
  });

  it('start an item over when it is selected again, also for writing', () => {
    const { read, port } = bench();
    read(key.FW_CFG_SIGNATURE, 2);
    const again = read(key.FW_CFG_SIGNATURE, 1);
    port.out(FW_CFG_SELECTOR, key.FW_CFG_WRITE_CHANNEL | key.FW_CFG_SIGNATURE, 2);
    port.out(FW_CFG_DATA, 0x58);
    expect([text(again), text(read(key.FW_CFG_SIGNATURE, 4))]).toEqual(['Q', 'QEMU']);
  });

  it('list the files in the directory', () => {
    const { device, read } = bench();
    const entries = [{ gpa: 0, size: 0xa0000, type: 1 }];
    const first = device.addFile(E820_FILE, e820File(entries));
    device.addFile(BOOT_ORDER_FILE, bootOrderFile(['/rom@genroms/linuxboot.bin']));
    const directory = new Uint8Array(read(key.FW_CFG_FILE_DIR, 4 + 2 * 64));
    const view = new DataView(directory.buffer);
    const name = (at: number) => text(directory.subarray(at + 8, at + 64)).replace(/\0+$/, '');
    expect(view.getUint32(0)).toBe(2);
    expect([view.getUint32(4), view.getUint16(8), name(4)]).toEqual([20, first, 'etc/e820']);
    expect([view.getUint32(68), view.getUint16(72), name(68)]).toEqual([27, first + 1, 'bootorder']);
    expect(read(first, 20)).toEqual([...e820File(entries)]);
  });

  it('produce an item only when it is asked for, and once', () => {
    const { device, read, port } = bench();
    let calls = 0;
    const at = device.addFile('opt/lazy', {
      size: 3,
      load: () => {
        calls++;
        return new Uint8Array([1, 2, 3]);
      },
    });
    read(key.FW_CFG_FILE_DIR, 68);
    port.out(FW_CFG_SELECTOR, at, 2);
    const before = calls;
    expect([before, read(at, 3), calls]).toEqual([0, [1, 2, 3], 1]);
  });

  it.each<[string, () => Uint8Array]>([
    [
      'fails',
      () => {
        throw new Error('gone');
      },
    ],
    ['has another size', () => new Uint8Array(2)],
  ])('read zeros and log when an item %s', (_how, load) => {
    const { device, read, port } = bench();
    const at = device.addFile('opt/bad', { size: 3, load });
    expect(read(at, 3)).toEqual([0, 0, 0]);
    expect(port.logs.map(({ level }) => level)).toEqual(['error']);
  });

  it('hold numbers, also those of x86 alone', () => {
    const { device, read } = bench();
    device.add(key.FW_CFG_NB_CPUS, numberItem(4, 2));
    device.add(key.FW_CFG_RAM_SIZE, numberItem(0x1_2345_6789n, 8));
    device.add(key.FW_CFG_ARCH_LOCAL | 3, numberItem(7, 4));
    expect(read(key.FW_CFG_NB_CPUS, 2)).toEqual([4, 0]);
    expect(read(key.FW_CFG_RAM_SIZE, 8)).toEqual([0x89, 0x67, 0x45, 0x23, 1, 0, 0, 0]);
    expect(read(key.FW_CFG_ARCH_LOCAL | 3, 4)).toEqual([7, 0, 0, 0]);
  });

  it.each([
    ['a key taken', (device: FwCfg) => device.add(key.FW_CFG_SIGNATURE, new Uint8Array(1))],
    ['the directory', (device: FwCfg) => device.add(key.FW_CFG_FILE_DIR, new Uint8Array(1))],
    ["a file's key", (device: FwCfg) => device.add(key.FW_CFG_FILE_FIRST, new Uint8Array(1))],
    ['a fraction', (device: FwCfg) => device.add(2.5, new Uint8Array(1))],
    ['an empty name', (device: FwCfg) => device.addFile('', new Uint8Array(1))],
    ['a name of 56', (device: FwCfg) => device.addFile('x'.repeat(56), new Uint8Array(1))],
    ['a name beyond ASCII', (device: FwCfg) => device.addFile('é', new Uint8Array(1))],
    ['5 GiB', (device: FwCfg) => device.addFile('x', { size: 5 * 2 ** 30, load: () => new Uint8Array(0) })],
    [
      'a name twice',
      (device: FwCfg) => {
        device.addFile('x', new Uint8Array(1));
        device.addFile('x', new Uint8Array(1));
      },
    ],
  ])('refuse %s', (_what, act) => {
    expect(() => act(new FwCfg())).toThrow(expect.objectContaining({ code: 'TSV_E_CONFIG' }));
  });
});

describe('DMA', () => {
  it('is announced by its signature', () => {
    const { port } = bench();
    const bytes = Array.from({ length: 8 }, (_, i) => port.in(FW_CFG_DMA + i));
    expect([text(bytes), port.in(FW_CFG_DMA, 4).toString(16)]).toEqual(['QEMU CFG', '554d4551']);
  });

  it('selects and reads, in pieces, zeros past the end', () => {
    const { device, port, dma } = bench();
    const at = device.addFile('opt/data', new TextEncoder().encode('0123456789'));
    port.memory.fill(0x2000, 32, 0xee);
    expect(dma((at << 16) | SELECT | READ, 4, 0x2000n)).toBe(0);
    expect(dma(SKIP, 2, 0n)).toBe(0);
    expect(dma(READ, 8, 0x2004n)).toBe(0);
    expect(text(port.memory.read(0x2000, 12))).toBe('01236789\0\0\0\0');
    expect(port.memory.readU8(0x200c)).toBe(0xee);
  });

  it('selects alone for the data register', () => {
    const { device, port, dma } = bench();
    const at = device.addFile('opt/data', new TextEncoder().encode('ab'));
    expect(dma((at << 16) | SELECT, 0, 0n)).toBe(0);
    expect(port.in(FW_CFG_DATA)).toBe(0x61);
  });

  it('refuses writes', () => {
    const { dma } = bench();
    expect(dma((key.FW_CFG_SIGNATURE << 16) | SELECT | WRITE, 4, 0x2000n)).toBe(ERROR);
  });

  it.each([
    ['outside RAM', BigInt(16 * MIB), 4],
    ['across the end of RAM', BigInt(MIB - 2), 4],
    ['at the end of the address space', 2n ** 64n - 2n, 4],
    ['longer than RAM', 0n, 0xffffffff],
  ])('answers a target %s with an error and writes nothing', (_where, address, length) => {
    const { port, dma } = bench();
    port.memory.fill(MIB - 2, 2, 0xee);
    expect(dma(SELECT | READ, length, address)).toBe(ERROR);
    expect(port.memory.readU16(MIB - 2)).toBe(0xeeee);
  });

  it.each([MIB, MIB - 8, 2 ** 40])('ignores a descriptor at %i, which is not RAM, and says so', (at) => {
    const { port, dma } = bench();
    dma(SELECT | READ, 4, 0n, at);
    expect(port.logs.map(({ level }) => level)).toEqual(['warn']);
  });

  it('survives a transfer over its own descriptor', () => {
    const { dma } = bench();
    expect(dma(SELECT | READ, 64, BigInt(DESCRIPTOR))).toBe(0);
  });

  it('skips any length', () => {
    const { device, dma } = bench();
    expect(dma(SELECT | SKIP, 0xffffffff, 0n)).toBe(0);
    expect(device.save().offset).toBe(4);
  });
});

describe('life cycle', () => {
  it('continues in the middle of an item on another machine with the same items', () => {
    const make = () => {
      const device = new FwCfg();
      device.addFile('opt/data', new TextEncoder().encode('abcdef'));
      return bench(device);
    };
    const first = make();
    first.read(key.FW_CFG_FILE_FIRST, 2);
    first.port.out(FW_CFG_DMA, 0x01000000, 4);
    const other = make();
    other.device.restore(structuredClone(first.device.save()));
    expect(other.port.in(FW_CFG_DATA)).toBe(0x63);
    other.device.reset();
    expect(other.device.save()).toEqual(make().device.save());
  });

  it('refuses the state of a machine with other items', () => {
    const first = bench();
    first.device.addFile('opt/data', new Uint8Array(1));
    expect(() => bench().device.restore(first.device.save())).toThrow(
      expect.objectContaining({ code: 'TSV_E_STATE' }),
    );
  });

  it.each([{ key: 0x10000 }, { offset: 5 }, { dmaHigh: -1 }, { items: 'x' }, { items: [] }])(
    'refuses a state with %j',
    (change) => {
      const { device } = bench();
      expect(() => device.restore({ ...device.save(), ...change })).toThrow(
        expect.objectContaining({ code: 'TSV_E_STATE' }),
      );
    },
  );

  it('takes any accesses and descriptors, with values in range and a restorable state', () => {
    const size = fc.constantFrom(1 as const, 2 as const, 4 as const);
    const step = fc.oneof(
      fc.record({ read: fc.nat(11), size }),
      fc.record({ write: fc.nat(11), size, value: fc.integer({ min: 0, max: 0xffffffff }) }),
      fc.record({
        control: fc.integer({ min: 0, max: 0xffffffff }),
        length: fc.oneof(fc.nat(5000), fc.integer({ min: 0, max: 0xffffffff })),
        address: fc.oneof(
          fc.bigInt({ min: 0n, max: BigInt(MIB) }),
          fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
        ),
        at: fc.oneof(fc.nat(MIB), fc.nat(2 ** 31 - 1)),
      }),
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 30 }), (steps) => {
        const make = () => {
          const device = new FwCfg();
          device.addFile('opt/data', new Uint8Array(100).fill(7));
          return bench(device);
        };
        const first = make();
        for (const action of steps) {
          if ('read' in action) first.port.in(action.read, action.size);
          else if ('write' in action) {
            first.port.out(action.write, action.value % 2 ** (8 * action.size), action.size);
          } else first.dma(action.control, action.length, action.address, action.at);
        }
        const state = structuredClone(first.device.save());
        const other = make();
        other.device.restore(state);
        expect(other.device.save()).toEqual(state);
        expect(other.port.in(FW_CFG_DATA)).toBe(first.port.in(FW_CFG_DATA));
      }),
    );
  });
});
