/** Modules of multiboot and PVH: files loaded beside the kernel. */
import { TsvError } from '../errors.ts';
import type { BootModule, BootOptions } from './boot-types.ts';
import type { MemoryPlan, NamedRange } from './layout.ts';
import { mebibytes } from './layout.ts';
import { SourceFile } from './source-file.ts';

/** A module in guest memory. */
export interface LoadedModule extends NamedRange {
  readonly cmdline: string;
}

/** The initrd, which is the first module, and the modules proper. */
export function moduleList(options: BootOptions): readonly BootModule[] {
  const { initrd, modules = [] } = options;
  return initrd === undefined ? modules : [{ source: initrd }, ...modules];
}

/**
 * Loads modules, page aligned, one after the other from `start` up.
 * @throws TSV_E_FILE
 * @throws TSV_E_INITRD there is no room
 * @throws TSV_E_USAGE a command line with a NUL
 */
export async function loadModules(
  options: BootOptions,
  plan: MemoryPlan,
  start: number,
): Promise<LoadedModule[]> {
  const loaded: LoadedModule[] = [];
  let lowest = start;
  for (const { source, cmdline = '' } of moduleList(options)) {
    if (cmdline.includes('\0')) {
      throw new TsvError('TSV_E_USAGE', "A module's command line contains a NUL character.", {
        hint: 'Remove it; the kernel would not see what follows.',
      });
    }
    const file = await SourceFile.open(source, 'module');
    try {
      const gpa = plan.findLow(file.size, lowest);
      if (gpa === undefined) {
        throw new TsvError(
          'TSV_E_INITRD',
          `A module has ${file.size} bytes and does not fit into this machine's memory besides the kernel.`,
          { hint: `Give the machine ${mebibytes(file.size)} more memory, or make the module smaller.` },
        );
      }
      const range = plan.take({ name: 'module', gpa, size: file.size });
      await file.readInto(options.memory, gpa);
      loaded.push({ ...range, cmdline });
      lowest = gpa + file.size;
    } finally {
      await file.close();
    }
  }
  return loaded;
}
