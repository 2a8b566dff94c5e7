import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { buildInitramfs } from '../../src/boot/initramfs/build.ts';
import { resolveModules } from '../../src/boot/initramfs/modules.ts';
import { fetchBusybox, fetchKernel } from '../../src/host/kernel-fetch.ts';

/** Downloads 27 MB into the cache of the user when it is not there yet. */
const SLOW = 600_000;

it(
  'fetches a stock kernel, and its modules fit an initramfs',
  async () => {
    const kernel = await fetchKernel();
    const busybox = await fetchBusybox();

    const names = ['virtio_blk', 'virtio_net', 'vsock', 'ext4', 'overlay'];
    const order = await resolveModules({ root: kernel.modules, names });
    const archive = await buildInitramfs({ busybox, modules: { root: kernel.modules, names } });

    expect(kernel.version).toMatch(/^\d+\.\d+/);
    expect(readFileSync(kernel.vmlinuz).includes(`${kernel.version} (`)).toBe(true);
    expect(readFileSync(kernel.config, 'utf8')).toMatch(/^CONFIG_X86_64=y$/m);
    const position = (name: string) => order.findIndex((path) => path.includes(`/${name}.ko`));
    expect(position('virtio')).toBeLessThan(position('virtio_blk'));
    expect(position('virtio')).toBeGreaterThanOrEqual(0);
    const listing = execFileSync('cpio', ['-t', '--quiet'], {
      input: archive,
      maxBuffer: 2 ** 26,
    }).toString();
    expect(listing.split('\n')).toEqual(
      expect.arrayContaining(['bin/sh', 'bin/mount', 'bin/poweroff', 'bin/insmod', 'init', 'dev/console']),
    );
  },
  SLOW,
);
