/** Puts what a machine boots into its memory: kernel or code, memory map, firmware tables. */
import type { BootResult } from '../boot/boot-types.ts';
import { loadKernel } from '../boot/image.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import { buildE820 } from '../memory/layout.ts';
import type { ResolvedConfig } from './config.ts';

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
  const result = await loadKernel({ ...boot, modules, memory, e820 });
  return { ...result, startAll: false };
}
