/** `tsvisor demo` around a small kernel; booting a real one has a test of its own. */
import { describe, expect, it } from 'vitest';
import { ENGINES } from '../support/engines.ts';
import { runCli, scratch } from './support/cli.ts';
import { exit, FAKE_SHELL, kernelElf, print64, SPIN } from './support/guests.ts';
import { cacheBusybox, cacheKernel } from './support/kernels.ts';
import { OnTerminal } from './support/terminal.ts';

function cacheWith(code: readonly number[]): string {
  const cache = scratch();
  cacheKernel(cache, kernelElf(code));
  cacheBusybox(cache);
  return cache;
}

describe('demo', () => {
  it.each(ENGINES)('boots what is cached on %s and ends as the guest does', async (accel) => {
    const cache = cacheWith([...print64('hello\n'), ...exit(3)]);
    const ended = await runCli(['demo', '--cache-dir', cache, '--accel', accel]);

    expect(ended).toMatchObject({ status: 7, stdout: 'hello\n' });
    expect(ended.stderr).toContain('booting Linux 1-test');
    expect(ended.stderr).toContain(`tsvisor: engine ${accel}: it was asked for\n`);
  });

  it('ends with Ctrl-C while the guest boots', async () => {
    const terminal = new OnTerminal(['demo', '--cache-dir', cacheWith([...print64('booting\n'), ...SPIN])]);
    await terminal.isRaw();
    await terminal.shows(/booting\r/);

    terminal.type('\x03');

    expect(await terminal.ended()).toMatchObject({ status: 130, restored: true });
  });

  it('gives Ctrl-C to the guest once there is a prompt', async () => {
    const terminal = new OnTerminal(['demo', '--cache-dir', cacheWith(FAKE_SHELL)]);
    await terminal.shows(/\/ # /);

    terminal.type('a\x03b');
    await terminal.shows(/a\x03b/);
    terminal.type('\x04');

    expect(await terminal.ended()).toMatchObject({ status: 1, restored: true });
  });

  it('ends with the time limit', async () => {
    const ended = await runCli(['demo', '--cache-dir', cacheWith(SPIN), '--timeout', '0.5']);

    expect(ended.status).toBe(124);
  });
});
