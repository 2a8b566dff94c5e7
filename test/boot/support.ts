/** Guest memory and small kernels for the tests of src/boot. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'vitest';
import type { TsvErrorCode } from '../../src/errors.ts';
import { TsvError } from '../../src/errors.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import type { E820Entry } from '../../src/memory/layout.ts';
import { buildE820, planRam } from '../../src/memory/layout.ts';

export const MIB = 1 << 20;

/** A machine's memory of `size` bytes (up to 2 GiB), with its e820 map. */
export function machine(size = 64 * MIB): { memory: GuestMemory; e820: E820Entry[] } {
  const pages = Math.ceil(size / 65536);
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
  const regions = planRam(size).map((range) => ({ ...range, memory: 0, offset: 0 }));
  return { memory: new GuestMemory({ memories: [memory], regions }), e820: buildE820(regions) };
}

/** Runs `body` in an empty directory that is removed afterwards. */
export async function inTempDir<T>(body: (dir: string) => T | Promise<T>): Promise<T> {
  const dir = mkdtempSync(join(tmpdir(), 'tsvisor-boot-'));
  try {
    return await body(dir);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

/** What {@link build} makes. */
export interface BuildOptions {
  /** GNU assembler source. */
  source: string;
  /** Linker script; default: everything from 1 MiB on. */
  script?: string;
  /** Emulation of the linker, default 64-bit. */
  bits?: 32 | 64;
}

const DEFAULT_SCRIPT = `
ENTRY(_start)
SECTIONS {
  . = 0x100000;
  .text : { *(.multiboot) *(.text*) }
  .data : { *(.data*) *(.rodata*) }
  .bss : { *(.bss*) }
}`;

/** Assembles and links an ELF executable with the host's binutils. */
export async function build({ source, script = DEFAULT_SCRIPT, bits = 64 }: BuildOptions): Promise<Buffer> {
  return inTempDir((dir) => {
    const file = (name: string): string => join(dir, name);
    writeFileSync(file('a.s'), `${source}\n.section .note.GNU-stack,"",@progbits\n`);
    writeFileSync(file('a.ld'), script);
    const run = (command: string, args: string[]): Buffer => execFileSync(command, args, { stdio: 'pipe' });
    run('as', [`--${bits}`, '-o', file('a.o'), file('a.s')]);
    const emulation = bits === 64 ? 'elf_x86_64' : 'elf_i386';
    run('ld', ['-m', emulation, '-n', '--build-id=none', '-T', file('a.ld'), '-o', file('a'), file('a.o')]);
    return readFileSync(file('a'));
  });
}

/** Pipes data through a command of the host. */
export function pipe(command: string, args: readonly string[], input: Uint8Array): Buffer {
  return execFileSync(command, args, { input, maxBuffer: 1 << 30, stdio: ['pipe', 'pipe', 'pipe'] });
}

/** Expects a TsvError of a code with a hint. */
export async function expectError(
  action: () => unknown,
  code: TsvErrorCode,
  message?: RegExp,
): Promise<TsvError> {
  const error = await Promise.resolve()
    .then(action)
    .then(
      () => undefined,
      (reason: unknown) => reason,
    );
  expect(error).toBeInstanceOf(TsvError);
  const found = error as TsvError;
  expect({ code: found.code, message: found.message }).toMatchObject({ code });
  if (message !== undefined) expect(found.message).toMatch(message);
  expect(found.hint).not.toBe('');
  return found;
}
