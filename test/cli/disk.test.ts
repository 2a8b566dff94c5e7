/** `tsvisor disk`: images made, described, converted and checked; qemu-img is asked what it thinks of them. */
import { execFileSync } from 'node:child_process';
import { existsSync, openSync, readFileSync, truncateSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { runCli, scratch, startCli } from './support/cli.ts';
import { OnTerminal } from './support/terminal.ts';

const MIB = 2 ** 20;
const qemuImg = (...args: string[]) => execFileSync('qemu-img', args).toString();
const disk = (...args: string[]) => runCli(['disk', ...args]);

/** A raw disk with a pattern at its start and end, and nothing in between. */
function patterned(folder: string, size = 16 * MIB): string {
  const path = join(folder, 'disk.img');
  const file = openSync(path, 'w');
  writeSync(file, Buffer.alloc(100_000, 'start'), 0, 100_000, 0);
  writeSync(file, Buffer.alloc(5000, 'end'), 0, 5000, size - 5000);
  return path;
}

describe('disk create', () => {
  it('takes the format from the name', async () => {
    const folder = scratch();
    const [qcow2, raw] = [join(folder, 'a.qcow2'), join(folder, 'a.img')];

    const first = await disk('create', qcow2, '--size', '1G', '--cluster-size', '128K', '--lazy-refcounts');
    const second = await disk('create', raw, '--size', '512M', '--json');

    expect(first).toMatchObject({ status: 0, stderr: '' });
    expect(JSON.parse(qemuImg('info', '--output=json', qcow2))).toMatchObject({
      format: 'qcow2',
      'virtual-size': 2 ** 30,
      'cluster-size': 131072,
      'format-specific': { data: { 'lazy-refcounts': true } },
    });
    expect(JSON.parse(second.stdout)).toMatchObject({ path: raw, format: 'raw', virtualSize: 512 * MIB });
  });

  it('makes a disk for the changes to another', async () => {
    const folder = scratch();
    const base = patterned(folder);
    const overlay = join(folder, 'changes.qcow2');

    const ended = await disk('create', overlay, '--backing', base);

    expect(ended.status).toBe(0);
    expect(ended.stdout).toContain(`backing   ${base} (raw)`);
    expect(qemuImg('compare', base, overlay)).toContain('identical');
  });

  it.each([
    ['no size', ['x.img'], 'TSV_E_USAGE: The size of the disk is missing'],
    ['a size without a unit', ['x.img', '--size', '100'], 'TSV_E_USAGE: --size cannot be "100"'],
    ['half a sector', ['x.img', '--size', '100B'], 'TSV_E_USAGE'],
    ['a cluster size that cannot be', ['x.qcow2', '--size', '1G', '--cluster-size', '3K'], 'TSV_E_CONFIG'],
    ['qcow2 options of a raw image', ['x.img', '--size', '1G', '--lazy-refcounts'], 'TSV_E_USAGE'],
    ['a raw overlay', ['x.img', '--backing', 'y', '--format', 'raw'], 'TSV_E_USAGE'],
    ['a base that is not there', ['x.qcow2', '--backing', '/nonexistent'], 'TSV_E_FILE'],
    ['the format of no base', ['x.qcow2', '--size', '1G', '--backing-format', 'raw'], '--backing-format'],
    ['no name', [], 'TSV_E_USAGE'],
    ["qemu-img's order of arguments", ['x.qcow2', '1G'], 'Nothing is known to do with "1G"'],
  ])('refuses %s', async (_, args, message) => {
    const cwd = scratch();
    const ended = await runCli(['disk', 'create', ...args], '', { cwd });

    expect(ended.status).toBe(2);
    expect(ended.stderr).toContain(message);
    expect(existsSync(join(cwd, args[0] ?? 'x'))).toBe(false);
  });

  it('does not overwrite', async () => {
    const path = patterned(scratch());
    const before = readFileSync(path);

    const ended = await disk('create', path, '--size', '1M');

    expect(ended.status).toBe(2);
    expect(ended.stderr).toContain('EEXIST');
    expect(readFileSync(path).equals(before)).toBe(true);
  });
});

describe('disk info', () => {
  it('describes what qemu-img made', async () => {
    const path = join(scratch(), 'a.qcow2');
    qemuImg('create', '-q', '-f', 'qcow2', path, '3M');
    qemuImg('snapshot', '-c', 'before', path);

    const text = await disk('info', path);
    const json = await disk('info', path, '--json');

    expect(text.stdout).toContain('format    qcow2, version 3\ndisk      3 MiB (3145728 bytes)\n');
    expect(text.stdout).toMatch(/^snapshot {2}1 "before", \d{4}-/m);
    expect(JSON.parse(json.stdout)).toMatchObject({
      format: 'qcow2',
      virtualSize: 3 * MIB,
      qcow2: { clusterSize: 65536, snapshots: [{ id: '1', name: 'before' }] },
    });
  });

  it.each([
    ['is not there', '/nonexistent', 'TSV_E_FILE'],
    ['is a directory', '/', 'TSV_E_FILE'],
  ])('says when the image %s', async (_, path, code) => {
    expect(await disk('info', path)).toMatchObject({ status: 2, stderr: expect.stringContaining(code) });
  });
});

describe('disk convert', () => {
  it.each([
    ['qcow2', []],
    ['qcow2', ['--compress']],
    ['raw', []],
  ])('copies to %s %j and back', async (format, options) => {
    const folder = scratch();
    const source = patterned(folder);
    const copy = join(folder, 'copy');
    const back = join(folder, 'back.img');

    const there = await disk('convert', source, '-o', copy, '--format', format, ...options);
    const again = await disk('convert', copy, '-o', back, '--json');

    expect(there.status).toBe(0);
    expect(there.stderr).toBe(`tsvisor: copying ${source}\n`);
    expect(qemuImg('compare', '-f', 'raw', '-F', format, source, copy)).toContain('identical');
    expect(JSON.parse(again.stdout)).toMatchObject({ path: back, format: 'raw', virtualSize: 16 * MIB });
    expect(readFileSync(back).equals(readFileSync(source))).toBe(true);
    expect(JSON.parse(again.stdout).allocatedSize).toBeLessThan(MIB);
  });

  it('reads backing files only when that is allowed', async () => {
    const folder = scratch();
    const base = patterned(folder);
    const overlay = join(folder, 'overlay.qcow2');
    const whole = join(folder, 'whole.img');
    await disk('create', overlay, '--backing', base);

    const refused = await disk('convert', overlay, '-o', whole);
    const allowed = await disk('convert', overlay, '-o', whole, '--allow-backing');

    expect(refused.status).toBe(2);
    expect(refused.stderr).toContain('TSV_E_DISK_BACKING');
    expect(allowed.status).toBe(0);
    expect(readFileSync(whole).equals(readFileSync(base))).toBe(true);
  });

  it('leaves nothing behind when it is interrupted', async () => {
    const folder = scratch();
    const source = join(folder, 'large.img');
    writeFileSync(source, Buffer.alloc(256 * MIB, 'not zero'));
    const target = join(folder, 'large.qcow2');

    const cli = startCli(['disk', 'convert', source, '-o', target, '--compress']);
    await cli.shows(/copying/, 'stderr');
    cli.child.kill('SIGINT');

    const { signal, status } = await cli.ended;
    expect(signal ?? status).toBe('SIGINT');
    expect(existsSync(target)).toBe(false);
  });

  it('shows on a terminal how far it is, and takes that away', async () => {
    const folder = scratch();
    const source = join(folder, 'large.img');
    writeFileSync(source, Buffer.alloc(64 * MIB, 'not zero'));

    const target = join(folder, 'copy.qcow2');
    const terminal = new OnTerminal(['disk', 'convert', source, '-o', target, '--compress']);
    const { status, screen } = await terminal.ended();

    expect(status).toBe(0);
    // A line that is too long for the terminal is cut off.
    expect(screen).toMatch(/\rtsvisor: copying \S+/);
    expect(screen).toMatch(/\r\x1b\[Kimage {5}\S+copy\.qcow2\r\n/);
  });

  it("takes qemu-img's letters for formats", async () => {
    const folder = scratch();
    const source = patterned(folder);
    const copy = join(folder, 'copy');

    const ended = await disk('convert', '-f', 'raw', '-O', 'qcow2', source, '-o', copy);
    const overlay = await disk('create', '-f', 'qcow2', '-b', copy, '-F', 'qcow2', join(folder, 'overlay'));

    expect([ended.status, overlay.status]).toEqual([0, 0]);
    expect(qemuImg('compare', '-f', 'raw', '-F', 'qcow2', source, join(folder, 'overlay'))).toContain(
      'identical',
    );
  });

  it('refuses to compress a raw image', async () => {
    const folder = scratch();
    const target = join(folder, 'b.img');
    const ended = await disk('convert', patterned(folder), '-o', target, '--compress');

    expect(ended.status).toBe(2);
    expect(existsSync(target)).toBe(false);
  });
});

describe('disk check', () => {
  const image = async () => {
    const folder = scratch();
    const path = join(folder, 'a.qcow2');
    await disk('convert', patterned(folder), '-o', path);
    return path;
  };

  it('finds a sound image sound', async () => {
    const path = await image();

    const ended = await disk('check', path);

    expect(ended.status).toBe(0);
    expect(ended.stdout).toMatch(/: consistent; \d+ of 256 clusters in use, 0 compressed\n$/);
  });

  it('finds damage and repairs it', async () => {
    const path = await image();
    // All refcounts of the first block of clusters: the block follows header and table.
    const file = openSync(path, 'r+');
    writeSync(file, Buffer.alloc(64), 0, 64, 2 * 65536);

    const found = await disk('check', path);
    const json = await disk('check', path, '--json');
    const repaired = await disk('check', path, '--repair', 'all');

    expect(found.status).toBe(4);
    expect(found.stdout).toMatch(/\d+ errors?;/);
    expect(JSON.parse(json.stdout).found.corruptions).toBeGreaterThan(0);
    expect(repaired.status).toBe(0);
    expect(repaired.stdout).toMatch(/after the repair: .*consistent/);
    expect(qemuImg('check', path)).toContain('No errors');
  });

  it('refuses what is no qcow2 image', async () => {
    const folder = scratch();
    const path = patterned(folder);
    truncateSync(path, 5 * MIB);

    expect(await disk('check', path)).toMatchObject({
      status: 2,
      stderr: expect.stringContaining('TSV_E_DISK_FORMAT'),
    });
  });
});
