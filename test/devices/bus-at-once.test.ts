/** Accesses that a vCPU's thread carries out without waiting for anybody. */
import { beforeEach, expect, test } from 'vitest';
import { Bus } from '../../src/devices/bus.ts';
import { BusClient } from '../../src/devices/bus-client.ts';
import { SPACE } from '../../src/devices/bus-table.ts';
import { Channel } from '../../src/devices/channel.ts';
import type { Device } from '../../src/devices/device.ts';

const PORT = 0x3f8;
const POSTED = 0;
const LATCHED = 4;
const PLAIN = 8;
const CLEARED = 12;

/** One register of each kind, four bytes each. */
class ThreeRegisters implements Device {
  readonly name = 'three';
  readonly registers = [
    { offset: POSTED, size: 4, write: 'posted' },
    { offset: LATCHED, size: 4, read: 'latched' },
    { offset: CLEARED, size: 4, write: 'w1c', target: LATCHED },
  ] as const;
  read(): number {
    return 0x55;
  }

  write(): void {}

  save() {
    return {};
  }

  restore(): void {}
}

let bus: Bus;
let client: BusClient;
let device: ThreeRegisters;
let channel: Channel;

beforeEach(() => {
  bus = new Bus({ onDeviceError: (error) => expect.unreachable(error.message) });
  device = new ThreeRegisters();
  bus.mount(device, { space: 'pio', base: PORT, size: 16, offset: 0 });
  channel = new Channel();
  client = new BusClient(bus.table, channel, bus.bell);
});

test('a latched register is read', () => {
  bus.latch(device, LATCHED).store(0x04030201);
  expect(client.readAtOnce(SPACE.pio, PORT + LATCHED, 4)).toBe(0x04030201);
  expect(client.readAtOnce(SPACE.pio, PORT + LATCHED + 2, 1)).toBe(3);
});

test('a posted register is written', () => {
  expect(client.writeAtOnce(SPACE.pio, PORT + POSTED, 1, 0x41)).toBe(true);
  expect(channel.takePosted()).toMatchObject({ offset: POSTED, size: 1, isWrite: true, value: 0x41 });
});

test('bits of a latched register are cleared', () => {
  bus.latch(device, LATCHED).store(0b111);
  expect(client.writeAtOnce(SPACE.pio, PORT + CLEARED, 4, 0b101)).toBe(true);
  expect(bus.latch(device, LATCHED).load()).toBe(0b010);
});

test.each([
  ['a register that answers itself', PORT + PLAIN, 1],
  ['an access beyond a register', PORT + LATCHED + 2, 4],
  ['an access to nobody', 0x80, 1],
])('%s is for the bus', (_name, port, size) => {
  expect(client.readAtOnce(SPACE.pio, port, size)).toBe(-1);
  expect(client.writeAtOnce(SPACE.pio, port, size, 1)).toBe(false);
});

test('the write of a latched register is for the bus, and the read of a posted one', () => {
  expect(client.writeAtOnce(SPACE.pio, PORT + LATCHED, 1, 1)).toBe(false);
  expect(client.readAtOnce(SPACE.pio, PORT + POSTED, 1)).toBe(-1);
});

test('nothing is posted at once where every access is waited for, or traced', () => {
  client.synchronous = true;
  expect(client.writeAtOnce(SPACE.pio, PORT + POSTED, 1, 1)).toBe(false);
  client.synchronous = false;
  client.trace = () => {};
  expect(client.writeAtOnce(SPACE.pio, PORT + POSTED, 1, 1)).toBe(false);
  expect(client.readAtOnce(SPACE.pio, PORT + LATCHED, 1)).toBe(-1);
});
