/**
 * What a Linux guest sees when the host fails under its disks: a full host, an image that is cut off, a broken disk. It
 * gets an I/O error, the host's log says why, nothing counts as written that was not, and the machine goes on.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pino from 'pino';
import { afterAll, afterEach, expect, it, vi } from 'vitest';
import { buildInitramfs } from '../../../src/boot/initramfs/build.ts';
import { fetchBusybox, fetchKernel } from '../../../src/host/kernel-fetch.ts';
import { createQcow2, createRaw, openDisk, Vm } from '../../../src/index.ts';
import { checkDisk } from '../../../src/storage/check.ts';
import { hostFileError } from '../../../src/storage/errors.ts';
import { ImageFile } from '../../../src/storage/file.ts';

/** Only a guest that hangs takes so long, ms. */
const LIMIT = 300_000;
const MIB = 2 ** 20;
const SIZE = 16 * MIB;
/** Bytes that the guest writes. */
const DATA = 12 * MIB;

const folder = mkdtempSync(join(tmpdir(), 'tsvisor-host-errors-'));
const path = (name: string) => join(folder, name);

/** A limit of the length of this process's files; the kernel answers beyond it as when a disk is full. */
const limitFiles = (bytes: number | 'unlimited') =>
  execFileSync('prlimit', [`--pid=${process.pid}`, `--fsize=${bytes}:unlimited`]);

afterEach(() => {
  limitFiles('unlimited');
  vi.restoreAllMocks();
});
afterAll(() => rmSync(folder, { recursive: true }));

/** The guest's part: `turn` waits for the host. */
const SCRIPT = `
dd if=/dev/urandom of=/tmp/data bs=1M count=12 2>/dev/null
turn() { echo "turn $1"; read -r line </dev/ttyS0; dmesg -c >/dev/null; }
try() { what=$1; shift; if "$@" >/dev/null 2>/tmp/e; then echo "$what: done"; else echo "$what: $(grep -v records /tmp/e | tail -n 1)"; fi; }
put() { try "put $1" dd if=/tmp/data of=/dev/$1 bs=64k conv=fsync; }
get() { blockdev --flushbufs /dev/$1; echo "$1 $(dd if=/dev/$1 bs=1M count=12 2>/dev/null | md5sum)"; }
# The kernel says so only so often in 5 s.
errors() { echo "kernel $1: $(dmesg | grep -c "I/O error, dev $1")"; }
sum=$(md5sum </tmp/data); echo "sum $sum"

turn full
put vda; errors vda; put vdb
turn room
put vda; put vdb; get vda; get vdb; errors vda; errors vdb

try 'whole' dd if=/dev/vdc of=/dev/null bs=64k skip=64 count=2
turn cut
try 'behind the cut' dd if=/dev/vdc of=/dev/null bs=64k skip=128 count=2
try 'before the cut' dd if=/dev/vdc of=/dev/null bs=64k skip=8 count=2
try 'write behind the cut' dd if=/tmp/data of=/dev/vdc bs=64k seek=150 count=1 conv=fsync

put vdd
turn broken
blockdev --flushbufs /dev/vdd
try 'read' dd if=/dev/vdd of=/dev/null bs=64k count=1
put vdd
turn mended
put vdd; get vdd
turn unflushed
put vdd
turn flushed
put vdd
`;

it(
  'is told of a full host, a cut image and a broken disk, and goes on',
  async () => {
    const kernel = await fetchKernel({});
    const initrd = await buildInitramfs({
      busybox: await fetchBusybox(),
      modules: { root: kernel.modules, names: ['virtio_mmio', 'virtio_pci', 'virtio_blk'] },
      command: SCRIPT,
    });
    await createRaw(path('full.img'), SIZE);
    await createQcow2(path('full.qcow2'), { size: SIZE });
    writeFileSync(path('cut.img'), Buffer.alloc(SIZE, 0x33));
    await createRaw(path('broken.img'), SIZE);
    const names = ['full.img', 'full.qcow2', 'cut.img', 'broken.img'];
    let log: string[] = [];
    await using vm = await Vm.create({
      accel: 'tcg',
      memory: '256M',
      transport: 'pci',
      disks: await Promise.all(names.map(async (name) => ({ backend: await openDisk(path(name)) }))),
      boot: { kernel: kernel.vmlinuz, initrd, cmdline: 'console=ttyS0 panic=-1 cryptomgr.notests quiet' },
      log: pino(
        { level: 'warn' },
        { write: (line: string) => log.push((JSON.parse(line) as { msg: string }).msg) },
      ),
    });
    await using handle = await open(path('full.img'));
    const FileHandlePrototype = Object.getPrototypeOf(handle) as FileHandle;
    let output = '';
    vm.console.onData((bytes) => {
      output += Buffer.from(bytes).toString('latin1').replaceAll('\r', '');
    });
    /** What the guest says until it waits for the host, and what has been logged. */
    const turn = async (name: string) => {
      await vm.console.expect(new RegExp(`turn ${name}\\s`), { timeout: LIMIT });
      const said = { output, log };
      output = '';
      log = [];
      return said;
    };
    const go = () => vm.console.write('\n');
    vm.start();

    const first = await turn('full');
    const wanted = /^sum ([0-9a-f]{32})/m.exec(first.output)?.[1];
    expect(first.log).toEqual([]);
    limitFiles(4 * MIB);
    go();
    const full = await turn('room');
    expect(full.output).toMatch(/^put vda: dd: .*(I\/O|Input\/output) error$/m);
    expect(full.output).toMatch(/^put vdb: dd: .*(I\/O|Input\/output) error$/m);
    expect(full.output).toMatch(/^kernel vda: [1-9]/m);
    for (const [i, name] of ['full.img', 'full.qcow2'].entries()) {
      expect(full.log.join('\n')).toMatch(
        new RegExp(`virtio-blk${i}: .*no room for writing "[^"]*/${name}"`),
      );
    }

    limitFiles('unlimited');
    go();
    const room = await turn('cut');
    expect(room.output).toContain('put vda: done\nput vdb: done\n');
    expect(room.output).toContain(`vda ${wanted} `);
    expect(room.output).toContain(`vdb ${wanted} `);
    expect(room.output).toContain('kernel vda: 0\nkernel vdb: 0\nwhole: done\n');
    expect(room.log).toEqual([]);

    truncateSync(path('cut.img'), 4 * MIB);
    go();
    const cut = await turn('broken');
    expect(cut.output).toMatch(/^behind the cut: dd: .*(I\/O|Input\/output) error$/m);
    expect(cut.output).toContain('before the cut: done\n');
    expect(cut.output).toMatch(/^write behind the cut: dd: .*(I\/O|Input\/output) error$/m);
    expect(cut.output).toContain('put vdd: done\n');
    expect(cut.log.join('\n')).toMatch(
      /virtio-blk2: .*cut\.img" ends before offset \d+: something has cut it/,
    );

    const failing = (method: 'read' | 'write', doing: string) =>
      vi.spyOn(ImageFile.prototype, method).mockImplementation(function (this: ImageFile) {
        return Promise.reject(hostFileError(this.path, doing, { code: 'EIO' }));
      });
    const spies = [failing('read', 'reading'), failing('write', 'writing')];
    go();
    const eio = await turn('mended');
    expect(eio.output).toMatch(/^read: dd: .*(I\/O|Input\/output) error$/m);
    expect(eio.output).toMatch(/^put vdd: dd: .*(I\/O|Input\/output) error$/m);
    expect(eio.log.join('\n')).toMatch(/virtio-blk3: .*failed at reading "[^"]*broken\.img" \(EIO\)/);
    expect(eio.log.join('\n')).toMatch(/virtio-blk3: .*failed at writing "[^"]*broken\.img" \(EIO\)/);

    for (const spy of spies) spy.mockRestore();
    go();
    const mended = await turn('unflushed');
    expect(mended.output).toContain(`put vdd: done\nvdd ${wanted} `);

    const datasync = vi.spyOn(FileHandlePrototype, 'datasync').mockRejectedValue({ code: 'EIO' });
    go();
    const unflushed = await turn('flushed');
    expect(unflushed.output).toMatch(/^put vdd: dd: .*(I\/O|Input\/output) error$/m);
    expect(unflushed.log.join('\n')).toMatch(/virtio-blk3: .*failed at flushing/);

    // The host has forgotten what it could not write: the disk never says again that all is there.
    datasync.mockRestore();
    go();
    expect((await vm.exited).reason).toBe('poweroff');
    expect(output).toMatch(/^put vdd: dd: .*(I\/O|Input\/output) error$/m);
    expect(await sumOf('full.img')).toBe(wanted);
    expect(await sumOf('full.qcow2')).toBe(wanted);
    expect((await checkDisk(path('full.qcow2'))).found).toMatchObject({ corruptions: 0, leaks: 0 });
  },
  LIMIT,
);

/** MD5 of what the guest has written to an image. */
async function sumOf(name: string): Promise<string> {
  await using disk = await openDisk(path(name), { readOnly: true });
  const bytes = new Uint8Array(DATA);
  await disk.read(0, [bytes]);
  return createHash('md5').update(bytes).digest('hex');
}
