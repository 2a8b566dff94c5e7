/** A process that writes is killed at any point: the image is consistent, and what was flushed is there. */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it, vi } from 'vitest';
import { checkDisk } from '../../../src/storage/check.ts';
import { createRaw } from '../../../src/storage/create.ts';
import { openDisk } from '../../../src/storage/open.ts';
import { createQcow2 } from '../../../src/storage/qcow2/create.ts';
import { load, stamp } from '../load.ts';
import { bundle, content, qemuCheck, qemuImg, testFolder } from '../support.ts';

vi.setConfig({ testTimeout: 300_000 });

const SIZE = 4 << 20;
const KILLS = Number(process.env.TSV_DISK_CASES ?? 8);
const folder = testFolder();
let program = '';

beforeAll(async () => {
  program = await bundle('load-process', folder);
});

/** Runs the load until it kills itself. @returns how many rounds were flushed */
function loadUntilKilled(path: string, seed: number, calls: number): number {
  const addon = join(import.meta.dirname, '../../../build/Release/tsvisor.node');
  const env = { ...process.env, ...(existsSync(addon) ? { TSVISOR_ADDON: addon } : {}) };
  const { signal, stdout, stderr } = spawnSync(
    process.execPath,
    [program, path, String(seed), String(calls)],
    {
      encoding: 'utf8',
      env,
      timeout: 60_000,
      killSignal: 'SIGTERM',
    },
  );
  expect({ signal, stderr }).toEqual({ signal: 'SIGKILL', stderr: '' });
  return stdout.split('\n').length - 1;
}

/** Every sector is as the last flushed round left it, or as a later one makes it. */
async function checkContent(path: string, before: Buffer, seed: number, flushed: number): Promise<Buffer> {
  const disk = await openDisk(path, { readOnly: true, backing: 'any' });
  const bytes = await content(disk);
  await disk[Symbol.asyncDispose]();
  // At most one round more was begun.
  const expected = Buffer.from(before);
  const allowed = new Map<number, Buffer[]>();
  let number = 0;
  for (const round of load(seed, SIZE / 512)) {
    if (number > flushed) break;
    for (const { kind, sector, sectors } of round) {
      for (let at = sector; at < sector + sectors; at++) {
        const value = kind === 'write' ? stamp(number, at) : Buffer.alloc(512);
        // What is discarded in part of a cluster stays.
        const either = kind === 'discard' || number === flushed;
        if (either)
          allowed.set(at, [value, ...(allowed.get(at) ?? [expected.subarray(at * 512, at * 512 + 512)])]);
        else allowed.delete(at);
        if (!either) value.copy(expected, at * 512);
      }
    }
    number++;
  }
  const wrong: number[] = [];
  for (let at = 0; at < SIZE / 512; at++) {
    const sector = bytes.subarray(at * 512, at * 512 + 512);
    const options = allowed.get(at) ?? [expected.subarray(at * 512, at * 512 + 512)];
    if (!options.some((option) => option.equals(sector))) wrong.push(at);
  }
  expect(wrong).toEqual([]);
  return bytes;
}

describe.each(['plain', 'small clusters', 'overlay', 'snapshot', 'raw'])(
  'killed while it writes: %s',
  (kind) => {
    it('leaves an image that is consistent and has what was flushed', async () => {
      const path = join(folder, `${kind}.img`);
      if (kind === 'raw') await createRaw(path, SIZE);
      else if (kind === 'overlay') {
        await createRaw(join(folder, 'base.raw'), SIZE);
        const backing = { file: 'base.raw', format: 'raw' as const };
        await createQcow2(path, { size: SIZE, clusterSize: 4096, backing });
      } else {
        await createQcow2(path, { size: SIZE, clusterSize: kind === 'small clusters' ? 512 : 65536 });
      }
      let before: Buffer = Buffer.alloc(SIZE);
      for (let run = 0; run < KILLS; run++) {
        if (kind === 'snapshot' && run % 3 === 1) qemuImg('snapshot', '-c', `s${run}`, path);
        const calls = 1 + ((run * 37 + run * run * 11) % 120);
        const flushed = loadUntilKilled(path, run, calls);
        before = await checkContent(path, before, run, flushed);
        if (kind === 'raw') continue;
        const { leaks } = qemuCheck(path);
        const { found } = await checkDisk(path);
        expect(found.corruptions).toBe(0);
        // QEMU does not see those behind the end of the file.
        expect(found.leaks).toBeGreaterThanOrEqual(leaks);
        if (run % 2 === 0) {
          expect((await checkDisk(path, { repair: 'leaks' })).left ?? found).toMatchObject({
            corruptions: 0,
            leaks: 0,
          });
          expect(qemuCheck(path).leaks).toBe(0);
        }
      }
    });
  },
);
