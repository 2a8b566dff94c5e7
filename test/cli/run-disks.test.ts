/** `--disk`. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { closeDisks, openDisks, parseDisk } from '../../src/cli/run-disks.ts';

const folder = mkdtempSync(join(tmpdir(), 'tsvisor-run-disks-'));
afterAll(() => rmSync(folder, { recursive: true }));

describe('a --disk value', () => {
  it('is a path with what can be said of it', () => {
    const spec = parseDisk('a,,b.img,format=raw,readonly,iops=100,bps=2M,serial=abc');

    expect(spec).toEqual({
      path: 'a,b.img',
      format: 'raw',
      readOnly: true,
      overlay: false,
      backing: false,
      serial: 'abc',
      limits: { opsPerSecond: 100, bytesPerSecond: 2 << 20 },
    });
  });

  it.each([
    '',
    ',readonly',
    'a,format=vmdk',
    'a,readonly=1',
    'a,iops=0',
    'a,iops=x',
    'a,nonsense',
    'a,serial',
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

  it('closes those that were opened when one cannot be', async () => {
    const path = join(folder, 'only.img');
    writeFileSync(path, Buffer.alloc(4096));
    const specs = [parseDisk(path), parseDisk(join(folder, 'missing.img'))];

    await expect(openDisks(specs, () => {})).rejects.toMatchObject({ code: 'TSV_E_FILE' });

    // It is locked by nobody.
    await closeDisks(await openDisks([parseDisk(path)], () => {}));
  });
});
