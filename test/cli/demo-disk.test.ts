/** The disk of `tsvisor demo`, under Debian's kernel. */
import { execFileSync, spawnSync } from 'node:child_process';
import {
  copyFileSync,
  existsSync,
  openSync,
  readdirSync,
  readFileSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { openDemoDisk } from '../../src/cli/demo-disk.ts';
import { defaultCacheDir } from '../../src/host/cache.ts';
import { fetchBusybox, fetchKernel } from '../../src/host/kernel-fetch.ts';
import { type Ended, runCli, scratch, startCli } from './support/cli.ts';

/** Only a guest that hangs takes so long, ms. */
const LIMIT = 120_000;
const DISK = 'demo-disk.img';

beforeAll(async () => {
  await fetchKernel();
  await fetchBusybox();
}, 600_000);

/** A cache with the fetched packages and without a disk. */
function cacheOfFetched(): string {
  const cache = scratch();
  const from = defaultCacheDir();
  // Each names the folder of its package.
  for (const name of readdirSync(from).filter((entry) => entry.endsWith('.json')))
    copyFileSync(join(from, name), join(cache, name));
  return cache;
}

const demo = (cache: string, command: string): readonly string[] => [
  ...['demo', '--accel', 'tcg', '--cache-dir', cache, '--command', command],
];
const runDemo = (cache: string, command: string): Promise<Ended> => runCli(demo(cache, command));

/** What e2fsck says of the disk: 0 when it is clean. */
const check = (cache: string) => spawnSync('e2fsck', ['-f', '-n', join(cache, DISK)]).status;

describe("the demo's disk", () => {
  it(
    'has the next time what was written to it, whether the machine is switched off or the process killed',
    async () => {
      const cache = cacheOfFetched();

      const first = await runDemo(
        cache,
        'echo one > /disk/first; sleep 100 > /disk/open & poweroff; sleep 100',
      );
      expect(first.status).toBe(0);
      expect(check(cache)).toBe(0);
      const header = execFileSync('dumpe2fs', ['-h', join(cache, DISK)], { encoding: 'utf8', stdio: 'pipe' });
      expect(header).not.toContain('needs_recovery');

      const second = startCli(
        demo(cache, 'cat /disk/first; echo two > /disk/second; sleep 2; echo done; cat'),
      );
      await second.shows(/^done\r$/m);
      expect(second.stdout).toContain('\none\r\n');
      second.child.kill('SIGKILL');
      await second.ended;

      const third = await runDemo(cache, 'cat /disk/second');
      expect(third.stdout).toContain('\ntwo\r\n');
      expect(check(cache)).toBe(0);
    },
    3 * LIMIT,
  );

  it(
    'is in memory while another demo has it',
    async () => {
      const cache = cacheOfFetched();
      const { backend } = await openDemoDisk(cache);

      const ended = await runDemo(
        cache,
        'grep " /disk " /proc/mounts; echo lost > /disk/file && echo written',
      );
      await backend?.[Symbol.asyncDispose]();

      expect(ended.status).toBe(0);
      expect(ended.stderr).toMatch(
        /^tsvisor: ".*demo-disk\.img" is in use .*: what is written to \/disk this time/m,
      );
      expect(ended.stdout).toMatch(/\ntmpfs \/disk tmpfs .*\r\nwritten\r\n/);
    },
    LIMIT,
  );

  it(
    'is in memory when the guest cannot mount it',
    async () => {
      const cache = cacheOfFetched();
      const made = await openDemoDisk(cache);
      await made.backend?.[Symbol.asyncDispose]();
      // The table of inodes, which begins with the fifth block.
      const file = openSync(join(cache, DISK), 'r+');
      writeSync(file, Buffer.alloc(4096, 0xff), 0, 4096, 4 * 4096);

      const ended = await runDemo(cache, 'grep " /disk " /proc/mounts');

      expect(ended.status).toBe(0);
      expect(ended.stdout).toContain(`remove ${join(cache, DISK)} for a fresh one`);
      expect(ended.stdout).toMatch(/\ntmpfs \/disk tmpfs /);
    },
    LIMIT,
  );
});

describe('opening the disk', () => {
  it('sets a damaged one aside', async () => {
    const cache = scratch();
    const path = join(cache, DISK);
    writeFileSync(path, 'precious');
    const said: string[] = [];

    const { backend, mount } = await openDemoDisk(cache, (line) => said.push(line));

    expect(backend?.size).toBe(64 * 2 ** 20);
    expect(mount.type).toBe('ext4');
    expect(said).toEqual([expect.stringContaining(`it is now ${path}.damaged, and /disk is empty`)]);
    expect(readFileSync(`${path}.damaged`, 'utf8')).toBe('precious');
    await backend?.[Symbol.asyncDispose]();
    expect(check(cache)).toBe(0);
    expect(readdirSync(cache).sort()).toEqual([DISK, `${DISK}.damaged`]);
  });

  it('gives up where it cannot be made', async () => {
    const said: string[] = [];
    const cache = join(scratch(), 'missing');

    const { backend, mount, greeting } = await openDemoDisk(cache, (line) => said.push(line));

    expect(backend).toBeUndefined();
    expect(mount.type).toBe('tmpfs');
    expect(greeting).toContain('/disk is in memory this time');
    expect(said).toEqual([expect.stringMatching(/cannot be made \(ENOENT\): what is written to \/disk/)]);
    expect(existsSync(cache)).toBe(false);
  });

  it('takes the one that another demo has just made', async () => {
    const cache = scratch();

    const disks = await Promise.all([openDemoDisk(cache), openDemoDisk(cache)]);

    expect(disks.filter(({ backend }) => backend !== undefined)).toHaveLength(1);
    for (const { backend } of disks) await backend?.[Symbol.asyncDispose]();
    expect(readdirSync(cache)).toEqual([DISK]);
    expect(check(cache)).toBe(0);
  });
});
