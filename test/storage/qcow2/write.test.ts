import { readFileSync } from 'node:fs';
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
