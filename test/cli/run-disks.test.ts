/** `--disk`. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { closeDisks, openDisks, parseDisk } from '../../src/cli/run-disks.ts';
import { createOverlay, createRaw } from '../../src/storage/create.ts';
import { createQcow2 } from '../../src/storage/qcow2/create.ts';

const folder = mkdtempSync(join(tmpdir(), 'tsvisor-run-disks-'));
afterAll(() => rmSync(folder, { recursive: true }));

describe('a --disk value', () => {
  it('is a path with what can be said of it', () => {
    const spec = parseDisk('a,,b.img,format=raw,readonly,iops=100,bps=2M,serial=abc');

    expect(spec).toEqual({
      path: 'a,b.img',
      format: 'raw',
      readOnly: true,
      overlay: undefined,
      backing: false,
      serial: 'abc',
      queues: undefined,
      limits: { opsPerSecond: 100, bytesPerSecond: 2 << 20 },
    });
  });

  it('has bursts, queues and a file for its changes', () => {
    expect(parseDisk('a,iops=100:1K,bps=1M:8M,queues=4,overlay=b,,c.qcow2')).toMatchObject({
      overlay: { path: 'b,c.qcow2' },
      queues: 4,
      limits: { opsPerSecond: 100, opsBurst: 1024, bytesPerSecond: 1 << 20, bytesBurst: 8 << 20 },
    });
    expect(parseDisk('a,overlay')).toMatchObject({ overlay: 'temporary' });
  });

  it.each([
    '',
    ',readonly',
    'a,format=vmdk',
    'a,readonly=1',
    'a,iops=0',
    'a,iops=x',
    'a,iops=1:',
    'a,bps=1:x',
    'a,queues=0',
    'a,queues=65',
    'a,queues=two',
    'a,nonsense',
    'a,serial',
    'a,format=raw,format=raw',
    'a,overlay,overlay=b',
    'a,overlay=',
    'a,overlay=b,readonly',
  ])('that makes no sense is refused: %s', (text) => {
    expect(() => parseDisk(text)).toThrow(expect.objectContaining({ code: 'TSV_E_USAGE' }));
  });
});

describe('opening disks', () => {
  it('keeps what an overlay is written to out of the image', async () => {
    const path = join(folder, 'base.img');
    writeFileSync(path, Buffer.alloc(8192, 1));

    const [{ backend }] = await openDisks([parseDisk(`${path},overlay`)], () => {});
    await backend.write(512, [new Uint8Array(512).fill(2)]);
    const seen = new Uint8Array(1024);
    await backend.read(0, [seen]);
    await closeDisks([{ backend }]);

    expect([seen[0], seen[512]]).toEqual([1, 2]);
    const [again] = await openDisks([parseDisk(`${path},readonly`)], () => {});
    await again.backend.read(0, [seen]);
    await closeDisks([again]);
    expect([seen[0], seen[512]]).toEqual([1, 1]);
  });

  it('keeps changes in a named overlay from one run to the next', async () => {
    const path = join(folder, 'kept-base.img');
    const changes = join(folder, 'changes.qcow2');
    writeFileSync(path, Buffer.alloc(8192, 1));
    const spec = parseDisk(`${path},overlay=${changes}`);
    const seen = new Uint8Array(1024);

    const [first] = await openDisks([spec], () => {});
    await first.backend.write(512, [new Uint8Array(512).fill(2)]);
    await closeDisks([first]);
    const [second] = await openDisks([spec], () => {});
    await second.backend.read(0, [seen]);
    await closeDisks([second]);

    expect([seen[0], seen[512]]).toEqual([1, 2]);
    expect(readFileSync(path).every((byte) => byte === 1)).toBe(true);
  });

  it.each([
    ['a raw image', async (path: string) => createRaw(path, 8192), 'TSV_E_DISK_FORMAT', 'it is no qcow2'],
    [
      'a disk of its own',
      async (path: string) => createQcow2(path, { size: 8192 }),
      'TSV_E_DISK_BACKING',
      'a disk of its own',
    ],
    [
      'changes to another image',
      async (path: string) => {
        writeFileSync(`${path}.base`, Buffer.alloc(8192));
        await createOverlay(path, `${path}.base`);
      },
      'TSV_E_DISK_BACKING',
      '.base", not to "',
    ],
  ])('refuses as overlay what is %s', async (name, make, code, message) => {
    const path = join(folder, 'refused-base.img');
    const changes = join(folder, `${name}.qcow2`);
    writeFileSync(path, Buffer.alloc(8192, 1));
    await make(changes);
    const before = readFileSync(changes);

    const opening = openDisks([parseDisk(`${path},overlay=${changes}`)], () => {});

    await expect(opening).rejects.toMatchObject({ code, message: expect.stringContaining(message) });
    expect(readFileSync(changes).equals(before)).toBe(true);
  });

  it('refuses an overlay whose image has another format now', async () => {
    const path = join(folder, 'format-base.img');
    const changes = join(folder, 'format.qcow2');
    writeFileSync(path, Buffer.alloc(8192, 1));
    await createOverlay(changes, path);

    const opening = openDisks([parseDisk(`${path},overlay=${changes},format=qcow2`)], () => {});

    await expect(opening).rejects.toMatchObject({ code: 'TSV_E_DISK_FORMAT' });
  });

  it('closes those that were opened when one cannot be', async () => {
    const path = join(folder, 'only.img');
    writeFileSync(path, Buffer.alloc(4096));
    const specs = [parseDisk(path), parseDisk(join(folder, 'missing.img'))];

    await expect(openDisks(specs, () => {})).rejects.toMatchObject({ code: 'TSV_E_FILE' });

    // It is locked by nobody.
    await closeDisks(await openDisks([parseDisk(path)], () => {}));
  });
});
