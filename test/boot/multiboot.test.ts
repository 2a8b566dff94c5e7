import { describe, expect, it } from 'vitest';
import type { BootOptions } from '../../src/boot/boot-types.ts';
import { loadKernel } from '../../src/boot/image.ts';
import { BOOT_LAYOUT } from '../../src/boot/layout.ts';
import { findMultibootHeader } from '../../src/boot/multiboot.ts';
import { MULTIBOOT_INFO } from '../../src/boot/multiboot-info.ts';
import type { GuestMemory } from '../../src/memory/guest-memory.ts';
import { build, expectError, MIB, machine } from './support.ts';

const header = (flags: number, fields = ''): string => `
.set FLAGS, ${flags}
.section .multiboot, "a"
.align 4
header: .long 0x1badb002, FLAGS, -(0x1badb002 + FLAGS)
${fields}`;
const BODY = `
.text
.globl _start
_start: cli; hlt
.bss
.skip 8192`;
const kernel32 = (flags = 3): Promise<Buffer> => build({ source: header(flags) + BODY, bits: 32 });

/** A kernel in no format, loaded by its address fields: 64 bytes of padding, header, code. */
function addressKernel(
  overrides: Partial<Record<'header' | 'load' | 'loadEnd' | 'bssEnd' | 'entry', number>>,
): Buffer {
  const at = {
    header: 0x200040,
    load: 0x200000,
    loadEnd: 0,
    bssEnd: 0x203000,
    entry: 0x200060,
    ...overrides,
  };
  const bytes = Buffer.alloc(256, 0x90);
  const flags = 0x10003;
  [
    0x1badb002,
    flags,
    -(0x1badb002 + flags) >>> 0,
    at.header,
    at.load,
    at.loadEnd,
    at.bssEnd,
    at.entry,
  ].forEach((word, i) => {
    bytes.writeUInt32LE(word, 64 + 4 * i);
  });
  return bytes;
}

function load(kernel: Uint8Array, options: Partial<BootOptions> = {}): ReturnType<typeof loadKernel> {
  return loadKernel({ kernel, ...machine(), ...options });
}

function cString(memory: GuestMemory, gpa: number): string {
  let text = '';
  for (let at = gpa; memory.readU8(at) !== 0; at++) text += String.fromCharCode(memory.readU8(at));
  return text;
}

describe('multiboot', () => {
  it('is chosen for an ELF32 kernel with a header', async () => {
    const result = await load(await kernel32());

    expect(result).toMatchObject({
      protocol: 'multiboot',
      mode: 'protected32',
      registers: { rax: 0x2badb002, rbx: BOOT_LAYOUT.bootInfo.gpa },
    });
    expect(result.symbols(BigInt(result.entry))).toBe('_start');
  });

  it('passes memory sizes, memory map, command line and loader name', async () => {
    const { memory, e820 } = machine(48 * MIB);

    const result = await load(await kernel32(), { memory, e820, cmdline: 'verbose=1' });

    const info = result.registers.rbx!;
    const field = (offset: number): number => memory.readU32(info + offset);
    expect(field(MULTIBOOT_INFO.flags)).toBe(0x24d);
    expect(field(MULTIBOOT_INFO.mem_lower)).toBe(639);
    expect(field(MULTIBOOT_INFO.mem_upper)).toBe(47 * 1024);
    expect(cString(memory, field(MULTIBOOT_INFO.cmdline))).toBe('verbose=1');
    expect(cString(memory, field(MULTIBOOT_INFO.boot_loader_name))).toBe('tsvisor');
    expect(field(MULTIBOOT_INFO.mmap_length)).toBe(24 * e820.length);
    e820.forEach(({ addr, size, type }, i) => {
      const at = field(MULTIBOOT_INFO.mmap_addr) + 24 * i;
      expect(memory.readU32(at)).toBe(20);
      expect([memory.readU64(at + 4), memory.readU64(at + 12)]).toEqual([BigInt(addr), BigInt(size)]);
      expect(memory.readU32(at + 20)).toBe(type);
    });
  });

  it('loads the initrd and modules page aligned with their command lines', async () => {
    const { memory, e820 } = machine();
    const modules = [
      { source: Buffer.from('second'), cmdline: 'mod2 arg' },
      { source: Buffer.from('third') },
    ];

    const result = await load(await kernel32(), { memory, e820, initrd: Buffer.from('first'), modules });

    const info = result.registers.rbx!;
    expect(memory.readU32(info + MULTIBOOT_INFO.mods_count)).toBe(3);
    const list = memory.readU32(info + MULTIBOOT_INFO.mods_addr);
    const found = [0, 1, 2].map((i) => {
      const [start, end, name] = [0, 4, 8].map((field) => memory.readU32(list + 16 * i + field));
      expect(start % 4096).toBe(0);
      return [Buffer.from(memory.read(start, end - start)).toString(), cString(memory, name)];
    });
    expect(found).toEqual([
      ['first', ''],
      ['second', 'mod2 arg'],
      ['third', ''],
    ]);
  });

  it('loads a kernel of any format by the address fields of its header', async () => {
    const { memory, e820 } = machine();
    memory.fill(0x200000, 0x4000, 0xcc);
    const kernel = addressKernel({});

    const result = await load(kernel, { memory, e820 });

    expect(result).toMatchObject({ protocol: 'multiboot', entry: 0x200060 });
    expect(Buffer.from(memory.read(0x200000, 256))).toEqual(kernel);
    expect(memory.read(0x200100, 0x2f00).every((byte) => byte === 0)).toBe(true);
    expect(memory.readU8(0x203000)).toBe(0xcc);
  });

  it.each([
    ['a header before the load address', { header: 0x1fff00 }],
    ['a load address after the header and the file start', { header: 0x200100 }],
    ['an end before the start', { loadEnd: 0x1000 }],
    ['a bss that ends before the data', { bssEnd: 0x200010 }],
    ['an entry outside the kernel', { entry: 0x300000 }],
  ])('refuses address fields with %s', async (_, overrides) => {
    await expectError(() => load(addressKernel(overrides)), 'TSV_E_KERNEL_FORMAT', /address fields/);
  });

  it('refuses address fields that load more than the file has', async () => {
    await expectError(() => load(addressKernel({ loadEnd: 0x202000 })), 'TSV_E_KERNEL_TRUNCATED');
  });

  it('refuses kernels outside RAM and over the boot data', async () => {
    const move = (to: number): Buffer =>
      addressKernel({ header: to + 64, load: to, bssEnd: to + 0x3000, entry: to + 0x60 });

    await expectError(() => load(move(0xf000_0000)), 'TSV_E_KERNEL_LAYOUT', /not RAM/);
    await expectError(() => load(move(0x9f000)), 'TSV_E_KERNEL_LAYOUT', /not RAM/);
    await expectError(() => load(move(0x10000)), 'TSV_E_KERNEL_LAYOUT', /overlaps the boot information/);
  });

  it('refuses an ELF64 kernel without address fields', async () => {
    const kernel = await build({ source: header(3) + BODY });

    const error = await expectError(() => load(kernel), 'TSV_E_KERNEL_FORMAT', /ELF64/);

    expect(error.hint).toContain('elf32-i386');
  });

  it('refuses demands it cannot meet and warns of a video mode', async () => {
    const demanding = await kernel32(0x8003);

    await expectError(() => load(demanding), 'TSV_E_KERNEL_FORMAT', /flags 0x8000/);
    expect((await load(await kernel32(7))).warnings).toEqual([expect.stringContaining('video mode')]);
  });

  it('refuses files without a header, and names multiboot 2', async () => {
    const plain = await build({ source: BODY, bits: 32 });
    const version2 = Buffer.alloc(4096);
    version2.writeUInt32LE(0xe85250d6, 512);

    await expectError(
      () => load(plain, { protocol: 'multiboot' }),
      'TSV_E_KERNEL_FORMAT',
      /no multiboot header/,
    );
    await expectError(() => load(version2, { protocol: 'multiboot' }), 'TSV_E_KERNEL_FORMAT', /version 2/);
    await expectError(() => load(plain), 'TSV_E_KERNEL_FORMAT', /32-bit ELF/);
  });

  it('finds the header only in the first 8 KiB, aligned, with the right checksum', () => {
    const at = (offset: number, checksum = -(0x1badb002 + 3) >>> 0): Buffer => {
      const bytes = Buffer.alloc(16384);
      [0x1badb002, 3, checksum].forEach((word, i) => {
        bytes.writeUInt32LE(word, offset + 4 * i);
      });
      return bytes;
    };

    expect(findMultibootHeader(at(8180))).toMatchObject({ offset: 8180 });
    expect(findMultibootHeader(at(8184))).toBeUndefined();
    expect(findMultibootHeader(at(1026))).toBeUndefined();
    expect(findMultibootHeader(at(1024, 1))).toBeUndefined();
    expect(findMultibootHeader(Buffer.from([2, 0xb0, 0xad]))).toBeUndefined();
  });

  it('says so when modules do not fit', async () => {
    const kernel = await kernel32();
    const many = Array.from({ length: 5000 }, () => ({ source: Buffer.from('x'), cmdline: 'y'.repeat(20) }));

    await expectError(() => load(kernel, { initrd: Buffer.alloc(65 * MIB) }), 'TSV_E_INITRD', /does not fit/);
    await expectError(() => load(kernel, { modules: many }), 'TSV_E_CONFIG', /boot information/);
  });
});
