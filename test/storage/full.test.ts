/** A host that has no room: the limit of a process's file size, which the kernel answers like a full disk. */
import { execFileSync } from 'node:child_process';
import { statSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, describe, expect, it, vi } from 'vitest';
import { checkDisk } from '../../src/storage/check.ts';
import { createRaw } from '../../src/storage/create.ts';
import { hostFileError } from '../../src/storage/errors.ts';
import { ImageFile } from '../../src/storage/file.ts';
import { openDisk } from '../../src/storage/open.ts';
import { createQcow2 } from '../../src/storage/qcow2/create.ts';
import { Qcow2Disk } from '../../src/storage/qcow2/disk.ts';
import { load, stamp } from './load.ts';
import { bundle, content, pattern, qemuCheck, testFolder } from './support.ts';

const SIZE = 8 << 20;
const folder = testFolder();
let program = '';

beforeAll(async () => {
  program = await bundle('fill-process', folder);
});

describe.each(['qcow2', 'qcow2 with small clusters', 'raw'])('a full host (%s)', (kind) => {
  it('is told to who writes; what was flushed is there, and there can be more later', async () => {
    const path = join(folder, `${kind}.img`);
    if (kind === 'raw') await createRaw(path, SIZE);
    else await createQcow2(path, { size: SIZE, clusterSize: kind === 'qcow2' ? 65536 : 512 });
    const limited = [
      '-c',
      'ulimit -f "$1"; shift; exec "$@"',
      'bash',
      '2000',
      process.execPath,
      program,
      path,
      '12288',
    ];
    const result = JSON.parse(execFileSync('bash', limited, { encoding: 'utf8' })) as Record<string, unknown>;
    expect(result.code).toBe('TSV_E_DISK_FULL');
    const written = result.written as number;
    expect(written).toBeGreaterThan(1000);
    expect(statSync(path).size).toBeLessThanOrEqual(kind === 'raw' ? SIZE : 2000 * 1024);
    if (kind !== 'raw') qemuCheck(path);
    await using disk = await openDisk(path);
    const expected = Buffer.concat(Array.from({ length: written }, (_, i) => stamp(0, i)));
    expect((await content(disk)).subarray(0, expected.length).equals(expected)).toBe(true);
    await disk.write(SIZE - 65536, [pattern(65536, 1)]);
    await disk.flush();
  });
});

describe('failing writes', () => {
  it.each([1, 2, 3, 4, 5, 6])('leave the image consistent (seed %i)', async (seed) => {
    const path = join(folder, `failing${seed}.qcow2`);
    await createQcow2(path, { size: SIZE, clusterSize: 4096 });
    const file = await ImageFile.open(path, { readOnly: false });
    const write = file.write.bind(file);
    let calls = 0;
    let failing = true;
    file.writeAtOnce = () => false;
    file.write = async (offset, from) => {
      if (failing && (calls++ * 7 + seed) % 11 < 3) throw hostFileError(path, 'writing', { code: 'ENOSPC' });
      return write(offset, from);
    };
    const disk = await Qcow2Disk.open(file);
    const model = Buffer.alloc(SIZE);
    const unknown = new Set<number>();
    let failures = 0;
    let rounds = 0;
    for (const round of load(seed, SIZE / 512)) {
      if (rounds === 40) break;
      for (const { kind, sector, sectors } of round) {
        const from = Array.from({ length: sectors }, (_, i) => stamp(rounds, sector + i));
        const done =
          kind === 'write'
            ? disk.write(sector * 512, from)
            : disk.writeZeroes(sector * 512, sectors * 512, kind === 'discard');
        const failed = await done.then(
          () => false,
          (error: { code: string }) => error.code === 'TSV_E_DISK_FULL',
        );
        if (failed) failures++;
        for (let i = 0; i < sectors; i++) {
          if (failed) unknown.add(sector + i);
          else unknown.delete(sector + i);
          (kind === 'write' ? from[i] : Buffer.alloc(512)).copy(model, (sector + i) * 512);
        }
      }
      await disk.flush().catch(() => failures++);
      rounds++;
    }
    failing = false;
    expect(failures).toBeGreaterThan(5);
    await disk.flush();
    const bytes = await content(disk);
    await disk[Symbol.asyncDispose]();
    for (let at = 0; at < SIZE / 512; at++) {
      if (unknown.has(at)) continue;
      const [from, to] = [at * 512, at * 512 + 512];
      expect(bytes.subarray(from, to).equals(model.subarray(from, to))).toBe(true);
    }
    expect(qemuCheck(path).leaks).toBe(0);
    expect((await checkDisk(path)).found).toMatchObject({ corruptions: 0, leaks: 0 });
  });

  it('never count as flushed once the host could not flush', async () => {
    const path = join(folder, 'sync.img');
    await createRaw(path, SIZE);
    await using handle = await open(path);
    const fileHandle = Object.getPrototypeOf(handle) as FileHandle;
    const disk = await openDisk(path);
    await disk.write(0, [pattern(512, 1)]);
    const datasync = vi.spyOn(fileHandle, 'datasync').mockRejectedValueOnce({ code: 'EIO' });
    await expect(disk.flush()).rejects.toMatchObject({ code: 'TSV_E_DISK_IO' });
    datasync.mockRestore();
    // The kernel would say that all is well: it has forgotten what it could not write.
    await expect(disk.flush()).rejects.toMatchObject({ code: 'TSV_E_DISK_IO' });
    await disk[Symbol.asyncDispose]();
  });
});
