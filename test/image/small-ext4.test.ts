/** Small ext4 file systems, as e2fsprogs sees them. */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { formatSmallExt4, smallExt4Problem } from '../../src/image/small-ext4.ts';
import { createRaw } from '../../src/storage/create.ts';
import { openDisk } from '../../src/storage/open.ts';

const MIB = 2 ** 20;
const folder = mkdtempSync(join(tmpdir(), 'tsvisor-small-ext4-'));
afterAll(() => rmSync(folder, { recursive: true }));

let count = 0;
async function made(size: number): Promise<string> {
  const path = join(folder, `${count++}.img`);
  await createRaw(path, size);
  await using disk = await openDisk(path);
  await formatSmallExt4(disk, { label: 'small' });
  return path;
}

describe('a small ext4', () => {
  it.each([8, 33.25, 64, 128])('of %d MiB has nothing to complain of for e2fsck', async (mib) => {
    const path = await made(mib * MIB);

    const { status, stdout, stderr } = spawnSync('e2fsck', ['-f', '-n', path], { encoding: 'utf8' });

    expect({ status, complaints: stdout.match(/.*(?:wrong|invalid|Fix|Clear).*/gi), stderr }).toEqual({
      status: 0,
      complaints: null,
      stderr: expect.stringMatching(/^e2fsck .*\n$/),
    });
    const header = execFileSync('dumpe2fs', ['-h', path], { encoding: 'utf8', stdio: 'pipe' });
    expect(header).toMatch(/volume name: +small\n/);
    expect(header).toMatch(/Filesystem state: +clean\n/);
    expect(header).toContain('has_journal');
    await using disk = await openDisk(path);
    expect(await smallExt4Problem(disk)).toBeUndefined();
  });

  it('holds files', async () => {
    const path = await made(8 * MIB);
    const source = join(folder, 'source');
    writeFileSync(source, Buffer.alloc(100_000, 'file'));

    execFileSync('debugfs', ['-w', '-R', `write ${source} file`, path], { stdio: 'pipe' });

    expect(spawnSync('e2fsck', ['-f', '-n', path]).status).toBe(0);
    expect(execFileSync('debugfs', ['-R', 'cat file', path], { stdio: 'pipe' }).toString()).toBe(
      'file'.repeat(25_000),
    );
  });

  it.each([1, 4, 129])('cannot have %i MiB', async (mib) => {
    const path = join(folder, `${mib}-refused.img`);
    await createRaw(path, mib * MIB);
    await using disk = await openDisk(path);

    await expect(formatSmallExt4(disk, { label: '' })).rejects.toMatchObject({ code: 'TSV_E_CONFIG' });
  });
});

describe('what is wrong with one', () => {
  it.each([
    ['no file system', 0x438, [0, 0], 'no file system'],
    ['more blocks than the disk has', 0x404, [0, 0, 1, 0], 'shorter'],
    ['errors that the kernel has noted', 0x43a, [3, 0], 'damaged'],
  ])('is said of %s', async (_, offset, bytes, message) => {
    const path = await made(8 * MIB);
    await using disk = await openDisk(path);
    const sector = new Uint8Array(512);
    const start = Math.floor(offset / 512) * 512;
    await disk.read(start, [sector]);
    sector.set(bytes, offset - start);
    await disk.write(start, [sector]);

    expect(await smallExt4Problem(disk)).toContain(message);
  });
});
