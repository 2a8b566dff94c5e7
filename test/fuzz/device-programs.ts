/** What drivers do to the board's devices, with random arguments: raw material for the device fuzzer. */
import { FW_CFG_PORT } from '../../src/machine/board.ts';
import { RAM, type Step } from './board.ts';
import { hex, type Random } from './support.ts';

type Program = (random: Random) => Step[];

const out = (port: number, value: number, size: 1 | 2 | 4 = 1): Step => ['out', port, size, value];
const read = (port: number, size: 1 | 2 | 4 = 1): Step => ['in', port, size];
const repeat = (count: number, make: () => Step[]): Step[] => Array.from({ length: count }, make).flat();

const COM1 = 0x3f8;
const DLAB = 0x80;

/** An 8250 driver: probe, divisor, FIFO, interrupts, loopback, output and input. */
const serial: Program = (random) => [
  out(COM1 + 3, DLAB | random.below(256)),
  out(COM1, random.below(256)),
  out(COM1 + 1, random.below(256)),
  out(COM1 + 3, random.below(128)),
  out(COM1 + 2, random.pick([0, 1, 7, 0xc7, 0x41, random.below(256)])),
  out(COM1 + 4, random.pick([0x0b, 0x1b, 0x10, random.below(256)])),
  out(COM1 + 1, random.below(256)),
  ['type', hex(random.bytes(random.below(100)))],
  ...repeat(random.below(40), () => [random.chance(50) ? out(COM1, random.below(256)) : read(COM1)]),
  ...repeat(random.below(10), () => [read(COM1 + 2), read(COM1 + 5), read(COM1 + 6)]),
  ...(random.chance(30) ? ([['break']] as Step[]) : []),
];

/** Modes, access widths, latch and read-back commands, counts at their limits. */
const pit: Program = (random) => [
  out(0x43, random.below(256)),
  ...repeat(random.below(4), () => [
    out(0x40 + random.below(3), random.pick([0, 1, 2, 0xff, random.below(256)])),
  ]),
  out(0x61, random.below(256)),
  ['time', random.below(100_000)],
  out(0x43, random.pick([0xe2, 0xc2, 0xde, 0x00, 0x40, 0x80, random.below(256)])),
  ...repeat(random.below(6), () => [read(0x40 + random.below(4))]),
  read(0x61),
  ['stall', random.below(2 ** 31)],
  read(0x40),
];

/** The RTC with dates that do not exist, alarms, rates, and status reads in the middle. */
const rtc: Program = (random) => [
  out(0x70, 0x0b),
  out(0x71, random.below(256)),
  out(0x70, 0x0a),
  out(0x71, random.below(256)),
  ...repeat(random.below(14), () => [
    out(0x70, random.pick([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0x32, random.below(256)])),
    random.chance(60) ? out(0x71, random.pick([0, 0x59, 0x60, 0x99, 0xff, random.below(256)])) : read(0x71),
  ]),
  ['time', random.below(2_000_000)],
  out(0x70, 0x0c),
  read(0x71),
  ['stall', random.below(2 ** 31) * 1000],
  read(0x71),
];

/** Controller and keyboard commands with and without their arguments. */
const keyboard: Program = (random) => [
  ...repeat(random.below(12), () => [
    random.chance(50)
      ? out(0x64, random.pick([0x20, 0x60, 0xaa, 0xab, 0xad, 0xae, 0xd0, 0xd1, 0xd2, random.below(256)]))
      : out(0x60, random.below(256)),
    ...(random.chance(70) ? [read(0x64), read(0x60)] : []),
  ]),
  out(0x92, random.below(256) & ~1),
];

/** fw_cfg by port, and by DMA with descriptors that lie, overlap themselves, wrap, and end outside RAM. */
const fwCfg: Program = (random) => {
  const address = random.pick([random.below(RAM), RAM - 16, RAM - 15, RAM - random.below(32)]);
  const descriptor = new DataView(new ArrayBuffer(16));
  const control = random.pick([2, 4, 8, 0x10, 10, 0x0019_000a, 0x0019_0002, random.u32()]);
  descriptor.setUint32(0, control | (random.chance(50) ? random.below(0x30) << 16 : 0));
  descriptor.setUint32(4, random.pick([0, 1, 4, 0x1000, RAM - 1, RAM, 0xffffffff, random.u32()]));
  descriptor.setUint32(8, random.chance(80) ? 0 : random.evil32());
  const target = random.chance(30) ? address + random.below(16) : random.below(RAM + 1);
  descriptor.setUint32(12, random.chance(80) ? target : random.evil32());
  const at = Math.min(address, RAM - 16);
  const swapped = Buffer.alloc(4);
  swapped.writeUInt32LE(address);
  return [
    out(FW_CFG_PORT, random.pick([0, 1, 5, 0x19, 0x20, 0x4000, 0x8000, random.below(0x10000)]), 2),
    ...repeat(random.below(20), () => [read(FW_CFG_PORT + 1, random.pick([1, 1, 2, 4]))]),
    ['memory', at, hex(new Uint8Array(descriptor.buffer))],
    ...(random.chance(30) ? [out(FW_CFG_PORT + 4, random.evil32(), 4)] : [out(FW_CFG_PORT + 4, 0, 4)]),
    out(FW_CFG_PORT + 8, swapped.readUInt32BE(), 4),
    read(FW_CFG_PORT + 4, 4),
    read(FW_CFG_PORT + 8, 4),
  ];
};

/** Configuration cycles to every bus, slot, function and register, in every width. */
const pci: Program = (random) =>
  repeat(1 + random.below(16), () => [
    out(
      0xcf8,
      random.chance(70)
        ? (0x80000000 | (random.u32() & (random.chance(70) ? 0xfc : 0xffffff))) >>> 0
        : random.u32(),
      4,
    ),
    random.chance(60)
      ? read(0xcfc + random.below(4), random.pick([1, 2, 4]))
      : out(0xcfc + random.below(4), random.u32() & 0xff),
    ...(random.chance(10) ? [out(0xcf9, random.below(256))] : []),
  ]);

/** Power management: events, sleep types, the timer's overflow. */
const power: Program = (random) => [
  out(0x600 + 2, random.below(0x10000), 2),
  out(0x600, random.below(0x10000), 2),
  ...(random.chance(50) ? ([['button']] as Step[]) : []),
  out(0x604, (random.below(8) << 10) | (random.below(2) << 13), 2),
  read(0x608, 4),
  ['stall', random.below(2 ** 31) * 10],
  read(0x608, random.pick([1, 2, 4])),
  out(0x610, random.u32(), 4),
  read(0x600, 4),
];

export const programs: readonly Program[] = [serial, pit, rtc, keyboard, fwCfg, pci, power];
