/** Makes an ext4 file system in a file, without mounting anything. */
import { randomUUID } from 'node:crypto';
import { chmod, mkdir, open, rename, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { TsvError } from '../errors.ts';
import type { Cache } from '../host/cache.ts';
import { findRootNamespace } from './namespace.ts';
import type { ImageProgress } from './progress.ts';
import { DOES_NOT_FIT, FORMAT_SCRIPT } from './scripts.ts';
import { requireTools, runScript, treeMemory } from './tool.ts';
import { withWorkFolder } from './work-folder.ts';

/** A file or symbolic link that goes into a file system; it belongs to root. `path` is absolute. */
export type ImageFile =
  | {
      readonly path: string;
      readonly content: string | Uint8Array;
      /** 0644 when absent. */
      readonly mode?: number;
    }
  | { readonly path: string; readonly target: string };

/** Options of {@link makeExt4}. */
export interface Ext4Options {
  /** The image file; an older one is replaced when the new one is complete. */
  readonly output: string;
  /** Bytes, a multiple of 4096. */
  readonly size: number;
  /** A Debian system as a tar archive; an empty file system when absent. */
  readonly archive?: string;
  /** Put over it. */
  readonly files: readonly ImageFile[];
  /** A kernel's folder of modules, `lib/modules/VERSION`. */
  readonly modules?: string;
  /** Root's password; when absent or empty, root logs in without one. Only with `archive`. */
  readonly password?: string;
  /** A new one when absent. */
  readonly uuid?: string;
  readonly signal?: AbortSignal;
  readonly report?: (progress: ImageProgress) => void;
}

/** The smallest size mkfs makes a journal in, and that Linux boots from with some room. */
const MIN_SIZE = 8 * 2 ** 20;

/** What a kernel's modules take at most, roughly. */
const MODULES_SIZE = 512 * 2 ** 20;

/** What this needs of the host: programs, and the Debian packages that have them. */
export const EXT4_TOOLS = {
  'mkfs.ext4': 'e2fsprogs',
  tar: 'tar',
  chroot: 'coreutils',
  unshare: 'util-linux',
  mount: 'mount',
};

/**
 * Makes a file system in a file. A failure or the signal leaves nothing behind.
 * @param cache where the work is done; locked by the caller
 * @throws TSV_E_IMAGE, TSV_E_DISK_FULL, TSV_E_USAGE when it does not fit, TSV_E_FILE for the output
 */
export async function makeExt4(cache: Cache, options: Ext4Options): Promise<void> {
  const { size, files, signal, report = () => {}, archive = '', modules = '' } = options;
  if (size < MIN_SIZE || size % 4096 !== 0) {
    throw new TsvError('TSV_E_USAGE', `A file system cannot have ${size} bytes.`, {
      hint: 'Use at least 8M, and a multiple of 4096 bytes.',
    });
  }
  await requireTools(EXT4_TOOLS, signal);
  const namespace = await findRootNamespace(signal);
  const output = resolve(options.output);
  const partial = `${output}.${process.pid}.part`;
  await checkOutput(output, partial);
  try {
    await withWorkFolder(cache, namespace, async (folder) => {
      const [root, over] = [join(folder, 'root'), join(folder, 'files')];
      await mkdir(root);
      await mkdir(over);
      await writeFiles(over, files);
      const uuid = options.uuid ?? randomUUID();
      const memory = treeMemory(archive === '' ? 0 : (await stat(archive)).size + MODULES_SIZE);
      const args = [root, String(memory), archive, over, modules, partial, String(size), uuid];
      let need = 0;
      const { status } = await runScript(namespace, 'Making the file system', FORMAT_SCRIPT, args, {
        signal,
        env: { TSVISOR_PASSWORD: options.password ?? '' },
        allowed: [DOES_NOT_FIT],
        onStatusLine: (line) => {
          const [kind, value] = line.split(':');
          if (kind === 'copy' || kind === 'format') report({ step: kind });
          if (kind === 'need') need = Number(value);
        },
      });
      if (status === DOES_NOT_FIT) throw tooSmall(size, need);
    });
    await rename(partial, output);
  } catch (error) {
    await rm(partial, { force: true });
    throw error;
  }
}

async function writeFiles(folder: string, files: readonly ImageFile[]): Promise<void> {
  for (const file of files) {
    const path = join(folder, file.path);
    await makeFolders(folder, dirname(file.path));
    if ('target' in file) {
      await symlink(file.target, path);
      continue;
    }
    await writeFile(path, file.content);
    await chmod(path, file.mode ?? 0o644);
  }
}

/** Folders that anybody may enter, whatever the umask. */
async function makeFolders(root: string, path: string): Promise<void> {
  let folder = root;
  for (const name of path.split('/').filter(Boolean)) {
    folder = join(folder, name);
    await mkdir(folder, { recursive: true });
    await chmod(folder, 0o755);
  }
}

/** Minutes of work are not to end with a file that cannot be written. */
async function checkOutput(output: string, partial: string): Promise<void> {
  try {
    const file = await open(partial, 'w');
    await file.close();
  } catch (cause) {
    throw new TsvError(
      'TSV_E_FILE',
      `The image cannot be written to ${output} (${(cause as NodeJS.ErrnoException).code}).`,
      { hint: 'Check the directory and its permissions.', cause },
    );
  }
}

function tooSmall(size: number, need: number): TsvError {
  const mib = (bytes: number) => `${Math.ceil(bytes / 2 ** 20)} MiB`;
  return new TsvError('TSV_E_USAGE', `The system needs ${mib(need)}, the disk would have ${mib(size)}.`, {
    hint: `Use --size ${Math.ceil(need / 2 ** 20 / 256) * 256}M or more.`,
  });
}
