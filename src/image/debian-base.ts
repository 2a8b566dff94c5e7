/** A Debian system as a packed tree, installed from packages once and kept in the cache. */
import { createHash } from 'node:crypto';
import { mkdir, readdir, rename, rm, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { Apt, checkPackageName, StaleListsError } from '../host/apt.ts';
import type { Cache } from '../host/cache.ts';
import { findRootNamespace } from './namespace.ts';
import type { ImageProgress } from './progress.ts';
import { INSTALL_SCRIPT } from './scripts.ts';
import { runScript, treeMemory } from './tool.ts';
import { withWorkFolder } from './work-folder.ts';

/** What every package may rely on in its scripts; the second says that /bin and /usr/bin are the same. */
const ESSENTIAL = ['?essential', 'usr-is-merged'];
/** A system that boots from a disk and lets people in on a console. */
const SYSTEM = ['systemd-sysv', 'udev', 'kmod', 'login', 'passwd', 'mount', 'e2fsprogs', 'procps'];

/** Options of {@link debianBase}. */
export interface DebianBaseOptions {
  /** More packages. */
  readonly include: readonly string[];
  /** Look for newer packages although there is a base in the cache. */
  readonly refresh: boolean;
  readonly signal: AbortSignal | undefined;
  readonly report: (progress: ImageProgress) => void;
}

/** A packed tree. */
export interface DebianBase {
  /** A tar archive. */
  readonly archive: string;
  /** File names of the packages that are in it, NAME_VERSION_ARCHITECTURE.deb. */
  readonly packages: readonly string[];
  /** What it was made with; another version of this program may do it differently. */
  readonly recipe: string;
}

/**
 * Gets a base system: from the cache, or else installed from packages that the host's apt downloads.
 * @param cache locked by the caller
 * @throws TSV_E_FETCH, TSV_E_IMAGE, TSV_E_DISK_FULL
 */
export async function debianBase(cache: Cache, options: DebianBaseOptions): Promise<DebianBase> {
  const { signal, report, refresh } = options;
  for (const name of options.include) checkPackageName(name);
  const include = [...new Set(options.include)].sort();
  const note = `base-${digest(['debian', ...include])}.json`;
  const known = await readBase(cache, note);
  const names = [...ESSENTIAL, ...SYSTEM, ...include];
  const recipe = digest([INSTALL_SCRIPT, ...names]);
  if (known?.recipe === recipe && !refresh) return known;

  const apt = new Apt(cache, signal, (step, fraction) => report({ step, fraction }));
  const install = async (): Promise<DebianBase> => {
    report({ step: 'resolve' });
    const { files: first } = await apt.plan(ESSENTIAL);
    const { files: all, installedSize } = await apt.plan(names);
    const packages = [...first, ...all.filter((name) => !first.includes(name))];
    const archive = cache.path(`base-${digest([recipe, ...packages])}.tar`);
    if (await isFile(archive)) return { archive, packages, recipe };
    const archives = await cache.folder('packages');
    report({ step: 'download', fraction: 0 });
    await apt.downloadPlan(names, archives);
    const set = { archives, packages, first: first.length, installedSize };
    await installPackages(cache, set, archive, options);
    await removeOther(archives, packages);
    return { archive, packages, recipe };
  };
  const base = await install().catch(async (error: unknown) => {
    if (!(error instanceof StaleListsError)) throw error;
    await apt.update();
    return install();
  });
  await cache.writeNote(note, JSON.stringify(base));
  if (known !== undefined && known.archive !== base.archive) await rm(known.archive, { force: true });
  return base;
}

/** Packages that are to be installed. */
interface PackageSet {
  /** The folder they are in. */
  readonly archives: string;
  readonly packages: readonly string[];
  /** How many of them make up what every package may rely on; they come first. */
  readonly first: number;
  /** Bytes they say they take. */
  readonly installedSize: number;
}

async function installPackages(
  cache: Cache,
  { archives, packages, first, installedSize }: PackageSet,
  archive: string,
  { signal, report }: DebianBaseOptions,
): Promise<void> {
  const namespace = await findRootNamespace(signal);
  await withWorkFolder(cache, namespace, async (folder) => {
    const root = join(folder, 'root');
    await mkdir(root);
    const packed = join(folder, 'base.tar');
    let done = 0;
    const onStatusLine = (line: string): void => {
      const [kind, ...fields] = line.split(':').map((field) => field.trim());
      if (kind === 'unpack') report({ step: 'unpack', fraction: Number(fields[0]) / Number(fields[1]) });
      if (kind === 'pack') report({ step: 'pack' });
      // dpkg's own words (--status-fd) for the first packages, apt's for the rest.
      if (kind === 'status' && (fields[1] === 'unpacked' || fields[1] === 'installed')) done += 1 / 2;
      else if (kind !== 'pmstatus') return;
      const others = kind === 'pmstatus' ? Number(fields[1]) / 100 : 0;
      const fraction = (Math.min(done, first) + others * (packages.length - first)) / packages.length;
      report({ step: 'install', fraction });
    };
    const memory = treeMemory(installedSize);
    const args = [root, String(memory), packed, archives, String(first), ...packages];
    await runScript(namespace, 'Installing the packages', INSTALL_SCRIPT, args, { signal, onStatusLine });
    await rename(packed, archive);
  });
}

/** Packages of older versions. */
async function removeOther(archives: string, packages: readonly string[]): Promise<void> {
  const names = new Set(packages.map((file) => file.split('_')[0]));
  for (const file of await readdir(archives)) {
    const outdated = names.has(file.split('_')[0]) && !packages.includes(file);
    if (file.endsWith('.deb') && outdated) await rm(join(archives, file), { force: true });
  }
}

async function readBase(cache: Cache, note: string): Promise<DebianBase | undefined> {
  const text = await cache.readNote(note);
  if (text === undefined) return undefined;
  try {
    const base = JSON.parse(text) as DebianBase;
    return basename(base.archive).startsWith('base-') && (await isFile(base.archive)) ? base : undefined;
  } catch {
    return undefined; // damaged by others: install it again
  }
}

async function isFile(path: string): Promise<boolean> {
  const status = await stat(path).catch(() => undefined);
  return status?.isFile() === true && status.size > 0;
}

function digest(parts: readonly string[]): string {
  return createHash('sha256').update(parts.join('\0')).digest('hex').slice(0, 16);
}
