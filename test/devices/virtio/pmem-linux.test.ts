/** Debian's cloud kernel with its root file system in persistent memory. */
import { execFileSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import {
  chmodSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pino from 'pino';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { buildInitramfs } from '../../../src/boot/initramfs/build.ts';
import { ROOT_MODULES } from '../../../src/boot/initramfs/root-script.ts';
import { type FetchedKernel, fetchBusybox, fetchKernel } from '../../../src/host/kernel-fetch.ts';
import { openDisk, Vm, type VmConfig } from '../../../src/index.ts';
import { untilPoweroff } from './support/linux.ts';

/** Only a guest that hangs takes so long, ms. */
const LIMIT = 300_000;
const MIB = 2 ** 20;

const folder = mkdtempSync(join(tmpdir(), 'tsvisor-pmem-'));
const root = join(folder, 'root.img');
const other = join(folder, 'other.img');
const disk = join(folder, 'disk.img');
const data = randomBytes(3 * MIB);
let kernel: FetchedKernel;
let initrd: Uint8Array;

/**
 * A program that writes the first 64 KiB of /data to /dev/vda straight from where it is mapped, and reads them from there
 * straight into /mnt/back: with DAX the disk's DMA goes to persistent memory.
 */
const DIRECT = `
  .macro sys number, a = 0, b = 0, c = 0
    mov eax, \\number; mov edi, \\a; mov rsi, \\b; mov edx, \\c; syscall; test rax, rax; js fail
  .endm
  .macro map file, prot
    mov eax, 9; xor edi, edi; mov esi, 65536; mov edx, \\prot; mov r10d, 1; mov r8d, \\file; xor r9d, r9d
    syscall; test rax, rax; js fail; mov r12, rax
  .endm
  lea rdi, [rip + data]; mov eax, 2; xor esi, esi; syscall; test rax, rax; js fail; mov r13, rax
  map r13d, 1
  lea rdi, [rip + vda]; mov eax, 2; mov esi, 040002; syscall; test rax, rax; js fail; mov r14, rax
  sys 1, r14d, r12, 65536
  sys 8, r14d, 0, 0
  lea rdi, [rip + back]; mov eax, 2; mov esi, 2; syscall; test rax, rax; js fail; mov r13, rax
  map r13d, 3
  sys 0, r14d, r12, 65536
  xor edi, edi; jmp exit
  fail: mov edi, 1
  exit: mov eax, 60; syscall
  data: .asciz "/data"
  vda: .asciz "/dev/vda"
  back: .asciz "/mnt/back"
`;

/** The program that the root file system starts. */
const INIT = `#!/bin/sh
mount -t proc proc /proc 2>/dev/null
eval "$(tr ' ' '\\n' < /proc/cmdline | sed -n 's/^test=//p' | base64 -d)"
poweroff -f
`;

beforeAll(async () => {
  kernel = await fetchKernel();
  const busybox = await fetchBusybox();
  initrd = await buildInitramfs({
    busybox,
    switchRoot: true,
    modules: { root: kernel.modules, names: [], optional: ROOT_MODULES },
  });
  const tree = join(folder, 'tree');
  for (const name of ['bin', 'sbin', 'dev', 'proc', 'sys', 'mnt'])
    mkdirSync(join(tree, name), { recursive: true });
  copyFileSync(busybox, join(tree, 'bin/busybox'));
  chmodSync(join(tree, 'bin/busybox'), 0o755);
  for (const name of [
    'sh',
    'mount',
    'umount',
    'tr',
    'sed',
    'base64',
    'poweroff',
    'md5sum',
    'dd',
    'cat',
    'sync',
    'dmesg',
    'grep',
    'blockdev',
    'cmp',
  ])
    execFileSync('ln', ['-s', 'busybox', join(tree, 'bin', name)]);
  writeFileSync(join(tree, 'sbin/init'), INIT, { mode: 0o755 });
  writeFileSync(join(tree, 'data'), data);
  writeFileSync(join(folder, 'direct.s'), `.intel_syntax noprefix\n.globl _start\n_start:\n${DIRECT}`);
  execFileSync('as', ['-o', join(folder, 'direct.o'), join(folder, 'direct.s')]);
  execFileSync('ld', ['-o', join(tree, 'bin/direct'), join(folder, 'direct.o')]);
  // Not a multiple of 2 MiB.
  execFileSync('mke2fs', ['-q', '-t', 'ext4', '-b', '4096', '-d', tree, root, '21M']);
  execFileSync('mke2fs', ['-q', '-t', 'ext4', '-b', '4096', other, '16M']);
  writeFileSync(disk, new Uint8Array(MIB));
}, LIMIT);

afterAll(() => rmSync(folder, { recursive: true }));

const sum = (bytes: Uint8Array) => createHash('md5').update(bytes).digest('hex');

/** Boots from the first persistent memory. @returns the console's output and the host's log */
async function run(options: Partial<VmConfig>, flags: string, script: string) {
  let log = '';
  await using vm = await Vm.create({
    accel: 'tcg',
    memory: '256M',
    log: pino({ level: 'warn' }, { write: (line: string) => (log += line) }),
    ...options,
    boot: {
      kernel: kernel.vmlinuz,
      initrd,
      cmdline: `console=ttyS0 panic=-1 cryptomgr.notests quiet root=/dev/pmem0 ro ${flags} test=${Buffer.from(script).toString('base64')}`,
    },
  });
  const output = await untilPoweroff(vm, LIMIT);
  return { output, log };
}

it(
  'boots from it read-only over MMIO; a write to it is lost, which the flush and the log say',
  async () => {
    const { output, log } = await run(
      { pmem: [{ backend: await openDisk(root, { readOnly: true }) }] },
      '',
      `echo "root $(grep ' / ' /proc/mounts)"; echo "size $(blockdev --getsize64 /dev/pmem0)"
       md5sum < /data
       dd if=/data of=/dev/pmem0 bs=4k count=4 seek=5000 conv=fsync && echo lost silently
       dmesg | grep -i 'pmem0.*error'
       blockdev --flushbufs /dev/pmem0; md5sum < /data`,
    );

    expect(output).toMatch(/^root \/dev\/(pmem0|root) \/ ext4 ro/m);
    expect(output).toContain(`size ${22 * MIB}\n`);
    expect(output.match(/^[0-9a-f]{32}/gm)).toEqual([sum(data), sum(data)]);
    expect(output).toContain('dd: ');
    expect(output).not.toContain('lost silently');
    expect(log).toContain('virtio-pmem0: the guest writes to it');
  },
  LIMIT,
);

it(
  'boots with DAX over PCI, and keeps what is written to an overlay as long as the machine lives',
  async () => {
    const images = [readFileSync(root), readFileSync(other)].map(sum);

    const { output, log } = await run(
      {
        transport: 'pci',
        cpus: 2,
        disks: [{ backend: await openDisk(disk) }],
        pmem: [
          { backend: await openDisk(root, { readOnly: true }) },
          { backend: await openDisk(other, { readOnly: true }), overlay: true },
        ],
      },
      'rootflags=dax',
      `echo "root $(grep ' / ' /proc/mounts)"; md5sum < /data
       mount -t ext4 -o dax /dev/pmem1 /mnt && cat /data > /mnt/copy && sync
       dd if=/dev/zero of=/mnt/back bs=64k count=1 2>/dev/null; direct; echo "direct $?"
       dd if=/data bs=64k count=1 2>/dev/null | cmp - /mnt/back && echo came back; umount /mnt
       mount -t ext4 /dev/pmem1 /mnt && md5sum < /mnt/copy && umount /mnt && echo unmounted`,
    );

    expect(output).toMatch(/^root \/dev\/(pmem0|root) \/ ext4 ro.*dax/m);
    expect(output.match(/^[0-9a-f]{32}/gm)).toEqual([sum(data), sum(data)]);
    expect(output).toContain('direct 0\ncame back\n');
    expect(readFileSync(disk).subarray(0, 65536).equals(data.subarray(0, 65536))).toBe(true);
    expect(output).toContain('unmounted\n');
    expect(log).toBe('');
    expect([readFileSync(root), readFileSync(other)].map(sum)).toEqual(images);
  },
  LIMIT,
);
