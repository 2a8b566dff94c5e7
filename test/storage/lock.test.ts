import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { linkSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { createOverlay, createRaw } from '../../src/storage/create.ts';
import { openDisk } from '../../src/storage/open.ts';
import { testFolder } from './support.ts';

const folder = testFolder();
const locked = { code: 'TSV_E_DISK_LOCKED' };

it('lets one open an image for writing, or many for reading', async () => {
  const path = join(folder, 'one.img');
  await createRaw(path, 4096);
  linkSync(path, join(folder, 'other-name.img'));
  const writer = await openDisk(path);
  await expect(openDisk(path)).rejects.toMatchObject(locked);
  await expect(openDisk(join(folder, 'other-name.img'), { readOnly: true })).rejects.toMatchObject(locked);
  await (await openDisk(path, { lock: false }))[Symbol.asyncDispose]();
  await writer[Symbol.asyncDispose]();
  const readers = [await openDisk(path, { readOnly: true }), await openDisk(path, { readOnly: true })];
  await expect(openDisk(path)).rejects.toMatchObject(locked);
  for (const reader of readers) await reader[Symbol.asyncDispose]();
  await (await openDisk(path))[Symbol.asyncDispose]();
});

it('lets overlays share their base, and nobody write to it meanwhile', async () => {
  const base = join(folder, 'base.img');
  await createRaw(base, 1 << 20);
  await createOverlay(join(folder, 'a.qcow2'), base);
  await createOverlay(join(folder, 'b.qcow2'), base);
  const a = await openDisk(join(folder, 'a.qcow2'), { backing: 'any' });
  const b = await openDisk(join(folder, 'b.qcow2'), { backing: 'any' });
  await expect(openDisk(base)).rejects.toMatchObject(locked);
  await a[Symbol.asyncDispose]();
  await b[Symbol.asyncDispose]();
  await (await openDisk(base))[Symbol.asyncDispose]();
});

it('keeps out other processes, until they are killed', async () => {
  const path = join(folder, 'process.img');
  await createRaw(path, 4096);
  const owner = spawn('flock', ['--exclusive', path, 'sh', '-c', 'echo locked; exec sleep 100'], {
    stdio: ['ignore', 'pipe', 'inherit'],
    detached: true,
  });
  await once(owner.stdout!, 'data');
  await expect(openDisk(path, { readOnly: true })).rejects.toMatchObject(locked);
  process.kill(-owner.pid!, 'SIGKILL');
  await once(owner, 'close');
  await (await openDisk(path))[Symbol.asyncDispose]();
});
