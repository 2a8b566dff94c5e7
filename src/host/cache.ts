/**
 * tsvisor's cache folder: what is in it is complete, because it gets there by rename, and written by one process at a
 * time.
 */
import { constants } from 'node:fs';
import { mkdir, mkdtemp, open, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { isAbsolute, join, resolve } from 'node:path';
import { TsvError } from '../errors.ts';
import { run } from './command.ts';

/** Unfinished folders of interrupted runs have this prefix. */
const TEMPORARY = 'tmp-';

/** Where the cache is: `$XDG_CACHE_HOME/tsvisor`, or `~/.cache/tsvisor` (XDG Base Directory Specification). */
export function defaultCacheDir(): string {
  const base = process.env.XDG_CACHE_HOME;
  return join(base !== undefined && isAbsolute(base) ? base : join(homedir(), '.cache'), 'tsvisor');
}

/** A cache folder. */
export class Cache {
  readonly root: string;

  constructor(root = defaultCacheDir()) {
    this.root = resolve(root); // apt takes relative paths as relative to folders of its own
  }

  /** A path in the cache. */
  path(...parts: string[]): string {
    return join(this.root, ...parts);
  }

  /** Makes a folder in the cache. @throws TSV_E_FETCH */
  async folder(...parts: string[]): Promise<string> {
    const path = this.path(...parts);
    await diskGuard(path, () => mkdir(path, { recursive: true }));
    return path;
  }

  /**
   * Runs an action that no other process may run at the same time. The lock is on an open file, so it ends with the
   * process that holds it, however that ends.
   * @param waiting called when another process holds the lock
   * @throws TSV_E_FETCH when the signal is aborted meanwhile
   */
  async locked<T>(
    signal: AbortSignal | undefined,
    waiting: () => void,
    action: () => Promise<T>,
  ): Promise<T> {
    await this.folder();
    const path = this.path('lock');
    const file = await diskGuard(path, () => open(path, constants.O_RDWR | constants.O_CREAT, 0o644));
    try {
      const busy = await run('flock', ['--exclusive', '--nonblock', '3'], { fd3: file.fd, signal });
      if (busy.status !== 0) {
        waiting();
        const { status, stderr } = await run('flock', ['--exclusive', '3'], { fd3: file.fd, signal });
        if (status !== 0) throw cacheError(path, new Error(stderr.trim()));
      }
      await this.#removeTemporary();
      return await action();
    } finally {
      await file.close();
    }
  }

  /**
   * Fills a folder and puts it into the cache in one step. Nothing is left of it when filling fails.
   * @param name of the folder; one that is there already is replaced
   */
  async publish(name: string, fill: (folder: string) => Promise<void>): Promise<string> {
    const target = this.path(name);
    await this.folder();
    const temporary = await diskGuard(target, () => mkdtemp(this.path(TEMPORARY)));
    try {
      await fill(temporary);
      await diskGuard(target, async () => {
        await mkdir(join(target, '..'), { recursive: true });
        await rm(target, { recursive: true, force: true });
        await rename(temporary, target);
      });
    } catch (error) {
      await rm(temporary, { recursive: true, force: true });
      throw error;
    }
    return target;
  }

  /** Reads a note; undefined when there is none or it cannot be read. */
  async readNote(name: string): Promise<string | undefined> {
    return readFile(this.path(name), 'utf8').catch(() => undefined);
  }

  /** Writes a note in one step. @throws TSV_E_FETCH */
  async writeNote(name: string, text: string): Promise<void> {
    const temporary = this.path(`${name}.${process.pid}`);
    await diskGuard(temporary, async () => {
      await writeFile(temporary, text);
      await rename(temporary, this.path(name));
    });
  }

  /** What processes left behind that were killed; only with the lock held. */
  async #removeTemporary(): Promise<void> {
    for (const name of await readdir(this.root)) {
      if (name.startsWith(TEMPORARY)) await rm(this.path(name), { recursive: true, force: true });
    }
  }
}

async function diskGuard<T>(path: string, action: () => Promise<T>): Promise<T> {
  try {
    return await action();
  } catch (cause) {
    throw cacheError(path, cause as Error);
  }
}

function cacheError(path: string, cause: Error): TsvError {
  return new TsvError('TSV_E_FETCH', `The cache "${path}" cannot be written (${cause.message}).`, {
    hint: 'Free space there, check its permissions, or choose another cache folder.',
    cause,
  });
}
