/** Fetching kernels and busybox with progress on stderr; Ctrl-C ends it cleanly. */

import { readdir } from 'node:fs/promises';
import { basename } from 'node:path';
import { defaultCacheDir } from '../host/cache.ts';
import { type FetchedKernel, fetchBusybox, fetchKernel } from '../host/kernel-fetch.ts';
import type { FetchOptions, FetchProgress } from '../host/packages.ts';
import { Progress } from './progress.ts';
import { dieOf, type EndSignal, watchSignals } from './signals.ts';

const PHASES: Readonly<Record<FetchProgress['phase'], string>> = {
  wait: 'waiting for another tsvisor that is fetching',
  update: 'fetching package lists',
  resolve: 'looking the package up',
  download: 'downloading',
  unpack: 'unpacking',
  cached: 'cached',
};

/** Options of both. */
export type FetchCliOptions = Pick<FetchOptions, 'cacheDir' | 'refresh'> & { package?: string };

/** Gets a Debian kernel. @throws TSV_E_FETCH */
export function fetchKernelWithProgress(options: FetchCliOptions = {}): Promise<FetchedKernel> {
  return withProgress(options, fetchKernel);
}

/** Gets a static busybox. @throws TSV_E_FETCH */
export function fetchBusyboxWithProgress(options: FetchCliOptions = {}): Promise<string> {
  return withProgress(options, fetchBusybox);
}

async function withProgress<T>(
  options: FetchCliOptions,
  fetch: (options: FetchOptions) => Promise<T>,
): Promise<T> {
  const progress = new Progress();
  const abort = new AbortController();
  let interrupted: EndSignal | undefined;
  // The first Ctrl-C lets the tools that were started end, and unfinished files be removed.
  const unwatch = watchSignals((signal) => {
    interrupted = signal;
    abort.abort();
  });
  const onProgress = ({ phase, package: name, fraction }: FetchProgress): void => {
    if (phase === 'cached') return;
    const percent = fraction === undefined ? '' : `${Math.floor(fraction * 100)} %`;
    progress.update(`tsvisor: ${name}: ${PHASES[phase]}`, percent);
  };
  try {
    return await fetch({ ...options, onProgress, signal: abort.signal });
  } catch (error) {
    if (interrupted !== undefined) {
      progress.clear();
      dieOf(interrupted);
    }
    throw error;
  } finally {
    progress.clear();
    unwatch();
  }
}

/** The kernels in the cache, by the package that was asked for. */
export async function cachedKernels(cacheDir = defaultCacheDir()): Promise<FetchedKernel[]> {
  const names = await readdir(cacheDir).catch(() => []);
  const packages = names
    .filter((name) => /^linux-image-.*\.json$/.test(name))
    .map((name) => basename(name, '.json'));
  // An aborted signal: what is not in the cache is not fetched now.
  const found = packages.map((name) =>
    fetchKernel({ package: name, cacheDir, signal: AbortSignal.abort() }).catch(() => undefined),
  );
  return (await Promise.all(found)).filter((kernel) => kernel !== undefined);
}
