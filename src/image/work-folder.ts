/** Folders in which trees are built as their root user. */
import { mkdtemp, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { Cache } from '../host/cache.ts';
import { run } from '../host/command.ts';
import type { RootNamespace } from './namespace.ts';

/** Unfinished work of interrupted runs has this prefix; not the cache's own, which could not remove files of others. */
const WORK_PREFIX = 'build-';

/**
 * Gives an action an empty folder in the cache, and removes it with what is in it.
 * @param cache locked by the caller
 */
export async function withWorkFolder<T>(
  cache: Cache,
  namespace: RootNamespace,
  action: (folder: string) => Promise<T>,
): Promise<T> {
  const root = await cache.folder();
  const remove = async (paths: readonly string[]) => {
    // Files of a user namespace belong to ids that only it has.
    const [command, ...args] = [...namespace.prefix, 'rm', '-rf', '--one-file-system', '--', ...paths];
    if (paths.length > 0) await run(command, args);
  };
  const left = (await readdir(root)).filter((name) => name.startsWith(WORK_PREFIX));
  await remove(left.map((name) => join(root, name)));
  const folder = await mkdtemp(join(root, WORK_PREFIX));
  try {
    return await action(folder);
  } finally {
    await remove([folder]);
  }
}
