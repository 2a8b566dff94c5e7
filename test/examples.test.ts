import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';

const ROOT = join(import.meta.dirname, '..');
function run(name: string, env: NodeJS.ProcessEnv = {}): string {
  return execFileSync(process.execPath, ['scripts/example.mjs', name], {
    cwd: ROOT,
    encoding: 'utf8',
    env: { ...process.env, ...env },
  });
}

describe.each([
  ['the engine of this host', {}],
  ['nothing but Node', { TSVISOR_ADDON: '/nonexistent' }],
])('the examples with %s', (_, env) => {
  it('prints from a real-mode guest through a port device', () => {
    expect(run('hello-port', env)).toBe('Hello from real mode\nThe guest ended with halt.\n');
  });

  it('hands tickets to two vCPUs through an MMIO device', () => {
    // 1 + 2 + ... + 200
    expect(run('two-vcpus', env)).toBe('200 tickets, sum 20100\n');
  });
});

it('lets Linux read a disk that a TypeScript object makes up', () => {
  const output = run('custom-disk');
  expect(output).toMatch(/^This is sector 1234567\.\r\n/);
  expect(output).toMatch(/^The guest ended with poweroff\.\n$/m);
});

describe('the first example', () => {
  it('is the one that the README shows', () => {
    const readme = readFileSync(join(ROOT, 'README.md'), 'utf8');
    const example = readFileSync(join(ROOT, 'examples/hello-port.ts'), 'utf8');

    const shown = /```ts\n(import \{ type Device, Vm \}[\s\S]*?)```/.exec(readme)?.[1];

    expect(example).toContain(shown?.trim());
  });
});
