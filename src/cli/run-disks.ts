/** The `--disk` option: PATH[,KEY=VALUE|FLAG]..., and opening what it names. */
import { GuestClock } from '../devices/guest-clock.ts';
import { TsvError } from '../errors.ts';
import type { DiskConfig } from '../machine/virtio.ts';
import type { BlockBackend } from '../storage/backend.ts';
import { type DiskFormat, openDisk } from '../storage/open.ts';
import { openOverlay } from '../storage/overlay.ts';
import { ThrottledDisk, type ThrottleLimits } from '../storage/throttle.ts';

/** A disk as the command line has it. */
export interface DiskSpec {
  readonly path: string;
  readonly format?: DiskFormat;
  readonly readOnly: boolean;
  /** Writes are kept for this run only. */
  readonly overlay: boolean;
  /** The image may be based on other files. */
  readonly backing: boolean;
  readonly serial?: string;
  readonly limits: ThrottleLimits;
}

/** For `--help` and error messages. */
export const DISK_SYNTAX = 'PATH[,format=raw|qcow2,readonly,overlay,backing,iops=N,bps=N,serial=TEXT]';

const FLAGS = ['readonly', 'overlay', 'backing'] as const;

/**
 * Reads a `--disk` value. A comma in PATH is written twice, as for QEMU.
 * @throws TSV_E_USAGE
 */
export function parseDisk(text: string): DiskSpec {
  const [path, ...parts] = text.split(/(?<!,),(?!,)/).map((part) => part.replaceAll(',,', ','));
  if (path === '') throw usage(`"${text}" names no disk image.`);
  const flags = new Set<string>();
  const values = new Map<string, string>();
  for (const part of parts) {
    const [, key, value] = /^([a-z]+)(?:=(.*))?$/s.exec(part) ?? [];
    const isFlag = FLAGS.some((flag) => flag === key);
    if (isFlag && value === undefined) flags.add(key);
    else if (!isFlag && value !== undefined && ['format', 'iops', 'bps', 'serial'].includes(key))
      values.set(key, value);
    else throw usage(`"${part}" is nothing that can be said of a disk.`);
  }
  const format = values.get('format');
  if (format !== undefined && format !== 'raw' && format !== 'qcow2') {
    throw usage(`There is no disk format "${format}".`);
  }
  return {
    path,
    format,
    readOnly: flags.has('readonly'),
    overlay: flags.has('overlay'),
    backing: flags.has('backing'),
    serial: values.get('serial'),
    limits: { opsPerSecond: rate(values.get('iops')), bytesPerSecond: rate(values.get('bps')) },
  };
}

const UNITS: Readonly<Record<string, number>> = { '': 1, K: 1024, M: 1024 ** 2, G: 1024 ** 3 };

function rate(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  const [, digits, unit] = /^(\d+)([KMG]?)$/i.exec(text) ?? [];
  const value = Number(digits) * UNITS[unit?.toUpperCase() ?? ''];
  if (value > 0) return value;
  throw usage(`"${text}" is no rate.`);
}

function usage(message: string): TsvError {
  return new TsvError('TSV_E_USAGE', message, {
    hint: `Write --disk ${DISK_SYNTAX}; rates may end in K, M or G.`,
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
    for (const spec of specs) disks.push({ backend: await open(spec, warn), serial: spec.serial });
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
  const { path, format, overlay, limits } = spec;
  const readOnly = spec.readOnly || overlay;
  const backing = spec.backing ? 'any' : 'none';
  const image = await openDisk(path, { format, readOnly, backing, warn });
  const disk = overlay && !spec.readOnly ? await openOverlay(image) : image;
  if (limits.bytesPerSecond === undefined && limits.opsPerSecond === undefined) return disk;
  const clock = new GuestClock();
  clock.start();
  return new ThrottledDisk(disk, limits, clock);
}
