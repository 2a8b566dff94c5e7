import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';

const LOADER = new URL('../../dist/kvm/native.js', import.meta.url).href;

/** What the loader says of an addon, in a process of its own: it remembers the first. */
function problem(addon: string): { code: string; message: string; hint: string } {
  const script = `import { nativeProblem } from '${LOADER}'; const { code, message, hint } = nativeProblem();
    console.log(JSON.stringify({ code, message, hint }));`;
  const env = { ...process.env, TSVISOR_ADDON: addon };
  return JSON.parse(
    execFileSync(process.execPath, ['--input-type=module', '-e', script], { env, encoding: 'utf8' }),
  );
}

it('names every place it looked at when the addon is missing', () => {
  expect(problem('/nonexistent/tsvisor.node')).toMatchObject({
    code: 'TSV_E_ADDON_MISSING',
    message: expect.stringContaining('/nonexistent/tsvisor.node (not there)'),
    hint: expect.stringContaining('rebuild'),
  });
});

it('refuses a file that is no addon, and an addon of another version', () => {
  const directory = mkdtempSync(join(tmpdir(), 'tsvisor-addon-'));
  try {
    writeFileSync(join(directory, 'text.node'), 'no addon');
    writeFileSync(join(directory, 'old.cjs'), 'module.exports = { version: 1 };');

    expect(problem(join(directory, 'text.node')).code).toBe('TSV_E_ADDON_MISSING');
    expect(problem(join(directory, 'old.cjs')).message).toContain('version 1, not');
  } finally {
    rmSync(directory, { recursive: true });
  }
});
