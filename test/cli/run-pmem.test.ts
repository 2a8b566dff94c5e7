/** `--pmem`. */
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { closeDisks } from '../../src/cli/run-disks.ts';
import { openPmem, parsePmem } from '../../src/cli/run-pmem.ts';
import { file, runCli } from './support/cli.ts';

const folder = mkdtempSync(join(tmpdir(), 'tsvisor-run-pmem-'));
afterAll(() => rmSync(folder, { recursive: true }));

describe('a --pmem value', () => {
  it('is a path with what can be said of it', () => {
    expect(parsePmem('a,,b.img,format=raw,overlay')).toEqual({
      path: 'a,b.img',
      format: 'raw',
      overlay: true,
      backing: false,
    });
    expect(parsePmem('a,readonly,backing')).toMatchObject({ overlay: false, backing: true });
  });

  it.each(['', ',overlay', 'a,format=vmdk', 'a,overlay=1', 'a,readonly,overlay', 'a,rw', 'a,serial=1'])(
    'that makes no sense is refused: %s',
    (text) => {
      expect(() => parsePmem(text)).toThrow(expect.objectContaining({ code: 'TSV_E_USAGE' }));
    },
  );
});

describe('opening images', () => {
  it('shares them with others that read, and closes all when one cannot be opened', async () => {
    const path = join(folder, 'only.img');
    writeFileSync(path, Buffer.alloc(4096));
    const specs = [parsePmem(path), parsePmem(`${path},overlay`)];
    const missing = parsePmem(join(folder, 'missing.img'));

    const opened = await openPmem(specs, () => {});
    await expect(openPmem([...specs, missing], () => {})).rejects.toMatchObject({ code: 'TSV_E_FILE' });

    expect(opened.map(({ overlay, backend }) => [overlay, backend.readOnly])).toEqual([
      [false, true],
      [true, true],
    ]);
    await closeDisks(opened);
  });

  const sparse = (name: string, size: number) => {
    const path = join(folder, name);
    writeFileSync(path, '');
    truncateSync(path, size);
    return path;
  };
  it.each([
    ['missing', () => join(folder, 'missing.img'), [], 'TSV_E_FILE'],
    ['a folder', () => folder, [], 'neither a file nor a block device'],
    ['empty', () => sparse('empty.img', 0), [], 'The image for persistent memory 0 is empty'],
    ['too large', () => sparse('huge.img', 2 ** 40), [], 'use it as a disk'],
    [
      'too large beside the RAM',
      () => sparse('large.img', 2 * 2 ** 30),
      ['--memory', '2500M'],
      'no room for 2500 MiB of RAM and 2048 MiB of persistent memory',
    ],
  ])('ends the run with a reason when one is %s', async (_, path, more, reason) => {
    const { status, stderr } = await runCli([
      'run',
      '--flat',
      file([0xf4]),
      '--accel',
      'tcg',
      ...more,
      '--pmem',
      path(),
    ]);

    expect([status, stderr]).toEqual([2, expect.stringContaining(reason)]);
  });
});
