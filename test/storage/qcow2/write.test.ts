import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { openDisk } from '../../../src/storage/open.ts';
import { createQcow2 } from '../../../src/storage/qcow2/create.ts';
import { content, pattern, qemuCheck, qemuImg, testFolder } from '../support.ts';

const folder = testFolder();

it.each([512, 4096, 65536, 2 << 20])('is read by qemu-img with clusters of %i bytes', async (clusterSize) => {
  const path = join(folder, `w${clusterSize}.qcow2`);
  await createQcow2(path, { size: 8 << 20, clusterSize });
  expect(qemuCheck(path).leaks).toBe(0);
  const disk = await openDisk(path);
  const model = Buffer.alloc(disk.size);
  for (let i = 0; i < 40; i++) {
    const offset = (i * 7919 * 512) % (disk.size - 300000);
    const bytes = pattern((((i * 331) % 200) + 1) * 512, i);
    await disk.write(offset, [bytes]);
    bytes.copy(model, offset);
    if (i % 7 === 3) await disk.flush();
  }
  expect((await content(disk)).equals(model)).toBe(true);
  await disk[Symbol.asyncDispose]();
  expect(qemuCheck(path).leaks).toBe(0);
  qemuImg('convert', '-f', 'qcow2', '-O', 'raw', path, `${path}.raw`);
  expect(readFileSync(`${path}.raw`).equals(model)).toBe(true);
});

it('gives the host back what is discarded', async () => {
  const path = join(folder, 'discard.qcow2');
  await createQcow2(path, { size: 64 << 20 });
  const disk = await openDisk(path);
  await disk.write(0, [pattern(8 << 20, 1)]);
  await disk.flush();
  const full = statSync(path).blocks;
  await disk.discard!(0, 4 << 20);
  await disk.writeZeroes!(4 << 20, 4 << 20, true);
  await disk.flush();
  expect(statSync(path).blocks * 512).toBeLessThan(full * 512 - (7 << 20));
  // What was given back is used again.
  const { size } = statSync(path);
  await disk.write(32 << 20, [pattern(8 << 20, 2)]);
  await disk[Symbol.asyncDispose]();
  expect(statSync(path).size).toBe(size);
  expect(qemuCheck(path).leaks).toBe(0);
});

it('keeps its clusters when zeroed without unmapping, and writes to them again', async () => {
  const path = join(folder, 'keep.qcow2');
  await createQcow2(path, { size: 1 << 20 });
  const disk = await openDisk(path);
  await disk.write(0, [pattern(1 << 20, 1)]);
  const { size } = statSync(path);
  await disk.writeZeroes!(0, 1 << 20, false);
  expect((await content(disk)).equals(Buffer.alloc(1 << 20))).toBe(true);
  await disk.write(70_144, [pattern(512, 2)]);
  const model = Buffer.alloc(1 << 20);
  pattern(512, 2).copy(model, 70_144);
  expect((await content(disk)).equals(model)).toBe(true);
  await disk[Symbol.asyncDispose]();
  expect(statSync(path).size).toBe(size + 65536); // the L2 table
  expect(qemuCheck(path).leaks).toBe(0);
});

it('ends the requests that are under way before it closes, and refuses those that come later', async () => {
  const path = join(folder, 'close.qcow2');
  await createQcow2(path, { size: 8 << 20 });
  const disk = await openDisk(path);
  const writes = Array.from({ length: 30 }, (_, i) => disk.write(i * 100_352, [pattern(100_352, i)]));
  await Promise.all([disk[Symbol.asyncDispose](), disk[Symbol.asyncDispose]()]);
  await Promise.all(writes);
  for (const access of [
    disk.read(0, [Buffer.alloc(512)]),
    disk.write(0, [Buffer.alloc(512)]),
    disk.flush(),
  ]) {
    await expect(access).rejects.toMatchObject({ code: 'TSV_E_DISK_IO' });
  }
  expect(qemuCheck(path).leaks).toBe(0);
  const again = await openDisk(path);
  for (let i = 0; i < 30; i++) {
    const bytes = Buffer.alloc(100_352);
    await again.read(i * 100_352, [bytes]);
    expect(bytes.equals(pattern(100_352, i))).toBe(true);
  }
  await again[Symbol.asyncDispose]();
});

it('uses the same clusters again while it is written to over and over', async () => {
  const path = join(folder, 'again.qcow2');
  await createQcow2(path, { size: 4 << 20, clusterSize: 4096 });
  const disk = await openDisk(path);
  for (let i = 0; i < 30; i++) {
    await disk.write(0, [pattern(2 << 20, i)]);
    await disk.discard!(0, 2 << 20);
    await disk.flush();
  }
  await disk[Symbol.asyncDispose]();
  expect(statSync(path).size).toBeLessThan(5 << 20);
  expect(qemuCheck(path).leaks).toBe(0);
});
