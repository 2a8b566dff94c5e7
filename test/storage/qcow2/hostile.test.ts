/** Images that say impossible things, one by one: each is refused by what it says, and costs nothing. */
import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import type { TsvError } from '../../../src/errors.ts';
import { checkDisk } from '../../../src/storage/check.ts';
import { diskInfo } from '../../../src/storage/info.ts';
import { openDisk } from '../../../src/storage/open.ts';
import { createQcow2 } from '../../../src/storage/qcow2/create.ts';
import { content, pattern, qemuCheck, qemuImg, testFolder } from '../support.ts';

const SIZE = 16 << 20;
const CLUSTER = 4096;
const folder = testFolder();
let image: Buffer;
let files = 0;

beforeAll(async () => {
  const path = join(folder, 'sound.qcow2');
  await createQcow2(path, { size: SIZE, clusterSize: CLUSTER });
  const disk = await openDisk(path);
  await disk.write(0, [pattern(CLUSTER * 4, 1)]);
  await disk.write(4 << 20, [pattern(CLUSTER, 2)]);
  await disk[Symbol.asyncDispose]();
  image = readFileSync(path);
});

/** The sound image with changes, in a file. */
function changed(change: (bytes: Buffer) => unknown): string {
  const path = join(folder, `${files++}.qcow2`);
  const bytes = Buffer.from(image);
  const other = change(bytes);
  writeFileSync(path, Buffer.isBuffer(other) ? other : bytes);
  return path;
}

const u32 = (at: number, value: number) => (bytes: Buffer) => void bytes.writeUInt32BE(value, at);
const u64 = (at: number, value: bigint) => (bytes: Buffer) => void bytes.writeBigUInt64BE(value, at);
const all =
  (...changes: ((bytes: Buffer) => void)[]) =>
  (bytes: Buffer) => {
    for (const change of changes) change(bytes);
  };
const l1Of = (bytes: Buffer) => Number(bytes.readBigUInt64BE(40));
const l2Of = (bytes: Buffer) => Number(bytes.readBigUInt64BE(l1Of(bytes)) & 0xfffffffffe00n);

describe('headers', () => {
  it.each<[string, (bytes: Buffer) => unknown, string, RegExp]>([
    ['version 4', u32(4, 4), 'FORMAT', /version is 4/],
    ['tiny clusters', u32(20, 8), 'FORMAT', /2\^8/],
    ['huge clusters', u32(20, 22), 'FORMAT', /2\^22/],
    ['AES', u32(32, 1), 'FEATURE', /encryption \(method 1\)/],
    ['LUKS', u32(32, 2), 'FEATURE', /encryption \(method 2\)/],
    ['a data file', u64(72, 4n), 'FEATURE', /external data file/],
    ['subclusters', u64(72, 16n), 'FEATURE', /extended L2/],
    ['an unknown feature', u64(72, 1n << 40n), 'FEATURE', /bit 40/],
    ['compression without its bit', (b) => void b.writeUInt8(1, 104), 'FORMAT', /contradict/],
    [
      'unknown compression',
      all((b) => void b.writeUInt8(9, 104), u64(72, 8n)),
      'FEATURE',
      /compression type 9/,
    ],
    ['refcounts of 128 bits', u32(96, 7), 'FORMAT', /2\^7/],
    ['a header longer than its cluster', u32(100, 65536), 'FORMAT', /header has 65536/],
    ['a header that is too short', u32(100, 72), 'FORMAT', /header has 72/],
    ['a disk of 2^63 bytes', u64(24, 2n ** 63n), 'FORMAT', /disk size is/],
    ['a disk that the L1 table does not reach', u64(24, 2n ** 40n), 'FORMAT', /needs/],
    ['an L1 table of 32 GiB', u32(36, 0xffffffff), 'FORMAT', /L1 table has 34359738360 bytes/],
    ['an L1 table behind the end', u64(40, 2n ** 40n), 'FORMAT', /does not lie within/],
    ['an L1 table between clusters', u64(40, 512n), 'FORMAT', /start of a cluster/],
    ['an L1 table in the header', u64(40, 0n), 'FORMAT', /where the header is/],
    ['no refcount table', u32(56, 0), 'FORMAT', /no refcount table/],
    ['a refcount table of 16 TiB', u32(56, 0xffffffff), 'FORMAT', /refcount table has/],
    ['too many snapshots', u32(60, 1e6), 'FORMAT', /1000000 snapshots/],
    ['snapshots behind the end', all(u32(60, 1), u64(64, 2n ** 50n)), 'FORMAT', /snapshot/],
    ['a name of 64 KiB', all(u64(8, 200n), u32(16, 65536)), 'FORMAT', /name/],
    ['a name that is elsewhere', all(u64(8, 2n ** 40n), u32(16, 5)), 'FORMAT', /name/],
    ['an endless extension', all(u32(112, 7), u32(116, 0xffffffff)), 'FORMAT', /extension/],
    ['half a header', (b) => b.subarray(0, 90), 'FORMAT', /shorter/],
  ])('%s', async (_, change, code, message) => {
    const path = changed(change);
    // Nothing that starts as qcow2 is taken for a raw image.
    if (code !== 'FORMAT' || !/shorter/.test(message.source)) {
      await expect(openDisk(path)).rejects.toMatchObject({ code: `TSV_E_DISK_${code}` });
    }
    for (const readOnly of [true, false]) {
      const error = (await openDisk(path, { format: 'qcow2', readOnly }).catch(
        (e: unknown) => e,
      )) as TsvError;
      expect(error).toMatchObject({ code: `TSV_E_DISK_${code}` });
      expect(error.message).toMatch(message);
    }
  });

  it('whose snapshots are something else are not written to', async () => {
    const path = changed((bytes) => {
      bytes.writeUInt32BE(9, 60);
      bytes.writeBigUInt64BE(BigInt(CLUSTER * 4), 64);
      return undefined;
    });
    const format = { code: 'TSV_E_DISK_FORMAT' };
    await expect(openDisk(path)).rejects.toMatchObject(format);
    await expect(diskInfo(path)).rejects.toMatchObject(format);
    await expect(checkDisk(path)).rejects.toMatchObject(format);
  });

  it('names an unknown feature as the image does', async () => {
    const path = changed((bytes) => {
      bytes.writeBigUInt64BE(1n << 40n, 72);
      bytes.writeUInt32BE(0x6803f857, 112);
      bytes.writeUInt32BE(48, 116);
      bytes.write('\0\x28time travel\x1b[31m', 120, 'latin1');
      return undefined;
    });
    await expect(openDisk(path)).rejects.toThrow('the feature "time travel?[31m"');
  });

  it('that are marked as damaged are only read', async () => {
    const path = changed(u64(72, 2n));
    await expect(openDisk(path)).rejects.toMatchObject({ code: 'TSV_E_DISK_CORRUPT' });
    await (await openDisk(path, { readOnly: true }))[Symbol.asyncDispose]();
    await checkDisk(path, { repair: 'all' });
    await (await openDisk(path))[Symbol.asyncDispose]();
  });
});

describe('tables', () => {
  const corrupt = { code: 'TSV_E_DISK_CORRUPT' };

  it.each<[string, (b: Buffer) => void]>([
    ['two L2 tables in one place', (b) => b.copy(b, l1Of(b) + 8, l1Of(b), l1Of(b) + 8)],
    [
      'an L2 table in the refcount table',
      (b) => void b.writeBigUInt64BE((1n << 63n) | b.readBigUInt64BE(48), l1Of(b) + 8),
    ],
    ['an L2 table behind the end', (b) => void b.writeBigUInt64BE((1n << 63n) | (1n << 50n), l1Of(b) + 8)],
    [
      'a refcount block in the header',
      (b) => void b.writeBigUInt64BE(512n, Number(b.readBigUInt64BE(48)) + 8),
    ],
    ['the L1 table in the refcount table', (b) => void b.writeBigUInt64BE(b.readBigUInt64BE(48), 40)],
  ])('%s: not written to', async (_, change) => {
    const path = changed(change);
    await expect(openDisk(path)).rejects.toMatchObject(corrupt);
    expect((await checkDisk(path)).found.corruptions).toBeGreaterThan(0);
    const disk = await openDisk(path, { readOnly: true });
    await disk.read(0, [Buffer.alloc(512)]).catch((error) => expect(error).toMatchObject(corrupt));
    await disk[Symbol.asyncDispose]();
  });

  it.each<[string, bigint]>([
    ['the header', (1n << 63n) | 0n],
    ['the refcount table', (1n << 63n) | BigInt(CLUSTER)],
    ['a refcount block', (1n << 63n) | BigInt(CLUSTER * 2)],
    ['the L1 table', (1n << 63n) | BigInt(CLUSTER * 3)],
    ['half of two clusters', (1n << 63n) | BigInt(CLUSTER * 5 + 512)],
    ['what is behind the end', (1n << 63n) | (1n << 45n)],
    ['a free cluster', (1n << 63n) | BigInt(CLUSTER * 12)],
  ])('a guest cluster at the place of %s is not written to', async (_, entry) => {
    const path = changed((bytes) => {
      bytes.writeBigUInt64BE(entry, l2Of(bytes));
      return Buffer.concat([bytes, Buffer.alloc(CLUSTER * 4)]);
    });
    const before = readFileSync(path);
    const disk = await openDisk(path);
    const write = disk.write(0, [pattern(512, 7)]);
    if (entry === 1n << 63n)
      await write; // offset 0 means that there is none
    else await expect(write).rejects.toMatchObject(corrupt);
    if (entry !== 1n << 63n) {
      await expect(disk.write(8 << 20, [pattern(512, 7)])).rejects.toMatchObject(corrupt);
      await expect(disk.flush()).rejects.toMatchObject(corrupt);
    }
    await disk.read(4 << 20, [Buffer.alloc(512)]);
    await disk[Symbol.asyncDispose]();
    const after = readFileSync(path);
    if (entry !== 1n << 63n) {
      expect(after.readBigUInt64BE(72)).toBe(2n); // marked as damaged
      after.writeBigUInt64BE(0n, 72);
      expect(after.equals(before)).toBe(true);
    }
  });

  it('that say a used cluster is free cannot make it be used twice', async () => {
    const path = changed((bytes) => void bytes.fill(0, CLUSTER * 2, CLUSTER * 3));
    const disk = await openDisk(path);
    await expect(disk.write(8 << 20, [pattern(512, 7)])).rejects.toMatchObject(corrupt);
    await disk[Symbol.asyncDispose]();
    const { left } = await checkDisk(path, { repair: 'all' });
    expect(left).toMatchObject({ corruptions: 0, leaks: 0 });
    expect(qemuCheck(path).leaks).toBe(0);
    const repaired = await openDisk(path);
    expect((await content(repaired)).subarray(0, CLUSTER * 4).equals(pattern(CLUSTER * 4, 1))).toBe(true);
    await repaired[Symbol.asyncDispose]();
  });

  it('whose L1 entries all lead to one L2 table are checked in no time', async () => {
    const path = join(folder, 'loop.qcow2');
    await createQcow2(path, { size: 2 ** 41, clusterSize: 65536 });
    const bytes = readFileSync(path);
    const l1 = l1Of(bytes);
    const l2 = bytes.length;
    for (let at = l1; at < l1 + 4096 * 8; at += 8) bytes.writeBigUInt64BE((1n << 63n) | BigInt(l2), at);
    const table = Buffer.alloc(65536);
    for (let at = 0; at < 65536; at += 8) table.writeBigUInt64BE((1n << 63n) | BigInt(l2), at);
    writeFileSync(path, Buffer.concat([bytes, table]));
    const { found } = await checkDisk(path);
    expect(found.corruptions).toBeGreaterThan(4000);
    expect(found.problems).toHaveLength(100);
    await expect(openDisk(path)).rejects.toMatchObject(corrupt);
  });

  it('of a file of 8 EiB that has nothing in it are checked in no time', async () => {
    const path = changed(() => undefined);
    truncateSync(path, 2 ** 43);
    const { found } = await checkDisk(path);
    expect(found).toMatchObject({ corruptions: 0, leaks: 0 });
    const disk = await openDisk(path);
    await disk.write(8 << 20, [pattern(512, 7)]);
    await disk[Symbol.asyncDispose]();
    expect((await checkDisk(path)).found).toMatchObject({ corruptions: 0, leaks: 0 });
  });

  it('that are damaged at the start of a request do not end the process while the rest is looked up', async () => {
    const path = join(folder, 'two-tables.qcow2');
    await createQcow2(path, { size: 1 << 20, clusterSize: 512 });
    const writer = await openDisk(path);
    await writer.write(0, [pattern(1 << 17, 1)]);
    await writer[Symbol.asyncDispose]();
    const bytes = readFileSync(path);
    bytes.writeBigUInt64BE((1n << 63n) | (1n << 45n), l2Of(bytes) + 63 * 8);
    writeFileSync(path, bytes);
    const disk = await openDisk(path, { readOnly: true });
    for (let i = 0; i < 3; i++) {
      await expect(disk.read(63 * 512, [Buffer.alloc(1 << 16)])).rejects.toMatchObject(corrupt);
    }
    await disk[Symbol.asyncDispose]();
  });

  it('compressed clusters that are garbage are errors, and stay where they are', async () => {
    const raw = join(folder, 'garbage.raw');
    const path = join(folder, 'garbage.qcow2');
    writeFileSync(raw, Buffer.alloc(1 << 20, 'compressible'));
    qemuImg('convert', '-c', '-O', 'qcow2', raw, path);
    const bytes = readFileSync(path);
    bytes.fill(
      0xff,
      bytes.readUIntBE(l2Of(bytes) + 2, 6) % 2 ** 40,
      (bytes.readUIntBE(l2Of(bytes) + 2, 6) % 2 ** 40) + 64,
    );
    writeFileSync(path, bytes);
    const disk = await openDisk(path, { readOnly: true });
    await expect(disk.read(0, [Buffer.alloc(512)])).rejects.toMatchObject(corrupt);
    await disk.read(65536, [Buffer.alloc(512)]);
    await disk[Symbol.asyncDispose]();
  });

  it('cut off while they are in use are errors', async () => {
    const path = changed(() => undefined);
    const disk = await openDisk(path, { readOnly: true });
    truncateSync(path, CLUSTER * 4);
    await expect(disk.read(0, [Buffer.alloc(512)])).rejects.toMatchObject({ code: 'TSV_E_DISK_IO' });
    await disk[Symbol.asyncDispose]();
    await expect(disk.read(0, [Buffer.alloc(512)])).rejects.toMatchObject({ code: 'TSV_E_DISK_IO' });
  });
});
