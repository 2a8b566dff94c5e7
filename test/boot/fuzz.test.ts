/** Damaged kernels: whatever is in them, loading ends with a result or a TsvError, and stays inside guest RAM. */
import fc from 'fast-check';
import { beforeAll, describe, expect, it } from 'vitest';
import type { BootProtocol } from '../../src/boot/boot-types.ts';
import { loadKernel } from '../../src/boot/image.ts';
import { TsvError } from '../../src/errors.ts';
import { build, MIB, machine, pipe } from './support.ts';

const SOURCE = `
.set FLAGS, 0x10003
.section .multiboot, "a"
.align 4
header: .long 0x1badb002, FLAGS, -(0x1badb002 + FLAGS), header, 0x100000, 0, 0, _start
.text
.globl _start
_start: hlt
.ascii "Linux version 6.1.0 (x)"
.bss
.skip 5000
.section .note.Xen, "a", @note
.long 4, 4, 18
.asciz "Xen"
.long 0x100000
`;
const PROTOCOLS: readonly (BootProtocol | 'auto')[] = ['auto', 'linux64', 'bzimage', 'pvh', 'multiboot'];
/** Numbers that break arithmetic sooner than random ones. */
const EVIL = fc.constantFrom(0, 1, 0x7f, 0x80, 0xff, 0xfe);

let samples: Buffer[];
const { memory, e820 } = machine(8 * MIB);

beforeAll(async () => {
  const elf64 = await build({ source: SOURCE });
  const elf32 = await build({ source: SOURCE, bits: 32 });
  samples = [elf64, elf32, bzImage(elf64), pipe('gzip', ['-c'], elf32), bzImage(elf32)];
});

/** A small but complete bzImage around a vmlinux. */
function bzImage(vmlinux: Buffer): Buffer {
  const size = Buffer.alloc(4);
  size.writeUInt32LE(vmlinux.length);
  const payload = Buffer.concat([pipe('lz4', ['-l', '-c', '-'], vmlinux), size]);
  const setup = Buffer.alloc(1024);
  setup[0x1f1] = 1;
  setup.writeUInt32LE(Math.ceil((0x400 + payload.length) / 16), 0x1f4);
  setup.writeUInt16LE(0xaa55, 0x1fe);
  setup.set([0xeb, 0x6a], 0x200);
  setup.write('HdrS', 0x202);
  setup.writeUInt16LE(0x20f, 0x206);
  setup[0x211] = 1;
  setup.writeUInt32LE(0x7fffffff, 0x22c);
  setup.writeUInt32LE(0x1000, 0x230);
  setup[0x234] = 1;
  setup[0x236] = 1;
  setup.writeUInt32LE(255, 0x238);
  setup.writeUInt32LE(0x400, 0x248);
  setup.writeUInt32LE(payload.length, 0x24c);
  setup.writeBigUInt64LE(0x200000n, 0x258);
  setup.writeUInt32LE(0x100000, 0x260);
  return Buffer.concat([setup, Buffer.alloc(0x400), payload, Buffer.alloc(16)]);
}

/** Loads and demands a sane outcome. */
async function attempt(kernel: Uint8Array, protocol: BootProtocol | 'auto'): Promise<void> {
  try {
    const result = await loadKernel({
      kernel,
      protocol,
      memory,
      e820,
      initrd: Buffer.from('initrd'),
      cmdline: 'x',
    });
    expect(result.entry).toBeLessThan(2 ** 32);
    for (const { gpa, size } of result.loaded) expect(memory.contains(gpa, size)).toBe(true);
    result.symbols(BigInt(result.entry));
  } catch (error) {
    if (!(error instanceof TsvError)) throw error;
    expect(error.message).not.toMatch(/NaN|undefined|\[object/);
    expect(error.hint).not.toBe('');
  }
}

describe('damaged kernels', () => {
  it('are loaded undamaged, to begin with', async () => {
    const protocols = [];
    for (const kernel of samples) {
      protocols.push((await loadKernel({ kernel, memory, e820 })).protocol);
    }

    expect(protocols).toEqual(['linux64', 'multiboot', 'linux64', 'multiboot', 'bzimage']);
  });

  it('end in a result or a TsvError when bytes are changed anywhere', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.nat(4),
        fc.array(fc.tuple(fc.double({ min: 0, max: 0.999, noNaN: true }), fc.oneof(EVIL, fc.nat(255))), {
          minLength: 1,
          maxLength: 12,
        }),
        fc.constantFrom(...PROTOCOLS),
        async (index, changes, protocol) => {
          const kernel = Buffer.from(samples[index]);
          for (const [where, value] of changes) kernel[Math.floor(where * kernel.length)] = value;
          await attempt(kernel, protocol);
        },
      ),
      { numRuns: 1500 },
    );
  });

  it('end so too when header fields are changed', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.nat(4),
        fc.array(
          fc.tuple(
            fc.nat(0x1ff),
            fc.oneof(fc.constantFrom(0, 1, 0xffff, 0xffffffff, 0x7fffffff, 0x80000000), fc.nat(0xffffffff)),
          ),
          { minLength: 1, maxLength: 4 },
        ),
        fc.constantFrom(...PROTOCOLS),
        async (index, changes, protocol) => {
          const kernel = Buffer.from(samples[index]);
          const base = kernel[0x1fe] === 0x55 && kernel[0x1ff] === 0xaa ? 0x1f1 : 0;
          for (const [at, value] of changes) {
            if (base + at + 4 <= kernel.length) kernel.writeUInt32LE(value, base + at);
          }
          await attempt(kernel, protocol);
        },
      ),
      { numRuns: 1500 },
    );
  });

  it('end so too when they are cut anywhere', async () => {
    for (const sample of samples) {
      for (let cut = 1; cut < sample.length; cut += cut < 700 ? 7 : 101) {
        await attempt(sample.subarray(0, cut), 'auto');
      }
    }
  });

  it('end so too when they are nothing but noise behind a magic number', async () => {
    const magics = [
      '\x7fELF\x02\x01\x01',
      '\x7fELF\x01\x01\x01',
      '\x1f\x8b',
      '\xfd7zXZ\0',
      '\x02\x21\x4c\x18',
      '\x28\xb5\x2f\xfd',
      '\x5d\0\0',
      'MZ',
    ];
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...magics),
        fc.uint8Array({ maxLength: 2000 }),
        fc.constantFrom(...PROTOCOLS),
        (magic, noise, protocol) => attempt(Buffer.concat([Buffer.from(magic, 'latin1'), noise]), protocol),
      ),
      { numRuns: 500 },
    );
  });
});
