/** Takes files and directories of the host into the tree. */
import { constants } from 'node:fs';
import { type FileHandle, lstat, open, readdir, readlink, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { TsvError } from '../../errors.ts';
import { tooLarge } from './cpio.ts';
import type { FileTree } from './tree.ts';

/** The most one read(2) of Node takes, bytes. */
const READ_CHUNK = 2 ** 30;

/** A file or directory of the host and where it goes. */
export interface HostFile {
  /** Path on the host; a symbolic link to a file or directory is followed here, but not below a directory. */
  readonly source: string;
  /** Path in the initramfs. */
  readonly path: string;
  /** Permissions of a file; those of the host when absent. */
  readonly mode?: number;
}

/**
 * Adds a file, or a directory with all that is in it. Permissions are kept, owners are not: all belongs to root.
 * @throws TSV_E_FILE for what cannot be read, TSV_E_INITRAMFS for what does not fit
 */
export async function addHostFile(tree: FileTree, file: HostFile): Promise<void> {
  await guarded(file.source, async () => {
    const status = await stat(file.source);
    if (status.isDirectory()) return addDirectory(tree, file.source, file.path, status.mode);
    const data = await readWhole(file.source);
    tree.add({ type: 'file', path: file.path, mode: file.mode ?? status.mode & 0o7777, data });
  });
}

/** Reads a regular file of up to 4 GiB. @throws TSV_E_FILE, TSV_E_INITRAMFS */
export async function readHostFile(path: string): Promise<Uint8Array> {
  return guarded(path, () => readWhole(path));
}

async function addDirectory(tree: FileTree, source: string, path: string, mode: number): Promise<void> {
  tree.add({ type: 'directory', path, mode: mode & 0o7777 });
  const names = await readdir(source, { encoding: 'buffer' });
  for (const raw of names) {
    const name = raw.toString('utf8');
    if (!Buffer.from(name).equals(raw)) {
      throw new TsvError('TSV_E_INITRAMFS', `"${source}" holds a file whose name is not UTF-8 ("${name}").`, {
        hint: 'Rename the file or leave it out.',
      });
    }
    await addChild(tree, join(source, name), `${path}/${name}`);
  }
}

async function addChild(tree: FileTree, source: string, path: string): Promise<void> {
  const status = await lstat(source);
  const mode = status.mode & 0o7777;
  if (status.isDirectory()) await addDirectory(tree, source, path, mode);
  else if (status.isFile()) tree.add({ type: 'file', path, mode, data: await readWhole(source) });
  else if (status.isSymbolicLink())
    tree.add({ type: 'symlink', path, mode: 0o777, target: await readlink(source) });
  else if (status.isFIFO()) tree.add({ type: 'fifo', path, mode });
  else if (status.isCharacterDevice()) tree.add({ type: 'char', path, mode, ...deviceNumber(status.rdev) });
  else if (status.isBlockDevice()) tree.add({ type: 'block', path, mode, ...deviceNumber(status.rdev) });
  else {
    throw new TsvError('TSV_E_INITRAMFS', `"${source}" is a socket, which an initramfs cannot hold.`, {
      hint: 'Leave it out.',
    });
  }
}

/** glibc's encoding of a dev_t: the lower 12 and 8 bits of major and minor in the middle and at the bottom. */
function deviceNumber(rdev: number): { major: number; minor: number } {
  const high = Math.floor(rdev / 2 ** 32);
  const low = rdev % 2 ** 32;
  return { major: (high & ~0xfff) | ((low >>> 8) & 0xfff), minor: (low & 0xff) | ((low >>> 12) & ~0xff) };
}

async function readWhole(path: string): Promise<Uint8Array> {
  // Not blocking: opening a pipe nobody writes to would wait for ever.
  const file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    const status = await file.stat();
    if (!status.isFile()) {
      throw new TsvError('TSV_E_FILE', `"${path}" is not a regular file.`, {
        hint: 'Name a file or a directory.',
      });
    }
    if (status.size >= 2 ** 32) throw tooLarge(path);
    return await readBytes(file, status.size, path);
  } finally {
    await file.close();
  }
}

async function readBytes(file: FileHandle, size: number, path: string): Promise<Uint8Array> {
  const data = new Uint8Array(size);
  let done = 0;
  while (done < size) {
    const { bytesRead } = await file.read(data, done, Math.min(READ_CHUNK, size - done), done);
    if (bytesRead === 0) {
      throw new TsvError('TSV_E_FILE', `"${path}" became shorter while it was read.`, { hint: 'Try again.' });
    }
    done += bytesRead;
  }
  return data;
}

async function guarded<T>(path: string, action: () => Promise<T>): Promise<T> {
  try {
    return await action();
  } catch (cause) {
    if (cause instanceof TsvError) throw cause;
    throw new TsvError('TSV_E_FILE', `"${path}" cannot be read (${(cause as Error).message}).`, {
      hint: 'Check the path and its permissions.',
      cause,
    });
  }
}
