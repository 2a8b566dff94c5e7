import { execFileSync } from 'node:child_process';
import { readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { createRaw } from '../../src/storage/create.ts';
import { canPunchHoles } from '../../src/storage/file.ts';
import { openDisk } from '../../src/storage/open.ts';
import { createQcow2 } from '../../src/storage/qcow2/create.ts';
import { bundle, content, pattern, testFolder } from './support.ts';

const folder = testFolder();
let files = 0;
const newPath = () => join(folder, `raw${files++}.img`);

describe('a raw disk', () => {
  it('reads and writes scattered views of shared memory', async () => {
    const path = newPath();
    await createRaw(path, 1 << 20);
    const memory = new WebAssembly.Memory({ initial: 4, maximum: 4, shared: true });
    const view = (offset: number, length: number) => new Uint8Array(memory.buffer, offset, length);
    const bytes = pattern(3000, 1);
    view(5000, 1000).set(bytes.subarray(0, 1000));
    view(90_001, 2000).set(bytes.subarray(1000));
    await using disk = await openDisk(path);
    await disk.write(1024, [view(5000, 1000), view(90_001, 2000)]);
    await disk.flush();
    await disk.read(1024, [view(200_000, 7), view(120_000, 2993)]);
    expect(Buffer.concat([view(200_000, 7), view(120_000, 2993)]).equals(bytes)).toBe(true);
    expect(readFileSync(path).subarray(1024, 4024).equals(bytes)).toBe(true);
  });

  it('takes more buffers than one system call does', async () => {
    const path = newPath();
    await createRaw(path, 1 << 20);
    const bytes = pattern(3000 * 64, 2);
    const pieces = (from: Buffer) =>
      Array.from({ length: 3000 }, (_, i) => from.subarray(i * 64, i * 64 + 64));
    await using disk = await openDisk(path);
    await disk.write(512, pieces(bytes));
    const back = Buffer.alloc(bytes.length);
    await disk.read(512, pieces(back));
    expect(back.equals(bytes)).toBe(true);
  });

  it('is sparse, and gives space back that is discarded', async () => {
    const path = newPath();
    await createRaw(path, 64 << 20);
    expect(statSync(path).blocks).toBe(0);
    await using disk = await openDisk(path);
    await disk.write(0, [pattern(1 << 20, 3)]);
    await disk.flush();
    const full = statSync(path).blocks;
    await disk.discard!(0, 1 << 20);
    expect(canPunchHoles()).toBe(true);
    expect(statSync(path).blocks).toBeLessThan(full);
    await disk.write(0, [pattern(1 << 20, 3)]);
    await disk.writeZeroes!(4096, 8192, true);
    await disk.writeZeroes!(16384, 1 << 19, false);
    const expected = pattern(1 << 20, 3)
      .fill(0, 4096, 12288)
      .fill(0, 16384, 16384 + (1 << 19));
    expect((await content(disk)).subarray(0, 1 << 20).equals(expected)).toBe(true);
  });

  it('continues a file that does not end with a sector by zeros', async () => {
    const path = newPath();
    writeFileSync(path, pattern(700, 4));
    await using disk = await openDisk(path);
    expect(disk.size).toBe(1024);
    expect(await content(disk)).toEqual(Buffer.concat([pattern(700, 4), Buffer.alloc(324)]));
    await disk.write(512, [pattern(512, 5)]);
    expect((await content(disk)).subarray(512)).toEqual(pattern(512, 5));
  });

  it('fails when its file has been cut off, instead of reading zeros', async () => {
    const path = newPath();
    writeFileSync(path, pattern(1 << 16, 6));
    await using disk = await openDisk(path);
    truncateSync(path, 1 << 15);
    await expect(disk.read((1 << 15) - 512, [Buffer.alloc(1024)])).rejects.toMatchObject({
      code: 'TSV_E_DISK_IO',
    });
    await disk.read(0, [Buffer.alloc(1 << 15)]);
  });

  it('does not say that all is there when its file has been cut off', async () => {
    const path = newPath();
    writeFileSync(path, pattern(1 << 16, 6));
    await using disk = await openDisk(path);
    await disk.flush();
    truncateSync(path, 512);
    await disk.write(1 << 15, [Buffer.alloc(512)]);
    for (const _ of [1, 2]) await expect(disk.flush()).rejects.toMatchObject({ code: 'TSV_E_DISK_IO' });
  });

  it('refuses what lies outside, and writing when read-only', async () => {
    const path = newPath();
    await createRaw(path, 4096);
    await using disk = await openDisk(path, { readOnly: true });
    const sector = [Buffer.alloc(512)];
    for (const offset of [4096, -512, Number.NaN, 2 ** 60, 0.5, 3840]) {
      await expect(disk.read(offset, sector)).rejects.toMatchObject({ code: 'TSV_E_DISK_RANGE' });
    }
    const readOnly = { code: 'TSV_E_DISK_READ_ONLY' };
    await expect(disk.write(0, sector)).rejects.toMatchObject(readOnly);
    await expect(disk.discard!(0, 512)).rejects.toMatchObject(readOnly);
    await expect(disk.writeZeroes!(0, 512, true)).rejects.toMatchObject(readOnly);
    await disk.flush();
  });
});

it('works without the addon, but says that nothing is given back', async () => {
  const program = await bundle('discard-process', folder);
  for (const format of ['raw', 'qcow2']) {
    const path = newPath();
    if (format === 'raw') await createRaw(path, 1 << 20);
    else await createQcow2(path, { size: 1 << 20 });
    const env = { ...process.env, TSVISOR_ADDON: join(folder, 'nowhere.node') };
    const output = JSON.parse(execFileSync(process.execPath, [program, path], { encoding: 'utf8', env }));
    expect(output).toEqual({
      warnings: [
        `What is discarded of "${path}" is not given back to the host: that needs the native addon.`,
      ],
      zeroed: true,
    });
  }
});

describe('opening', () => {
  it.each([
    ['a file that is not there', 'missing.img', 'TSV_E_FILE'],
    ['a folder', '.', 'TSV_E_FILE'],
    ['a device that is no disk', '/dev/null', 'TSV_E_FILE'],
  ])('refuses %s', async (_, name, code) => {
    await expect(openDisk(join(name.startsWith('/') ? '' : folder, name))).rejects.toMatchObject({ code });
  });

  it('refuses to overwrite', async () => {
    const path = newPath();
    writeFileSync(path, 'precious');
    await expect(createRaw(path, 512)).rejects.toMatchObject({ code: 'TSV_E_FILE' });
    expect(readFileSync(path, 'utf8')).toBe('precious');
  });

  it('refuses sizes that disks cannot have', async () => {
    for (const size of [1, -512, Number.NaN, 2 ** 60]) {
      await expect(createRaw(newPath(), size)).rejects.toMatchObject({ code: 'TSV_E_CONFIG' });
    }
  });
});
