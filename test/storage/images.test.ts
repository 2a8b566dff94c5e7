/** Making, describing, converting, checking and stacking images. */
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import * as zlib from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { checkDisk } from '../../src/storage/check.ts';
import { convertDisk } from '../../src/storage/convert.ts';
import { createOverlay, createRaw } from '../../src/storage/create.ts';
import { diskInfo } from '../../src/storage/info.ts';
import { openDisk } from '../../src/storage/open.ts';
import { openOverlay } from '../../src/storage/overlay.ts';
import { createQcow2 } from '../../src/storage/qcow2/create.ts';
import { content, pattern, qemuCheck, qemuImg, qemuIo, testFolder } from './support.ts';

const folder = testFolder();
let files = 0;
const newPath = (name = 'img') => join(folder, `${files++}-${name}`);
const SIZE = 2 << 20;

describe('createQcow2', () => {
  it.each([
    { size: 0 },
    { size: 1 << 30, clusterSize: 512 },
    { size: 100 << 30, version: 2 as const },
    { size: 1 << 20, refcountBits: 1, clusterSize: 2 << 20 },
    { size: 2 ** 40, refcountBits: 64, clusterSize: 4096, lazyRefcounts: true },
  ])('makes what QEMU makes: %o', async (options) => {
    const path = newPath();
    await createQcow2(path, options);
    expect(qemuCheck(path).leaks).toBe(0);
    const theirs = JSON.parse(qemuImg('info', '--output=json', path)) as Record<string, unknown>;
    expect(theirs).toMatchObject({ format: 'qcow2', 'virtual-size': options.size });
    const ours = await diskInfo(path);
    const {
      clusterSize = 65536,
      refcountBits = 16,
      lazyRefcounts = false,
      version = 3,
    } = options as { clusterSize?: number; refcountBits?: number; lazyRefcounts?: boolean; version?: number };
    expect(theirs['cluster-size']).toBe(clusterSize);
    expect(ours).toMatchObject({
      format: 'qcow2',
      virtualSize: options.size,
      qcow2: {
        version,
        clusterSize,
        refcountBits,
        lazyRefcounts,
        dirty: false,
        corrupt: false,
        snapshots: [],
      },
    });
    expect(statSync(path).blocks * 512).toBeLessThan(1 << 20);
  });

  it.each([
    { size: 100 },
    { size: 1 << 20, clusterSize: 100 },
    { size: 1 << 20, clusterSize: 4 << 20 },
    { size: 1 << 20, refcountBits: 3 },
    { size: 1 << 20, version: 2 as const, refcountBits: 8 },
    { size: 2 ** 50, clusterSize: 512 },
    { size: 1 << 20, clusterSize: 512, backing: { file: 'x'.repeat(500), format: 'raw' as const } },
  ])('refuses what the format cannot do: %o', async (options) => {
    const path = newPath();
    await expect(createQcow2(path, options)).rejects.toMatchObject({ code: 'TSV_E_CONFIG' });
    expect(existsSync(path)).toBe(false);
  });
});

describe('diskInfo', () => {
  it('names snapshots and backing files, as QEMU made them', async () => {
    const base = newPath();
    await createRaw(base, SIZE);
    const path = newPath();
    qemuImg('create', '-f', 'qcow2', '-b', base, '-F', 'raw', path);
    qemuImg('snapshot', '-c', 'before lunch', path);
    const { qcow2, virtualSize } = await diskInfo(path);
    expect(virtualSize).toBe(SIZE);
    expect(qcow2).toMatchObject({
      backingFile: base,
      backingFormat: 'raw',
      snapshots: [{ id: '1', name: 'before lunch' }],
    });
    expect(await diskInfo(base)).toMatchObject({ format: 'raw', virtualSize: SIZE, allocatedSize: 0 });
  });
});

describe('convertDisk', () => {
  const source = pattern(SIZE + 512, 9)
    .fill(0, 4096, 700_000)
    .fill('again and again ', 800_000, 1_500_000);

  it.each([
    { format: 'raw' as const },
    { format: 'qcow2' as const },
    { format: 'qcow2' as const, clusterSize: 4096, version: 2 as const },
    { format: 'qcow2' as const, compress: true },
    { format: 'qcow2' as const, compress: true, clusterSize: 512, refcountBits: 1 },
    { format: 'qcow2' as const, compress: true, clusterSize: 4096 },
    { format: 'qcow2' as const, compress: true, clusterSize: 2 << 20 },
  ])('copies a disk that QEMU reads alike, without its zeros: %o', async (options) => {
    const [raw, theirs, path] = [newPath(), newPath(), newPath()];
    writeFileSync(raw, source);
    qemuImg('convert', '-O', 'qcow2', raw, theirs);
    const seen: number[] = [];
    for (const from of [raw, theirs]) {
      const target = `${path}-${from === raw}`;
      await using disk = await openDisk(from, { readOnly: true });
      await convertDisk(disk, target, { ...options, progress: (done) => seen.push(done) });
      qemuImg('compare', '-f', 'raw', '-F', options.format, raw, target);
      await using copy = await openDisk(target);
      expect((await content(copy)).equals(source)).toBe(true);
      if (options.format === 'qcow2') expect(qemuCheck(target).leaks).toBe(0);
      if ((options.clusterSize ?? 0) < SIZE) expect(statSync(target).blocks * 512).toBeLessThan(SIZE);
    }
    expect(seen.at(-1)).toBe(SIZE + 512);
  });

  it('compresses with zstd where Node.js can, and says so where not', async () => {
    const [raw, path] = [newPath(), newPath()];
    writeFileSync(raw, source);
    await using disk = await openDisk(raw, { readOnly: true });
    const options = { format: 'qcow2' as const, compress: true, compression: 'zstd' as const };
    if ('zstdCompress' in zlib) {
      await convertDisk(disk, path, options);
      qemuImg('compare', '-f', 'raw', '-F', 'qcow2', raw, path);
    } else {
      await expect(convertDisk(disk, path, options)).rejects.toMatchObject({ code: 'TSV_E_DISK_FEATURE' });
      expect(existsSync(path)).toBe(false);
    }
  });

  it('can be interrupted, and then leaves nothing', async () => {
    const [raw, path] = [newPath(), newPath()];
    writeFileSync(raw, pattern(8 << 20, 1));
    await using disk = await openDisk(raw, { readOnly: true });
    const stop = new AbortController();
    const done = convertDisk(disk, path, {
      format: 'qcow2',
      signal: stop.signal,
      progress: () => stop.abort(new Error('enough')),
    });
    await expect(done).rejects.toThrow('enough');
    expect(existsSync(path)).toBe(false);
  });

  it('skips what is empty in a large disk', async () => {
    const [path, copy] = [newPath(), newPath()];
    await createQcow2(path, { size: 2 ** 42 });
    const disk = await openDisk(path);
    await disk.write(2 ** 41 + 12_345 * 512, [pattern(512, 4)]);
    await convertDisk(disk, copy, { format: 'qcow2' });
    await disk[Symbol.asyncDispose]();
    expect(qemuIo(copy, `read -P ${pattern(512, 4)[0]} ${2 ** 41 + 12_345 * 512} 1`)).toContain('read 1/1');
  });
});

describe('overlays', () => {
  it('keep the base as it is, and leave nothing behind', async () => {
    const [raw, temporary] = [newPath(), newPath()];
    mkdirSync(temporary);
    const base = pattern(SIZE, 2);
    writeFileSync(raw, base);
    const overlay = await openOverlay(await openDisk(raw, { readOnly: true }), { folder: temporary });
    await overlay.write(5 * 512, [pattern(70_000 - (70_000 % 512), 3)]);
    await overlay.discard!(0, 65536);
    await overlay.flush();
    const expected = Buffer.from(base);
    pattern(70_000 - (70_000 % 512), 3).copy(expected, 5 * 512);
    expected.fill(0, 0, 65536);
    expect((await content(overlay)).equals(expected)).toBe(true);
    expect(readdirSync(temporary)).toEqual([]);
    await overlay[Symbol.asyncDispose]();
    expect(readFileSync(raw).equals(base)).toBe(true);
    await (await openDisk(raw))[Symbol.asyncDispose]();
  });

  it('go over a back end of any kind', async () => {
    const closed: string[] = [];
    const overlay = await openOverlay({
      size: 1 << 20,
      readOnly: true,
      read: async (offset, into) => {
        for (const each of into) each.fill(offset / 512);
      },
      write: () => Promise.reject(new Error('never')),
      flush: async () => {},
      [Symbol.asyncDispose]: async () => void closed.push('base'),
    });
    await overlay.write(0, [Buffer.alloc(512, 99)]);
    const bytes = Buffer.alloc(1024);
    await overlay.read(0, [bytes.subarray(0, 512)]);
    await overlay.read(65536 + 512, [bytes.subarray(512)]);
    expect([bytes[0], bytes[512]]).toEqual([99, 129]);
    await overlay[Symbol.asyncDispose]();
    expect(closed).toEqual(['base']);
  });

  it('that are kept are read by QEMU with their base', async () => {
    const [raw, path, flat] = [newPath(), newPath(), newPath()];
    const base = pattern(SIZE, 2);
    writeFileSync(raw, base);
    await createOverlay(path, raw, { clusterSize: 8192 });
    const disk = await openDisk(path, { backing: (name) => name === raw });
    await disk.write(512, [pattern(1024, 7)]);
    await disk[Symbol.asyncDispose]();
    qemuImg('convert', '-f', 'qcow2', '-O', 'raw', path, flat);
    pattern(1024, 7).copy(base, 512);
    expect(readFileSync(flat).equals(base)).toBe(true);
  });
});

describe('backing files', () => {
  const refused = { code: 'TSV_E_DISK_BACKING' };

  it('are refused unless they are allowed', async () => {
    const path = newPath();
    await createQcow2(path, { size: SIZE, backing: { file: '/etc/passwd', format: 'raw' } });
    await expect(openDisk(path)).rejects.toMatchObject(refused);
    await expect(openDisk(path, { backing: (name) => name !== '/etc/passwd' })).rejects.toMatchObject(
      refused,
    );
    await (await openDisk(path, { backing: 'any' }))[Symbol.asyncDispose]();
  });

  it.each([
    ['missing', { file: 'nowhere.img', format: 'raw' as const }],
    ['of a protocol', { file: 'nbd://host/disk', format: 'raw' as const }],
    ['described by JSON', { file: 'json:{"driver":"raw"}', format: 'raw' as const }],
  ])('are refused when they are %s', async (_, backing) => {
    const path = newPath();
    await createQcow2(path, { size: SIZE, backing });
    await expect(openDisk(path, { backing: 'any' })).rejects.toMatchObject(refused);
    // What was opened on the way is closed again.
    await (await openDisk(path, { format: 'raw' }))[Symbol.asyncDispose]();
  });

  it('are refused when they lead back', async () => {
    const [a, b] = [newPath('a'), newPath('b')];
    await createQcow2(a, { size: SIZE, backing: { file: b, format: 'qcow2' } });
    const link = newPath('link');
    symlinkSync(a, link);
    await createQcow2(b, { size: SIZE, backing: { file: link, format: 'qcow2' } });
    for (const lock of [true, false]) {
      await expect(openDisk(a, { backing: 'any', lock })).rejects.toMatchObject(refused);
    }
    const self = newPath('self');
    await createQcow2(self, { size: SIZE, backing: { file: self, format: 'qcow2' } });
    await expect(openDisk(self, { backing: 'any' })).rejects.toMatchObject(refused);
  });

  it('are refused when they are too many', async () => {
    const paths = Array.from({ length: 40 }, () => newPath('chain'));
    await createRaw(paths[0], SIZE);
    for (let i = 1; i < paths.length; i++) {
      const backing = { file: paths[i - 1], format: i === 1 ? ('raw' as const) : ('qcow2' as const) };
      await createQcow2(paths[i], { size: SIZE, backing });
    }
    await expect(openDisk(paths[39], { backing: 'any', lock: false })).rejects.toMatchObject(refused);
    await (await openDisk(paths[31], { backing: 'any', lock: false }))[Symbol.asyncDispose]();
  });

  it('are refused when the image does not say their format', async () => {
    const [base, path] = [newPath(), newPath()];
    await createRaw(base, SIZE);
    qemuImg('create', '-f', 'qcow2', '-b', base, '-F', 'raw', path);
    const bytes = readFileSync(path);
    bytes.writeUInt32BE(0x12345678, bytes.indexOf(Buffer.from([0xe2, 0x79, 0x2a, 0xca])));
    writeFileSync(path, bytes);
    await expect(openDisk(path, { backing: 'any' })).rejects.toMatchObject(refused);
  });
});

describe('checkDisk', () => {
  /** An image with a cluster more than is used, and one less. */
  async function damaged(high: number, low: number): Promise<string> {
    const path = newPath();
    await createQcow2(path, { size: SIZE });
    const disk = await openDisk(path);
    await disk.write(0, [pattern(200_000 - (200_000 % 512), 1)]);
    await disk[Symbol.asyncDispose]();
    const bytes = readFileSync(path);
    if (high) bytes.writeUInt16BE(high, 2 * 65536 + 2 * 20);
    if (low) bytes.writeUInt16BE(0, 2 * 65536 + 2 * low);
    writeFileSync(path, bytes);
    return path;
  }

  it('finds nothing wrong with a sound image', async () => {
    const path = newPath();
    qemuImg('create', '-f', 'qcow2', path, '2M');
    qemuIo(path, 'write 0 100k', 'write 1M 64k');
    const { found, left } = await checkDisk(path, { repair: 'all' });
    expect(found).toMatchObject({
      leaks: 0,
      corruptions: 0,
      clusters: 32,
      allocated: 3,
      compressed: 0,
      problems: [],
    });
    expect(left).toBeUndefined();
  });

  it('gives leaks back', async () => {
    const path = await damaged(3, 0);
    const before = readFileSync(path);
    expect((await checkDisk(path)).found).toMatchObject({ leaks: 1, corruptions: 0 });
    expect(readFileSync(path).equals(before)).toBe(true);
    const { found, left } = await checkDisk(path, { repair: 'leaks' });
    expect(found.problems).toEqual(['leak: cluster 20 has refcount 3, but 0 references']);
    expect(left).toMatchObject({ leaks: 0, corruptions: 0 });
    expect(qemuCheck(path).leaks).toBe(0);
  });

  it('repairs refcounts only when asked to', async () => {
    const path = await damaged(0, 5);
    const { found, left } = await checkDisk(path, { repair: 'leaks' });
    expect(found.corruptions).toBeGreaterThan(0);
    expect(left).toBeUndefined();
    expect((await checkDisk(path, { repair: 'all' })).left).toMatchObject({ leaks: 0, corruptions: 0 });
    expect(qemuCheck(path).leaks).toBe(0);
  });

  it('repairs an image that was not closed when it is opened, as the dirty bit wants it', async () => {
    const path = newPath();
    qemuImg('create', '-f', 'qcow2', '-o', 'lazy_refcounts=on', path, '2M');
    // Killed in the middle: its refcounts are not written.
    expect(() => qemuIo(path, 'write 0 700k', 'sigraise 9')).toThrow();
    expect((await diskInfo(path)).qcow2).toMatchObject({ dirty: true, lazyRefcounts: true });
    copyFileSync(path, `${path}.ro`);
    const reader = await openDisk(`${path}.ro`, { readOnly: true });
    const before = await content(reader);
    await reader[Symbol.asyncDispose]();
    const warnings: string[] = [];
    const disk = await openDisk(path, { warn: (message) => warnings.push(message) });
    expect(warnings).toEqual([`"${path}" was not closed; its refcounts are repaired.`]);
    await disk.write(1 << 20, [pattern(65536, 2)]);
    pattern(65536, 2).copy(before, 1 << 20);
    expect((await content(disk)).equals(before)).toBe(true);
    await disk[Symbol.asyncDispose]();
    expect((await diskInfo(path)).qcow2!.dirty).toBe(false);
    expect(qemuCheck(path).leaks).toBe(0);
  });

  it('counts bitmaps as used, and clears their feature bit when something is written', async () => {
    const path = newPath();
    qemuImg('create', '-f', 'qcow2', path, '2M');
    qemuImg('bitmap', '--add', path, 'changes');
    qemuIo(path, 'write 0 1M');
    expect((await checkDisk(path)).found).toMatchObject({ leaks: 0, corruptions: 0 });
    const disk = await openDisk(path);
    await disk.write(0, [pattern(512, 1)]);
    await disk[Symbol.asyncDispose]();
    expect(readFileSync(path).readBigUInt64BE(88)).toBe(0n);
    const { found } = await checkDisk(path);
    expect(found).toMatchObject({ corruptions: 0, leaks: qemuCheck(path).leaks });
  });
});
