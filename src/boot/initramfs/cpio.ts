/**
 * The cpio "newc" format that Linux unpacks its initramfs from (Documentation/driver-api/early-userspace/
 * buffer-format.rst): a 110-byte header of hexadecimal text, the name and the contents, each padded to 4 bytes.
 */
import { TsvError } from '../../errors.ts';

/** What all entries have. */
interface EntryBase {
  /** Path in the archive, without a leading slash; `.` components and `..` are not allowed. */
  readonly path: string;
  /** Permission bits, including set-user-ID, set-group-ID and sticky: 0 to 0o7777. */
  readonly mode: number;
}

/** One file of an archive. All belong to root. */
export type CpioEntry =
  | (EntryBase & { readonly type: 'file'; readonly data: Uint8Array })
  | (EntryBase & { readonly type: 'directory' })
  | (EntryBase & { readonly type: 'symlink'; readonly target: string })
  | (EntryBase & { readonly type: 'char' | 'block'; readonly major: number; readonly minor: number })
  | (EntryBase & { readonly type: 'fifo' });

/** File type bits of st_mode (inode(7)). */
const TYPE_BITS = {
  fifo: 0o010000,
  char: 0o020000,
  directory: 0o040000,
  block: 0o060000,
  file: 0o100000,
  symlink: 0o120000,
} as const;

const MAGIC = '070701';
const HEADER_SIZE = 110;
const TRAILER = 'TRAILER!!!';
/** Linux drops entries with longer names and links (PATH_MAX, with the terminating NUL). */
const PATH_MAX = 4096;
/** Sizes are 32-bit fields. */
const MAX_FILE_SIZE = 0xffffffff;
/** Largest archive that fits one array on every supported Node version. */
const MAX_ARCHIVE_SIZE = 2 ** 32 - 1;
/** Linux's limits of the fields of a device number. */
const MAX_MAJOR = 0xfff;
const MAX_MINOR = 0xfffff;

/**
 * Writes an archive. The same entries give the same bytes.
 * @param entries in an order in which directories come before what is in them
 * @param mtime seconds since 1970 that all entries get
 * @throws TSV_E_INITRAMFS for names, sizes and numbers the format or Linux cannot take
 */
export function encodeCpio(entries: readonly CpioEntry[], mtime = 0): Uint8Array {
  if (!(Number.isInteger(mtime) && mtime >= 0 && mtime <= 0xffffffff)) {
    throw invalid(`${mtime} is not a time the archive can hold.`, 'Use seconds since 1970.');
  }
  const members = entries.map((entry) => ({ entry, name: encodeName(entry.path), body: bodyOf(entry) }));
  const trailer = Buffer.from(`${TRAILER}\0`);
  const total =
    members.reduce((sum, { name, body }) => sum + memberSize(name, body), 0) + memberSize(trailer, EMPTY);
  if (total > MAX_ARCHIVE_SIZE)
    throw invalid('The initramfs is larger than 4 GiB.', 'Put large files on a disk.');

  const out = new Uint8Array(total);
  let at = 0;
  const add = (fields: readonly number[], name: Uint8Array, body: Uint8Array) => {
    const header = MAGIC + fields.map((field) => field.toString(16).toUpperCase().padStart(8, '0')).join('');
    out.set(Buffer.from(header, 'latin1'), at);
    out.set(name, at + HEADER_SIZE);
    out.set(body, at + align4(HEADER_SIZE + name.length));
    at += memberSize(name, body);
  };
  for (const [i, { entry, name, body }] of members.entries()) {
    const [major, minor] = deviceOf(entry);
    const links = entry.type === 'directory' ? 2 : 1;
    const mode = TYPE_BITS[entry.type] | checkMode(entry);
    // ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check
    add([i + 1, mode, 0, 0, links, mtime, body.length, 0, 0, major, minor, name.length, 0], name, body);
  }
  add([0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, trailer.length, 0], trailer, EMPTY);
  return out;
}

const EMPTY = new Uint8Array(0);

function memberSize(name: Uint8Array, body: Uint8Array): number {
  return align4(HEADER_SIZE + name.length) + align4(body.length);
}

function align4(size: number): number {
  return Math.ceil(size / 4) * 4;
}

function encodeName(path: string): Uint8Array {
  const name = Buffer.from(`${path}\0`);
  const parts = path.split('/');
  if (parts.some((part) => part === '' || part === '.' || part === '..') || path.includes('\0')) {
    throw invalid(
      `"${path}" is not a path inside the initramfs.`,
      'Use a path like bin/sh, without . and .. in it.',
    );
  }
  if (path === TRAILER)
    throw invalid(`An initramfs cannot hold a file named ${TRAILER}.`, 'Rename the file.');
  if (name.length > PATH_MAX) {
    throw invalid(`The path "${path.slice(0, 60)}…" is longer than 4095 bytes.`, 'Linux would leave it out.');
  }
  return name;
}

function bodyOf(entry: CpioEntry): Uint8Array {
  if (entry.type === 'file') {
    if (entry.data.length > MAX_FILE_SIZE) throw tooLarge(entry.path);
    return entry.data;
  }
  if (entry.type !== 'symlink') return EMPTY;
  const target = Buffer.from(entry.target);
  if (target.length === 0 || target.length >= PATH_MAX || entry.target.includes('\0')) {
    throw invalid(
      `The link "${entry.path}" has no target Linux would take.`,
      'It has 1 to 4095 bytes and no NUL.',
    );
  }
  return target;
}

/** What a file that does not fit the format is reported as. */
export function tooLarge(path: string): TsvError {
  return invalid(`"${path}" is larger than 4 GiB, the most the cpio format can hold.`, 'Put it on a disk.');
}

function checkMode(entry: CpioEntry): number {
  if (Number.isInteger(entry.mode) && entry.mode >= 0 && entry.mode <= 0o7777) return entry.mode;
  throw invalid(`"${entry.path}" has mode ${entry.mode}, which is none.`, 'Permissions are 0 to 0o7777.');
}

function deviceOf(entry: CpioEntry): [number, number] {
  if (entry.type !== 'char' && entry.type !== 'block') return [0, 0];
  const { major, minor } = entry;
  const fits = (value: number, max: number) => Number.isInteger(value) && value >= 0 && value <= max;
  if (fits(major, MAX_MAJOR) && fits(minor, MAX_MINOR)) return [major, minor];
  throw invalid(
    `"${entry.path}" has no device number ${major}:${minor}.`,
    'The major has 12 bits, the minor 20.',
  );
}

function invalid(message: string, hint: string): TsvError {
  return new TsvError('TSV_E_INITRAMFS', message, { hint });
}
