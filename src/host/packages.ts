/** Debian packages, downloaded and unpacked into the cache. */
import { rm } from 'node:fs/promises';
import { Apt, type AptPackage, aptError, checkPackageName, StaleListsError } from './apt.ts';
import { Cache } from './cache.ts';
import { run } from './command.ts';

/** What is going on. */
export interface FetchProgress {
  /** `wait`: another process is fetching; `cached`: nothing to do. */
  readonly phase: 'wait' | 'update' | 'resolve' | 'download' | 'unpack' | 'cached';
  /** The package being fetched. */
  readonly package: string;
  /** 0 to 1 where it is known. */
  readonly fraction?: number;
}

/** Options of everything that fetches. */
export interface FetchOptions {
  /** Where to keep it; {@link defaultCacheDir} when absent. */
  readonly cacheDir?: string;
  /** Told of each step, and of how far a download is. */
  readonly onProgress?: (progress: FetchProgress) => void;
  /** Ends fetching; what was downloaded is kept to continue from, everything else is removed. */
  readonly signal?: AbortSignal;
  /** Look for a newer version even though there is one in the cache. */
  readonly refresh?: boolean;
}

/** An unpacked package. */
export interface UnpackedPackage {
  readonly name: string;
  readonly version: string;
  /** The folder with the package's files. */
  readonly root: string;
}

/**
 * Finds a package in the cache or fetches it.
 * @param name of the package that is asked for
 * @param options see {@link FetchOptions}
 * @param resolve tells from the package which one has the files; the same when absent
 * @param verify throws when the unpacked files are not what they should be
 * @throws TSV_E_FETCH
 */
export async function fetchPackage(
  name: string,
  options: FetchOptions,
  verify: (found: UnpackedPackage) => Promise<void>,
  resolve: (apt: Apt, found: AptPackage) => Promise<AptPackage> = async (_, found) => found,
): Promise<UnpackedPackage> {
  checkPackageName(name);
  const { signal, onProgress = () => {}, refresh = false } = options;
  const cache = new Cache(options.cacheDir);
  const report = (phase: FetchProgress['phase'], fraction?: number) =>
    onProgress({ phase, package: name, fraction });
  const useCached = async () => {
    const found = refresh ? undefined : await readCached(cache, name, verify);
    if (found !== undefined) report('cached', 1);
    return found;
  };
  // Without the lock: what is in the cache is complete.
  const cached = await useCached();
  if (cached !== undefined) return cached;
  await run('apt-get', ['--version'], { signal }); // says that there is no apt before anything is written
  return cache.locked(
    signal,
    () => report('wait'),
    async () => {
      const meanwhile = await useCached();
      if (meanwhile !== undefined) return meanwhile;
      const apt = new Apt(cache, signal, throttled(report));
      const install = async () => {
        report('resolve');
        const wanted = await resolve(apt, await apt.find(name));
        const same = await readCached(cache, name, verify);
        if (same?.name === wanted.name && same.version === wanted.version) return same;
        return unpack(cache, apt, wanted, signal, report, verify);
      };
      const found = await install().catch(async (error: unknown) => {
        if (!(error instanceof StaleListsError)) throw error;
        await apt.update();
        return install();
      });
      await cache.writeNote(noteName(name), JSON.stringify(found));
      return found;
    },
  );
}

async function unpack(
  cache: Cache,
  apt: Apt,
  wanted: AptPackage,
  signal: AbortSignal | undefined,
  report: (phase: FetchProgress['phase'], fraction?: number) => void,
  verify: (found: UnpackedPackage) => Promise<void>,
): Promise<UnpackedPackage> {
  const { name, version } = wanted;
  const folderName = `${name}_${version.replaceAll(/[^\w.+~-]/g, '-')}`;
  report('download', 0);
  const deb = await apt.download(wanted, await cache.folder('downloads'));
  const root = await cache.publish(folderName, async (folder) => {
    report('unpack');
    const { status, stderr } = await run('dpkg-deb', ['-x', deb, folder], { signal });
    if (status !== 0) throw aptError(`${name} cannot be unpacked`, stderr);
    await verify({ name, version, root: folder });
  });
  await rm(deb, { force: true });
  return { name, version, root };
}

async function readCached(
  cache: Cache,
  name: string,
  verify: (found: UnpackedPackage) => Promise<void>,
): Promise<UnpackedPackage | undefined> {
  const note = await cache.readNote(noteName(name));
  if (note === undefined) return undefined;
  try {
    const found = JSON.parse(note) as UnpackedPackage;
    await verify(found);
    return found;
  } catch {
    return undefined; // damaged by others: fetch it again
  }
}

function noteName(name: string): string {
  return `${name}.json`;
}

/** Passes progress on when it has moved by at least one percent. */
function throttled(report: (phase: FetchProgress['phase'], fraction?: number) => void) {
  let last = '';
  return (phase: 'update' | 'download', fraction: number) => {
    const key = `${phase} ${Math.floor(fraction * 100)}`;
    if (key !== last) report(phase, fraction);
    last = key;
  };
}
