import { execFileSync } from 'node:child_process';
import { lstatSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type CpioEntry, encodeCpio } from '../../../src/boot/initramfs/cpio.ts';
import { FileTree } from '../../../src/boot/initramfs/tree.ts';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'tsvisor-cpio-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

const refused = expect.objectContaining({ code: 'TSV_E_INITRAMFS', hint: expect.stringMatching(/\w/) });
const file = (path: string, text = '', mode = 0o644): CpioEntry => ({
  type: 'file',
  path,
  mode,
  data: Buffer.from(text),
});

/** Runs GNU cpio (Debian package cpio) on an archive. */
function cpio(archive: Uint8Array, args: string[], cwd = folder): string {
  try {
    return execFileSync('cpio', args, { cwd, input: archive, stdio: ['pipe', 'pipe', 'pipe'] }).toString(
      'utf8',
    );
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT')
      throw new Error('Install the Debian package cpio.');
    throw error;
  }
}

/** What an archive is once cpio has unpacked it. */
function unpack(archive: Uint8Array): Map<string, string> {
  const root = mkdtempSync(join(folder, 'tree-'));
  cpio(archive, ['-i', '-d', '--quiet', '--no-absolute-filenames', '--preserve-modification-time'], root);
  const found = new Map<string, string>();
  for (const name of readdirSync(root, { recursive: true, encoding: 'utf8' })) {
    const path = join(root, name);
    const status = lstatSync(path);
    const mode = (status.mode & 0o7777).toString(8);
    if (status.isSymbolicLink()) found.set(name, `link ${readlinkSync(path)}`);
    else if (status.isDirectory()) found.set(name, `directory ${mode}`);
    else found.set(name, `file ${mode} ${readFileSync(path, 'latin1')}`);
  }
  return found;
}

describe('encodeCpio', () => {
  it('lists what went in, in the new ASCII format', () => {
    const archive = encodeCpio([
      { type: 'directory', path: 'dev', mode: 0o755 },
      { type: 'char', path: 'dev/console', mode: 0o600, major: 5, minor: 1 },
      { type: 'block', path: 'dev/vda', mode: 0o660, major: 254, minor: 0 },
      { type: 'fifo', path: 'dev/pipe', mode: 0o600 },
      file('init', '#!/bin/sh\n', 0o4755),
      { type: 'symlink', path: 'sh', mode: 0o777, target: 'bin/busybox' },
    ]);

    const listing = cpio(archive, ['-t', '-v', '--numeric-uid-gid']).replace(/ +/g, ' ');

    expect(Buffer.from(archive.subarray(0, 6)).toString()).toBe('070701');
    expect(archive.length % 4).toBe(0);
    expect(listing).toContain('drwxr-xr-x 2 0 0 0 Jan 1 1970 dev\n');
    expect(listing).toContain('crw------- 1 0 0 5, 1 Jan 1 1970 dev/console\n');
    expect(listing).toContain('brw-rw---- 1 0 0 254, 0 Jan 1 1970 dev/vda\n');
    expect(listing).toContain('prw------- 1 0 0 0 Jan 1 1970 dev/pipe\n');
    expect(listing).toContain('-rwsr-xr-x 1 0 0 10 Jan 1 1970 init\n');
    expect(listing).toContain('lrwxrwxrwx 1 0 0 11 Jan 1 1970 sh -> bin/busybox\n');
  });

  it('gives the same bytes for the same entries, whenever', () => {
    const entries = [file('a', 'x'), file('b', 'y')];

    expect(encodeCpio(entries, 7)).toEqual(encodeCpio(entries, 7));
  });

  it('is read back by cpio as the same tree, for any names and contents', () => {
    const part = fc
      .string({ unit: 'grapheme', minLength: 1, maxLength: 20 })
      .filter((s) => !/[/\0\ud800-\udfff]/.test(s) && s !== '.' && s !== '..' && s !== 'TRAILER!!!');
    const path = fc.array(part, { minLength: 1, maxLength: 4 }).map((parts) => parts.join('/'));
    const mode = fc.integer({ min: 0, max: 0o777 });
    const entry = fc.oneof(
      fc.record({ type: fc.constant('file' as const), path, mode, data: fc.uint8Array({ maxLength: 50 }) }),
      fc.record({ type: fc.constant('directory' as const), path, mode: fc.constant(0o755) }),
      fc.record({ type: fc.constant('symlink' as const), path, mode: fc.constant(0o777), target: part }),
    );
    fc.assert(
      fc.property(fc.array(entry, { maxLength: 12 }), (candidates) => {
        const tree = new FileTree();
        for (const candidate of candidates) {
          try {
            tree.add(candidate);
          } catch (error) {
            expect(error).toEqual(refused);
          }
        }
        const entries = tree.entries();

        const found = unpack(encodeCpio(entries));

        const expected = entries.map((e): [string, string] => {
          if (e.type === 'symlink') return [e.path, `link ${e.target}`];
          if (e.type === 'file')
            return [e.path, `file ${e.mode.toString(8)} ${Buffer.from(e.data).toString('latin1')}`];
          return [e.path, `directory ${e.mode.toString(8)}`];
        });
        expect(new Map([...found].sort())).toEqual(new Map(expected.sort()));
      }),
      { numRuns: 40 },
    );
  });

  it.each(['', '/abs', 'a//b', 'a/../b', '..', '.', 'a/.', 'a\0b', 'TRAILER!!!', 'a/', 'x'.repeat(4096)])(
    'refuses the path %j',
    (path) => {
      expect(() => encodeCpio([file(path)])).toThrow(refused);
    },
  );

  it('refuses what the format cannot hold', () => {
    const link = (target: string): CpioEntry => ({ type: 'symlink', path: 'l', mode: 0o777, target });
    const node = (major: number, minor: number): CpioEntry => ({
      type: 'char',
      path: 'n',
      mode: 0,
      major,
      minor,
    });
    const huge = { length: 2 ** 32 } as unknown as Uint8Array;

    expect(() => encodeCpio([link('')])).toThrow(refused);
    expect(() => encodeCpio([link('x'.repeat(4096))])).toThrow(refused);
    expect(() => encodeCpio([node(-1, 0)])).toThrow(refused);
    expect(() => encodeCpio([node(4096, 0)])).toThrow(refused);
    expect(() => encodeCpio([node(0, 2 ** 20)])).toThrow(refused);
    expect(() => encodeCpio([file('f', '', 0o10000)])).toThrow(refused);
    expect(() => encodeCpio([{ type: 'file', path: 'f', mode: 0, data: huge }])).toThrow(refused);
    expect(() => encodeCpio([], -1)).toThrow(refused);
    expect(() => encodeCpio([], 2 ** 32)).toThrow(refused);
  });

  it('refuses archives that add up to more than 4 GiB before allocating them', () => {
    const large = { length: 2 ** 31 } as unknown as Uint8Array;
    const entry = (path: string): CpioEntry => ({ type: 'file', path, mode: 0, data: large });

    expect(() => encodeCpio([entry('a'), entry('b')])).toThrow(refused);
  });
});

describe('FileTree', () => {
  it('makes parents, which a later request may change', () => {
    const tree = new FileTree();
    tree.add(file('/a/b/c'));
    tree.add({ type: 'directory', path: 'a', mode: 0o700 });
    tree.add({ type: 'directory', path: 'a', mode: 0o777 });

    expect(tree.entries().map((e) => [e.path, e.mode])).toEqual([
      ['a', 0o700],
      ['a/b', 0o755],
      ['a/b/c', 0o644],
    ]);
  });

  it('sorts directories before what is in them', () => {
    const tree = new FileTree();
    for (const path of ['a.b', 'a/x', 'a-c']) tree.add(file(path));

    expect(tree.entries().map((e) => e.path)).toEqual(['a', 'a/x', 'a-c', 'a.b']);
  });

  it('refuses a path twice and a path through a file', () => {
    const tree = new FileTree();
    tree.add(file('a'));

    expect(() => tree.add(file('/a'))).toThrow(refused);
    expect(() => tree.add(file('a/b'))).toThrow(refused);
    expect(() => tree.add({ type: 'directory', path: 'a', mode: 0o755 })).toThrow(refused);
    expect(() => tree.add(file('/'))).toThrow(refused);
  });
});
