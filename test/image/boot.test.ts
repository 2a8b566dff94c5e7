/** A Debian that was built from packages boots from its disk, keeps what is written, and leaves a sound file system. */
import { execFileSync } from 'node:child_process';
import { constants, copyFileSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { buildDebianImage, type DebianImage } from '../../src/image/debian.ts';
import { Vm } from '../../src/machine/vm.ts';
import { checkDisk } from '../../src/storage/check.ts';
import { convertDisk } from '../../src/storage/convert.ts';
import { openDisk } from '../../src/storage/open.ts';

/** Only a guest or a build that hangs takes so long, ms. */
const LIMIT = 900_000;
let folder: string;
let debian: DebianImage;
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'tsvisor-boot-'));
  debian = await buildDebianImage({ output: join(folder, 'debian.img'), size: 2 ** 30, password: 'secret' });
}, LIMIT);
afterAll(() => rmSync(folder, { recursive: true }));

/** Boots a disk, logs in, runs a command and switches the machine off. @returns what the command printed */
async function login(
  path: string,
  transport: 'mmio' | 'pci',
  cpus: number,
  command: string,
): Promise<string> {
  await using vm = await Vm.create({
    accel: 'tcg',
    cpus,
    memory: '512M',
    transport,
    disks: [{ backend: await openDisk(path) }],
    boot: { kernel: debian.kernel, initrd: debian.initrd, cmdline: `${debian.cmdline} quiet` },
  });
  vm.start();
  const see = (pattern: RegExp) => vm.console.expect(pattern, { timeout: LIMIT });
  await see(/debian login: $/);
  vm.console.write('root\n');
  await see(/Password: $/);
  vm.console.write('secret\n');
  await see(/root@debian:~# $/);
  // What the terminal shows of the command itself does not match.
  vm.console.write(`${command}; echo "<"end">"\n`);
  const [text] = await see(/[\s\S]*<end>/);
  vm.console.write('poweroff\n');
  const { reason } = await vm.exited;
  expect(reason).toBe('poweroff');
  return text;
}

const fsck = (path: string) => execFileSync('e2fsck', ['-fn', path], { stdio: ['ignore', 'pipe', 'pipe'] });

it(
  'boots from a raw disk, and then from a qcow2 copy with what was written',
  async () => {
    const raw = join(folder, 'work.img');
    copyFileSync(debian.image, raw, constants.COPYFILE_FICLONE);
    const write = 'dd if=/dev/urandom of=/root/data bs=1M count=8 status=none; sha256sum /root/data';

    const first = await login(raw, 'mmio', 1, write);
    const [sum] = /[\da-f]{64}/.exec(first) ?? [];
    fsck(raw);
    const qcow2 = join(folder, 'work.qcow2');
    {
      await using source = await openDisk(raw, { readOnly: true });
      await convertDisk(source, qcow2, { format: 'qcow2', compress: true });
    }
    const second = await login(
      qcow2,
      'pci',
      2,
      'sha256sum /root/data; nproc; systemctl is-system-running --wait',
    );

    expect(sum).toBeDefined();
    expect(second).toContain(`${sum}  /root/data`);
    expect(second).toMatch(/^2\r?$/m);
    expect(second).toMatch(/^running\r?$/m);
    const { found } = await checkDisk(qcow2);
    expect(found).toMatchObject({ corruptions: 0, leaks: 0 });
    const back = join(folder, 'back.img');
    await using result = await openDisk(qcow2, { readOnly: true });
    await convertDisk(result, back, { format: 'raw' });
    fsck(back);
  },
  LIMIT,
);
