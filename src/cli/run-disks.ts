/** The `--disk` option: PATH[,KEY=VALUE|FLAG]..., and opening what it names. */
import { GuestClock } from '../devices/guest-clock.ts';
import { TsvError } from '../errors.ts';
import type { DiskConfig } from '../machine/virtio.ts';
import type { BlockBackend } from '../storage/backend.ts';
import { type DiskFormat, openDisk } from '../storage/open.ts';
import { openNamedOverlay, openOverlay } from '../storage/overlay.ts';
import { ThrottledDisk, type ThrottleLimits } from '../storage/throttle.ts';
import { parseCommaList } from './comma-list.ts';

/** A disk as the command line has it. */
export interface DiskSpec {
  readonly path: string;
  readonly format?: DiskFormat;
  readonly readOnly: boolean;
  /** Where writes are kept: for this run only, or in a file; undefined when they go to the image itself. */
  readonly overlay?: 'temporary' | { readonly path: string };
  /** The image may be based on other files. */
  readonly backing: boolean;
  readonly serial?: string;
  readonly queues?: number;
  readonly limits: ThrottleLimits;
}

/** For `--help` and error messages. */
export const DISK_SYNTAX =
  'PATH[,format=raw|qcow2,readonly,overlay[=FILE],backing,iops=N[:BURST],bps=N[:BURST],queues=N,serial=TEXT]';

const KEYS = {
  flags: ['readonly', 'overlay', 'backing'],
  values: ['format', 'overlay', 'iops', 'bps', 'queues', 'serial'],
};
const MAX_QUEUES = 64;

/**
 * Reads a `--disk` value. A comma in PATH is written twice, as for QEMU.
 * @throws TSV_E_USAGE
 */
export function parseDisk(text: string): DiskSpec {
  const { first, flags, values } = parseCommaList(text, KEYS, (part) => {
    throw usage(`"${part}" is nothing that can be said of a disk, or it is said twice.`);
  });
  if (first === '') throw usage(`"${text}" names no disk image.`);
  const format = values.get('format');
  if (format !== undefined && format !== 'raw' && format !== 'qcow2') {
    throw usage(`There is no disk format "${format}".`);
  }
  const file = values.get('overlay');
  if (file === '') throw usage('overlay= names no file.');
  if (file !== undefined && flags.has('readonly')) {
    throw usage('A disk that is read-only has no changes for an overlay to keep.');
  }
  const iops = rate(values.get('iops'));
  const bps = rate(values.get('bps'));
  return {
    path: first,
    format,
    readOnly: flags.has('readonly'),
    overlay: file === undefined ? (flags.has('overlay') ? 'temporary' : undefined) : { path: file },
    backing: flags.has('backing'),
    serial: values.get('serial'),
    queues: queues(values.get('queues')),
    limits: {
      opsPerSecond: iops?.perSecond,
      opsBurst: iops?.burst,
      bytesPerSecond: bps?.perSecond,
      bytesBurst: bps?.burst,
    },
  };
}

function queues(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  const count = /^\d+$/.test(text) ? Number(text) : 0;
  if (count >= 1 && count <= MAX_QUEUES) return count;
  throw usage(`A disk cannot have "${text}" queues, but 1 to ${MAX_QUEUES}.`);
}

const UNITS: Readonly<Record<string, number>> = { '': 1, K: 1024, M: 1024 ** 2, G: 1024 ** 3 };

/** N or N:BURST: so many a second, and so many at once after a pause. */
function rate(text: string | undefined): { perSecond: number; burst: number | undefined } | undefined {
  if (text === undefined) return undefined;
  const [perSecond, burst] = text.split(/:(.*)/s, 2).map((part) => amount(part, text));
  return { perSecond, burst };
}

function amount(part: string, text: string): number {
  const [, digits, unit] = /^(\d+)([KMG]?)$/i.exec(part) ?? [];
  const value = Number(digits) * UNITS[unit?.toUpperCase() ?? ''];
  if (value > 0) return value;
  throw usage(`"${text}" is no rate.`);
}

function usage(message: string): TsvError {
  return new TsvError('TSV_E_USAGE', message, {
    hint: `Write --disk ${DISK_SYNTAX}; rates may end in K, M or G, and a comma in PATH is written twice.`,
  });
}

/**
 * Opens the images, the first as /dev/vda. When one cannot be opened the others are closed again.
 * @param warn told what is worth knowing, one sentence each
 * @throws the errors of `openDisk`
 */
export async function openDisks(
  specs: readonly DiskSpec[],
  warn: (message: string) => void,
): Promise<DiskConfig[]> {
  const disks: DiskConfig[] = [];
  try {
    for (const spec of specs) {
      const { serial, queues } = spec;
      disks.push({ backend: await open(spec, warn), serial, queues });
    }
    return disks;
  } catch (error) {
    await closeDisks(disks);
    throw error;
  }
}

/** Closes disks that no machine has taken over. */
export async function closeDisks(disks: readonly DiskConfig[]): Promise<void> {
  await Promise.allSettled(disks.map(({ backend }) => backend[Symbol.asyncDispose]()));
}

async function open(spec: DiskSpec, warn: (message: string) => void): Promise<BlockBackend> {
  const { limits } = spec;
  const disk = await openUnlimited(spec, warn);
  if (limits.bytesPerSecond === undefined && limits.opsPerSecond === undefined) return disk;
  const clock = new GuestClock();
  clock.start();
  return new ThrottledDisk(disk, limits, clock);
}

async function openUnlimited(spec: DiskSpec, warn: (message: string) => void): Promise<BlockBackend> {
  const { path, format, readOnly, overlay } = spec;
  const options = { format, backing: spec.backing ? ('any' as const) : ('none' as const), warn };
  if (typeof overlay === 'object') return openNamedOverlay(overlay.path, path, options);
  const isTemporary = overlay !== undefined && !readOnly;
  const image = await openDisk(path, { ...options, readOnly: readOnly || isTemporary });
  return isTemporary ? openOverlay(image) : image;
}
