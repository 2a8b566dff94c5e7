/** What a driver can put into a ring that no device may follow, one rule at a time. */
import { describe, expect, it } from 'vitest';
import { Echo } from './support/echo.ts';
import { MmioDriver } from './support/mmio-driver.ts';
import { writeDescriptor } from './support/rings.ts';
import { F } from './support/transport-driver.ts';

const NEXT = 1;
const WRITE = 2;
const INDIRECT = 4;
const RAM = 0x400000;

/** A descriptor; `next` is for split rings. */
interface Entry {
  gpa?: number;
  length?: number;
  flags?: number;
  next?: number;
}

/** Puts descriptors into the ring from its start, and makes the first available. */
interface Writer {
  readonly driver: MmioDriver;
  readonly echo: Echo;
  put(...entries: Entry[]): void;
}

async function split(features: bigint): Promise<Writer> {
  const echo = new Echo([8]);
  const driver = new MmioDriver(echo);
  await driver.start({ features });
  return {
    driver,
    echo,
    put(...entries) {
      const [{ desc, driver: avail }] = driver.rings;
      const { memory } = driver.bench;
      entries.forEach(({ gpa = 0x1000, length = 16, flags = 0, next = 0 }, i) => {
        writeDescriptor(memory, desc + i * 16, gpa, length, flags, next);
      });
      memory.writeU16(avail + 4, 0);
      memory.writeU16(avail + 2, 1);
      driver.notify(0);
    },
  };
}

async function packed(features: bigint): Promise<Writer> {
  const echo = new Echo([8]);
  const driver = new MmioDriver(echo);
  await driver.start({ features: features | F.PACKED });
  return {
    driver,
    echo,
    put(...entries) {
      const [{ desc }] = driver.rings;
      entries.forEach(({ gpa = 0x1000, length = 16, flags = 0 }, i) => {
        writeDescriptor(driver.bench.memory, desc + i * 16, gpa, length, 0, flags | (1 << 7));
      });
      driver.notify(0);
    },
  };
}

/** An indirect table at an address, in the format of the ring: flags and next, or ID and flags. */
function table(writer: Writer, isPacked: boolean, at: number, entries: Entry[]): Entry {
  entries.forEach(({ gpa = 0x1000, length = 16, flags = 0, next = 0 }, i) => {
    const words: [number, number] = isPacked ? [0, flags] : [flags, next];
    writeDescriptor(writer.driver.bench.memory, at + i * 16, gpa, length, ...words);
  });
  return { gpa: at, length: entries.length * 16, flags: INDIRECT };
}

function expectFailure({ driver, echo }: Writer): void {
  const { logs } = driver.bench;
  expect([driver.status(), driver.takeInterrupt(), logs.length]).toEqual([15 | 64, 2, 1]);
  expect(logs[0].message).toContain('needs a reset');
  // The queue has stopped, and says so no more than once.
  driver.notify(0);
  echo.host?.fail('again');
  expect([logs.length, driver.interrupts]).toEqual([1, 1]);
}

describe.each([
  ['split', split, false],
  ['packed', packed, true],
] as const)('a %s ring', (_, create, isPacked) => {
  it.each<[string, Entry[]]>([
    ['a buffer outside RAM', [{ gpa: RAM }]],
    ['a buffer that ends outside RAM', [{ gpa: RAM - 8 }]],
    ['a buffer of 4 GiB', [{ length: 0xffffffff, flags: WRITE }]],
    ['a buffer at the end of the address space', [{ gpa: 2 ** 64 - 4096 }]],
    ['a readable buffer behind a writable one', [{ flags: NEXT | WRITE, next: 1 }, {}]],
    ['an indirect descriptor that was not negotiated', [{ flags: INDIRECT, length: 32 }]],
  ])('with %s needs a reset', async (_what, entries) => {
    const writer = await create(0n);
    writer.put(...entries);
    expectFailure(writer);
  });

  it.each<[string, (writer: Writer) => Entry[]]>([
    [
      'has a next descriptor',
      (w) => [{ ...table(w, isPacked, 0x2000, [{}]), flags: INDIRECT | NEXT, next: 1 }, {}],
    ],
    ['is empty', () => [{ gpa: 0x2000, length: 0, flags: INDIRECT }]],
    ['is no whole number of descriptors', () => [{ gpa: 0x2000, length: 24, flags: INDIRECT }]],
    ['lies outside RAM', () => [{ gpa: RAM, length: 32, flags: INDIRECT }]],
    ['is off its alignment', () => [{ gpa: 0x2003, length: 32, flags: INDIRECT }]],
    [
      'holds an indirect descriptor',
      (w) => [table(w, isPacked, 0x2000, [{ gpa: 0x2000, length: 16, flags: INDIRECT }])],
    ],
    [
      'is longer than a chain may be',
      (w) => [
        table(
          w,
          isPacked,
          0x2000,
          Array.from({ length: 9 }, (_, i) => ({ flags: NEXT, next: (i + 1) % 9 })),
        ),
      ],
    ],
  ])('with an indirect table that %s needs a reset', async (_what, entries) => {
    const writer = await create(F.INDIRECT);
    writer.put(...entries(writer));
    expectFailure(writer);
  });

  it('takes an empty buffer', async () => {
    const writer = await create(0n);
    writer.put({ length: 0, flags: NEXT, next: 1 }, { flags: WRITE });
    expect([writer.driver.status(), writer.driver.rings[0].size]).toEqual([15, 8]);
  });
});

describe('a split ring', () => {
  it.each<[string, Entry[]]>([
    ['that leads back to its start', [{ flags: NEXT, next: 0 }]],
    [
      'that leads back into its middle',
      [
        { flags: NEXT, next: 1 },
        { flags: NEXT, next: 2 },
        { flags: NEXT, next: 1 },
      ],
    ],
    ['that leads out of the table', [{ flags: NEXT, next: 8 }]],
  ])('with a chain %s needs a reset', async (_what, entries) => {
    const writer = await split(0n);
    writer.put(...entries);
    expectFailure(writer);
  });

  it('with a head outside the table needs a reset', async () => {
    const writer = await split(0n);
    const [{ driver: avail }] = writer.driver.rings;
    writer.driver.bench.memory.writeU16(avail + 4, 8);
    writer.driver.bench.memory.writeU16(avail + 2, 1);
    writer.driver.notify(0);
    expectFailure(writer);
  });

  it.each([9, 0x8000, 0xffff])('whose available index jumps by %i needs a reset', async (jump) => {
    const writer = await split(0n);
    writer.driver.bench.memory.writeU16(writer.driver.rings[0].driver + 2, jump);
    writer.driver.notify(0);
    expectFailure(writer);
  });

  it('that has a chain available twice needs a reset', async () => {
    const writer = await split(0n);
    writer.echo.isPrompt = false;
    writer.put({});
    writer.driver.bench.memory.writeU16(writer.driver.rings[0].driver + 2, 2);
    writer.driver.notify(0);
    expectFailure(writer);
  });
});

describe('a packed ring', () => {
  it('whose every descriptor has a next one needs a reset', async () => {
    const writer = await packed(0n);
    writer.put(...Array.from({ length: 8 }, () => ({ flags: NEXT })));
    expectFailure(writer);
  });

  it('that offers more descriptors than it has needs a reset', async () => {
    const writer = await packed(0n);
    writer.echo.isPrompt = false;
    writer.put(...Array.from({ length: 8 }, () => ({})));
    // The second lap, though nothing of the first has come back.
    const { bench, rings } = writer.driver;
    bench.memory.writeU16(rings[0].desc + 14, 1 << 15);
    writer.driver.notify(0);
    expectFailure(writer);
  });
});
