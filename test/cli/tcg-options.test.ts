/** What `tsvisor run` can do with the tcg engine alone, and with nothing around it. */
import { spawnSync } from 'node:child_process';
import { describe, expect, it } from 'vitest';
import { assemble, CODE16 } from '../support/assemble.ts';
import { file, MAIN, runCli } from './support/cli.ts';
import { exit, print } from './support/guests.ts';
import { canUnshare, WITHOUT_ADDON } from './support/hidden.ts';

const guest = (source: string) => file(assemble(CODE16 + source, 0x7c00));
const EXIT = 'mov al, 0; out 0xf4, al';

/** All vectors lead to address 0, from where zeros, which change nothing, lead back to the beginning: the end. */
const unlessBack = (source: string) => `test bx, bx; jnz 9f; inc bx; ${source}; 9: ${EXIT}`;

describe('--trace', () => {
  it.each([
    ['insn', `inc ax; ${EXIT}`, /^vcpu0 insn 0x7c00 40 inc rax=0x1$/m],
    ['block', `inc ax; ${EXIT}`, /^vcpu0 block 0x7c00$/m],
    ['exc', unlessBack('ud2'), /^vcpu0 exc #UD error 0x0 at 0x7c05$/m],
    // The keyboard answers to a reset.
    [
      'irq',
      unlessBack('mov al, 0xfd; out 0x21, al; sti; mov al, 0xff; out 0x60, al; 1: jmp 1b'),
      /^vcpu0 irq vector 0x1 at 0x7c/m,
    ],
  ])('shows %s', async (topic, source, line) => {
    const ended = await runCli(['run', '--flat', guest(source), '--trace', topic]);

    expect(ended.status).toBe(1);
    expect(ended.stderr).toMatch(/^tsvisor: engine tcg: /);
    expect(ended.stderr).toMatch(line);
  });
});

it('--clock virtual and --seed make a run repeat', async () => {
  const path = guest(`rdtsc; mov dx, 0x3f8; out dx, al; ${'rdrand ax; out dx, al; '.repeat(4)} ${EXIT}`);
  const run = (seed: string) =>
    runCli(['run', '--flat', path, '--cpu', 'host', '--clock', 'virtual', '--seed', seed]);

  const [first, second, other] = await Promise.all([run('7'), run('7'), run('8')]);

  expect([first.status, first.stdout.length]).toEqual([1, 5]);
  expect(second.stdout).toBe(first.stdout);
  expect(other.stdout).not.toBe(first.stdout);
});

it.runIf(canUnshare)('runs where the system has no files but those of Node', () => {
  const empty = (path: string) => `mount -t tmpfs none ${path}`;
  const devices = ['mknod -m 666 /dev/null c 1 3', 'mknod -m 666 /dev/urandom c 1 9'];
  const commands = [empty('/dev'), ...devices, empty('/sys'), empty('/proc'), 'exec "$@"'];
  const hidden = ['-m', 'sh', '-c', commands.join(' && '), 'sh'];
  const run = [process.execPath, MAIN, 'run', '--flat', file([...print('Hi\n'), ...exit(1)])];

  const { status, stdout } = spawnSync('unshare', [...hidden, ...run], {
    encoding: 'utf8',
    env: WITHOUT_ADDON,
  });

  expect({ status, stdout }).toEqual({ status: 3, stdout: 'Hi\n' });
});
