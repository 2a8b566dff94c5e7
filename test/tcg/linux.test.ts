import { createHash } from 'node:crypto';
import { expect, it } from 'vitest';
import { buildInitramfs } from '../../src/boot/initramfs/build.ts';
import { fetchBusybox, fetchKernel } from '../../src/host/kernel-fetch.ts';
import { TcgPc } from './support/pc.ts';

const MIB = 1 << 20;

it("boots Debian's kernel to a shell and powers off", async ({ signal }) => {
  const { vmlinuz, version } = await fetchKernel();
  const command = 'uname -a; echo 6 times 7 is $((6 * 7)); echo -n hello | sha256sum';
  const initrd = await buildInitramfs({ busybox: await fetchBusybox(), command });
  const pc = new TcgPc(256 * MIB);
  await pc.boot({ kernel: vmlinuz, initrd, cmdline: 'console=ttyS0 panic=-1' });

  const reason = await pc.run(signal);

  expect(pc.console).toContain('Run /init as init process');
  expect(pc.console).toContain(`Linux (none) ${version} `);
  expect(pc.console).toContain('6 times 7 is 42');
  expect(pc.console).toContain(createHash('sha256').update('hello').digest('hex'));
  expect(pc.console).toContain('init: exit status 0');
  expect(reason).toMatchObject({ kind: 'poweroff' });
}, 600_000);
