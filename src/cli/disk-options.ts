/** What the `tsvisor disk` commands have in common. */
import type { Options } from 'yargs';
import { TsvError } from '../errors.ts';
import type { DiskFormat } from '../storage/open.ts';
import { parseDiskSize } from './disk-size.ts';

/** Exit statuses of the commands, for `--help`. */
export const DISK_EXIT_STATUS = `Exit status
    0  done
    2  bad input: an option, an image that is not there or is none
    4  the host cannot: no room, an image in use, an I/O error; or the image is damaged
  130  Ctrl-C; no half-made image is left`;

/** Options of new images, for yargs. */
export const NEW_IMAGE_OPTIONS = {
  'cluster-size': { type: 'string', nargs: 1, describe: 'qcow2: 512B to 2M (default 64K)' },
  'lazy-refcounts': {
    type: 'boolean',
    describe: 'qcow2: fewer metadata writes, but a repair after a crash of the host',
  },
  compression: {
    type: 'string',
    nargs: 1,
    choices: ['zlib', 'zstd'],
    describe: 'qcow2: how compressed clusters are packed (default zlib)',
  },
  'qcow2-version': {
    type: 'string',
    nargs: 1,
    choices: ['2', '3'],
    describe: 'qcow2: 2 for programs older than 2012 (default 3)',
  },
} as const satisfies Record<string, Options>;

/** What yargs makes of {@link NEW_IMAGE_OPTIONS}. */
export interface NewImageArguments {
  clusterSize?: string;
  lazyRefcounts?: boolean;
  compression?: string;
  qcow2Version?: string;
}

/** The options of a new image, as the storage functions take them. @throws TSV_E_USAGE when the format has none */
export function newImageOptions(args: NewImageArguments, format: DiskFormat) {
  const options = {
    clusterSize:
      args.clusterSize === undefined ? undefined : parseDiskSize('--cluster-size', args.clusterSize),
    lazyRefcounts: args.lazyRefcounts,
    compression: args.compression as 'zlib' | 'zstd' | undefined,
    version: args.qcow2Version === undefined ? undefined : (Number(args.qcow2Version) as 2 | 3),
  };
  if (format === 'raw' && Object.values(options).some((value) => value !== undefined)) {
    throw new TsvError('TSV_E_USAGE', 'A raw image has no clusters, refcounts, compression or versions.', {
      hint: 'Leave these options out, or use --format qcow2.',
    });
  }
  return options;
}

/** The format that is asked for, or else what the name of a new image says: `.qcow2`, and raw for all others. */
export function targetFormat(path: string, given: string | undefined): DiskFormat {
  return (given as DiskFormat | undefined) ?? (/\.(?:qcow2|qcow|qc2)$/i.test(path) ? 'qcow2' : 'raw');
}
