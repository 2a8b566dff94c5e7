import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { buildMpTable } from '../../src/boot/mp-table.ts';
import { allocateRam } from '../../src/memory/allocate.ts';
import type { GuestMemory } from '../../src/memory/guest-memory.ts';

const ENTRY_LENGTH = [20, 8, 8, 8, 8];

/** Finds and reads the table as a guest does (MP specification 1.4 chapter 4). */
function parse(memory: GuestMemory): Uint8Array[] {
  const places = [...range(0x9fc00, 0xa0000), ...range(0xf0000, 0x100000)];
  const pointer = places.find(
    (gpa) => memory.readU32(gpa) === 0x5f504d5f && sum(memory.read(gpa, 16)) === 0,
  )!;
  const config = memory.readU32(pointer + 4);
  const length = memory.readU16(config + 4);
  const table = memory.read(config, length);
  expect(Buffer.from(table.subarray(0, 4)).toString()).toBe('PCMP');
  expect(sum(table)).toBe(0);
  const entries: Uint8Array[] = [];
  for (let at = 44; at < length; at += ENTRY_LENGTH[table[at]]) {
    entries.push(table.subarray(at, at + ENTRY_LENGTH[table[at]]));
  }
  expect(entries.length).toBe(memory.readU16(config + 34));
  return entries;
}

function range(start: number, end: number): number[] {
  return Array.from({ length: (end - start) / 16 }, (_, i) => start + 16 * i);
}

const sum = (bytes: Uint8Array) => bytes.reduce((total, byte) => (total + byte) & 0xff, 0);
const cpus = (count: number) => Array.from({ length: count }, (_, i) => i);

describe('buildMpTable', () => {
  it('lists CPUs, the ISA bus, the I/O APIC and interrupts', () => {
    const memory = allocateRam({ size: 2 ** 20 });

    const { address } = buildMpTable(memory, { apicIds: [0, 4], signature: 0x663, features: 0x201 });

    const entries = parse(memory);
    expect(address).toBe(0x9fc00);
    expect([...entries[0].subarray(0, 12)]).toEqual([0, 0, 0x14, 3, 0x63, 6, 0, 0, 1, 2, 0, 0]);
    expect([...entries[1].subarray(0, 4)]).toEqual([0, 4, 0x14, 1]);
    expect(Buffer.from(entries[2]).toString('latin1')).toBe('\x01\0ISA   ');
    expect([...entries[3]]).toEqual([2, 5, 0x11, 1, 0, 0, 0xc0, 0xfe]);
    expect(entries.filter((e) => e[0] === 3).map((e) => [e[1], e[5], e[7]])).toContainEqual([0, 0, 2]);
    expect(entries.filter((e) => e[0] === 4).map((e) => [e[1], e[6], e[7]])).toEqual([
      [3, 0xff, 0],
      [1, 0xff, 1],
    ]);
  });

  it('is found for any number of CPUs it can hold', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 254 }), (count) => {
        const memory = allocateRam({ size: 2 ** 20 });

        const { end } = buildMpTable(memory, { apicIds: cpus(count) });

        expect(end <= 0xa0000 || (end > 0xf0000 && end <= 0x100000)).toBe(true);
        expect(parse(memory).filter((entry) => entry[0] === 0)).toHaveLength(count);
      }),
      { numRuns: 30 },
    );
  });

  it.each([[[]], [[0, 0]], [[255]], [[-1]], [cpus(255)], [[0.5]]])(
    'refuses APIC IDs the table cannot hold',
    (apicIds) => {
      const memory = allocateRam({ size: 2 ** 20 });

      expect(() => buildMpTable(memory, { apicIds })).toThrow(
        expect.objectContaining({ code: 'TSV_E_CONFIG' }),
      );
    },
  );

  it('refuses a machine without the memory to hold it', () => {
    const memory = allocateRam({ size: 65536 });

    expect(() => buildMpTable(memory, { apicIds: [0] })).toThrow(
      expect.objectContaining({ code: 'TSV_E_GUEST_ADDRESS' }),
    );
  });
});
