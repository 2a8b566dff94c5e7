/** The names of x87 instructions, against objdump. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { describeInstruction } from '../../../src/vcpu/assist/describe.ts';

/** Every opcode with every register form, and with every memory form of one addressing mode, padded to 16 bytes. */
const CODES = Array.from({ length: 8 }, (_, i) => 0xd8 + i).flatMap((opcode) => [
  ...Array.from({ length: 8 }, (_, reg) => [opcode, reg << 3]),
  ...Array.from({ length: 64 }, (_, modrm) => [opcode, 0xc0 | modrm]),
]);

/** What objdump calls each, without operands; undefined for what is none, or was one on the 8087 only. */
function disassemble(): (string | undefined)[] {
  const folder = mkdtempSync(join(tmpdir(), 'tsvisor-x87-'));
  try {
    const file = join(folder, 'code');
    writeFileSync(file, Buffer.concat(CODES.map((code) => Buffer.from([...code, ...Array(14).fill(0x90)]))));
    const options = ['-D', '-b', 'binary', '-m', 'i386:x86-64', '-M', 'intel', '--no-show-raw-insn', '-w'];
    const text = execFileSync('objdump', [...options, file], { encoding: 'utf8' });
    const names = new Map(
      [...text.matchAll(/^\s*([\da-f]+):\s+(\S+)/gm)].map(([, at, name]) => [Number.parseInt(at, 16), name]),
    );
    return CODES.map((_, i) => names.get(i * 16)).map((name) => (name?.includes('(') ? undefined : name));
  } finally {
    rmSync(folder, { recursive: true });
  }
}

test('they are what objdump says, for all that it knows', () => {
  const expected = disassemble();
  const found = CODES.map((code) => describeInstruction(Uint8Array.from([...code, 0x90]), 64));

  const known = expected.flatMap((name, i) => (name === undefined ? [] : [[CODES[i], name, found[i]]]));
  expect(known.length).toBeGreaterThan(350);
  expect(known.filter(([, name, ours]) => name !== ours)).toEqual([]);
});
