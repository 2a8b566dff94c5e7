/** Puts the machine's ACPI tables into guest memory. */
import { PM } from '../../devices/acpi/pm.ts';
import { TsvError } from '../../errors.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';
import {
  BIOS_AREA_END,
  BIOS_AREA_START,
  IO_APIC_BASE,
  LOCAL_APIC_BASE,
  MMIO_HOLE_START,
} from '../../memory/layout.ts';
import { bytes } from './aml.ts';
import { buildDsdt, type DsdtOptions } from './dsdt.ts';
import {
  type AcpiPm,
  buildFacs,
  buildFadt,
  buildMadt,
  buildMcfg,
  buildRsdp,
  buildRsdt,
  buildXsdt,
  FACS_SIZE,
  HEADER_SIZE,
  RSDP_SIZE,
  table,
} from './tables.ts';

/** Where the ACPI PM block is unless told otherwise. */
export const DEFAULT_PM: AcpiPm = { port: 0x600, sci: 9 };

/** Options of {@link buildAcpiTables}. */
export interface AcpiOptions extends DsdtOptions {
  /** Local APIC ID of each CPU, the boot processor first. */
  readonly apicIds: readonly number[];
  /** {@link DEFAULT_PM} when absent. */
  readonly pm?: AcpiPm;
  /** I/O APIC ID; 0 when absent. */
  readonly ioApicId?: number;
  /** Where the tables go: [start, end) below 1 MiB; 0xE0000 to 0xFFFFF when absent. */
  readonly start?: number;
  readonly end?: number;
}

/** Where the tables are. */
export interface AcpiTables {
  /** Address of the RSDP, on a 16-byte boundary; also for boot_params.acpi_rsdp_addr. */
  readonly rsdp: number;
  /** First address behind the tables. */
  readonly end: number;
}

/**
 * Writes RSDP, RSDT, XSDT, FADT, FACS, MADT, DSDT, and MCFG for a PCI host with an ECAM.
 * @throws TSV_E_CONFIG when a number does not fit its field or the tables do not fit the area
 * @throws TSV_E_GUEST_ADDRESS when the area is not RAM
 */
export function buildAcpiTables(memory: GuestMemory, options: AcpiOptions): AcpiTables {
  const { apicIds, pm = DEFAULT_PM, ioApicId = 0, start = BIOS_AREA_START, end = BIOS_AREA_END } = options;
  checkRange('The first address', start, BIOS_AREA_END - 1);
  checkRange('The PM port', pm.port, 0xffff - PM.SIZE);
  checkRange('The SCI interrupt', pm.sci, 15);
  checkRange('I/O APIC ID', ioApicId, 255);
  for (const id of apicIds) checkRange('Local APIC ID', id, 0xfffffffe);
  const area = new TableArea(memory, start, Math.min(end, BIOS_AREA_END));

  // The RSDP is first because guests search for it; it is written last because it points at the others.
  const rsdp = area.reserve(RSDP_SIZE, 16);
  const facs = area.place(buildFacs(), FACS_SIZE);
  const aml = bytes(
    ...buildDsdt({
      ...options,
      boardPorts: [{ port: pm.port, length: PM.SIZE }, ...(options.boardPorts ?? [])],
    }),
  );
  // Revision 2: integers have 64 bits.
  const dsdt = area.place(
    table('DSDT', 2, HEADER_SIZE + aml.length, (out) => out.bytes.set(aml, HEADER_SIZE)),
    16,
  );
  const physicalApic = apicIds.some((id) => id >= 255);
  const fadt = area.place(
    buildFadt({ facs, dsdt, pm, keyboard: options.keyboard ?? false, physicalApic }),
    16,
  );
  const ioApic = { id: ioApicId, address: IO_APIC_BASE };
  const madt = area.place(buildMadt({ apicIds, localApic: LOCAL_APIC_BASE, ioApic, sci: pm.sci }), 16);
  const ecam = options.pci?.ecam;
  const mcfg = ecam === undefined ? [] : [area.place(buildMcfg(ecam), 16)];
  const rsdt = area.place(buildRsdt([fadt, madt, ...mcfg]), 16);
  const xsdt = area.place(buildXsdt([fadt, madt, ...mcfg]), 16);
  memory.write(rsdp, buildRsdp(rsdt, xsdt));
  return { rsdp, end: area.next };
}

/** @throws TSV_E_CONFIG when a value is no integer from 0 to max */
function checkRange(what: string, value: number, max: number): void {
  if (Number.isInteger(value) && value >= 0 && value <= max) return;
  throw new TsvError('TSV_E_CONFIG', `${what} ${value} does not fit the ACPI tables.`, {
    hint: `It is an integer from 0 to ${max}.`,
  });
}

/** PCI configuration space in the MMIO hole: that of bus 0. */
export const PCI_ECAM = { address: 0xe0000000, lastBus: 0 } as const;

/** The PCI host's window for memory BARs: the MMIO hole up to the ECAM. */
export const PCI_MMIO_WINDOW = { first: MMIO_HOLE_START, last: PCI_ECAM.address - 1 } as const;

/** Hands out room for tables, ascending. */
class TableArea {
  readonly #memory: GuestMemory;
  readonly #end: number;
  next: number;

  constructor(memory: GuestMemory, start: number, end: number) {
    this.#memory = memory;
    this.#end = end;
    this.next = start;
  }

  reserve(length: number, alignment: number): number {
    const at = Math.ceil(this.next / alignment) * alignment;
    if (!(at + length <= this.#end)) {
      throw new TsvError('TSV_E_CONFIG', `The ACPI tables do not fit below 0x${this.#end.toString(16)}.`, {
        hint: 'Give the machine fewer CPUs or devices, or the tables more room.',
      });
    }
    this.next = at + length;
    return at;
  }

  place(contents: Uint8Array, alignment: number): number {
    const at = this.reserve(contents.length, alignment);
    this.#memory.write(at, contents);
    return at;
  }
}
