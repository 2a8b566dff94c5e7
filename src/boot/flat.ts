/** Flat binaries: no header, loaded at a given address and entered in real or 64-bit mode. */
import { TsvError } from '../errors.ts';
import type { BootOptions, BootResult } from './boot-types.ts';
import { noSymbols } from './elf-symbols.ts';
import { hex } from './image-bytes.ts';
import type { MemoryPlan } from './layout.ts';
import { BOOT_LAYOUT, IDENTITY_MAP_SIZE } from './layout.ts';

/** Where and how a flat binary is entered. */
export interface FlatOptions {
  /** Default `real`. */
  readonly mode?: 'real' | 'long64';
  /** Guest-physical load address; default 0x7C00 (as a boot sector) in real mode, 1 MiB in 64-bit mode. */
  readonly address?: number;
  /** Address of the first instruction; default the load address. In real mode below 1 MiB. */
  readonly entry?: number;
  /** Real mode: the code segment; default 0 below 64 KiB, above that the largest that puts the entry at offset 0 to 15. */
  readonly cs?: number;
}

/** Where a PC's BIOS loads a boot sector. */
const BOOT_SECTOR_ADDRESS = 0x7c00;
const LONG_MODE_ADDRESS = 0x100000;
/** One past the highest address real mode reaches without the A20 games. */
const REAL_MODE_END = 0x100000;

/**
 * Loads a flat binary.
 * @throws TSV_E_USAGE options that make no sense for it
 * @throws TSV_E_KERNEL_LAYOUT it lies outside RAM, or in 64-bit mode over the page tables, GDT or stack
 */
export function loadFlat(options: BootOptions, plan: MemoryPlan, bytes: Uint8Array): BootResult {
  if (options.initrd !== undefined || (options.modules?.length ?? 0) > 0 || (options.cmdline ?? '') !== '') {
    throw new TsvError('TSV_E_USAGE', 'A flat binary takes no initrd, modules or command line.', {
      hint: 'Leave them out; there is no protocol to pass them by.',
    });
  }
  const { mode = 'real', cs } = options.flat ?? {};
  const address = options.flat?.address ?? (mode === 'real' ? BOOT_SECTOR_ADDRESS : LONG_MODE_ADDRESS);
  const entry = options.flat?.entry ?? address;
  for (const [name, value] of Object.entries({ address, entry })) {
    if (!Number.isSafeInteger(value) || value < 0 || value >= IDENTITY_MAP_SIZE) {
      throw new TsvError('TSV_E_USAGE', `A flat binary cannot have the ${name} ${value}.`, {
        hint: 'Give an address from 0 to 4 GiB.',
      });
    }
  }
  if (mode === 'long64') {
    plan.take(BOOT_LAYOUT.gdt);
    plan.take(BOOT_LAYOUT.stack);
    plan.take(BOOT_LAYOUT.pageTables);
  }
  const kernel = plan.take({ name: 'flat binary', gpa: address, size: bytes.length });
  options.memory.write(address, bytes);
  const common = {
    protocol: 'flat',
    entry,
    kernelVersion: undefined,
    symbols: noSymbols,
    loaded: [kernel],
    warnings: [],
  } as const;
  if (mode === 'long64') {
    const rsp = BOOT_LAYOUT.stack.gpa + BOOT_LAYOUT.stack.size;
    return { ...common, mode, registers: { rsp }, identityMap: { gpa: 0, size: IDENTITY_MAP_SIZE } };
  }
  return { ...common, mode, registers: {}, realMode: farPointer(entry, cs) };
}

function farPointer(entry: number, cs: number | undefined): { cs: number; ip: number } {
  if (entry >= REAL_MODE_END) {
    throw new TsvError('TSV_E_USAGE', `Real mode cannot start at ${hex(entry)}.`, {
      hint: 'Give an entry below 1 MiB, or enter the binary in 64-bit mode.',
    });
  }
  const segment = cs ?? (entry <= 0xffff ? 0 : entry >> 4);
  const ip = entry - segment * 16;
  if (!Number.isInteger(segment) || segment < 0 || segment > 0xffff || ip < 0 || ip > 0xffff) {
    throw new TsvError('TSV_E_USAGE', `Code segment ${segment} does not reach the entry ${hex(entry)}.`, {
      hint: 'The entry must lie within 64 KiB from cs * 16.',
    });
  }
  return { cs: segment, ip };
}
