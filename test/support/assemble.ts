/** Assembles guest code with the host's binutils. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** The start of every real-mode guest. */
export const CODE16 = '.code16\n';

/**
 * Assembles GNU-as source (Intel syntax) to a flat binary.
 * @param origin address the code is linked to
 */
export function assemble(source: string, origin = 0): Uint8Array {
  const directory = mkdtempSync(join(tmpdir(), 'tsvisor-asm-'));
  try {
    const file = (name: string) => join(directory, name);
    writeFileSync(file('code.s'), `.intel_syntax noprefix\n.global _start\n_start:\n${source}\n`);
    execFileSync('as', ['--64', '-o', file('code.o'), file('code.s')], {
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    execFileSync(
      'ld',
      ['--oformat', 'binary', '-Ttext', `0x${origin.toString(16)}`, '-o', file('code.bin'), file('code.o')],
      {
        stdio: ['ignore', 'ignore', 'pipe'],
      },
    );
    return new Uint8Array(readFileSync(file('code.bin')));
  } finally {
    rmSync(directory, { recursive: true });
  }
}
