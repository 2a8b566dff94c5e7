/** File systems made in files, read back by e2fsprogs. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Cache } from '../../src/host/cache.ts';
import { fetchBusybox } from '../../src/host/kernel-fetch.ts';
import { type Ext4Options, makeExt4 } from '../../src/image/ext4.ts';

const MIB = 2 ** 20;
/** Downloads busybox when it is not in the user's cache yet. */
const SLOW = 600_000;
let folder: string;
let cache: Cache;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'tsvisor-ext4-'));
  cache = new Cache(join(folder, 'cache'));
});
afterEach(() => rmSync(folder, { recursive: true }));

const output = () => join(folder, 'disk.img');
const make = (options: Partial<Ext4Options> = {}) =>
  makeExt4(cache, { output: output(), size: 16 * MIB, files: [], ...options });
const debugfs = (request: string) =>
  execFileSync('debugfs', ['-R', request, output()], {
    stdio: ['ignore', 'pipe', 'ignore'],
    maxBuffer: 2 ** 26,
  }).toString('latin1');
const check = () => execFileSync('e2fsck', ['-fn', output()], { stdio: ['ignore', 'pipe', 'pipe'] });

describe('makeExt4', () => {
  it(
    'makes a small bootable root file system of busybox',
    async () => {
      const busybox = readFileSync(await fetchBusybox());
      const uuid = '6c2a3c5e-9f0b-4f0e-8a51-7d6f3a1b2c4d';

      await make({
        uuid,
        files: [
          { path: '/bin/busybox', content: busybox, mode: 0o755 },
          { path: '/bin/sh', target: 'busybox' },
          { path: '/sbin/init', content: '#!/bin/sh\n', mode: 0o755 },
          { path: '/etc/secret', content: 'x', mode: 0o600 },
        ],
      });

      check();
      expect(statSync(output()).size).toBe(16 * MIB);
      expect(
        execFileSync('dumpe2fs', ['-h', output()], { stdio: ['ignore', 'pipe', 'ignore'] }).toString(),
      ).toMatch(new RegExp(`Filesystem UUID: +${uuid}`));
      expect(debugfs('cat /bin/busybox')).toBe(busybox.toString('latin1'));
      expect(debugfs('stat /bin/busybox')).toMatch(/Mode: +0755 [\s\S]*?User: +0 +Group: +0 /);
      expect(debugfs('stat /bin/sh')).toContain('Fast link dest: "busybox"');
      expect(debugfs('stat /etc/secret')).toMatch(/Mode: +0600 /);
      expect(debugfs('stat /etc')).toMatch(/Mode: +0755 /);
      expect(debugfs('stat /')).toMatch(/Mode: +0755 [\s\S]*?User: +0 +Group: +0 /);
    },
    SLOW,
  );

  it('does not let the umask into the file system', async () => {
    const before = process.umask(0o077);
    try {
      await make({ files: [{ path: '/etc/motd', content: 'hello' }] });
    } finally {
      process.umask(before);
    }

    expect(debugfs('stat /etc/motd')).toMatch(/Mode: +0644 /);
    expect(debugfs('stat /etc')).toMatch(/Mode: +0755 /);
  });

  it('says how much is needed when the files do not fit, and keeps the older image', async () => {
    writeFileSync(output(), 'older');
    const files = [{ path: '/large', content: new Uint8Array(32 * MIB) }];

    await expect(make({ files })).rejects.toThrow(
      expect.objectContaining({
        code: 'TSV_E_USAGE',
        message: expect.stringMatching(/needs \d+ MiB, the disk would have 16 MiB/),
        hint: expect.stringMatching(/--size \d+M/),
      }),
    );

    expect(readFileSync(output(), 'utf8')).toBe('older');
    expect(readdirSync(folder).sort()).toEqual(['cache', 'disk.img']);
    expect(readdirSync(cache.root)).toEqual([]);
  });

  it.each([0, 4096, 10_000_000, 16 * MIB + 512])('refuses a size of %i bytes', async (size) => {
    await expect(make({ size })).rejects.toThrow(expect.objectContaining({ code: 'TSV_E_USAGE' }));
  });

  it('says when the image cannot be written, before any work', async () => {
    await expect(make({ output: '/nonexistent/disk.img' })).rejects.toThrow(
      expect.objectContaining({ code: 'TSV_E_FILE', message: expect.stringContaining('ENOENT') }),
    );
    expect(readdirSync(folder)).toEqual([]);
  });

  it('leaves nothing behind when it is interrupted', async () => {
    const abort = new AbortController();
    const files = [{ path: '/large', content: new Uint8Array(8 * MIB) }];
    const steps: string[] = [];
    const report = ({ step }: { step: string }) => {
      steps.push(step);
      if (step === 'format') abort.abort();
    };

    await expect(make({ files, signal: abort.signal, report })).rejects.toThrow(/interrupted/);

    expect(steps).toContain('format');
    expect(readdirSync(folder)).toEqual(['cache']);
    expect(readdirSync(cache.root)).toEqual([]);
  });

  it('removes what a killed build left behind', async () => {
    await cache.folder('build-abcdef', 'root', 'etc');

    await make();

    expect(readdirSync(cache.root)).toEqual([]);
    check();
  });
});
