/** `tsvisor kernel` and `tsvisor initramfs`. */
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { file, runCli, scratch } from './support/cli.ts';
import { exit, kernelElf } from './support/guests.ts';
import { bzImage, cacheKernel } from './support/kernels.ts';

describe('kernel extract', () => {
  it('unpacks the vmlinux of a bzImage', async () => {
    const vmlinux = kernelElf(exit(9));
    const output = join(scratch(), 'vmlinux');
    const ended = await runCli([
      'kernel',
      'extract',
      file(bzImage(vmlinux), 'vmlinuz'),
      '-o',
      output,
      '--json',
    ]);

    expect(ended.status).toBe(0);
    expect(JSON.parse(ended.stdout)).toEqual({ path: output, size: vmlinux.length });
    expect(readFileSync(output).equals(Buffer.from(vmlinux))).toBe(true);
  });

  it('refuses what is no bzImage, and leaves no file', async () => {
    const folder = scratch();
    const output = join(folder, 'vmlinux');
    const ended = await runCli(['kernel', 'extract', file('text'), '-o', output]);

    expect(ended.status).toBe(2);
    expect(ended.stderr).toContain('TSV_E_KERNEL_FORMAT');
    expect(readdirSync(folder)).toEqual([]);
  });

  it('says when the result cannot be written', async () => {
    const ended = await runCli([
      'kernel',
      'extract',
      file(bzImage(kernelElf(exit(0)))),
      '-o',
      '/nonexistent/x',
    ]);

    expect(ended.status).toBe(2);
    expect(ended.stderr).toContain('TSV_E_FILE: The vmlinux cannot be written to /nonexistent/x: ENOENT.');
  });
});

describe('kernel list', () => {
  it('lists what the cache has, and says what to do when it is empty', async () => {
    const cache = scratch();
    const empty = await runCli(['kernel', 'list', '--cache-dir', cache]);
    const vmlinuz = cacheKernel(cache, kernelElf(exit(0)));
    writeFileSync(join(cache, 'linux-image-damaged.json'), '{');

    const text = await runCli(['kernel', 'list', '--cache-dir', cache]);
    const json = await runCli(['kernel', 'list', '--cache-dir', cache, '--json']);

    expect(empty).toMatchObject({ status: 0, stdout: '' });
    expect(empty.stderr).toContain('tsvisor kernel fetch');
    expect(text.stdout).toBe(`1-test\t${vmlinuz}\n`);
    expect(JSON.parse(json.stdout)).toMatchObject([{ version: '1-test', package: 'linux-image-1-test' }]);
  });
});

describe('kernel fetch', () => {
  it('uses what is cached without progress', async () => {
    const cache = scratch();
    const vmlinuz = cacheKernel(cache, kernelElf(exit(0)));

    const ended = await runCli(['kernel', 'fetch', '--cache-dir', cache]);

    expect(ended).toMatchObject({ status: 0, stdout: `${vmlinuz}\n`, stderr: '' });
  });

  it('is a host error where there is no apt', async () => {
    const env = { ...process.env, PATH: '/nonexistent' };
    const ended = await runCli(['kernel', 'fetch', '--cache-dir', scratch()], '', { env });

    expect(ended.status).toBe(4);
    expect(ended.stderr).toMatch(/^tsvisor: TSV_E_FETCH: .+\n {2}\S/m);
  });

  it('refuses a cache directory that cannot be made', async () => {
    const ended = await runCli(['kernel', 'fetch', '--cache-dir', file('plain')]);

    expect(ended.status).toBe(4);
    expect(ended.stderr).toContain('TSV_E_FETCH');
  });
});

describe('initramfs build', () => {
  it('packs files, directories and an init', async () => {
    const folder = scratch();
    writeFileSync(join(folder, 'a.txt'), 'content of a');
    const output = join(scratch(), 'initrd.img');
    const init = file('#!/bin/sh\n', 'init.sh');
    const args = [
      'initramfs',
      'build',
      '-o',
      output,
      '--add',
      `${folder}:/data`,
      '--init',
      init,
      '--compress',
      'gzip',
    ];
    const ended = await runCli(args);

    expect(ended.status).toBe(0);
    const archive = gunzipSync(readFileSync(output)).toString('latin1');
    expect(archive).toMatch(/^070701/);
    expect(archive).toContain('data/a.txt');
    expect(archive).toContain('content of a');
    expect(archive).toContain('#!/bin/sh');
    expect(archive).toContain('TRAILER!!!');
  });

  it.each([
    ['no output', ['--init', 'x'], 'TSV_E_USAGE'],
    ['a file that is not there', ['-o', 'x', '--add', '/nonexistent'], 'TSV_E_FILE'],
    ['modules without their kernel', ['-o', 'x', '--module', 'ext4'], '--module and --kernel-tree'],
    ['a busybox that is none', ['-o', 'x', '--busybox', process.execPath], 'TSV_E_INITRAMFS'],
    ['a compression that does not exist', ['-o', 'x', '--compress', 'rar'], 'TSV_E_USAGE'],
  ])('refuses %s', async (_, args, message) => {
    const cwd = scratch();
    const ended = await runCli(['initramfs', 'build', ...args], '', { cwd });

    expect(ended.status).toBe(2);
    expect(ended.stderr).toContain(message);
    expect(existsSync(join(cwd, 'x'))).toBe(false);
  });
});
