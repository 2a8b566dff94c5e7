import { execFileSync } from 'node:child_process';
import { chmodSync, mkdirSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { BootOptions } from '../../src/boot/boot-types.ts';
import { detectKernel } from '../../src/boot/detect.ts';
import { loadKernel } from '../../src/boot/image.ts';
import { SourceFile } from '../../src/boot/source-file.ts';
import { build, expectError, inTempDir, MIB, machine, pipe } from './support.ts';

const PROGRAM = '.globl _start\n_start: hlt\n.bss\n.skip 4096';
const NOTE = '.section .note.Xen, "a", @note\n.long 4, 4, 18\n.asciz "Xen"\n.long 0x100000\n';

function load(options: Partial<BootOptions> & Pick<BootOptions, 'kernel'>): ReturnType<typeof loadKernel> {
  return loadKernel({ ...machine(), ...options });
}

const at = (magic: string, offset = 0): Buffer =>
  Buffer.concat([Buffer.alloc(offset), Buffer.from(magic, 'latin1'), Buffer.alloc(64)]);

/** The start of a PE file for a machine. */
function pe(machineType: number): Buffer {
  const bytes = at('MZ');
  bytes.writeUInt32LE(0x40, 0x3c);
  return Buffer.concat([
    bytes.subarray(0, 0x40),
    Buffer.from('PE\0\0'),
    Buffer.from([machineType & 255, machineType >> 8]),
  ]);
}

describe('choosing a protocol', () => {
  it('enters an ELF64 kernel that is not Linux in 64-bit mode with boot parameters', async () => {
    const result = await load({ kernel: await build({ source: PROGRAM }) });

    expect(result).toMatchObject({ protocol: 'linux64', entry: 0x100000, registers: { rsi: 0x7000 } });
    expect(result.kernelVersion).toBeUndefined();
    expect(result.symbols(0x100000n)).toBe('_start');
  });

  it('takes PVH where a kernel has nothing but its note', async () => {
    for (const bits of [32, 64] as const) {
      const kernel = await build({ source: PROGRAM + NOTE.padStart(NOTE.length + 1, '\n'), bits });
      expect(await load({ kernel })).toMatchObject({ protocol: 'pvh', entry: 0x100000 });
    }
  });

  it('refuses protocols that the file does not fit', async () => {
    const elf64 = await build({ source: PROGRAM });
    const elf32 = await build({ source: PROGRAM, bits: 32 });

    await expectError(() => load({ kernel: elf64, protocol: 'bzimage' }), 'TSV_E_KERNEL_FORMAT', /bzimage/);
    await expectError(() => load({ kernel: elf64, protocol: 'pvh' }), 'TSV_E_KERNEL_FORMAT', /PVH/);
    await expectError(() => load({ kernel: elf32, protocol: 'linux64' }), 'TSV_E_KERNEL_FORMAT', /32-bit/);
    await expectError(
      () => load({ kernel: elf64, modules: [{ source: elf64 }] }),
      'TSV_E_USAGE',
      /no modules/,
    );
  });

  it.each(['gzip', 'xz', 'zstd', 'lzma', 'lz4'])(
    'unpacks an ELF kernel compressed with %s',
    async (command) => {
      const args = command === 'lz4' ? ['-l', '-c', '-'] : ['-c'];
      const kernel = pipe(command, args, await build({ source: PROGRAM }));

      expect(await load({ kernel })).toMatchObject({ protocol: 'linux64', entry: 0x100000 });
    },
  );

  it('refuses a program over the boot data', async () => {
    const script = 'ENTRY(_start) SECTIONS { . = 0x7800; .text : { *(.text) } .bss : { *(.bss) } }';

    await expectError(
      async () => load({ kernel: await build({ source: PROGRAM, script }) }),
      'TSV_E_KERNEL_LAYOUT',
      /overlaps the boot parameters at 0x7000-0x8000/,
    );
  });

  it.each([
    ['0xa0000', /not RAM/],
    ['0x8000000', /not RAM/],
    ['0x200000000', /above 4 GiB/],
  ])('refuses a segment at %s', async (address, message) => {
    const script = `ENTRY(_start) SECTIONS { . = ${address}; .text : { *(.text) } .bss : { *(.bss) } }`;

    await expectError(
      async () => load({ kernel: await build({ source: PROGRAM, script }) }),
      'TSV_E_KERNEL_LAYOUT',
      message,
    );
  });

  it('writes nothing when a later segment is refused', async () => {
    const script = `ENTRY(_start)
      SECTIONS { . = 0x100000; .text : { *(.text) } . = 0x9000000; .bss : { *(.bss) } }`;
    const { memory, e820 } = machine();

    await expectError(
      async () => loadKernel({ kernel: await build({ source: PROGRAM, script }), memory, e820 }),
      'TSV_E_KERNEL_LAYOUT',
    );

    expect(memory.readU8(0x100000)).toBe(0);
  });
});

describe('files that are no kernel', () => {
  it.each<[string, Buffer, 'TSV_E_KERNEL_ARCH' | 'TSV_E_KERNEL_FORMAT', RegExp]>([
    ['an arm64 Image', at('ARMd', 56), 'TSV_E_KERNEL_ARCH', /AArch64/],
    ['a RISC-V Image', at('RSC\x05', 56), 'TSV_E_KERNEL_ARCH', /RISC-V/],
    ['an arm64 EFI program', pe(0xaa64), 'TSV_E_KERNEL_ARCH', /AArch64/],
    ['a LoongArch EFI program', pe(0x6264), 'TSV_E_KERNEL_ARCH', /LoongArch/],
    ['an x86-64 EFI program', pe(0x8664), 'TSV_E_KERNEL_FORMAT', /EFI program/],
    ['an initramfs', at('070701'), 'TSV_E_KERNEL_FORMAT', /cpio archive/],
    ['a disk image', at('QFI\xfb'), 'TSV_E_KERNEL_FORMAT', /qcow2/],
    ['a package', at('!<arch>\n'), 'TSV_E_KERNEL_FORMAT', /archive/],
    ['a script', at('#!/bin/sh'), 'TSV_E_KERNEL_FORMAT', /script/],
    ['zeros', Buffer.alloc(100_000), 'TSV_E_KERNEL_FORMAT', /no format/],
    ['one byte', Buffer.from('x'), 'TSV_E_KERNEL_FORMAT', /no format/],
    ['a modern LZ4 frame', at('\x04\x22\x4d\x18'), 'TSV_E_KERNEL_FORMAT', /LZ4 frame/],
    ['BZIP2 data', at('BZh9'), 'TSV_E_KERNEL_FORMAT', /BZIP2/],
    ['LZO data', at('\x89LZO'), 'TSV_E_KERNEL_FORMAT', /LZO/],
  ])('%s is refused by name', async (_, kernel, code, message) => {
    await expectError(() => load({ kernel }), code, message);
  });

  it('a compressed initramfs is seen through', async () => {
    const kernel = pipe('gzip', ['-c'], at('070701'));

    expect(detectKernel(kernel)).toEqual({ kind: 'compressed', compression: 'gzip' });
    const error = await expectError(() => load({ kernel }), 'TSV_E_KERNEL_FORMAT', /cpio/);
    expect(error.hint).toContain('initrd');
  });
});

describe('files that cannot be read', () => {
  it('are named with the reason', async () => {
    await inTempDir(async (dir) => {
      const path = (name: string): string => join(dir, name);
      writeFileSync(path('empty'), '');
      mkdirSync(path('directory'));
      symlinkSync(path('loop'), path('loop'));
      execFileSync('mkfifo', [path('fifo')]);
      const cases: [string, RegExp][] = [
        ['missing', /missing does not exist/],
        ['empty/x', /does not exist/],
        ['empty', /empty is empty/],
        ['directory', /is a directory/],
        ['loop', /loop of symbolic links/],
      ];
      for (const [name, message] of cases) {
        await expectError(() => load({ kernel: path(name) }), 'TSV_E_FILE', message);
      }
      await expectError(() => load({ kernel: '/dev/zero' }), 'TSV_E_FILE', /not a regular file/);
      await expectError(() => load({ kernel: new Uint8Array(0) }), 'TSV_E_FILE', /is empty/);
    });
  });

  it('are named when permissions forbid it', async () => {
    // Root may read everything, so the refusal is caused in a child process without that privilege.
    await inTempDir(async (dir) => {
      const path = join(dir, 'secret');
      writeFileSync(path, 'x');
      chmodSync(path, 0);
      if (process.getuid?.() !== 0) {
        await expectError(() => load({ kernel: path }), 'TSV_E_FILE', /may not be read/);
        return;
      }
      chmodSync(dir, 0o755);
      process.setegid!(65534);
      process.seteuid!(65534);
      try {
        await expectError(() => load({ kernel: path }), 'TSV_E_FILE', /may not be read/);
      } finally {
        process.seteuid!(0);
        process.setegid!(0);
      }
    });
  });

  it('include kernels and initrds that are absurdly large', async () => {
    await inTempDir(async (dir) => {
      const path = join(dir, 'sparse');
      writeFileSync(path, '');
      truncateSync(path, 2 ** 40);
      const kernel = await build({ source: PROGRAM });

      await expectError(() => load({ kernel: path }), 'TSV_E_FILE', /too many for a kernel/);
      await expectError(() => load({ kernel, initrd: path }), 'TSV_E_INITRD', /does not fit/);
    });
  });

  it('include one that shrinks while it is read', async () => {
    await inTempDir(async (dir) => {
      const path = join(dir, 'shrinking');
      writeFileSync(path, Buffer.alloc(100_000));
      const file = await SourceFile.open(path, 'initrd');
      truncateSync(path, 10);
      const { memory } = machine();

      await expectError(() => file.readInto(memory, MIB), 'TSV_E_FILE', /became shorter/);
      await file.close();
    });
  });

  it('are read in full when they are larger than a chunk', async () => {
    await inTempDir(async (dir) => {
      const path = join(dir, 'initrd');
      const content = Buffer.alloc(9 * MIB + 17, 'tsvisor ');
      writeFileSync(path, content);
      const { memory, e820 } = machine();

      const result = await load({ kernel: await build({ source: PROGRAM }), initrd: path, memory, e820 });

      const initrd = result.loaded.find(({ name }) => name === 'initrd')!;
      expect(initrd.gpa).toBe(64 * MIB - 9 * MIB - 4096);
      expect(Buffer.compare(memory.read(initrd.gpa, initrd.size), content)).toBe(0);
    });
  });
});

describe('the memory map', () => {
  it('must describe RAM that is there', async () => {
    const { memory } = machine(16 * MIB);
    const { e820 } = machine(32 * MIB);

    await expectError(() => load({ kernel: Buffer.from('x'), memory, e820 }), 'TSV_E_CONFIG', /e820/);
  });

  it('may have at most 128 ranges', async () => {
    const { memory, e820 } = machine();
    const reserved = Array.from({ length: 128 }, (_, i) => ({
      addr: 2 ** 33 + i * 8192,
      size: 4096,
      type: 2,
    }));
    const kernel = await build({ source: PROGRAM });

    await expectError(
      () => load({ kernel, memory, e820: [...e820, ...reserved] }),
      'TSV_E_CONFIG',
      /takes 128/,
    );
  });
});
