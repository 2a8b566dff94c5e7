/** The initramfs that hands over to a system on a disk. */
import { execFileSync } from 'node:child_process';
import { beforeAll, describe, expect, it } from 'vitest';
import { buildInitramfs } from '../../../src/boot/initramfs/build.ts';
import { resolveModules } from '../../../src/boot/initramfs/modules.ts';
import { ROOT_MODULES, rootScript } from '../../../src/boot/initramfs/root-script.ts';
import { type FetchedKernel, fetchBusybox, fetchKernel } from '../../../src/host/kernel-fetch.ts';
import { Vm } from '../../../src/machine/vm.ts';

/** Downloads the kernel into the user's cache when it is not there yet. */
const SLOW = 600_000;
let kernel: FetchedKernel;
let busybox: string;
beforeAll(async () => {
  kernel = await fetchKernel();
  busybox = await fetchBusybox();
}, SLOW);

const build = () =>
  buildInitramfs({
    busybox,
    switchRoot: true,
    modules: { root: kernel.modules, names: [], optional: ROOT_MODULES },
  });

describe('modules for the root disk', () => {
  it('brings what the stock kernel has as modules, dependencies first', async () => {
    const order = await resolveModules({ root: kernel.modules, names: [], optional: ROOT_MODULES });

    const names = order.map((path) =>
      path
        .split('/')
        .at(-1)
        ?.replace(/\.ko.*$/, ''),
    );
    const position = (name: string) => {
      expect(names).toContain(name);
      return names.indexOf(name);
    };
    expect(position('virtio')).toBeLessThan(position('virtio_mmio'));
    expect(position('virtio_ring')).toBeLessThan(position('virtio_mmio'));
    expect(position('virtio_pci_modern_dev')).toBeLessThan(position('virtio_pci'));
    expect(position('virtio_ring')).toBeLessThan(position('virtio_blk'));
    expect(position('virtio_console')).toBeGreaterThan(0);
    expect(new Set(names).size).toBe(names.length);
  });

  it('leaves out what the kernel does not have', async () => {
    const optional = ['no_such_module', 'virtio_blk'];

    const order = await resolveModules({ root: kernel.modules, names: [], optional });

    expect(order.at(-1)).toContain('virtio_blk');
  });
});

describe('the /init for a root disk', () => {
  it('is a sound shell script, and loads the modules in order', () => {
    const script = rootScript({ modules: ["/lib/it's.ko", '/lib/b.ko'] });

    execFileSync('sh', ['-n'], { input: script });
    expect(script).toContain("insmod '/lib/it'\\''s.ko'\ninsmod '/lib/b.ko'\n");
  });

  it('needs a busybox that can switch the root, and no command', async () => {
    const refused = expect.objectContaining({ code: 'TSV_E_INITRAMFS', hint: expect.stringMatching(/\w/) });

    await expect(buildInitramfs({ switchRoot: true })).rejects.toThrow(refused);
    await expect(buildInitramfs({ busybox, switchRoot: true, command: 'ls' })).rejects.toThrow(refused);
  });

  it('says which disks there are when the root device does not appear, and the boot fails', async () => {
    const cmdline = 'console=ttyS0 quiet panic=-1 root=/dev/vdz rootwait=1';
    await using vm = await Vm.create({
      accel: 'tcg',
      memory: '256M',
      boot: { kernel: kernel.vmlinuz, initrd: await build(), cmdline },
    });
    let output = '';
    vm.console.onData((bytes) => {
      output += Buffer.from(bytes).toString('latin1');
    });

    vm.start();
    const { reason } = await vm.exited;

    expect(reason).toBe('panic');
    expect(output).toContain('init: the root device /dev/vdz did not appear within 1 s');
    expect(output).toContain('init: disks that are there: none');
  }, 120_000);
});
