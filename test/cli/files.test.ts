/** `tsvisor kernel` and `tsvisor initramfs`. */
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync, gzipSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { file, runCli, scratch } from './support/cli.ts';
import { exit, kernelElf } from './support/guests.ts';

/** A bzImage with a GZIP payload (Linux Documentation/arch/x86/boot.rst). */
function bzImage(payload: Uint8Array): Uint8Array {
  const setup = 1024;
  const packed = gzipSync(payload);
  const offset = 16;
  const size = Math.ceil((offset + packed.length) / 16) * 16;
  const image = Buffer.alloc(setup + size);
  image[0x1f1] = 1; // setup_sects
  image.writeUInt32LE(size / 16, 0x1f4); // syssize
  image.writeUInt16LE(0xaa55, 0x1fe); // boot_flag
  image.writeUInt16LE(0x66eb, 0x200); // jump, up to the end of the header
  image.write('HdrS', 0x202, 'latin1');
  image.writeUInt16LE(0x020f, 0x206); // version 2.15
  image[0x211] = 1; // LOADED_HIGH
  image.writeUInt32LE(0x100000, 0x214); // code32_start
  image.writeUInt32LE(0x200000, 0x230); // kernel_alignment
  image.writeUInt16LE(1, 0x236); // XLF_KERNEL_64
  image.writeUInt32LE(2047, 0x238); // cmdline_size
  image.writeUInt32LE(offset, 0x248); // payload_offset
  image.writeUInt32LE(packed.length, 0x24c); // payload_length
  image.writeUInt32LE(0x1000000, 0x260); // init_size
  packed.copy(image, setup + offset);
  return image;
}

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
    // What was extracted boots.
    expect((await runCli(['run', '--kernel', output])).status).toBe(19);
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
    const root = join(cache, 'linux-image-1-test_1');
    mkdirSync(join(root, 'boot'), { recursive: true });
    mkdirSync(join(root, 'lib/modules/1-test/kernel'), { recursive: true });
    writeFileSync(join(root, 'boot/vmlinuz-1-test'), bzImage(kernelElf(exit(0))));
    writeFileSync(join(root, 'boot/config-1-test'), 'CONFIG_X=y\n');
    const note = { name: 'linux-image-1-test', version: '1', root };
    writeFileSync(join(cache, 'linux-image-cloud-amd64.json'), JSON.stringify(note));
    writeFileSync(join(cache, 'linux-image-damaged.json'), '{');

    const text = await runCli(['kernel', 'list', '--cache-dir', cache]);
    const json = await runCli(['kernel', 'list', '--cache-dir', cache, '--json']);

    expect(empty).toMatchObject({ status: 0, stdout: '' });
    expect(empty.stderr).toContain('tsvisor kernel fetch');
    expect(text.stdout).toBe(`1-test\t${join(root, 'boot/vmlinuz-1-test')}\n`);
    expect(JSON.parse(json.stdout)).toMatchObject([{ version: '1-test', package: 'linux-image-1-test' }]);
  });
});

describe('kernel fetch', () => {
  it('uses what is cached without progress', async () => {
    const cache = scratch();
    const root = join(cache, 'linux-image-2-test_2');
    mkdirSync(join(root, 'boot'), { recursive: true });
    mkdirSync(join(root, 'lib/modules/2-test/kernel'), { recursive: true });
    writeFileSync(join(root, 'boot/vmlinuz-2-test'), bzImage(kernelElf(exit(0))));
    writeFileSync(join(root, 'boot/config-2-test'), 'CONFIG_X=y\n');
    const note = { name: 'linux-image-2-test', version: '2', root };
    writeFileSync(join(cache, 'linux-image-cloud-amd64.json'), JSON.stringify(note));

    const ended = await runCli(['kernel', 'fetch', '--cache-dir', cache]);

    expect(ended).toMatchObject({ status: 0, stdout: `${join(root, 'boot/vmlinuz-2-test')}\n`, stderr: '' });
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
