/** Sizes of disks, as people write them. */
import { TsvError } from '../errors.ts';

const UNITS: Readonly<Record<string, number>> = {
  b: 1,
  k: 2 ** 10,
  m: 2 ** 20,
  g: 2 ** 30,
  t: 2 ** 40,
  p: 2 ** 50,
};

/**
 * Reads a size with a unit: 512M, 20G, 1.5T, 4194304B (also MiB, MB and so on; powers of 1024). A number alone is
 * refused: qemu-img takes it for bytes, `--memory` for MiB.
 * @param option what it was given for, as messages call it
 * @returns bytes, a multiple of 512
 * @throws TSV_E_USAGE
 */
export function parseDiskSize(option: string, text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([bkmgtp])(?:i?b)?$/i.exec(text.trim());
  const bytes = match === null ? Number.NaN : Number(match[1]) * UNITS[match[2].toLowerCase()];
  if (Number.isSafeInteger(bytes) && bytes > 0 && bytes % 512 === 0) return bytes;
  throw new TsvError('TSV_E_USAGE', `${option} cannot be "${text}".`, {
    hint: 'Write a number with K, M, G, T or B, such as 512M or 20G; disks have whole sectors of 512 bytes.',
  });
}

/** A number of bytes for people, such as "1.5 GiB". */
export function formatBytes(bytes: number): string {
  let value = bytes;
  let unit = 'bytes';
  for (const next of ['KiB', 'MiB', 'GiB', 'TiB', 'PiB']) {
    if (value < 1024) break;
    value /= 1024;
    unit = next;
  }
  return `${Number(value.toFixed(1))} ${unit}`;
}
