/** The demo's disk, which is kept in the cache for the next demo. */
import { randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import { link, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { InitMount } from '../boot/initramfs/init-script.ts';
import { defaultCacheDir } from '../host/cache.ts';
import { formatSmallExt4, smallExt4Problem } from '../image/small-ext4.ts';
import type { BlockBackend } from '../storage/backend.ts';
import { createRaw } from '../storage/create.ts';
import { openDisk } from '../storage/open.ts';
import { asTsvError } from './report-error.ts';

/** The file only takes what has been written. */
const SIZE = 64 * 2 ** 20;
const NAME = 'demo-disk.img';
const MOUNT_POINT = '/disk';

/** What the drivers of the disk and its file system are called; a kernel may have some of them built in. */
export const DEMO_MODULES: readonly string[] = ['virtio_mmio', 'virtio_blk', 'crc32c_generic', 'ext4'];

/** What the guest finds at /disk. */
export interface DemoDisk {
  /** Undefined when the disk cannot be had. */
  readonly backend: BlockBackend | undefined;
  readonly mount: InitMount;
  readonly greeting: string;
}

/**
 * Opens the disk, or makes it. The demo starts in any case: a damaged disk is set aside for a fresh one, and where there
 * can be none, another demo having it or the cache not being writable, /disk is in the guest's memory.
 * @param say told what is not as it should be, one sentence each
 */
export async function openDemoDisk(
  cacheDir = defaultCacheDir(),
  say: (message: string) => void = () => {},
): Promise<DemoDisk> {
  const path = join(cacheDir, NAME);
  try {
    return {
      backend: await openOrMake(path, say),
      mount: {
        device: '/dev/vda',
        path: MOUNT_POINT,
        type: 'ext4',
        // Ctrl-A x is like pulling the plug: what was written a second before it is to be there.
        options: 'commit=1,nodelalloc',
        problem: `The disk cannot be mounted, and ${MOUNT_POINT} is in memory; remove ${path} for a fresh one.`,
      },
      greeting: `What you write to ${MOUNT_POINT} is there again the next time; "exit" ends the machine.`,
    };
  } catch (error) {
    const why = asTsvError(error).message.replace(/\.$/, '');
    say(`${why}: what is written to ${MOUNT_POINT} this time ends with the machine`);
    return {
      backend: undefined,
      mount: { device: 'tmpfs', path: MOUNT_POINT, type: 'tmpfs', problem: `There is no ${MOUNT_POINT}.` },
      greeting: `${MOUNT_POINT} is in memory this time; "exit" ends the machine.`,
    };
  }
}

async function openOrMake(path: string, say: (message: string) => void): Promise<BlockBackend> {
  if (!existsSync(path)) await make(path);
  const disk = await openDisk(path, { format: 'raw' });
  try {
    const problem = await smallExt4Problem(disk);
    if (problem === undefined) return disk;
    // The lock is kept meanwhile: nobody else does the same.
    await rename(path, `${path}.damaged`);
    say(`the disk was not usable (${problem}); it is now ${path}.damaged, and /disk is empty`);
    await make(path);
  } catch (error) {
    await disk[Symbol.asyncDispose]();
    throw error;
  }
  await disk[Symbol.asyncDispose]();
  return openDisk(path, { format: 'raw' });
}

/** Makes the disk, unless another demo does so meanwhile. */
async function make(path: string): Promise<void> {
  const partial = `${path}.${randomUUID()}.part`;
  try {
    await createRaw(partial, SIZE);
    await using disk = await openDisk(partial, { format: 'raw' });
    await formatSmallExt4(disk, { label: 'tsvisor-demo' });
    await link(partial, path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  } finally {
    await rm(partial, { force: true });
  }
}
