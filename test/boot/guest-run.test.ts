/** What the loaders promise a kernel, seen by kernels that run. */
import { describe, expect, it } from 'vitest';
import { type KernelBoot, Vm } from '../../src/index.ts';
import type { EngineName } from '../../src/vcpu/engine.ts';
import { assemble } from '../support/assemble.ts';
import { ENGINES } from '../support/engines.ts';
import { build, pipe } from './support.ts';

/** Prints the string at RSI, then a newline; 32- and 64-bit. */
const PRINT = `
print: mov dx, 0x3f8
1: lodsb; test al, al; jz 2f; out dx, al; jmp 1b
2: mov al, 10; out dx, al; ret
`;
/** Writes a value to the exit device: the status becomes (value << 1) | 1. */
const end = (value: number) => `mov al, ${value}; out 0xf4, al; hlt\n`;

async function run(accel: EngineName, boot: KernelBoot) {
  await using vm = await Vm.create({ accel, memory: '32M', boot });
  vm.start();
  const { reason, status } = await vm.exited;
  return { reason, status, text: vm.console.pending };
}

/** boot_params (Linux Documentation/arch/x86/zero-page.rst): the setup header's magic, cmd_line_ptr, ramdisk_image and _size. */
const LINUX_CODE = `
    cmp dword ptr [rsi + 0x202], 0x53726448
    je 1f
    ${end(1)}
  1: mov rbx, rsi
    mov esi, [rbx + 0x228]
    call print
    mov esi, [rbx + 0x218]
    mov ecx, [rbx + 0x21c]
    mov dx, 0x3f8
    rep outsb
    ${end(42)}
  ${PRINT}`;
const LINUX64 = `.intel_syntax noprefix\n.text\n.globl _start\n_start: ${LINUX_CODE}`;

/** A bzImage of protocol 2.15 around a protected-mode kernel (Linux Documentation/arch/x86/boot.rst). */
function bzImage(kernel: Uint8Array, payload?: { offset: number; length: number }): Buffer {
  const setup = 1024;
  const size = Math.ceil(kernel.length / 16) * 16;
  const image = Buffer.alloc(setup + size);
  image[0x1f1] = 1; // setup_sects
  image.writeUInt32LE(size / 16, 0x1f4); // syssize
  image.writeUInt16LE(0xaa55, 0x1fe); // boot_flag
  image.writeUInt16LE(0x66eb, 0x200); // jump
  image.write('HdrS', 0x202, 'latin1');
  image.writeUInt16LE(0x020f, 0x206); // version
  image[0x211] = 1; // LOADED_HIGH
  image.writeUInt32LE(0x100000, 0x214); // code32_start
  image.writeUInt32LE(0x200000, 0x230); // kernel_alignment
  image[0x234] = 1; // relocatable_kernel
  image.writeUInt16LE(1, 0x236); // XLF_KERNEL_64
  image.writeUInt32LE(0x7fffffff, 0x22c); // initrd_addr_max
  image.writeUInt32LE(2047, 0x238); // cmdline_size
  if (payload !== undefined) {
    image.writeUInt32LE(payload.offset, 0x248);
    image.writeUInt32LE(payload.length, 0x24c);
  }
  image.writeBigUInt64LE(0x1000000n, 0x258); // pref_address
  image.writeUInt32LE(0x100000, 0x260); // init_size
  image.set(kernel, setup);
  return image;
}

describe.each(ENGINES)('on %s', (accel) => {
  describe('a multiboot kernel', () => {
    // Multiboot Specification 0.6.96, 3.2 and 3.3: EAX, EBX, flags at 0, cmdline at 16, modules at 20 and 24.
    const source = `
      .intel_syntax noprefix
      .section .multiboot, "a"
      .align 4
      .long 0x1badb002, 3, -(0x1badb002 + 3)
      .text
      .globl _start
      _start:
        mov esp, offset stack
        cmp eax, 0x2badb002
        je 1f
        ${end(1)}
      1: mov eax, [ebx]
        and eax, 0xc
        cmp eax, 0xc
        je 1f
        ${end(2)}
      1: mov esi, [ebx + 16]
        call print
        cmp dword ptr [ebx + 20], 2
        je 1f
        ${end(3)}
      1: mov edi, [ebx + 24]
        mov ecx, 2
      next: mov esi, [edi + 8]
        call print
        mov esi, [edi]
        mov edx, [edi + 4]
        sub edx, esi
        push ecx
        mov ecx, edx
        mov dx, 0x3f8
        rep outsb
        pop ecx
        add edi, 16
        loop next
        ${end(42)}
      ${PRINT}
      .bss
      .skip 4096
      stack:`;

    it('finds the magic, its command line and the modules with their content', async () => {
      const kernel = await build({ source, bits: 32 });
      const modules = [
        { file: Buffer.from('first content\n'), cmdline: 'one a=b' },
        { file: Buffer.from('second content\n'), cmdline: 'two' },
      ];

      const ended = await run(accel, { kernel, modules, cmdline: 'colour=blue' });

      expect(ended).toMatchObject({ reason: 'exit', status: 85 });
      expect(ended.text).toBe('colour=blue\none a=b\nfirst content\ntwo\nsecond content\n');
    });
  });

  describe('a PVH kernel', () => {
    // Xen public/arch-x86/hvm/start_info.h: magic at 0, nr_modules at 12, modules at 16, command line at 24.
    const source = `
      .intel_syntax noprefix
      .text
      .globl _start
      .code32
      _start:
        mov esp, offset stack
        cmp dword ptr [ebx], 0x336ec578
        je 1f
        ${end(1)}
      1: mov esi, [ebx + 24]
        call print
        cmp dword ptr [ebx + 12], 1
        je 1f
        ${end(2)}
      1: mov edi, [ebx + 16]
        mov esi, [edi]
        mov ecx, [edi + 8]
        mov dx, 0x3f8
        rep outsb
        mov eax, [ebx + 32]
        cmp dword ptr [eax], 0x20445352 # "RSD "
        je 1f
        ${end(3)}
      1: ${end(42)}
      ${PRINT}
      .bss
      .skip 4096
      stack:
      .section .note.Xen, "a", @note
      .long 4, 4, 18
      .asciz "Xen"
      .long _start`;

    it.each([32, 64] as const)('of ELF%i finds start info, command line, initrd and RSDP', async (bits) => {
      const kernel = await build({ source, bits });

      const ended = await run(accel, {
        kernel,
        protocol: 'pvh',
        cmdline: 'colour=red',
        initrd: Buffer.from('an initrd\n'),
      });

      expect(ended).toEqual({ reason: 'exit', status: 85, text: 'colour=red\nan initrd\n' });
    });
  });

  describe('a bzImage', () => {
    const expected = { reason: 'exit', status: 85, text: 'colour=green\ninitrd\n' };
    const extras = { cmdline: 'colour=green', initrd: Buffer.from('initrd\n') };

    it('entered by its setup header runs from its 64-bit entry, 0x200 into the kernel', async () => {
      const kernel = Buffer.concat([Buffer.alloc(0x200, 0xf4), assemble(LINUX_CODE)]);

      const ended = await run(accel, { kernel: bzImage(kernel), protocol: 'bzimage', ...extras });

      expect(ended).toEqual(expected);
    });

    it('without a 64-bit entry is entered by its setup header in 32-bit mode', async () => {
      // boot.rst, 32-bit boot protocol: ESI points at boot_params.
      const image = bzImage(
        assemble(
          `.code32\nmov esp, 0x20000\n${LINUX_CODE.replaceAll('[r', '[e').replace('rbx, rsi', 'ebx, esi')}`,
        ),
      );
      image.writeUInt16LE(0, 0x236);

      const ended = await run(accel, { kernel: image, protocol: 'bzimage', ...extras });

      expect(ended).toEqual(expected);
    });

    it.each<[string, string, string[]]>([
      ['GZIP', 'gzip', ['-c']],
      ['XZ', 'xz', ['--check=crc32', '-c']],
      ['XZ with the x86 filter', 'xz', ['--check=crc32', '--x86', '--lzma2=,dict=1MiB', '-c']],
      ['ZSTD', 'zstd', ['-c', '-q']],
      ['LZ4', 'lz4', ['-l', '-c', '-q']],
    ])(
      'whose payload is %s is unpacked on the host and entered as the kernel in it',
      async (_, command, args) => {
        const vmlinux = await build({ source: LINUX64 });
        const packed = pipe(command, args, vmlinux);
        // All but GZIP, which has it already, are followed by the unpacked size (scripts/Makefile.lib, size_append).
        const size = Buffer.alloc(command === 'gzip' ? 0 : 4);
        if (size.length > 0) size.writeUInt32LE(vmlinux.length);
        const payload = Buffer.concat([packed, size]);
        const kernel = Buffer.concat([Buffer.alloc(0x400, 0xf4), payload]);

        const ended = await run(accel, {
          kernel: bzImage(kernel, { offset: 0x400, length: payload.length }),
          ...extras,
        });

        expect(ended).toEqual(expected);
      },
    );
  });

  describe('a vmlinux', () => {
    it('is entered in 64-bit mode with boot parameters', async () => {
      const kernel = await build({ source: LINUX64 });

      const ended = await run(accel, { kernel, cmdline: 'colour=green', initrd: Buffer.from('initrd\n') });

      expect(ended).toEqual({ reason: 'exit', status: 85, text: 'colour=green\ninitrd\n' });
    });
  });
});
