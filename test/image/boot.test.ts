/**
 * A Debian that was built from packages boots from its disk in every form, keeps what is written over a reboot, and what
 * it formats and writes on a second disk is what other programs find in that image.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { constants, copyFileSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { extname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { buildDebianImage, type DebianImage } from '../../src/image/debian.ts';
import { Vm } from '../../src/machine/vm.ts';
import { checkDisk } from '../../src/storage/check.ts';
import { convertDisk } from '../../src/storage/convert.ts';
import { type DiskFormat, openDisk } from '../../src/storage/open.ts';
import { createQcow2 } from '../../src/storage/qcow2/create.ts';
import { addDisk } from '../devices/virtio/support/further-disk.ts';
import { qemuCheck, qemuImg } from '../storage/support.ts';

/** Only a guest or a build that hangs takes so long, ms. */
const LIMIT = 900_000;
const DATA_SIZE = 64 << 20;
const FILES = 6;
let folder: string;
let debian: DebianImage;
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'tsvisor-boot-'));
  debian = await buildDebianImage({ output: join(folder, 'debian.img'), size: 2 ** 30, password: 'secret' });
}, LIMIT);
afterAll(() => rmSync(folder, { recursive: true }));

/** How a guest reaches its disks, and with how many vCPUs. */
interface Board {
  transport: 'mmio' | 'pci';
  cpus: 1 | 2;
}

/** The disks of one test, which outlive its machines. */
interface Disks {
  root: string;
  data: string;
  /** The ring format of the second one. */
  ring: 'packed' | 'split';
}

/** Boots to the login prompt, logs in, runs a command and ends the machine. @returns what the command printed */
async function session(
  disks: Disks,
  { transport, cpus }: Board,
  command: string,
  end: 'reboot' | 'poweroff',
): Promise<string> {
  await using vm = await Vm.create({
    accel: 'tcg',
    cpus,
    memory: '512M',
    transport,
    disks: [{ backend: await openDisk(disks.root) }],
    boot: {
      kernel: debian.kernel,
      initrd: debian.initrd,
      cmdline: `${debian.cmdline} quiet cryptomgr.notests`,
    },
  });
  addDisk(vm, { backend: await openDisk(disks.data), ring: disks.ring, queues: 2 });
  const [start, cpu] = [performance.now(), process.cpuUsage()];
  vm.start();
  const see = (pattern: RegExp) => vm.console.expect(pattern, { timeout: LIMIT });
  await see(/debian login: $/);
  const seconds = ((performance.now() - start) / 1000).toFixed(1);
  const { user, system } = process.cpuUsage(cpu);
  const used = ((user + system) / 1e6).toFixed(1);
  console.log(
    `${extname(disks.root).slice(1)}, ${transport}, ${cpus} vCPU: login after ${seconds} s, ${used} s of CPU`,
  );
  vm.console.write('root\n');
  await see(/Password: $/);
  vm.console.write('secret\n');
  await see(/root@debian:~# $/);
  // What the terminal shows of the command itself does not match.
  vm.console.write(`${command.replaceAll('\n', '; ')}; echo "<"end">"\n`);
  const [text] = await see(/[\s\S]*<end>/);
  vm.console.write(`${end}\n`);
  const { reason } = await vm.exited;
  expect(reason).toBe(end === 'reboot' ? 'reset' : 'poweroff');
  return text.replaceAll('\r', '');
}

/** The second disk's queues, one for each vCPU at most, and the feature bit of packed rings. */
const DESCRIBE =
  'echo queues $(ls /sys/block/vdb/mq | wc -l) packed $(cut -c35 /sys/block/vdb/device/features)';

/** Formats the second disk, fills and thins it out, and leaves it mounted when the machine reboots. */
const WRITE = `set +m
dd if=/dev/urandom of=/root/data bs=1M count=4 status=none
sha256sum /root/data
${DESCRIBE}
mkfs.ext4 -q -F -E nodiscard /dev/vdb && mount /dev/vdb /mnt
for i in 1 2 3 4 5 6; do dd if=/dev/urandom of=/mnt/file$i bs=16k count=$((i * 16)) status=none & done
wait
dd if=/dev/urandom of=/mnt/gone bs=1M count=8 conv=fsync status=none
(cd /mnt && sha256sum file*)
rm /mnt/gone && sync && fstrim -v /mnt
nproc`;

/** Finds it all after the reboot, changes a part, and unmounts. */
const VERIFY = `sha256sum /root/data
${DESCRIBE}
fsck.ext4 -fn /dev/vdb > /dev/null 2>&1
echo fsck $?
mount /dev/vdb /mnt
(cd /mnt && sha256sum file*)
dd if=/dev/urandom of=/mnt/file1 bs=16k seek=2 count=8 conv=notrunc,fsync status=none
cp /mnt/file2 /mnt/copy
umount /mnt && mount /dev/vdb /mnt
(cd /mnt && sha256sum file1 copy | sed s/^/again:/)
umount /mnt && fstrim -v / 
nproc
systemctl is-system-running --wait`;

const fsck = (path: string) => execFileSync('e2fsck', ['-fn', path], { stdio: ['ignore', 'pipe', 'pipe'] });

/** The sum of a file in an image of a file system, as e2fsprogs read it. */
function sumOf(image: string, file: string): string {
  const to = join(folder, 'dumped');
  execFileSync('debugfs', ['-R', `dump /${file} ${to}`, image], { stdio: ['ignore', 'pipe', 'pipe'] });
  return createHash('sha256').update(readFileSync(to)).digest('hex');
}

const sums = (text: string) =>
  Object.fromEntries([...text.matchAll(/^([\da-f]{64}) {2}(file\d)$/gm)].map(([, sum, file]) => [file, sum]));

/** Boots twice with a reboot between, and looks at the images from outside. */
async function writeRebootVerify(format: DiskFormat, ring: Disks['ring'], first: Board, second: Board) {
  const root = join(folder, `root.${format}`);
  if (format === 'raw') copyFileSync(debian.image, root, constants.COPYFILE_FICLONE);
  else {
    await using source = await openDisk(debian.image, { readOnly: true });
    await convertDisk(source, root, { format, compress: true });
  }
  const data = join(folder, 'data.qcow2');
  await createQcow2(data, { size: DATA_SIZE });
  const disks: Disks = { root, data, ring };

  const written = await session(disks, first, WRITE, 'reboot');
  const found = await session(disks, second, VERIFY, 'poweroff');

  // The guests agree with each other.
  const isPacked = ring === 'packed' ? 1 : 0;
  expect(written).toContain(`queues ${first.cpus} packed ${isPacked}\n`);
  expect(found).toContain(`queues ${second.cpus} packed ${isPacked}\n`);
  expect(written).toMatch(new RegExp(`^${first.cpus}$`, 'm'));
  expect(written).toMatch(/^\/mnt: .*\([1-9]\d* bytes\) trimmed$/m);
  const [rootSum] = /[\da-f]{64} {2}\/root\/data/.exec(written) ?? [];
  expect(rootSum).toBeDefined();
  expect(found).toContain(rootSum);
  expect(found).toContain('fsck 0\n');
  expect(Object.keys(sums(written))).toHaveLength(FILES);
  expect(sums(found)).toEqual(sums(written));
  expect(found).toMatch(new RegExp(`^${second.cpus}$`, 'm'));
  expect(found).toMatch(/^running$/m);

  // So does everything else that can read the images.
  for (const path of format === 'qcow2' ? [root, data] : [data]) {
    expect(qemuCheck(path).leaks).toBe(0);
    expect((await checkDisk(path)).found).toMatchObject({ corruptions: 0, leaks: 0 });
  }
  const [ours, theirs] = [join(folder, 'ours.img'), join(folder, 'theirs.img')];
  {
    await using image = await openDisk(data, { readOnly: true });
    await convertDisk(image, ours, { format: 'raw' });
  }
  // The server ends with its only client.
  const socket = join(folder, 'nbd');
  execFileSync('qemu-nbd', ['--fork', '--read-only', '-f', 'qcow2', '-k', socket, data]);
  qemuImg('compare', '-f', 'raw', '-F', 'raw', ours, `nbd+unix:///?socket=${socket}`);
  qemuImg('convert', '-f', 'qcow2', '-O', 'raw', data, theirs);
  fsck(theirs);
  for (const [file, sum] of Object.entries(sums(written))) {
    if (file !== 'file1') expect(sumOf(theirs, file)).toBe(sum);
  }
  expect(sumOf(theirs, 'copy')).toBe(sums(written).file2);
  expect(found).toContain(`again:${sumOf(theirs, 'file1')}  file1\n`);
  qemuImg('convert', '-f', format, '-O', 'raw', root, theirs);
  fsck(theirs);
  for (const path of [root, data, ours, theirs]) rmSync(path);
}

describe('a Debian from a raw disk', () => {
  it(
    'boots over mmio with 1 vCPU, and over pci with 2, with a second disk of packed rings',
    () => writeRebootVerify('raw', 'packed', { transport: 'mmio', cpus: 1 }, { transport: 'pci', cpus: 2 }),
    LIMIT,
  );
  it.runIf(process.env.TSVISOR_SLOW_TESTS)(
    'boots over mmio with 2 vCPUs, and over pci with 1, with a second disk of split rings',
    () => writeRebootVerify('raw', 'split', { transport: 'mmio', cpus: 2 }, { transport: 'pci', cpus: 1 }),
    LIMIT,
  );
});

describe('a Debian from a qcow2 disk', () => {
  it(
    'boots over mmio with 2 vCPUs, and over pci with 1, with a second disk of split rings',
    () => writeRebootVerify('qcow2', 'split', { transport: 'mmio', cpus: 2 }, { transport: 'pci', cpus: 1 }),
    LIMIT,
  );
  it.runIf(process.env.TSVISOR_SLOW_TESTS)(
    'boots over mmio with 1 vCPU, and over pci with 2, with a second disk of packed rings',
    () => writeRebootVerify('qcow2', 'packed', { transport: 'mmio', cpus: 1 }, { transport: 'pci', cpus: 2 }),
    LIMIT,
  );
});
