import { describe, expect, it } from 'vitest';
import { requireTools, scriptError } from '../../src/image/tool.ts';

describe('scriptError', () => {
  it.each([
    ['tar: ./x: Cannot write: No space left on device', 'TSV_E_DISK_FULL', 'Free space'],
    ['dpkg: error: unable to write: Disk quota exceeded', 'TSV_E_DISK_FULL', 'Free space'],
    [
      'mkfs.ext4: Could not allocate block in ext2 filesystem while populating file system',
      'TSV_E_IMAGE',
      '--size',
    ],
    ['mknod: /x/dev/null: Operation not permitted', 'TSV_E_IMAGE', 'root'],
    ["chroot: failed to run command '/usr/bin/env': Permission denied", 'TSV_E_IMAGE', '--cache-dir'],
    ['', 'TSV_E_IMAGE', 'TSVISOR_DEBUG'],
  ])('turns %j into %s and advice', (stderr, code, advice) => {
    const error = scriptError('Building', stderr);

    expect(error).toMatchObject({ code, hint: expect.stringContaining(advice) });
    expect(error.message).toMatch(/^Building failed.+/);
  });

  it('names the line that matters among what packages say', () => {
    const stderr =
      'dpkg: warning: ignoring pre-dependency problem!\nW: odd\ndpkg: error processing package x (--install):\n more';

    expect(scriptError('Building', stderr).message).toBe(
      'Building failed: dpkg: error processing package x (--install):',
    );
  });
});

describe('requireTools', () => {
  it('names what is missing, and the packages that have it', async () => {
    const missing = requireTools({ sh: 'dash', 'no-such-tool': 'some-package' }, undefined);

    await expect(missing).rejects.toThrow(
      expect.objectContaining({
        code: 'TSV_E_IMAGE',
        message: 'This host has no no-such-tool.',
        hint: expect.stringContaining('apt-get install some-package'),
      }),
    );
  });
});
