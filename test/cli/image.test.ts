/** `tsvisor image debian`, and the initramfs for disks. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { runCli, scratch, startCli } from './support/cli.ts';

/** Downloads the packages into the user's cache and installs them when that has not been done yet. */
const SLOW = 600_000;

describe('image debian', () => {
  it(
    'builds disk, kernel and initramfs, and says how to boot them',
    async () => {
      const folder = scratch();
      const output = join(folder, 'web.img');

      const text = await runCli(['image', 'debian', '-o', output, '--size', '1G', '--hostname', 'web']);
      const json = await runCli(['image', 'debian', '-o', output, '--size', '1G', '--json']);

      expect(text.status).toBe(0);
      expect(text.stdout).toMatch(/^disk {4}\S+web\.img \(1 GiB, .* used\)\nkernel {2}\S+web\.vmlinuz/);
      expect(text.stderr).toContain('tsvisor: making the file system\n');
      const built = JSON.parse(json.stdout);
      expect(built).toMatchObject({
        image: output,
        size: 2 ** 30,
        cmdline: expect.stringContaining('root=/dev/vda'),
      });
      expect([built.image, built.kernel, built.initrd].every(existsSync)).toBe(true);
      expect(readdirSync(folder)).toHaveLength(3);
    },
    SLOW,
  );

  it(
    'leaves no half image when it is interrupted, and ends by the signal',
    async () => {
      const folder = scratch();
      const cli = startCli(['image', 'debian', '-o', join(folder, 'debian.img')]);
      await cli.shows(/copying the system/, 'stderr');

      cli.child.kill('SIGINT');

      const { signal } = await cli.ended;
      expect(signal).toBe('SIGINT');
      expect(readdirSync(folder)).toEqual([]);
    },
    SLOW,
  );

  it.each([
    ['a size that is none', ['--size', 'big'], 2, 'TSV_E_USAGE: --size cannot be "big"'],
    ['a host name that is none', ['--hostname', 'a b'], 2, 'TSV_E_USAGE'],
    ['a package name that is none', ['--include', 'x;y'], 4, 'TSV_E_FETCH'],
    ['an unknown option', ['--sise', '1G'], 2, 'Did you mean --size?'],
  ])(
    'refuses %s',
    async (_, args, status, message) => {
      const cwd = scratch();
      const ended = await runCli(['image', 'debian', ...args], '', { cwd });

      expect(ended.status).toBe(status);
      expect(ended.stderr).toContain(message);
      expect(readdirSync(cwd)).toEqual([]);
    },
    SLOW,
  );

  it('is a host error where the tools are missing', async () => {
    const env = { ...process.env, PATH: '/nonexistent' };
    const ended = await runCli(['image', 'debian', '-o', join(scratch(), 'x.img')], '', { env });

    expect(ended.status).toBe(4);
    expect(ended.stderr).toMatch(/^tsvisor: TSV_E_\w+: This host has no .+\n {2}\S/m);
  });
});

describe('initramfs build --switch-root', () => {
  it(
    'brings busybox and the drivers of the kernel',
    async () => {
      const fetched = await runCli(['kernel', 'fetch', '--json']);
      const { modules } = JSON.parse(fetched.stdout) as { modules: string };
      const output = join(scratch(), 'initrd.img');

      const args = ['-o', output, '--busybox', '--switch-root', '--kernel-tree', modules];
      const ended = await runCli(['initramfs', 'build', ...args]);

      expect(ended.status).toBe(0);
      const archive = readFileSync(output, 'latin1');
      expect(archive).toContain('virtio_blk.ko');
      expect(archive).toContain('exec switch_root /root');
    },
    SLOW,
  );

  it.each([
    ['without busybox', ['--switch-root'], 'TSV_E_INITRAMFS'],
    ['with a kernel tree for nothing', ['--kernel-tree', '/'], '--module and --kernel-tree'],
  ])('is refused %s', async (_, args, message) => {
    const cwd = scratch();
    const ended = await runCli(['initramfs', 'build', '-o', 'x', ...args], '', { cwd });

    expect(ended.status).toBe(2);
    expect(ended.stderr).toContain(message);
    expect(readdirSync(cwd)).toEqual([]);
  });
});
