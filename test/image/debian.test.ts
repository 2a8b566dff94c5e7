/** A whole Debian, built from the packages of the host's mirror. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { buildDebianImage } from '../../src/image/debian.ts';
import type { ImageProgress } from '../../src/image/progress.ts';

/** Downloads about 70 MB into the user's cache and installs them when that has not been done yet. */
const SLOW = 600_000;
let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'tsvisor-debian-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

const output = () => join(folder, 'debian.img');
const debugfs = (request: string) =>
  execFileSync('debugfs', ['-R', request, output()], {
    stdio: ['ignore', 'pipe', 'ignore'],
    maxBuffer: 2 ** 26,
  }).toString('latin1');

describe('buildDebianImage', () => {
  it(
    'builds a sound file system with systemd, logins and the modules of its kernel',
    async () => {
      const steps: ImageProgress[] = [];

      const built = await buildDebianImage({
        output: output(),
        size: 2 ** 30,
        hostname: 'guest',
        onProgress: (progress) => steps.push(progress),
      });

      execFileSync('e2fsck', ['-fn', output()], { stdio: ['ignore', 'pipe', 'pipe'] });
      expect(built).toMatchObject({
        image: output(),
        size: 2 ** 30,
        cmdline: expect.stringContaining('root=/dev/vda'),
      });
      expect(statSync(output()).size).toBe(2 ** 30);
      expect(built.used).toBeLessThan(2 ** 30);
      expect(readdirSync(folder).sort()).toEqual(['debian.img', 'debian.initrd', 'debian.vmlinuz']);
      expect(built.packages).toContainEqual(expect.stringMatching(/^systemd-sysv_.*_amd64$/));
      expect(steps.map(({ step }) => step)).toEqual(expect.arrayContaining(['initrd', 'copy', 'format']));
      expect(steps.every(({ fraction = 0 }) => fraction >= 0 && fraction <= 1)).toBe(true);
      // What was installed is configured, and root logs in without a password.
      const status = debugfs('cat /var/lib/dpkg/status');
      const states = new Set(status.match(/^Status: .*$/gm));
      expect([...states]).toEqual(['Status: install ok installed']);
      expect(debugfs('cat /etc/shadow')).toMatch(/^root::/m);
      expect(debugfs('cat /etc/hostname')).toBe('guest\n');
      const uuid = /UUID=(\S+)\t\/\text4/.exec(debugfs('cat /etc/fstab'))?.[1];
      expect(debugfs('show_super_stats -h')).toContain(uuid);
      expect(debugfs('stat /usr/sbin/init')).toContain('systemd');
      expect(debugfs('cat /etc/apt/sources.list.d/debian.sources')).toMatch(/^Suites: \w+-security$/m);
      // Nothing of the host: no device nodes, no packages, no identity.
      expect(debugfs('ls -p /dev').trim().split('\n')).toHaveLength(2);
      expect(debugfs('ls -p /')).not.toContain('debs');
      expect(debugfs('stat /etc/machine-id')).toMatch(/Size: 0\n/);
      // The kernel beside the image has its modules in it, and udev finds them.
      expect(readFileSync(built.kernel).includes(`${built.kernelVersion} (`)).toBe(true);
      const dep = debugfs(`cat /usr/lib/modules/${built.kernelVersion}/modules.dep`);
      expect(dep).toMatch(/^kernel\/drivers\/block\/virtio_blk\.ko\S*: .*virtio_ring/m);
    },
    SLOW,
  );

  it(
    'gives root a password, and another disk another UUID',
    async () => {
      const uuids: string[] = [];
      for (const password of ['a: "b" $c', undefined]) {
        await buildDebianImage({ output: output(), size: 2 ** 30, password });
        uuids.push(/^UUID=(\S+)/.exec(debugfs('cat /etc/fstab'))?.[1] ?? '');
        const stored = /^root:([^:]*):/m.exec(debugfs('cat /etc/shadow'))?.[1];

        if (password === undefined) expect(stored).toBe('');
        else expect(verifies(password, stored ?? '')).toBe(true);
      }

      expect(new Set(uuids).size).toBe(2);
    },
    SLOW,
  );

  it('refuses names that cannot be', async () => {
    await expect(buildDebianImage({ output: output(), hostname: '-x' })).rejects.toThrow(
      expect.objectContaining({ code: 'TSV_E_USAGE' }),
    );
    await expect(buildDebianImage({ output: output(), include: ['--force'] })).rejects.toThrow(
      expect.objectContaining({ code: 'TSV_E_FETCH' }),
    );
    expect(readdirSync(folder)).toEqual([]);
  });

  it(
    'builds nothing when a package cannot be had',
    async () => {
      await expect(buildDebianImage({ output: output(), include: ['no-such-package'] })).rejects.toThrow(
        expect.objectContaining({
          code: 'TSV_E_FETCH',
          message: expect.stringContaining('Unable to locate package no-such-package'),
        }),
      );
      expect(readdirSync(folder)).toEqual([]);
    },
    SLOW,
  );
});

/** crypt(3), which Node does not have. */
function verifies(password: string, stored: string): boolean {
  const script = 'print crypt($ARGV[0], $ARGV[1]) eq $ARGV[1] ? "yes" : "no"';
  return execFileSync('perl', ['-e', script, password, stored]).toString() === 'yes';
}
