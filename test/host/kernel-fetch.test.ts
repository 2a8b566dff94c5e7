import { execFile, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { aptError } from '../../src/host/apt.ts';
import { Cache, defaultCacheDir } from '../../src/host/cache.ts';
import { fetchBusybox, fetchKernel } from '../../src/host/kernel-fetch.ts';
import type { FetchProgress } from '../../src/host/packages.ts';
import { AptRepository } from '../support/apt-repository.ts';

const META = 'linux-image-cloud-amd64';
const RELEASE = '6.9.0-1-cloud-amd64';
const failed = expect.objectContaining({ code: 'TSV_E_FETCH', hint: expect.stringMatching(/\w/) });

let repository: AptRepository;
let folder: string;
let cacheDir: string;
const CHANGED = ['APT_CONFIG', 'PATH', 'HOME', 'XDG_CACHE_HOME'];
const before = new Map(CHANGED.map((name) => [name, process.env[name]]));

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'tsvisor-apt-'));
  cacheDir = join(folder, 'cache-home');
  repository = new AptRepository(folder);
  await repository.start();
  process.env.APT_CONFIG = repository.writeConfig('apt');
});
afterEach(async () => {
  for (const [name, value] of before) {
    if (value === undefined) delete process.env[name];
    else process.env[name] = value;
  }
  await repository.stop();
  rmSync(folder, { recursive: true });
});

/** A package as Debian's kernels are, with a bzImage that has only its magic number. */
function addKernel(release = RELEASE, version = '6.9-1', padding = 0): void {
  const image = Buffer.alloc(1024 + padding);
  image.write('HdrS', 0x202);
  repository.add(META, version, `linux-image-${release} (= ${version})`, {});
  repository.add(`linux-image-${release}`, version, 'kmod, linux-base (>= 4.3~)', {
    [`boot/vmlinuz-${release}`]: image,
    [`boot/config-${release}`]: 'CONFIG_64BIT=y\n',
    [`boot/System.map-${release}`]: 'ffffffffffffffff B The real System.map is elsewhere\n',
    [`lib/modules/${release}/kernel/a.ko`]: 'module',
  });
}

/** Names in the cache folder, without what apt keeps for itself. */
const cached = () => readdirSync(cacheDir).filter((name) => !['apt', 'downloads', 'lock'].includes(name));

describe('fetchKernel', () => {
  it('fetches the kernel a meta package stands for, and reports progress', async () => {
    addKernel();
    const progress: FetchProgress[] = [];

    const kernel = await fetchKernel({ cacheDir, onProgress: (p) => progress.push(p) });

    expect(kernel).toMatchObject({
      package: `linux-image-${RELEASE}`,
      packageVersion: '6.9-1',
      version: RELEASE,
    });
    expect(readFileSync(kernel.vmlinuz).toString('latin1', 0x202, 0x206)).toBe('HdrS');
    expect(readFileSync(kernel.config, 'utf8')).toContain('CONFIG_64BIT');
    expect(existsSync(join(kernel.modules, 'kernel/a.ko'))).toBe(true);
    expect(kernel.systemMap).toBeUndefined();
    const phases = [...new Set(progress.map((p) => p.phase))];
    expect(phases).toEqual(expect.arrayContaining(['resolve', 'update', 'download', 'unpack']));
    expect(progress.filter((p) => p.phase === 'download').at(-1)?.fraction).toBe(1);
    expect(cached().sort()).toEqual([`linux-image-${RELEASE}_6.9-1`, `${META}.json`]);
    expect(readdirSync(join(cacheDir, 'downloads'))).toEqual([]);
  });

  it('uses the cache afterwards, without apt and without the network', async () => {
    addKernel();
    const first = await fetchKernel({ cacheDir });
    const requests = repository.requests.length;
    process.env.PATH = '/nowhere';
    const progress: FetchProgress[] = [];

    const second = await fetchKernel({ cacheDir, onProgress: (p) => progress.push(p) });

    expect(second).toEqual(first);
    expect(repository.requests.length).toBe(requests);
    expect(progress.map((p) => p.phase)).toEqual(['cached']);
  });

  it('fetches again what was damaged in the cache', async () => {
    addKernel();
    const first = await fetchKernel({ cacheDir });
    truncateSync(first.vmlinuz, 0);

    const second = await fetchKernel({ cacheDir });

    expect(readFileSync(second.vmlinuz).length).toBe(1024);
  });

  it('updates package lists that name a file the mirror no longer has', async () => {
    addKernel();
    await promisify(execFile)('apt-get', ['-o', 'APT::Sandbox::User=root', 'update']); // the host's lists, as they are today
    repository.lose(`linux-image-${RELEASE}`, '6.9-1');
    addKernel('6.9.0-2-cloud-amd64', '6.9-2');

    const kernel = await fetchKernel({ cacheDir });

    expect(kernel.version).toBe('6.9.0-2-cloud-amd64');
  });

  it('looks for a newer version when asked to', async () => {
    addKernel();
    await fetchKernel({ cacheDir });
    addKernel('6.9.0-2-cloud-amd64', '6.9-2');

    const same = await fetchKernel({ cacheDir });
    const newer = await fetchKernel({ cacheDir, refresh: true });

    expect(same.version).toBe(RELEASE);
    expect(newer.version).toBe('6.9.0-2-cloud-amd64');
  });

  it('fetches once when several ask at the same time', async () => {
    addKernel();

    const kernels = await Promise.all([1, 2, 3].map(() => fetchKernel({ cacheDir })));

    expect(new Set(kernels.map((kernel) => kernel.vmlinuz)).size).toBe(1);
    const debs = repository.requests.filter(({ path }) => path.includes(RELEASE) && path.endsWith('.deb'));
    expect(debs).toHaveLength(1);
  });

  it('waits for another process, says so, and can be interrupted meanwhile', async () => {
    addKernel();
    await new Cache(cacheDir).folder();
    const holder = spawn('flock', [join(cacheDir, 'lock'), 'cat'], { stdio: ['pipe', 'ignore', 'ignore'] });
    while (!existsSync(join(cacheDir, 'lock'))) await sleep(10);
    const abort = new AbortController();
    const progress: string[] = [];

    const waiting = fetchKernel({
      cacheDir,
      signal: abort.signal,
      onProgress: (p) => {
        progress.push(p.phase);
        abort.abort(new Error('Ctrl-C'));
      },
    });

    await expect(waiting).rejects.toThrow(failed);
    expect(progress).toEqual(['wait']);
    holder.stdin.end();
    await new Promise((resolve) => holder.once('close', resolve));
  });

  it('cleans up when interrupted and goes on where it stopped', async () => {
    addKernel(RELEASE, '6.9-1', 300_000);
    const abort = new AbortController();
    repository.cutAfter = 200_000;
    const interrupted = fetchKernel({ cacheDir, signal: abort.signal });
    const downloads = join(cacheDir, 'downloads');
    const received = () => existsSync(downloads) && readdirSync(downloads).length > 0;
    while (!received()) await sleep(10);
    await sleep(200);
    abort.abort(new Error('Ctrl-C'));
    await expect(interrupted).rejects.toThrow(failed);
    expect(cached()).toEqual([]);

    const kernel = await fetchKernel({ cacheDir });

    expect(kernel.version).toBe(RELEASE);
    expect(repository.requests.at(-1)).toMatchObject({
      range: expect.stringMatching(/^bytes=\d+-$/),
      ifRange: 'Thu, 01 Jan 2026 00:00:00 GMT',
    });
  });

  it('removes what a killed process left behind', async () => {
    addKernel();
    await new Cache(cacheDir).folder('tmp-abcdef', 'boot');

    await fetchKernel({ cacheDir });

    expect(cached().some((name) => name.startsWith('tmp-'))).toBe(false);
  });

  it('says when the network is down', async () => {
    addKernel();
    process.env.APT_CONFIG = repository.writeConfig('down', 1);

    const fetching = fetchKernel({ cacheDir });

    await expect(fetching).rejects.toThrow(failed);
    await expect(fetching).rejects.toThrow(
      expect.objectContaining({ hint: expect.stringContaining('network') }),
    );
    expect(cached()).toEqual([]);
  });

  it('says when there is no apt on this host', async () => {
    process.env.PATH = '/nowhere';

    const fetching = fetchKernel({ cacheDir });

    await expect(fetching).rejects.toThrow(/no apt-get/);
    await expect(fetching).rejects.toThrow(
      expect.objectContaining({ hint: expect.stringContaining('--kernel') }),
    );
  });

  it('says when there is no such package, or it is no kernel', async () => {
    addKernel();
    repository.add('linux-image-empty', '1', '', { 'boot/readme': 'x' });
    repository.add('linux-image-fake', '1', '', { 'boot/vmlinuz-1': 'not a kernel' });
    repository.add('linux-image-circle', '1', 'linux-image-circle', {});

    for (const name of ['nope', '-o', 'x;y', 'linux-image-empty', 'linux-image-fake', 'linux-image-circle']) {
      await expect(fetchKernel({ cacheDir, package: name })).rejects.toThrow(failed);
    }
    expect(cached()).toEqual([]);
  });

  it('says when the cache cannot be written', async () => {
    addKernel();

    await expect(fetchKernel({ cacheDir: '/dev/null/cache' })).rejects.toThrow(failed);
    await expect(fetchKernel({ cacheDir: process.env.APT_CONFIG })).rejects.toThrow(failed);
  });
});

describe('fetchBusybox', () => {
  it.each(['bin/busybox', 'usr/bin/busybox'])('finds it at %s', async (path) => {
    repository.add('busybox-static', '1:1.36', '', { [path]: 'busybox' });

    const found = await fetchBusybox({ cacheDir });

    expect(readFileSync(found, 'utf8')).toBe('busybox');
  });

  it('refuses a package without one', async () => {
    repository.add('busybox-static', '1', '', { 'usr/share/doc/x': 'x' });

    await expect(fetchBusybox({ cacheDir })).rejects.toThrow(failed);
  });
});

describe('aptError', () => {
  it.each([
    [
      'E: Failed to fetch http://x/y.deb  Error writing to file - write (28: No space left on device) [IP: 1 80]',
      'disk',
    ],
    [
      'tar: ./bin/busybox: Cannot write: No space left on device\ndpkg-deb: error: tar subprocess returned error',
      'disk',
    ],
    ["E: You don't have enough free space in /var/cache/apt/archives/.", 'disk'],
    ["W: Failed to fetch http://x/InRelease  Temporary failure resolving 'x'", 'network'],
    [
      'W: Failed to fetch http://x/InRelease  Could not connect to 127.0.0.1:1 - connect (111: Connection refused)',
      'network',
    ],
    ['E: List directory /x is missing. - Acquire (13: Permission denied)', 'permissions'],
    ["E: The repository 'http://x' is not signed.", 'not sound'],
    ['', 'sources'],
  ])('turns %j into advice', (stderr, advice) => {
    const error = aptError('It failed', stderr);

    expect(error).toEqual(failed);
    expect(error.hint).toContain(advice);
    expect(error.message).toMatch(/^It failed: .+/);
  });
});

describe('defaultCacheDir', () => {
  it('follows the XDG Base Directory Specification', () => {
    process.env.XDG_CACHE_HOME = '/x';
    expect(defaultCacheDir()).toBe('/x/tsvisor');
    process.env.XDG_CACHE_HOME = 'relative';
    process.env.HOME = '/home/me';
    expect(defaultCacheDir()).toBe('/home/me/.cache/tsvisor');
  });
});
