/** What tests of disk images share. */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { build } from 'rolldown';
import { afterAll } from 'vitest';
import type { BlockBackend } from '../../src/storage/backend.ts';

/** A folder that goes away with the test file. */
export function testFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'tsvisor-disk-'));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** Runs qemu-img (Debian: qemu-utils). @throws when it is missing or fails */
export function qemuImg(...args: string[]): string {
  return execFileSync('qemu-img', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
}

/** Runs qemu-io's commands on an image. @throws when one fails */
export function qemuIo(path: string, ...commands: string[]): string {
  const args = commands.flatMap((command) => ['-c', command]);
  const output = execFileSync('qemu-io', ['-f', 'qcow2', ...args, path], { encoding: 'utf8' });
  if (/failed|error/i.test(output)) throw new Error(output);
  return output;
}

/** What `qemu-img check` says of an image. @throws when it finds corruptions, or cannot check */
export function qemuCheck(path: string): { leaks: number; allocated: number } {
  const { status, stdout, stderr, error } = spawnSync(
    'qemu-img',
    ['check', '-f', 'qcow2', '--output=json', path],
    { encoding: 'utf8' },
  );
  // 3: leaks and nothing worse.
  if (status !== 0 && status !== 3) throw error ?? new Error(`${stderr}${stdout}`);
  const report = JSON.parse(stdout) as Record<string, number>;
  return { leaks: report.leaks ?? 0, allocated: report['allocated-clusters'] ?? 0 };
}

/** The whole content of a disk. */
export async function content(disk: BlockBackend): Promise<Buffer> {
  const bytes = Buffer.alloc(disk.size);
  await disk.read(0, [bytes]);
  return bytes;
}

/** Bytes that tell where they are: never zero, different for each seed. */
export function pattern(length: number, seed: number): Buffer {
  const bytes = Buffer.alloc(length);
  let state = (seed * 2654435761 + 1) >>> 0;
  for (let i = 0; i < length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    bytes[i] = (state >>> 24) | 1;
  }
  return bytes;
}

/** Makes a program from a TypeScript file beside this one, for processes of their own. @returns its path */
export async function bundle(name: string, folder: string): Promise<string> {
  const program = join(folder, `${name}.mjs`);
  await build({
    input: join(import.meta.dirname, `${name}.ts`),
    platform: 'node',
    output: { file: program, format: 'esm' },
    logLevel: 'silent',
  });
  return program;
}
