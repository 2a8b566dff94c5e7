/** Fetching kernels and busybox with progress on stderr; Ctrl-C ends it cleanly. */

import { readdir } from 'node:fs/promises';
import { basename } from 'node:path';
import { defaultCacheDir } from '../host/cache.ts';
import { type FetchedKernel, fetchBusybox, fetchKernel } from '../host/kernel-fetch.ts';
import type { FetchOptions, FetchProgress } from '../host/packages.ts';
import { longOperation } from './long-operation.ts';

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

function withProgress<T>(options: FetchCliOptions, fetch: (options: FetchOptions) => Promise<T>): Promise<T> {
  return longOperation((progress, signal) => {
    const onProgress = ({ phase, package: name, fraction }: FetchProgress): void => {
      if (phase === 'cached') return;
      const percent = fraction === undefined ? '' : `${Math.floor(fraction * 100)} %`;
      progress.update(`tsvisor: ${name}: ${PHASES[phase]}`, percent);
    };
    return fetch({ ...options, onProgress, signal });
  });
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
