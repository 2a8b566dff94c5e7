import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  type AcpiOptions,
  buildAcpiTables,
  PCI_ECAM,
  PCI_MMIO_WINDOW,
} from '../../../src/boot/acpi/build.ts';
import { allocateRam } from '../../../src/memory/allocate.ts';
import type { GuestMemory } from '../../../src/memory/guest-memory.ts';

const BOARD: AcpiOptions = {
  apicIds: [0, 1, 2, 3],
  serial: [
    { port: 0x3f8, irq: 4 },
    { port: 0x2f8, irq: 3 },
  ],
  keyboard: true,
  fwCfgPort: 0x510,
  panicPort: 0x505,
  pci: {
    mmio: PCI_MMIO_WINDOW,
    ecam: PCI_ECAM,
    routes: [0, 1, 2, 3].map((pin) => ({ slot: 1, pin, gsi: 20 + pin })),
  },
  virtioMmio: [
    { address: 0xe8000000, length: 0x200, gsi: 5 },
    { address: 0xe8001000, length: 0x200, gsi: 17 },
  ],
  boardPorts: [{ port: 0x92, length: 1 }],
  boardMemory: [{ address: 0xfec00000, length: 0x1000 }],
};
const LARGE: AcpiOptions = {
  ...BOARD,
  apicIds: Array.from({ length: 400 }, (_, i) => i),
  pci: { mmio: PCI_MMIO_WINDOW, mmio64: { first: 2 ** 40, last: 2 ** 41 - 1 } },
};

const sum = (bytes: Uint8Array) => bytes.reduce((total, byte) => (total + byte) & 0xff, 0);
const text = (bytes: Uint8Array) => Buffer.from(bytes).toString('latin1');

/** Finds all tables as a guest does: search for the RSDP, then follow the pointers. */
function findTables(memory: GuestMemory): Map<string, Uint8Array> {
  const tables = new Map<string, Uint8Array>();
  for (let gpa = 0xe0000; gpa < 0x100000; gpa += 16) {
    if (text(memory.read(gpa, 8)) !== 'RSD PTR ') continue;
    tables.set('RSDP', memory.read(gpa, 36));
    const rsdt = memory.readU32(gpa + 16);
    const xsdt = Number(memory.readU64(gpa + 24));
    const get = (address: number) => {
      const bytes = memory.read(address, memory.readU32(address + 4));
      tables.set(text(bytes.subarray(0, 4)), bytes);
      return bytes;
    };
    const wide = get(xsdt);
    const narrow = get(rsdt);
    for (let i = 0; i < (wide.length - 36) / 8; i++) {
      const address = Number(memory.readU64(xsdt + 36 + 8 * i));
      expect(memory.readU32(rsdt + 36 + 4 * i)).toBe(address);
      const table = get(address);
      if (text(table.subarray(0, 4)) === 'FACP') {
        const facs = memory.readU32(address + 36);
        expect(facs % 64).toBe(0);
        get(facs);
        get(memory.readU32(address + 40));
      }
    }
    expect(narrow.length - 36).toBe((wide.length - 36) / 2);
    return tables;
  }
  throw new Error('no RSDP');
}

function build(options: AcpiOptions): Map<string, Uint8Array> {
  const memory = allocateRam({ size: 2 ** 20 });
  buildAcpiTables(memory, options);
  return findTables(memory);
}

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'tsvisor-acpi-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

/** Runs iasl (Debian package acpica-tools) and answers all it printed. */
function iasl(...args: string[]): string {
  try {
    return execFileSync('iasl', args, { cwd: folder, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
  } catch (error) {
    const { code, stdout, stderr } = error as { code?: string; stdout?: string; stderr?: string };
    if (code === 'ENOENT') throw new Error('iasl is missing; install the Debian package acpica-tools.');
    throw new Error(`iasl failed:\n${stdout}${stderr}`);
  }
}

describe('buildAcpiTables', () => {
  it('writes all tables with checksums that hold', () => {
    const tables = build(BOARD);

    expect([...tables.keys()].sort()).toEqual([
      ...['APIC', 'DSDT', 'FACP', 'FACS', 'MCFG', 'RSDP', 'RSDT', 'XSDT'],
    ]);
    for (const [signature, bytes] of tables)
      if (signature !== 'FACS') expect([signature, sum(bytes)]).toEqual([signature, 0]);
    expect(sum(tables.get('RSDP')!.subarray(0, 20))).toBe(0);
  });

  it('answers where the RSDP is and where the tables end', () => {
    const memory = allocateRam({ size: 2 ** 20 });

    const { rsdp, end } = buildAcpiTables(memory, BOARD);

    expect(rsdp).toBe(0xe0000);
    expect(text(memory.read(rsdp, 8))).toBe('RSD PTR ');
    expect(memory.read(end, 0x100000 - end).every((byte) => byte === 0)).toBe(true);
  });

  it.each([
    ['a board with everything', BOARD],
    ['a board with 400 CPUs', LARGE],
    ['a bare board', { apicIds: [0] }],
  ])(
    'writes tables for %s that iasl decompiles, and a DSDT it compiles again, without a word',
    (_, options) => {
      for (const [signature, bytes] of build(options)) {
        if (signature === 'RSDP') continue; // iasl compiles an RSDP but does not read one
        writeFileSync(join(folder, `${signature}.dat`), bytes);

        const output = iasl('-d', `${signature}.dat`);

        expect(output).not.toMatch(/error|warning|invalid|unknown|incorrect/i);
        expect(readFileSync(join(folder, `${signature}.dsl`), 'utf8')).not.toMatch(
          /error|warning|invalid|incorrect|should be/i,
        );
      }
      expect(iasl('DSDT.dsl')).toMatch(/0 Errors, 0 Warnings/);
    },
  );

  it('writes the RSDP that iasl compiles', () => {
    const tables = build(BOARD);
    const rsdp = Buffer.from(tables.get('RSDP')!);
    const hex = (value: number | bigint, digits: number) => value.toString(16).padStart(digits, '0');
    writeFileSync(
      join(folder, 'rsdp.asl'),
      `[0008] Signature : "RSD PTR "
       [0001] Checksum : 00
       [0006] Oem ID : "TSVISR"
       [0001] Revision : 02
       [0004] RSDT Address : ${hex(rsdp.readUInt32LE(16), 8)}
       [0004] Length : 00000024
       [0008] XSDT Address : ${hex(rsdp.readBigUInt64LE(24), 16)}
       [0001] Extended Checksum : 00
       [0003] Reserved : 000000`,
    );

    iasl('rsdp.asl');

    expect(readFileSync(join(folder, 'rsdp.aml')).equals(rsdp)).toBe(true);
  });

  it('describes devices the way guests look for them', () => {
    const [dsdt] = [build(BOARD).get('DSDT')!];
    writeFileSync(join(folder, 'DSDT.dat'), dsdt);

    iasl('-d', 'DSDT.dat');

    const source = readFileSync(join(folder, 'DSDT.dsl'), 'utf8')
      .replace(/\/\*.*?\*\//gs, '')
      .replace(/\/\/.*$/gm, '')
      .replace(/\s+/g, ' ');
    for (const id of ['PNP0501', 'PNP0A03', 'PNP0B00', 'PNP0303', 'PNP0C02', 'PNP0100', 'PNP0000']) {
      expect(source).toContain(`EisaId ("${id}")`);
    }
    expect(source).toMatch(/Name \(\\?_S5, Package \(0x04\) \{ 0x05, 0x05, Zero, Zero \}\)/);
    expect(source).toMatch(/Device \(COM2\).*?IO \(Decode16, 0x02F8, 0x02F8,.*?IRQNoFlags \(\) \{3\}/);
    expect(source).toMatch(
      /DWordMemory \(ResourceProducer, PosDecode, MinFixed, MaxFixed, NonCacheable, ReadWrite/,
    );
  });

  it('describes virtio devices, the interrupts of PCI slots and the ECAM', () => {
    const tables = build(BOARD);
    writeFileSync(join(folder, 'DSDT.dat'), tables.get('DSDT')!);

    iasl('-d', 'DSDT.dat');

    const source = readFileSync(join(folder, 'DSDT.dsl'), 'utf8')
      .replace(/\/\*.*?\*\//gs, '')
      .replace(/\/\/.*$/gm, '')
      .replace(/\s+/g, '');
    expect(source).toContain('Device(VR01){Name(_HID,"LNRO0005")Name(_UID,One)');
    expect(source).toMatch(
      /Memory32Fixed\(ReadWrite,0xE8001000,0x00000200,\)Interrupt\(ResourceConsumer,Edge,ActiveHigh,Exclusive,,,\)\{0x00000011,\}/,
    );
    expect(source).toContain('Package(0x04){0x0001FFFF,0x03,Zero,0x17}');
    expect(source).toContain('Memory32Fixed(ReadWrite,0xE0000000,0x00100000,)');
    const mcfg = Buffer.from(tables.get('MCFG')!);
    expect([mcfg.readBigUInt64LE(44), mcfg[54], mcfg[55]]).toEqual([0xe0000000n, 0, 0]);
  });

  it('gives CPUs with large APIC IDs x2APIC structures', () => {
    const madt = build({ apicIds: [0, 254, 255, 1000] }).get('APIC')!;
    const types: number[] = [];
    for (let at = 44; at < madt.length; at += madt[at + 1]) types.push(madt[at]);

    expect(types).toEqual([0, 0, 9, 9, 1, 2, 2, 4, 10]);
  });

  it('refuses what does not fit', () => {
    const refused = expect.objectContaining({ code: 'TSV_E_CONFIG', hint: expect.stringMatching(/\w/) });
    const memory = allocateRam({ size: 2 ** 20 });
    const wrong: Partial<AcpiOptions>[] = [
      { apicIds: [-1] },
      { apicIds: [2 ** 32] },
      { apicIds: Array.from({ length: 20000 }, (_, i) => i) },
      { pm: { port: 0x10000, sci: 9 } },
      { pm: { port: 0x600, sci: 16 } },
      { ioApicId: 256 },
      { start: 0x100000 },
      { start: 0xe0000, end: 0xe0100 },
      { serial: [{ port: 0x12345, irq: 4 }] },
      { serial: [{ port: 0x3f8, irq: 24 }] },
      { boardMemory: [{ address: 2 ** 32, length: 1 }] },
    ];
    for (const options of wrong)
      expect(() => buildAcpiTables(memory, { ...BOARD, ...options })).toThrow(refused);
  });

  it('is found by a guest and sums up for any number of CPUs and ports', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 300 }), fc.nat(4), fc.boolean(), (cpus, ports, keyboard) => {
        const apicIds = Array.from({ length: cpus }, (_, i) => i);
        const serial = [0x3f8, 0x2f8, 0x3e8, 0x2e8]
          .slice(0, ports)
          .map((port, i) => ({ port, irq: 4 - (i % 2) }));

        const tables = build({ apicIds, serial, keyboard });

        for (const [signature, bytes] of tables) if (signature !== 'FACS') expect(sum(bytes)).toBe(0);
      }),
      { numRuns: 20 },
    );
  });
});
