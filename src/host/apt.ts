/** Downloads Debian packages through the host's apt, without installing anything and without being root. */
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { TsvError } from '../errors.ts';
import type { Cache } from './cache.ts';
import { type RunResult, run } from './command.ts';

/** A package apt can download. */
export interface AptPackage {
  readonly name: string;
  readonly version: string;
  /** Names of packages it depends on, the first of each set of alternatives. */
  readonly depends: readonly string[];
}

/** What an empty system needs. */
export interface InstallPlan {
  /** Names of .deb files, as {@link Apt.downloadPlan} names them. */
  readonly files: readonly string[];
  /** Bytes they will take when installed, as they say themselves. */
  readonly installedSize: number;
}

/** apt's units of size are decimal. */
const APT_UNITS: Readonly<Record<string, number>> = { k: 1e3, M: 1e6, G: 1e9 };

/** What is told about progress; `fraction` is 0 to 1. */
export type AptProgress = (phase: 'update' | 'download', fraction: number) => void;

/** Downloads single files; part of apt. */
const APT_HELPER = '/usr/lib/apt/apt-helper';

/** Names Debian allows (Debian Policy 5.6.1), so that a name is never taken for an option or a path. */
const PACKAGE_NAME = /^[a-z0-9][a-z0-9+.-]+$/;

/** One use of apt: with the host's package lists, or with lists of our own when those are missing or out of date. */
export class Apt {
  readonly #cache: Cache;
  readonly #signal: AbortSignal | undefined;
  readonly #progress: AptProgress;
  #ownLists: string[] | undefined;
  #updateErrors = '';

  constructor(cache: Cache, signal: AbortSignal | undefined, progress: AptProgress) {
    this.#cache = cache;
    this.#signal = signal;
    this.#progress = progress;
  }

  /**
   * Looks a package up; fetches package lists when the host's do not have it.
   * @throws TSV_E_FETCH when there is no such package or no way to get the lists
   */
  async find(name: string): Promise<AptPackage> {
    const found = await this.#show(name);
    if (found !== undefined) return found;
    if (this.#ownLists === undefined) {
      await this.update();
      return this.find(name);
    }
    if (this.#updateErrors !== '') throw aptError('The package lists cannot be fetched', this.#updateErrors);
    throw new TsvError('TSV_E_FETCH', `apt knows no package "${name}".`, {
      hint: 'Add a Debian repository that has it to the sources of apt, or give a kernel of your own with --kernel.',
    });
  }

  /** Fetches package lists into the cache; the host's own are left alone. */
  async update(): Promise<void> {
    const lists = await this.#cache.folder('apt', 'lists');
    const caches = await this.#cache.folder('apt', 'cache');
    await mkdir(join(lists, 'partial'), { recursive: true });
    await mkdir(join(caches, 'archives', 'partial'), { recursive: true });
    this.#ownLists = ['-o', `Dir::State::Lists=${lists}`, '-o', `Dir::Cache=${caches}`];
    const { stderr, status } = await this.#run('apt-get', ['update'], 'update');
    // Some repositories may be down while the one that matters is not: it shows when the package is looked up.
    this.#updateErrors = status !== 0 || /^[EW]: .*(?:Failed to fetch|not be)/m.test(stderr) ? stderr : '';
  }

  /**
   * Downloads a package. What an interrupted run left in the folder is continued.
   * @returns the path of the .deb file; apt has checked its checksum
   * @throws TSV_E_FETCH
   */
  async download(wanted: AptPackage, folder: string): Promise<string> {
    const target = `${wanted.name}=${wanted.version}`;
    const uris = await this.#run('apt-get', ['--print-uris', 'download', target]);
    // 'URI' FILE SIZE HASH
    const [, uri, file, hash] = /^'([^']+)' ([^\s/]+\.deb) \d+ (\S+)/m.exec(uris.stdout) ?? [];
    if (uris.status !== 0 || file === undefined) {
      throw aptError(`${target} cannot be downloaded`, uris.stderr);
    }
    const path = join(folder, file);
    // apt-get download would start from the beginning; the helper continues a file that is there.
    const attempt = () => this.#run(APT_HELPER, ['download-file', uri, path, hash], 'download');
    let result = await attempt();
    // The part that was there may have been of another file; apt has moved it away.
    if (result.status !== 0 && /Hash Sum mismatch/i.test(result.stderr)) result = await attempt();
    await rm(`${path}.FAILED`, { force: true });
    if (result.status !== 0) {
      const stale = /404 +Not Found|Hash Sum mismatch|File not found/i.test(result.stderr);
      if (stale && this.#ownLists === undefined) throw new StaleListsError(target, result.stderr);
      throw aptError(`${target} cannot be downloaded`, result.stderr);
    }
    return path;
  }

  /**
   * The packages an empty system needs to have the named ones, without recommendations.
   * @param names of packages, or patterns of apt such as `?essential`
   * @throws TSV_E_FETCH when some cannot be had
   */
  async plan(names: readonly string[]): Promise<InstallPlan> {
    // apt names only what has yet to be downloaded; nothing ever is to this folder.
    const archives = await this.#cache.folder('apt', 'plan');
    const attempt = async () =>
      this.#run('apt-get', ['--print-uris', ...(await this.#emptySystem(archives, names))]);
    let { status, stdout, stderr } = await attempt();
    if (status !== 0 && this.#ownLists === undefined) {
      await this.update();
      ({ status, stdout, stderr } = await attempt());
    }
    if (status !== 0) {
      throw aptError(
        `The packages ${names.join(' ')} cannot be had together`,
        `${stderr}\n${this.#updateErrors}`,
        '',
      );
    }
    // 'URI' FILE SIZE HASH
    const files = [...stdout.matchAll(/^'[^']+' ([^\s/]+\.deb) \d+/gm)].map((match) => match[1]);
    const [, amount = '0', unit = ''] = /^After this operation, ([\d.,]+) ([kMG]?)B of/m.exec(stdout) ?? [];
    const installedSize = Number(amount.replaceAll(',', '')) * (APT_UNITS[unit] ?? 1);
    return { files, installedSize };
  }

  /**
   * Downloads what {@link plan} names, as far as it is not there yet.
   * @throws TSV_E_FETCH; apt has checked the checksums
   */
  async downloadPlan(names: readonly string[], archives: string): Promise<void> {
    const args = ['--download-only', ...(await this.#emptySystem(archives, names))];
    const { status, stderr } = await this.#run('apt-get', args, 'download');
    if (status === 0) return;
    const stale = /404 +Not Found|Hash Sum mismatch|File not found/i.test(stderr);
    if (stale && this.#ownLists === undefined) throw new StaleListsError(names.join(' '), stderr);
    throw aptError('The packages cannot be downloaded', stderr, '');
  }

  /** Options for installing into a system that has nothing yet, while the host's state stays as it is. */
  async #emptySystem(archives: string, names: readonly string[]): Promise<string[]> {
    const state = await this.#cache.folder('apt');
    await mkdir(join(archives, 'partial'), { recursive: true });
    await writeFile(join(state, 'no-packages'), '');
    const settings = [
      `Dir::State::Status=${join(state, 'no-packages')}`,
      `Dir::State::Extended_States=${join(state, 'no-states')}`,
      `Dir::Cache=${state}`,
      `Dir::Cache::Archives=${archives}`,
      'Debug::NoLocking=true',
      'APT::Install-Recommends=false',
      'APT::Get::Assume-Yes=true',
    ];
    return [...settings.flatMap((setting) => ['-o', setting]), 'install', ...names];
  }

  async #show(name: string): Promise<AptPackage | undefined> {
    const args = [...(this.#ownLists ?? []), 'show', '--no-all-versions', name];
    const { stdout, status } = await run('apt-cache', args, { signal: this.#signal });
    const stanza = stdout.split(/\n\n/)[0];
    const field = (key: string) => new RegExp(`^${key}: (.*)$`, 'm').exec(stanza)?.[1];
    const version = field('Version');
    // Without Filename it is an installed package that no list has.
    if (status !== 0 || version === undefined || field('Filename') === undefined) return undefined;
    const depends = (field('Depends') ?? '').split(',').map((part) => part.trim().split(/[\s(|:]/)[0]);
    return { name, version, depends: depends.filter(Boolean) };
  }

  async #run(tool: string, args: readonly string[], phase?: 'update' | 'download'): Promise<RunResult> {
    const all = ['-o', 'APT::Status-Fd=3', ...(this.#ownLists ?? []), ...args];
    // As root apt hands downloads to a user who cannot enter our cache folder.
    if (process.getuid?.() === 0) all.unshift('-o', 'APT::Sandbox::User=root');
    const onStatusLine = (line: string) => {
      // dlstatus:<item>:<percent>:<text> (apt's README.progress-reporting)
      const percent = /^dlstatus:\d+:(\d+(?:\.\d+)?):/.exec(line)?.[1];
      if (percent !== undefined && phase !== undefined)
        this.#progress(phase, Math.min(1, Number(percent) / 100));
    };
    return run(tool, all, { signal: this.#signal, onStatusLine });
  }
}

/** The mirror no longer has what the host's package lists name. */
export class StaleListsError extends Error {
  constructor(target: string, stderr: string) {
    super(`${target}: ${stderr}`);
  }
}

/** @throws TSV_E_FETCH when it cannot be the name of a package */
export function checkPackageName(name: string): void {
  if (PACKAGE_NAME.test(name)) return;
  throw new TsvError('TSV_E_FETCH', `"${name}" is not the name of a Debian package.`, {
    hint: 'Names are lower-case letters, digits, plus, minus and dots.',
  });
}

/** What else there is to do for who wanted a kernel. */
const WITHOUT_APT = ', or give a kernel of your own with --kernel';

/**
 * What a failed tool's messages mean for the user.
 * @param otherwise another way to what was wanted, to be added to advice
 */
export function aptError(message: string, stderr: string, otherwise = WITHOUT_APT): TsvError {
  const lines = stderr.split('\n').filter((line) => /^(?:E|W|Err|tar|dpkg-deb)[ :]/.test(line));
  const reason = (
    lines.find((line) => /^E:|No space|dpkg-deb:/.test(line)) ??
    lines[0] ??
    stderr.trim()
  ).trim();
  return new TsvError('TSV_E_FETCH', `${message}: ${reason || 'no reason given'}`, {
    hint: adviceFor(stderr, otherwise),
  });
}

function adviceFor(stderr: string, otherwise: string): string {
  if (/No space left|enough free space|Disk quota/i.test(stderr)) {
    return 'The disk is full: free space, or choose another cache folder.';
  }
  if (/resolv|connect|timed out|Network is unreachable|Proxy/i.test(stderr)) {
    return `Check the network and the proxy settings of apt${otherwise}.`;
  }
  if (/Permission denied/i.test(stderr)) return 'Check the permissions of the cache folder.';
  if (/NO_PUBKEY|not signed|Hash Sum/i.test(stderr))
    return 'The repository is not sound; see what `apt-get update` says.';
  return `Check the sources of apt${otherwise}.`;
}
