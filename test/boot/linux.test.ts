import { readFileSync } from 'node:fs';
import { beforeAll, describe, expect, it } from 'vitest';
import { BOOT_PARAMS } from '../../src/boot/boot-params.ts';
import type { BzImage } from '../../src/boot/bzimage.ts';
import { parseBzImage, unpackPayload } from '../../src/boot/bzimage.ts';
import { parseElf } from '../../src/boot/elf.ts';
import { pvhEntry } from '../../src/boot/elf-notes.ts';
import { loadKernel } from '../../src/boot/image.ts';
import { BOOT_LAYOUT } from '../../src/boot/layout.ts';
import { HVM_START_INFO, XEN_HVM_START_MAGIC_VALUE } from '../../src/boot/pvh.ts';
import { fetchKernel } from '../../src/host/kernel-fetch.ts';
import { expectError, MIB, machine, pipe } from './support.ts';

let path: string;
let bytes: Buffer;
let image: BzImage;
let vmlinux: Uint8Array;

beforeAll(async () => {
  path = (await fetchKernel()).vmlinuz;
  bytes = readFileSync(path);
  image = parseBzImage(bytes);
  vmlinux = await unpackPayload(image);
}, 600_000);

describe("Debian's bzImage", () => {
  it('has the setup header that file(1) and boot.rst describe', () => {
    expect(image.version).toBe(0x020f);
    expect(image.versionString).toMatch(/^\d+\.\d+\.\d+-\d+-cloud-amd64 \(/);
    expect(image.relocatable).toBe(true);
    expect(image.prefAddress).toBe(0x1000000);
    expect(image.cmdlineSize).toBe(2047);
    expect(image.initrdAddrMax).toBe(0x7fffffff);
    expect(image.xloadflags & 1).toBe(1);
  });

  it('contains the vmlinux that lz4(1) unpacks', () => {
    const packed = image.payload!.subarray(0, -4);

    const expected = pipe('lz4', ['-d', '-c', '-'], packed);

    expect(Buffer.compare(vmlinux, expected)).toBe(0);
  });

  it.each([
    ['gzip', ['-1', '-n'], false],
    ['xz', ['--check=crc32', '--x86', '--lzma2=preset=0,dict=128MiB', '-T1'], true],
    ['lzma', ['-0'], true],
    ['zstd', ['-3', '--long=27'], true],
    ['lz4', ['-l', '-1'], true],
  ])(
    'is unpacked alike when its payload is packed with %s',
    async (command, args, sizeAppended) => {
      const size = Buffer.alloc(4);
      size.writeUInt32LE(vmlinux.length);
      const packed = pipe(command, [...args, '-c'], vmlinux);
      const payload = sizeAppended ? Buffer.concat([packed, size]) : packed;

      const unpacked = await unpackPayload({ ...image, payload });

      expect(Buffer.compare(unpacked, vmlinux)).toBe(0);
    },
    300_000,
  );

  it.each(['bzip2'])('is refused by name when its payload is packed with %s', async (command) => {
    const payload = pipe(command, ['-1', '-c'], vmlinux.subarray(0, 100_000));

    const error = await expectError(
      () => unpackPayload({ ...image, payload }),
      'TSV_E_KERNEL_FORMAT',
      new RegExp(command, 'i'),
    );

    expect(error.hint).toContain('bzimage protocol');
  });

  it('is booted as its vmlinux by the 64-bit protocol by default', async () => {
    const { memory, e820 } = machine(256 * MIB);
    const initrd = Buffer.from('initrd content');
    const cmdline = 'console=ttyS0 panic=-1';

    const result = await loadKernel({ kernel: path, initrd, cmdline, memory, e820, rsdp: 0xe0000 });

    expect(result).toMatchObject({
      protocol: 'linux64',
      mode: 'long64',
      entry: 0x1000000,
      registers: { rsi: 0x7000 },
      identityMap: { gpa: 0, size: 2 ** 32 },
      warnings: [],
    });
    expect(result.kernelVersion).toBe(image.versionString!.split(' ')[0]);
    const field = (offset: number): number => memory.readU32(0x7000 + offset);
    expect(field(BOOT_PARAMS.header)).toBe(0x53726448);
    expect(memory.readU8(0x7000 + BOOT_PARAMS.sentinel)).toBe(0);
    expect(memory.readU8(0x7000 + BOOT_PARAMS.type_of_loader)).toBe(0xff);
    expect(memory.readU64(0x7000 + BOOT_PARAMS.acpi_rsdp_addr)).toBe(0xe0000n);
    const text = memory.read(field(BOOT_PARAMS.cmd_line_ptr), cmdline.length + 1);
    expect(Buffer.from(text).toString()).toBe(`${cmdline}\0`);
    expect(field(BOOT_PARAMS.ramdisk_size)).toBe(initrd.length);
    expect(field(BOOT_PARAMS.ramdisk_image)).toBe(256 * MIB - 4096);
    expect(Buffer.from(memory.read(field(BOOT_PARAMS.ramdisk_image), initrd.length))).toEqual(initrd);
    expect(memory.readU8(0x7000 + BOOT_PARAMS.e820_entries)).toBe(e820.length);
    e820.forEach(({ addr, size, type }, i) => {
      const at = 0x7000 + BOOT_PARAMS.e820_table + 20 * i;
      expect([memory.readU64(at), memory.readU64(at + 8), memory.readU32(at + 16)]).toEqual([
        BigInt(addr),
        BigInt(size),
        type,
      ]);
    });
  });

  it('puts every segment where its program header says and zeroes the rest', async () => {
    const { memory, e820 } = machine(256 * MIB);
    memory.fill(0x1000000, 128 * MIB, 0xcc);

    await loadKernel({ kernel: bytes, memory, e820 });

    for (const { offset, filesz, memsz, paddr } of parseElf(vmlinux).loads) {
      const loaded = memory.read(paddr, memsz);
      expect(Buffer.compare(loaded.subarray(0, filesz), vmlinux.subarray(offset, offset + filesz))).toBe(0);
      expect(loaded.subarray(filesz).every((byte) => byte === 0)).toBe(true);
    }
  });

  it('is loaded unpacked or packed to the same command line, initrd and memory map', async () => {
    const page = async (protocol: 'linux64' | 'bzimage'): Promise<Uint8Array> => {
      const { memory, e820 } = machine(256 * MIB);
      await loadKernel({
        kernel: bytes,
        protocol,
        cmdline: 'quiet',
        initrd: Buffer.alloc(9999),
        memory,
        e820,
      });
      return memory.read(0x7000, 4096);
    };

    expect(Buffer.from(await page('linux64'))).toEqual(Buffer.from(await page('bzimage')));
  });

  it.each([
    ['long64', 0x1000200],
    ['protected32', 0x1000000],
  ] as const)('is entered in %s mode by the bzimage protocol', async (bzImageMode, entry) => {
    const { memory, e820 } = machine(128 * MIB);

    const result = await loadKernel({ kernel: bytes, protocol: 'bzimage', bzImageMode, memory, e820 });

    expect(result).toMatchObject({
      protocol: 'bzimage',
      mode: bzImageMode,
      entry,
      registers: { rsi: 0x7000 },
    });
    expect(memory.readU32(0x7000 + BOOT_PARAMS.code32_start)).toBe(0x1000000);
    expect(Buffer.compare(memory.read(0x1000000, image.kernel.length), image.kernel)).toBe(0);
  });

  it('is loaded higher when its preferred address is taken', async () => {
    const { memory, e820 } = machine(256 * MIB);
    const reserved = [{ name: 'framebuffer', gpa: 0x1234000, size: 0x1000 }];

    const result = await loadKernel({ kernel: bytes, protocol: 'bzimage', memory, e820, reserved });

    expect(result.entry).toBe(0x1400200);
    expect(result.entry % image.kernelAlignment).toBe(0x200);
  });

  it('is entered through its PVH note with start info, memory map and initrd module', async () => {
    const { memory, e820 } = machine(256 * MIB);
    const initrd = Buffer.from('initrd content');

    const result = await loadKernel({
      kernel: bytes,
      protocol: 'pvh',
      initrd,
      cmdline: 'quiet',
      memory,
      e820,
      rsdp: 0xe0000,
    });

    expect(result).toMatchObject({ protocol: 'pvh', mode: 'protected32' });
    expect(result.identityMap).toBeUndefined();
    expect(BigInt(result.entry)).toBe(pvhEntry(parseElf(vmlinux)));
    const info = result.registers.rbx!;
    const pointer = (offset: number): number => Number(memory.readU64(info + offset));
    expect(memory.readU32(info + HVM_START_INFO.magic)).toBe(XEN_HVM_START_MAGIC_VALUE);
    expect(memory.readU32(info + HVM_START_INFO.version)).toBe(1);
    expect(pointer(HVM_START_INFO.rsdp_paddr)).toBe(0xe0000);
    expect(Buffer.from(memory.read(pointer(HVM_START_INFO.cmdline_paddr), 6)).toString()).toBe('quiet\0');
    expect(memory.readU32(info + HVM_START_INFO.nr_modules)).toBe(1);
    const module = pointer(HVM_START_INFO.modlist_paddr);
    expect(Number(memory.readU64(module + 8))).toBe(initrd.length);
    expect(Buffer.from(memory.read(Number(memory.readU64(module)), initrd.length))).toEqual(initrd);
    expect(memory.readU32(info + HVM_START_INFO.memmap_entries)).toBe(e820.length);
    const map = pointer(HVM_START_INFO.memmap_paddr);
    e820.forEach(({ addr, size, type }, i) => {
      const at = map + 24 * i;
      expect([memory.readU64(at), memory.readU64(at + 8), memory.readU32(at + 16)]).toEqual([
        BigInt(addr),
        BigInt(size),
        type,
      ]);
    });
  });
});

describe('a vmlinux', () => {
  it('gets a setup header of its own', async () => {
    const { memory, e820 } = machine(256 * MIB);

    const result = await loadKernel({ kernel: vmlinux, cmdline: 'quiet', memory, e820 });

    expect(result).toMatchObject({ protocol: 'linux64', entry: 0x1000000 });
    expect(result.kernelVersion).toMatch(/cloud-amd64$/);
    expect(memory.readU16(0x7000 + BOOT_PARAMS.boot_flag)).toBe(0xaa55);
    expect(memory.readU32(0x7000 + BOOT_PARAMS.header)).toBe(0x53726448);
    expect(memory.readU16(0x7000 + BOOT_PARAMS.version)).toBe(0x020f);
  });

  it('is accepted compressed as a whole', async () => {
    const { memory, e820 } = machine(256 * MIB);

    const result = await loadKernel({ kernel: pipe('gzip', ['-1', '-c'], vmlinux), memory, e820 });

    expect(result).toMatchObject({ protocol: 'linux64', entry: 0x1000000 });
  });
});

describe('limits of the machine and the kernel', () => {
  it('names the memory a kernel needs', async () => {
    for (const protocol of ['linux64', 'bzimage', 'pvh'] as const) {
      const { memory, e820 } = machine(32 * MIB);
      const error = await expectError(
        () => loadKernel({ kernel: bytes, protocol, memory, e820 }),
        'TSV_E_KERNEL_LAYOUT',
      );
      expect(error.hint).toMatch(/at least \d+ MiB/);
    }
  });

  it('takes an initrd that just fits and refuses one that does not, saying how much memory is needed', async () => {
    const size = 128 * MIB;
    const fitting = (initrdSize: number): Promise<unknown> => {
      const { memory, e820 } = machine(size);
      return loadKernel({ kernel: bytes, initrd: Buffer.alloc(initrdSize), memory, e820 });
    };
    const room = size - 0x1000000 - Math.max(image.initSize, 0x2e00000);
    const largest = Math.floor(room / 4096) * 4096;

    await fitting(largest);
    const error = await expectError(() => fitting(largest + 1), 'TSV_E_INITRD', /does not fit/);
    const huge = await expectError(() => fitting(200 * MIB), 'TSV_E_INITRD');

    expect(error.hint).toContain('at least 129 MiB');
    expect(huge.hint).toMatch(/at least 2\d\d MiB/);
  });

  it('keeps the initrd below initrd_addr_max', async () => {
    const { memory, e820 } = machine(256 * MIB);
    const patched = Buffer.from(bytes);
    patched.writeUInt32LE(0x9fff_fff, 0x22c);

    const result = await loadKernel({ kernel: patched, initrd: Buffer.alloc(5000), memory, e820 });

    const initrd = result.loaded.find((range) => range.name === 'initrd')!;
    expect(initrd.gpa).toBe(0xa000000 - 8192);
  });

  it('takes a command line of exactly cmdline_size bytes and no longer one', async () => {
    const { memory, e820 } = machine(256 * MIB);
    const load = (cmdline: string): Promise<unknown> => loadKernel({ kernel: bytes, cmdline, memory, e820 });

    await load('x'.repeat(2047));

    await expectError(() => load('x'.repeat(2048)), 'TSV_E_CMDLINE_TOO_LONG', /2048 bytes.*at most 2047/);
    await expectError(() => load('ü'.repeat(1024)), 'TSV_E_CMDLINE_TOO_LONG');
    await expectError(() => load('a\0b'), 'TSV_E_USAGE', /NUL/);
  });

  it('keeps clear of reserved ranges', async () => {
    const { memory, e820 } = machine(256 * MIB);
    const reserved = [{ name: 'tables', gpa: 0x1800000, size: 4096 }];

    await expectError(
      () => loadKernel({ kernel: bytes, memory, e820, reserved }),
      'TSV_E_KERNEL_LAYOUT',
      /kernel segment at .* overlaps the tables/,
    );
  });

  it('refuses a truncated bzImage wherever it is cut', async () => {
    const { memory, e820 } = machine(256 * MIB);
    const end = (bytes[0x1f1] + 1) * 512 + image.kernel.length;
    const cuts = [1, 0x1f0, 0x206, 0x220, 0x260, 0x400, 20480, 30000, 1_000_000, end / 2, end - 16];

    for (const cut of cuts) {
      const error = await expectError(
        () => loadKernel({ kernel: bytes.subarray(0, cut), memory, e820 }),
        cut < 0x206 ? 'TSV_E_KERNEL_FORMAT' : 'TSV_E_KERNEL_TRUNCATED',
      );
      expect(error.message).not.toMatch(/NaN|undefined/);
    }
  });

  it('refuses a vmlinux cut inside a segment', async () => {
    const { memory, e820 } = machine(256 * MIB);

    for (const cut of [60, 100, 500, 5_000_000, vmlinux.length >> 1]) {
      const kernel = vmlinux.subarray(0, cut);
      await expectError(() => loadKernel({ kernel, memory, e820 }), 'TSV_E_KERNEL_TRUNCATED');
    }
  });

  it('leaves the low megabyte free except for the boot data', async () => {
    const { memory, e820 } = machine(256 * MIB);

    await loadKernel({ kernel: bytes, cmdline: 'quiet', memory, e820 });

    const used = [BOOT_LAYOUT.bootParams, BOOT_LAYOUT.cmdline];
    for (let page = 0; page < 0xa0000; page += 4096) {
      const zero = memory.read(page, 4096).every((byte) => byte === 0);
      const inside = used.some(({ gpa, size }) => page >= gpa && page < gpa + size);
      expect(zero || inside).toBe(true);
    }
  });
});
