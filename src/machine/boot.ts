/** Puts what a machine boots into its memory: kernel or code, memory map, firmware tables. */
import { buildAcpiTables } from '../boot/acpi/build.ts';
import type { BootResult } from '../boot/boot-types.ts';
import { loadKernel } from '../boot/image.ts';
import type { NamedRange } from '../boot/layout.ts';
import { buildMpTable } from '../boot/mp-table.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import { BIOS_AREA_END, BIOS_AREA_START, buildE820, EBDA_END, EBDA_START } from '../memory/layout.ts';
import { COM1, FW_CFG_PORT, PVPANIC_PORT } from './board.ts';
import type { ResolvedConfig } from './config.ts';
import { apicIds } from './cpu.ts';
import { virtioCmdline, virtioPlaces } from './virtio.ts';

/** A loaded guest. */
export interface LoadedBoot extends BootResult {
  /** Every vCPU starts at the entry, not only the first. */
  readonly startAll: boolean;
}

/** Loads what the configuration says. @throws the errors of `loadKernel` */
export async function loadBoot(config: ResolvedConfig, memory: GuestMemory): Promise<LoadedBoot> {
  const { boot } = config;
  const e820 = buildE820(memory.regions);
  if ('flat' in boot) {
    const { flat: kernel, mode, address, entry, startAll = false } = boot;
    const result = await loadKernel({
      kernel,
      protocol: 'flat',
      memory,
      e820,
      flat: { mode, address, entry },
    });
    return { ...result, startAll };
  }
  const modules = boot.modules?.map(({ file, cmdline }) => ({ source: file, cmdline }));
  const firmware = config.board === 'pc' ? writeFirmwareTables(config, memory) : undefined;
  const result = await loadKernel({
    ...boot,
    cmdline: config.board === 'pc' ? virtioCmdline(boot.cmdline, config) : boot.cmdline,
    modules,
    memory,
    e820,
    rsdp: firmware?.rsdp,
    reserved: firmware?.reserved,
  });
  return { ...result, startAll: false };
}

/** ACPI tables, and the MP table for kernels without ACPI as long as it can name all CPUs. */
function writeFirmwareTables(
  config: ResolvedConfig,
  memory: GuestMemory,
): { rsdp: number; reserved: NamedRange[] } | undefined {
  if (!memory.contains(BIOS_AREA_START, BIOS_AREA_END - BIOS_AREA_START)) return undefined;
  const ids = apicIds(config);
  const { rsdp } = buildAcpiTables(memory, {
    apicIds: ids,
    serial: [COM1],
    keyboard: true,
    fwCfgPort: FW_CFG_PORT,
    panicPort: PVPANIC_PORT,
    ...virtioPlaces(config),
    // Above the MP table's range of ids.
    end: MP_TABLE_AREA,
  });
  if (Math.max(...ids) < MAX_MP_APIC_ID) buildMpTable(memory, { apicIds: ids });
  const reserved = [
    { name: 'firmware tables', gpa: BIOS_AREA_START, size: BIOS_AREA_END - BIOS_AREA_START },
    { name: 'EBDA', gpa: EBDA_START, size: EBDA_END - EBDA_START },
  ];
  return { rsdp, reserved };
}

/** The top of the BIOS area belongs to the MP table when the EBDA is too small for it. */
const MP_TABLE_AREA = 0xfe000;
const MAX_MP_APIC_ID = 254;
