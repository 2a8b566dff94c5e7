/** The PCI side of a virtio function: on a real bus, where a guest may put it anywhere. */
import { describe, expect, it } from 'vitest';
import { Bus } from '../../../src/devices/bus.ts';
import type { DeviceContext } from '../../../src/devices/device.ts';
import {
  PCI_CONFIG_ADDRESS,
  PCI_CONFIG_DATA,
  PCI_ECAM_OFFSET,
  PCI_ECAM_SIZE,
  PCI_HOST_SIZE,
  PciHost,
} from '../../../src/devices/pci/host.ts';
import { VirtioPci } from '../../../src/devices/virtio/transport/pci.ts';
import { COMMON } from '../../../src/devices/virtio/transport/pci-common.ts';
import { DeviceBench } from '../../support/device-bench.ts';
import { Echo } from './support/echo.ts';
import { PciDriver, PciPinDriver } from './support/pci-driver.ts';

type Size = 1 | 2 | 4;
const ECAM = 0xe0000000;

/** A bus with a host bridge and two functions. */
async function machine() {
  const errors: unknown[] = [];
  const bus = new Bus({ onDeviceError: (error) => errors.push(error) });
  const host = new PciHost(undefined, { first: 0xc0000000, last: 0xc000ffff });
  bus.mount(host, { space: 'pio', base: 0xcf8, size: PCI_HOST_SIZE });
  bus.mount(host, { space: 'mmio', base: ECAM, size: PCI_ECAM_SIZE, offset: PCI_ECAM_OFFSET });
  const logs: string[] = [];
  const functions = [1, 2].map((slot) => {
    const device = new VirtioPci(new Echo());
    const bench = new DeviceBench(device);
    const context: DeviceContext = {
      memory: bench.memory,
      clock: bench.clock,
      irq: () => bench.irq(),
      latch: (offset) => bench.latch(offset),
      mount: (mount) => bus.mount(device, mount),
      unmount: (mount) => bus.unmount(device, mount),
      notifiedBy: () => {},
      signalMsi: () => {},
      stop: () => {},
      log: (_level, message) => logs.push(message),
    };
    device.attach(context);
    host.plug(slot, 0, device);
    return device;
  });
  const at = (slot: number, register: number) => ECAM + slot * 0x8000 + register;
  return {
    bus,
    logs,
    functions,
    errors,
    cfg: (slot: number, register: number, size: Size = 4) => bus.access('mmio', at(slot, register), size),
    setCfg: (slot: number, register: number, value: number, size: Size = 4) =>
      bus.access('mmio', at(slot, register), size, value),
    peek: (address: number, size: Size = 4) => bus.access('mmio', address, size),
  };
}

describe('configuration space', () => {
  it('is the same through the ECAM and through the ports', async () => {
    const { bus, cfg, setCfg } = await machine();
    await setCfg(1, 0x3c, 0xab, 1);
    for (const register of [0, 0x08, 0x10, 0x2c, 0x34, 0x3c]) {
      await bus.access('pio', 0xcf8 + PCI_CONFIG_ADDRESS, 4, 0x80000800 + register);
      expect(await bus.access('pio', 0xcf8 + PCI_CONFIG_DATA, 4)).toBe(await cfg(1, register));
    }
    expect([await cfg(1, 0), await cfg(1, 0x3c, 2)]).toEqual([0x106a1af4, 0x01ab]);
  });

  it('reads 0 behind its 256 bytes, and ones where no function is', async () => {
    const { cfg } = await machine();
    expect([await cfg(1, 0x100), await cfg(3, 0), await cfg(1, 0x8000 / 8)]).toEqual([
      0, 0xffffffff, 0xffffffff,
    ]);
  });
});

describe('BARs', () => {
  it('have addresses before any guest asks, apart from each other, and tell their sizes', async () => {
    const { cfg, setCfg } = await machine();
    const bases = [await cfg(1, 0x10), await cfg(1, 0x14), await cfg(2, 0x10), await cfg(2, 0x14)];
    expect(bases).toEqual([0xc0000000, 0xc0004000, 0xc0008000, 0xc000c000]);
    await setCfg(1, 0x10, 0xffffffff);
    await setCfg(1, 0x14, 0xffffffff);
    await setCfg(1, 0x18, 0xffffffff);
    expect([await cfg(1, 0x10), await cfg(1, 0x14), await cfg(1, 0x18)]).toEqual([0xffffc000, 0xfffff000, 0]);
  });

  it('are on the bus as long as memory is enabled, where the guest puts them', async () => {
    const { cfg, setCfg, peek, errors } = await machine();
    const queues = (base: number) => peek(base + COMMON.NUM_QUEUES, 2);
    expect(await queues(0xc0000000)).toBe(0xffff);
    await setCfg(1, 4, 2, 2);
    expect(await queues(0xc0000000)).toBe(1);
    await setCfg(1, 0x10, 0xd0000000);
    expect([await queues(0xc0000000), await queues(0xd0000000)]).toEqual([0xffff, 1]);
    await setCfg(1, 4, 0, 2);
    expect([await queues(0xd0000000), await cfg(1, 0x10), errors]).toEqual([0xffff, 0xd0000000, []]);
  });

  it('stay off the bus where something else is, until that has gone', async () => {
    const { setCfg, peek, logs, errors } = await machine();
    const queues = (base: number) => peek(base + COMMON.NUM_QUEUES, 2);
    await setCfg(1, 4, 2, 2);
    await setCfg(2, 0x10, 0xc0000000);
    await setCfg(2, 4, 2, 2);
    expect([await queues(0xc0000000), logs.length, errors]).toEqual([1, 1, []]);
    await setCfg(1, 0x10, 0xd0000000);
    await setCfg(2, 4, 2, 2);
    expect([await queues(0xc0000000), await queues(0xd0000000)]).toEqual([1, 1]);
    await setCfg(2, 0x10, ECAM);
    expect(await peek(ECAM, 4)).toBe(0x00081b36);
  });

  it('come back with a restored state', async () => {
    const one = await machine();
    await one.setCfg(1, 0x10, 0xd0000000);
    await one.setCfg(1, 4, 6, 2);
    const two = await machine();
    two.functions[0].restore(structuredClone(one.functions[0].save()));
    expect(await two.peek(0xd0000000 + COMMON.NUM_QUEUES, 2)).toBe(1);
  });
});

describe('MSI-X', () => {
  /** The table's entry of a vector, and the pending bits. */
  const places = (driver: PciDriver) => {
    const table = driver.cfg(0x14, 4);
    return { entry: (vector: number) => table + vector * 16, pending: table + 0x800 };
  };

  it('holds what is masked back as pending and sends it when it is unmasked, once', () => {
    const echo = new Echo();
    const driver = new PciDriver(echo);
    const { entry, pending } = places(driver);
    return driver.start().then(() => {
      driver.poke(entry(0) + 12, 4, 1);
      echo.host?.configChanged();
      echo.host?.configChanged();
      expect([driver.bench.messages.length, driver.peek(pending, 4)]).toEqual([0, 1]);
      driver.poke(entry(0), 4, 0xfee01000);
      driver.poke(entry(0) + 12, 4, 0);
      expect(driver.bench.messages).toEqual([{ address: 0xfee01000, data: 0x4000 }]);
      expect(driver.peek(pending, 4)).toBe(0);
    });
  });

  it('can mask the whole function', async () => {
    const echo = new Echo();
    const driver = new PciDriver(echo);
    await driver.start();
    const control = driver.capabilities.get('msix')! + 2;
    driver.cfgWrite(control, 2, 0xc000);
    echo.host?.configChanged();
    expect(driver.bench.messages.length).toBe(0);
    driver.cfgWrite(control, 2, 0x8000);
    expect(driver.bench.messages.length).toBe(1);
  });

  it('has no vectors but its own', async () => {
    const driver = new PciDriver(new Echo());
    driver.setCommon(COMMON.CONFIG_VECTOR, 2, 2);
    expect(driver.common(COMMON.CONFIG_VECTOR, 2)).toBe(0xffff);
    driver.setCommon(COMMON.QUEUE_SELECT, 2, 5);
    expect(driver.common(COMMON.QUEUE_VECTOR, 2)).toBe(0xffff);
  });
});

describe('the pin', () => {
  it('is raised until the ISR status is read, and not while the guest disables it', async () => {
    const echo = new Echo();
    const driver = new PciPinDriver(echo);
    await driver.start();
    const line = driver.bench.irq();
    echo.host?.configChanged();
    expect([line.level, driver.cfg(6, 2) & 8]).toEqual([true, 8]);
    driver.cfgWrite(4, 2, 0x406);
    expect(line.level).toBe(false);
    driver.cfgWrite(4, 2, 6);
    expect([line.level, driver.takeInterrupt(), line.level, driver.cfg(6, 2) & 8]).toEqual([
      true,
      2,
      false,
      0,
    ]);
  });
});

describe('the window in configuration space', () => {
  it('reaches the structures without any BAR on the bus', () => {
    const driver = new PciDriver(new Echo());
    driver.cfgWrite(4, 2, 0);
    const window = driver.capabilities.get('virtio5')!;
    const select = (bar: number, offset: number, length: number) => {
      driver.cfgWrite(window + 4, 1, bar);
      driver.cfgWrite(window + 8, 4, offset);
      driver.cfgWrite(window + 12, 4, length);
    };
    select(0, COMMON.DEVICE_STATUS, 1);
    driver.cfgWrite(window + 16, 1, 3);
    expect(driver.cfg(window + 16, 1)).toBe(3);
    // Other widths than the length, and places outside the BAR, reach nothing.
    expect(driver.cfg(window + 16, 4)).toBe(0);
    select(0, 0x4000, 4);
    expect(driver.cfg(window + 16, 4)).toBe(0);
    select(7, 0, 4);
    expect(driver.cfg(window + 16, 4)).toBe(0);
  });
});
