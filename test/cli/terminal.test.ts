/** `tsvisor run` on a real terminal. */
import { describe, expect, it } from 'vitest';
import { file, MAIN } from './support/cli.ts';
import { ECHO, exit, print, SPIN, TRIPLE_FAULT_64 } from './support/guests.ts';
import { OnTerminal } from './support/terminal.ts';

describe('the console on a terminal', () => {
  it('is in raw mode while the guest runs: every key reaches the guest, Ctrl-C too', async () => {
    const terminal = new OnTerminal(['run', '--flat', file([...print('up>'), ...ECHO])]);
    await terminal.isRaw();
    await terminal.shows(/up>/);

    terminal.type('a\x03\x1a\x1c\x11\x13b');
    await terminal.shows(/up>a\x03\x1a\x1c\x11\x13b/);
    terminal.type('\x04');

    expect(await terminal.ended()).toMatchObject({ status: 1, restored: true });
  });

  it('ends with Ctrl-A x and status 0', async () => {
    const terminal = new OnTerminal(['run', '--flat', file([...print('up'), ...SPIN])]);
    await terminal.shows(/up/);

    terminal.type('\x01x');

    expect(await terminal.ended()).toMatchObject({ status: 0, restored: true });
  });

  it('sends Ctrl-A with Ctrl-A a, shows keys with h and counters with s', async () => {
    const terminal = new OnTerminal(['run', '--flat', file([...print('up>'), ...ECHO])]);
    await terminal.shows(/up>/);

    terminal.type('\x01a');
    await terminal.shows(/up>\x01/);
    terminal.type('\x01h');
    await terminal.shows(/Ctrl-A x {2}end/);
    terminal.type('\x01s');
    await terminal.shows(/\d+ entries, \d+ instructions assisted/);
    terminal.type('\x01x');

    expect(await terminal.ended()).toMatchObject({ status: 0, restored: true });
  });

  it('sends a break with Ctrl-A b', async () => {
    // Waits for LSR.BI, then exits.
    const code = [0xba, 0xfd, 0x03, 0xec, 0xa8, 0x10, 0x74, 0xfb, ...exit(5)];
    const terminal = new OnTerminal(['run', '--flat', file([...print('up'), ...code])]);
    await terminal.shows(/up/);

    terminal.type('\x01b');

    expect(await terminal.ended()).toMatchObject({ status: 11, restored: true });
  });

  it('presses the power button with Ctrl-A p', async () => {
    // Waits for PWRBTN_STS (bit 8) of the ACPI PM1 status register at 0x600.
    const code = [0xba, 0x01, 0x06, 0xec, 0xa8, 0x01, 0x74, 0xfb, ...exit(6)];
    const terminal = new OnTerminal(['run', '--flat', file([...print('up'), ...code])]);
    await terminal.shows(/up/);

    terminal.type('\x01p');

    expect(await terminal.ended()).toMatchObject({ status: 13, restored: true });
  });
});

describe('the terminal is restored', () => {
  it.each([
    ['SIGTERM', 143],
    ['SIGINT', 130],
    ['SIGHUP', 129],
  ] as const)('after %s', async (signal, status) => {
    const terminal = new OnTerminal(['run', '--flat', file([...print('up'), ...SPIN])]);
    await terminal.isRaw();
    await terminal.shows(/up/);

    process.kill(await terminal.pid(), signal);

    expect(await terminal.ended()).toMatchObject({ status, restored: true });
  });

  it('after two signals at once', async () => {
    const terminal = new OnTerminal(['run', '--flat', file([...print('up'), ...SPIN])]);
    await terminal.isRaw();
    await terminal.shows(/up/);

    process.kill(await terminal.pid(), 'SIGINT');
    process.kill(await terminal.pid(), 'SIGTERM');

    expect((await terminal.ended()).restored).toBe(true);
  });

  it('while the process is stopped, and is raw again when it goes on', async () => {
    const terminal = new OnTerminal(['run', '--flat', file([...print('up>'), ...ECHO])]);
    await terminal.isRaw();
    await terminal.shows(/up>/);
    const pid = await terminal.pid();

    process.kill(pid, 'SIGTSTP');
    await expect.poll(() => terminal.modes, { timeout: 10_000 }).toEqual([true, false]);
    process.kill(pid, 'SIGCONT');
    await expect.poll(() => terminal.modes, { timeout: 10_000 }).toEqual([true, false, true]);
    terminal.type('x\x04');

    expect(await terminal.ended()).toMatchObject({ status: 1, restored: true });
    await terminal.shows(/up>x/);
  });

  it('after a guest that crashes', async () => {
    const terminal = new OnTerminal(['run', '--flat', file(TRIPLE_FAULT_64), '--flat-mode', 'long64']);

    expect(await terminal.ended()).toMatchObject({ status: 6, restored: true });
  });

  it('after the time limit', async () => {
    const terminal = new OnTerminal(['run', '--flat', file(SPIN), '--timeout', '0.5']);
    await terminal.isRaw();

    expect(await terminal.ended()).toMatchObject({ status: 124, restored: true });
  });

  it('after an error before the start', async () => {
    const terminal = new OnTerminal(['run', '--flat', '/nonexistent']);

    expect(await terminal.ended()).toMatchObject({ status: 2, restored: true });
  });

  it('after an exception that nobody caught', async () => {
    const crash = `data:text/javascript,setTimeout(()=>{throw new Error("boom")},1500)`;
    const command = [process.execPath, '--import', crash, MAIN];
    const terminal = new OnTerminal(['run', '--flat', file([...print('up'), ...SPIN])], command);
    await terminal.isRaw();

    const ended = await terminal.ended();

    expect(ended).toMatchObject({ status: 4, restored: true });
    expect(ended.screen).toContain('TSV_E_INTERNAL: boom');
  });
});

describe('a terminal that the console does not use', () => {
  it('stays in its mode, and Ctrl-C ends the machine with 130', async () => {
    const terminal = new OnTerminal(['run', '--flat', file([...print('up'), ...SPIN]), '--serial', 'none']);
    await terminal.shows(/engine \w+: /);

    terminal.type('\x03');

    expect(await terminal.ended()).toMatchObject({ status: 130, restored: true });
  });
});
