import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

const ROOT = join(import.meta.dirname, '..');
let copy: string;

beforeEach(() => {
  copy = mkdtempSync(join(tmpdir(), 'tsvisor-install-'));
  for (const name of ['package.json', 'binding.gyp', 'native', 'scripts']) {
    cpSync(join(ROOT, name), join(copy, name), { recursive: true });
  }
  symlinkSync(join(ROOT, 'node_modules'), join(copy, 'node_modules'));
});

afterEach(() => rmSync(copy, { recursive: true }));

describe('installing', () => {
  it('succeeds without a compiler and keeps the reason', () => {
    const empty = join(copy, 'empty');
    mkdirSync(empty);

    const { status, stderr } = spawnSync(process.execPath, ['scripts/install.mjs'], {
      cwd: copy,
      encoding: 'utf8',
      env: { ...process.env, PATH: empty },
    });

    expect(status).toBe(0);
    expect(stderr).toContain('the native addon was not built');
    expect(readFileSync(join(copy, 'build/addon-missing.txt'), 'utf8')).not.toBe('');
    expect(existsSync(join(copy, 'build/Release/tsvisor.node'))).toBe(false);
  });

  it('builds the addon where there is one', () => {
    const { status } = spawnSync(process.execPath, ['scripts/install.mjs'], { cwd: copy, encoding: 'utf8' });

    expect(status).toBe(0);
    expect(existsSync(join(copy, 'build/addon-missing.txt'))).toBe(false);
    expect(existsSync(join(copy, 'build/Release/tsvisor.node'))).toBe(true);
  }, 120_000);
});
