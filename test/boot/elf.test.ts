import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { parseElf, physicalEntry } from '../../src/boot/elf.ts';
import { elfNotes, pvhEntry } from '../../src/boot/elf-notes.ts';
import { elfSymbols } from '../../src/boot/elf-symbols.ts';
import { build, expectError, inTempDir } from './support.ts';

const CODE = `
.globl _start, helper
.text
.type _start, @function
_start: nop; hlt
.type helper, @function
helper: ret
.data
.type counter, @object
counter: .quad 42
.bss
.skip 5000
`;
const note = (size: number, entry: string): string => `
.section .note.Xen, "a", @note
.long 4, ${size}, 18
.asciz "Xen"
${entry}
`;
const SOURCE = CODE + note(4, '.long _start');

const HIGH_HALF_SOURCE = CODE + note(8, '.quad 0x200001');
const HIGH_HALF_SCRIPT = `
ENTRY(_start)
PHDRS { text PT_LOAD; data PT_LOAD; note PT_NOTE; }
SECTIONS {
  . = 0xffffffff80200000;
  .text : AT(ADDR(.text) - 0xffffffff80000000) { *(.text) } :text
  .note.Xen : AT(ADDR(.note.Xen) - 0xffffffff80000000) { *(.note.Xen) } :text :note
  . = ALIGN(4096);
  .data : AT(ADDR(.data) - 0xffffffff80000000) { *(.data) } :data
  .bss : AT(ADDR(.bss) - 0xffffffff80000000) { *(.bss) } :data
}`;

/** Offsets in ELF64 headers. */
const E_TYPE = 16;
const E_MACHINE = 18;
const E_ENTRY = 24;
const E_PHOFF = 32;
const E_PHENTSIZE = 54;
const E_PHNUM = 56;
const PH_OFFSET = 8;
const PH_PADDR = 24;
const PH_FILESZ = 32;
const PH_MEMSZ = 40;

let elf64: Buffer;
let elf32: Buffer;

beforeAll(async () => {
  elf64 = await build({ source: SOURCE });
  elf32 = await build({ source: SOURCE, bits: 32 });
});

/** A copy of the ELF64 file with one change. */
function changed(change: (copy: Buffer) => void): Buffer {
  const copy = Buffer.from(elf64);
  change(copy);
  return copy;
}

const phdr = (copy: Buffer): number => Number(copy.readBigUInt64LE(E_PHOFF));

describe('parseElf', () => {
  it.each([64, 32] as const)('reads the headers of ELF%i as readelf(1) does', async (bits) => {
    const bytes = bits === 64 ? elf64 : elf32;

    const elf = parseElf(bytes);

    const listing = await inTempDir((dir) => {
      writeFileSync(join(dir, 'a'), bytes);
      return execFileSync('readelf', ['-lW', join(dir, 'a')], { encoding: 'utf8' });
    });
    const rows = [...listing.matchAll(/^ {2}LOAD +(0x\S+) (0x\S+) (0x\S+) (0x\S+) (0x\S+)/gm)];
    expect(elf.bits).toBe(bits);
    expect(elf.entry).toBe(BigInt(/Entry point (0x\S+)/.exec(listing)![1]));
    expect(elf.loads.map((s) => [s.offset, Number(s.vaddr), s.paddr, s.filesz, s.memsz])).toEqual(
      rows.map((row) => row.slice(1, 6).map(Number)),
    );
    expect(elf.loads.length).toBeGreaterThan(0);
  });

  it('finds the PVH entry in the notes', () => {
    for (const bytes of [elf64, elf32]) {
      const elf = parseElf(bytes);
      expect([...elfNotes(elf)].map(({ name, type }) => [name, type])).toContainEqual(['Xen', 18]);
      expect(pvhEntry(elf)).toBe(0x100000n);
    }
  });

  it('translates a virtual entry point to its physical address', async () => {
    const elf = parseElf(await build({ source: HIGH_HALF_SOURCE, script: HIGH_HALF_SCRIPT }));

    expect(elf.entry).toBe(0xffffffff80200000n);
    expect(physicalEntry(elf)).toBe(0x200000);
    expect(pvhEntry(elf)).toBe(0x200001n);
  });

  it('names addresses, virtual and physical, and stays silent elsewhere', async () => {
    const lookup = elfSymbols(parseElf(await build({ source: HIGH_HALF_SOURCE, script: HIGH_HALF_SCRIPT })));

    expect(lookup(0xffffffff80200000n)).toBe('_start');
    expect(lookup(0xffffffff80200001n)).toBe('_start+0x1');
    expect(lookup(0x200002n)).toBe('helper');
    expect(lookup(0x1000n)).toBeUndefined();
    expect(lookup(0xfffffffffffffffen)).toBeUndefined();
  });

  it('has no symbols for a stripped file', async () => {
    const stripped = await inTempDir((dir) => {
      writeFileSync(join(dir, 'a'), elf64);
      execFileSync('strip', [join(dir, 'a')]);
      return readFileSync(join(dir, 'a'));
    });

    expect(elfSymbols(parseElf(stripped))(0x100000n)).toBeUndefined();
  });

  it.each([
    [183, /AArch64/],
    [243, /RISC-V/],
    [3, /x86 \(32-bit\)/],
    [4711, /machine 4711/],
  ])('refuses machine %i by name', async (machine, message) => {
    const bytes = changed((copy) => copy.writeUInt16LE(machine, E_MACHINE));

    await expectError(() => parseElf(bytes), 'TSV_E_KERNEL_ARCH', message);
  });

  it('refuses a big-endian file by name', async () => {
    const bytes = changed((copy) => {
      copy[5] = 2;
      copy.writeUInt16BE(22, E_MACHINE);
    });

    await expectError(() => parseElf(bytes), 'TSV_E_KERNEL_ARCH', /64-bit big-endian ELF file for S\/390/);
  });

  it.each<[string, (copy: Buffer) => void]>([
    ['an unknown class', (copy) => void copy.writeUInt8(3, 4)],
    ['an unknown data encoding', (copy) => void copy.writeUInt8(0, 5)],
    ['an unknown version', (copy) => void copy.writeUInt8(2, 6)],
    ['a relocatable object', (copy) => void copy.writeUInt16LE(1, E_TYPE)],
    ['a core dump', (copy) => void copy.writeUInt16LE(4, E_TYPE)],
    ['another type', (copy) => void copy.writeUInt16LE(0xfe00, E_TYPE)],
    ['no program headers', (copy) => void copy.writeUInt16LE(0, E_PHNUM)],
    ['too many program headers', (copy) => void copy.writeUInt16LE(0xffff, E_PHNUM)],
    ['program headers of another size', (copy) => void copy.writeUInt16LE(32, E_PHENTSIZE)],
    ['a program header offset of 2^64-1', (copy) => void copy.fill(0xff, E_PHOFF, E_PHOFF + 8)],
    ['nothing to load', (copy) => void copy.writeUInt32LE(6, phdr(copy))],
    ['p_filesz > p_memsz', (copy) => void copy.writeBigUInt64LE(1n, phdr(copy) + PH_MEMSZ)],
    ['a p_paddr of 2^64-1', (copy) => void copy.fill(0xff, phdr(copy) + PH_PADDR, phdr(copy) + PH_PADDR + 8)],
    ['a p_memsz of 2^64-1', (copy) => void copy.fill(0xff, phdr(copy) + PH_MEMSZ, phdr(copy) + PH_MEMSZ + 8)],
    ['a p_memsz of 2^53-1', (copy) => void copy.writeBigUInt64LE(2n ** 53n - 1n, phdr(copy) + PH_MEMSZ)],
  ])('refuses %s', async (_, change) => {
    await expectError(() => parseElf(changed(change)), 'TSV_E_KERNEL_FORMAT');
  });

  it('refuses segments beyond the end of the file', async () => {
    const offset = changed((copy) => copy.writeBigUInt64LE(1n << 40n, phdr(copy) + PH_OFFSET));
    const size = changed((copy) => {
      copy.writeBigUInt64LE(1n << 40n, phdr(copy) + PH_FILESZ);
      copy.writeBigUInt64LE(1n << 40n, phdr(copy) + PH_MEMSZ);
    });

    await expectError(() => parseElf(offset), 'TSV_E_KERNEL_TRUNCATED', /segment 0/);
    await expectError(() => parseElf(size), 'TSV_E_KERNEL_TRUNCATED', /segment 0/);
  });

  it('refuses an entry point outside every segment', async () => {
    const elf = parseElf(changed((copy) => copy.writeBigUInt64LE(0x5000n, E_ENTRY)));

    await expectError(() => physicalEntry(elf), 'TSV_E_KERNEL_FORMAT', /entry point 0x5000/);
  });

  it('refuses segments that overlap each other', async () => {
    const bytes = await build({ source: HIGH_HALF_SOURCE, script: HIGH_HALF_SCRIPT });
    const first = bytes.readBigUInt64LE(phdr(bytes) + PH_PADDR);
    bytes.writeBigUInt64LE(first, phdr(bytes) + 56 + PH_PADDR);

    await expectError(() => parseElf(bytes), 'TSV_E_KERNEL_LAYOUT', /overlap/);
  });

  it('refuses a file cut anywhere in its headers or segments', async () => {
    const elf = parseElf(elf64);
    const end = Math.max(...elf.loads.map(({ offset, filesz }) => offset + filesz));

    for (let cut = 4; cut < end; cut += cut < 300 ? 1 : 97) {
      await expectError(() => parseElf(elf64.subarray(0, cut)), 'TSV_E_KERNEL_TRUNCATED');
    }
    await expectError(() => parseElf(elf64.subarray(0, 3)), 'TSV_E_KERNEL_FORMAT');
  });

  it("refuses the host's own programs", async () => {
    await expectError(() => parseElf(readFileSync(process.execPath)), 'TSV_E_KERNEL_FORMAT', /program/);
  });
});
