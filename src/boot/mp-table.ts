/**
 * The MP table: CPUs and interrupt wiring for guests without ACPI (Intel MultiProcessor Specification 1.4, chapter 4).
 */
import { TsvError } from '../errors.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import { BIOS_AREA_END, EBDA_END, EBDA_START, IO_APIC_BASE, LOCAL_APIC_BASE } from '../memory/layout.ts';

/** Options of {@link buildMpTable}. */
export interface MpTableOptions {
  /** Local APIC ID of each CPU, the boot processor first; below 255. */
  readonly apicIds: readonly number[];
  /** I/O APIC ID; the first above the CPUs' when absent, because the IDs must all differ. */
  readonly ioApicId?: number;
  /** CPUID leaf 1 EAX and EDX of the CPUs; 0 when absent, guests ask CPUID anyway. */
  readonly signature?: number;
  readonly features?: number;
}

/** Where the table is. */
export interface MpTable {
  /** Address of the floating pointer structure. */
  readonly address: number;
  /** First address behind the configuration table. */
  readonly end: number;
}

const FLOATING_POINTER_SIZE = 16;
const HEADER_SIZE = 44;
/** "1.4" in the specification-revision fields. */
const SPEC_REVISION = 4;
/** Version registers of an integrated local APIC and of an 82093AA I/O APIC. */
const LOCAL_APIC_VERSION = 0x14;
const IO_APIC_VERSION = 0x11;
/** IDs are 8 bits wide and 255 means all. */
const MAX_APIC_ID = 254;
const ALL_LOCAL_APICS = 0xff;
/** Guests look at the EBDA's first KiB and at 0xF0000 to 0xFFFFF; the top of the latter is free of ACPI tables. */
const AREAS = [
  { start: EBDA_START, end: EBDA_END },
  { start: 0xfe000, end: BIOS_AREA_END },
];

// Entry types (table 4-3).
const PROCESSOR = 0;
const BUS = 1;
const IO_APIC = 2;
const IO_INTERRUPT = 3;
const LOCAL_INTERRUPT = 4;
// Processor flags (table 4-4).
const CPU_ENABLED = 1;
const CPU_BOOT = 2;
// Interrupt types (table 4-11).
const INT = 0;
const NMI = 1;
const EXT_INT = 3;

/**
 * Writes the floating pointer structure and the configuration table: processors, an ISA bus, an I/O APIC, the ISA
 * interrupts (the PIT on pin 2, the others on the pin of their number) and the local ones (8259 on LINT0, NMI on
 * LINT1).
 * @throws TSV_E_CONFIG for IDs the table cannot hold, TSV_E_GUEST_ADDRESS when the machine has less than 1 MiB
 */
export function buildMpTable(memory: GuestMemory, options: MpTableOptions): MpTable {
  const { apicIds, signature = 0, features = 0 } = options;
  const ioApicId = options.ioApicId ?? Math.max(0, ...apicIds) + 1;
  const ids = [...apicIds, ioApicId];
  if (apicIds.length === 0 || new Set(ids).size !== ids.length || ids.some((id) => !isApicId(id))) {
    throw new TsvError('TSV_E_CONFIG', 'The APIC IDs do not fit an MP table.', {
      hint: `They must differ and be 0 to ${MAX_APIC_ID}; describe larger machines by ACPI alone.`,
    });
  }
  const isaBus = 0;
  const entries = [
    ...apicIds.map((id, i) => {
      const flags = CPU_ENABLED | (i === 0 ? CPU_BOOT : 0);
      return [
        PROCESSOR,
        id,
        LOCAL_APIC_VERSION,
        flags,
        ...u32(signature),
        ...u32(features),
        ...u32(0),
        ...u32(0),
      ];
    }),
    [BUS, isaBus, ...Buffer.from('ISA   ', 'latin1')],
    [IO_APIC, ioApicId, IO_APIC_VERSION, 1, ...u32(IO_APIC_BASE)],
    [IO_INTERRUPT, EXT_INT, 0, 0, isaBus, 0, ioApicId, 0],
    // IRQ 2 is the cascade of the 8259s and has no pin of its own.
    ...[0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15].map((irq) => {
      return [IO_INTERRUPT, INT, 0, 0, isaBus, irq, ioApicId, irq === 0 ? 2 : irq];
    }),
    [LOCAL_INTERRUPT, EXT_INT, 0, 0, isaBus, 0, ALL_LOCAL_APICS, 0],
    [LOCAL_INTERRUPT, NMI, 0, 0, isaBus, 0, ALL_LOCAL_APICS, 1],
  ];
  const length = HEADER_SIZE + entries.reduce((sum, entry) => sum + entry.length, 0);
  const area = AREAS.find(({ start, end }) => FLOATING_POINTER_SIZE + length <= end - start)!;
  const config = Uint8Array.from([
    ...Buffer.from('PCMP', 'latin1'),
    ...u16(length),
    SPEC_REVISION,
    0, // checksum
    ...Buffer.from('TSVISOR TSVISOR     ', 'latin1'), // OEM and product identifiers
    ...u32(0), // no OEM table
    ...u16(0),
    ...u16(entries.length),
    ...u32(LOCAL_APIC_BASE),
    ...u32(0), // no extended entries
    ...entries.flat(),
  ]);
  const pointer = Uint8Array.from([
    ...Buffer.from('_MP_', 'latin1'),
    ...u32(area.start + FLOATING_POINTER_SIZE),
    1, // length in units of 16 bytes
    SPEC_REVISION,
    0, // checksum
    ...[0, 0, 0, 0, 0], // a configuration table is there; virtual wire mode, no IMCR
  ]);
  memory.write(area.start, checksummed(pointer, 10));
  memory.write(area.start + FLOATING_POINTER_SIZE, checksummed(config, 7));
  return { address: area.start, end: area.start + FLOATING_POINTER_SIZE + length };
}

function isApicId(id: number): boolean {
  return Number.isInteger(id) && id >= 0 && id <= MAX_APIC_ID;
}

function u16(value: number): number[] {
  return [value & 0xff, (value >>> 8) & 0xff];
}

function u32(value: number): number[] {
  return [...u16(value), ...u16(value >>> 16)];
}

/** Makes the bytes sum to 0 modulo 256. */
function checksummed(bytes: Uint8Array, at: number): Uint8Array {
  bytes[at] = -bytes.reduce((sum, byte) => sum + byte, 0);
  return bytes;
}
