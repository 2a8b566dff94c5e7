/** The `--pmem` option: PATH[,KEY=VALUE|FLAG]..., and opening what it names. */
import { TsvError } from '../errors.ts';
import type { PmemConfig } from '../machine/pmem.ts';
import { type DiskFormat, openDisk } from '../storage/open.ts';
import { parseCommaList } from './comma-list.ts';
import { closeDisks } from './run-disks.ts';

/** Persistent memory as the command line has it. */
export interface PmemSpec {
  readonly path: string;
  readonly format?: DiskFormat;
  /** The guest may write, for this run only. */
  readonly overlay: boolean;
  /** The image may be based on other files. */
  readonly backing: boolean;
}

/** For `--help` and error messages. */
export const PMEM_SYNTAX = 'PATH[,format=raw|qcow2,readonly|overlay,backing]';

/**
 * Reads a `--pmem` value. A comma in PATH is written twice, as for `--disk`.
 * @throws TSV_E_USAGE
 */
export function parsePmem(text: string): PmemSpec {
  const syntax = { values: ['format'], flags: ['readonly', 'overlay', 'backing'] };
  const { first, values, flags } = parseCommaList(text, syntax, (part) => {
    throw usage(`"${part}" is nothing that can be said of persistent memory.`);
  });
  if (first === '') throw usage(`"${text}" names no image.`);
  const format = values.get('format');
  if (format !== undefined && format !== 'raw' && format !== 'qcow2') {
    throw usage(`There is no disk format "${format}".`);
  }
  const overlay = flags.has('overlay');
  if (overlay && flags.has('readonly')) throw usage('Persistent memory is read-only or has an overlay.');
  return { path: first, format, overlay, backing: flags.has('backing') };
}

function usage(message: string): TsvError {
  return new TsvError('TSV_E_USAGE', message, {
    hint: `Write --pmem ${PMEM_SYNTAX}; --disk is for images that keep what the guest writes.`,
  });
}

/**
 * Opens the images, the first as /dev/pmem0. When one cannot be opened the others are closed again.
 * @param warn told what is worth knowing, one sentence each
 * @throws the errors of `openDisk`
 */
export async function openPmem(
  specs: readonly PmemSpec[],
  warn: (message: string) => void,
): Promise<PmemConfig[]> {
  const opened: PmemConfig[] = [];
  try {
    for (const { path, format, overlay, backing } of specs) {
      const options = { format, readOnly: true, backing: backing ? 'any' : 'none', warn } as const;
      opened.push({ backend: await openDisk(path, options), overlay });
    }
    return opened;
  } catch (error) {
    await closeDisks(opened);
    throw error;
  }
}
