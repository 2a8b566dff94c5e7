/** Images that QEMU makes and writes to, and both by turns. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it, vi } from 'vitest';
import { openDisk } from '../../../src/storage/open.ts';
import { content, pattern, qemuCheck, qemuImg, qemuIo, testFolder } from '../support.ts';

vi.setConfig({ testTimeout: 120_000 });

const SIZE = 6 << 20;
const folder = testFolder();

/** What QEMU reads. */
function theirs(path: string): Buffer {
  qemuImg('convert', '-f', 'qcow2', '-O', 'raw', path, `${path}.raw`);
  return readFileSync(`${path}.raw`);
}

async function ours(path: string): Promise<Buffer> {
  const disk = await openDisk(path, { readOnly: true, backing: 'any' });
  const bytes = await content(disk);
  await disk[Symbol.asyncDispose]();
  return bytes;
}

describe.each([
  { options: 'compat=0.10', compressed: true },
  { options: 'compat=1.1,refcount_bits=1,cluster_size=512', snapshot: false },
  { options: 'refcount_bits=64,cluster_size=1024' },
  { options: 'refcount_bits=4,cluster_size=2M' },
  { options: 'lazy_refcounts=on', compressed: true },
  { options: 'preallocation=metadata' },
  { options: 'preallocation=falloc,cluster_size=32k' },
  { options: 'compression_type=zstd', compressed: true },
])('an image that QEMU makes with $options', ({ options, compressed = false, snapshot = true }) => {
  it('is read alike, and written to by turns', async () => {
    const path = join(folder, `${options.replace(/\W/g, '-')}.qcow2`);
    qemuImg('create', '-q', '-f', 'qcow2', '-o', options, path, String(SIZE));
    for (let turn = 0; turn < 4; turn++) {
      const at = turn * 700;
      qemuIo(
        path,
        `write -P ${turn + 1} ${at}k 300k`,
        `write -P ${turn + 9} ${5000 - at}k 5k`,
        `write -z ${at + 100}k 64k`,
        `discard ${at + 200}k 70k`,
        `write -z -u ${3000 + at}k 200k`,
        ...(compressed && turn === 0 ? ['write -c -P 77 5632k 64k'] : []),
      );
      const model = theirs(path);
      expect((await ours(path)).equals(model)).toBe(true);
      const disk = await openDisk(path);
      const writes = [0, 1, 2, 3, 4].map((i) => ({
        offset: ((turn * 131 + i * 977) % 5000) * 1024,
        bytes: pattern(99_840, i + turn),
      }));
      for (const { offset, bytes } of writes) {
        await disk.write(offset, [bytes]);
        bytes.copy(model, offset);
      }
      await disk.writeZeroes!(2 << 20, 300_032, turn % 2 === 0);
      model.fill(0, 2 << 20, (2 << 20) + 300_032);
      await disk[Symbol.asyncDispose]();
      expect(qemuCheck(path).leaks).toBe(0);
      expect(theirs(path).equals(model)).toBe(true);
      if (snapshot && turn === 1) qemuImg('snapshot', '-c', 'half', path);
    }
    if (snapshot) qemuImg('snapshot', '-a', 'half', path);
    expect((await ours(path)).equals(theirs(path))).toBe(true);
  });
});

it('follows a chain that QEMU made, by names relative to each image', async () => {
  const base = pattern(SIZE - 300 * 1024, 1);
  writeFileSync(join(folder, 'base.raw'), base);
  qemuImg('create', '-q', '-f', 'qcow2', '-b', 'base.raw', '-F', 'raw', join(folder, 'middle.qcow2'));
  qemuImg(
    'create',
    '-q',
    '-f',
    'qcow2',
    '-b',
    'middle.qcow2',
    '-F',
    'qcow2',
    join(folder, 'top.qcow2'),
    String(SIZE),
  );
  qemuIo(join(folder, 'middle.qcow2'), 'write -P 3 1M 100k', 'write -z 2M 100k');
  const top = join(folder, 'top.qcow2');
  qemuIo(top, 'write -P 4 1050k 10k', 'write -P 5 5900k 100k');
  expect((await ours(top)).equals(theirs(top))).toBe(true);
});

describe('what is not supported', () => {
  it.each([
    ['subclusters', 'extended_l2=on', /extended L2/],
    ['data files', `data_file=${join(folder, 'data.raw')}`, /external data file/],
  ])('is refused by name: %s', async (name, option, message) => {
    const path = join(folder, `${name}.qcow2`);
    qemuImg('create', '-q', '-f', 'qcow2', '-o', option, path, '1M');
    await expect(openDisk(path)).rejects.toMatchObject({
      code: 'TSV_E_DISK_FEATURE',
      message: expect.stringMatching(message),
    });
  });
});
