/** Which engine `tsvisor run` chooses, what it says about it, and what it can do with nothing but Node. */
import { spawnSync } from 'node:child_process';
import { describe, expect, it } from 'vitest';
import { probeKvm } from '../../src/index.ts';
import { hasAddon } from '../support/capabilities.ts';
import { ENGINES } from '../support/engines.ts';
import { type Ended, file, MAIN, runCli, startCli } from './support/cli.ts';
import { ECHO, exit, FLOOD, print, SPIN } from './support/guests.ts';
import { canUnshare, WITHOUT_ADDON, WITHOUT_KVM } from './support/hidden.ts';

const hasKvm = ENGINES.includes('kvm');
const HELLO = [...print('Hi\n'), ...exit(1)];

/** The one line that names the engine. */
const ENGINE = /^tsvisor: engine (kvm|tcg): (.+)\n/;

function run(code: readonly number[], options: readonly string[], env = process.env): Promise<Ended> {
  return runCli(['run', '--flat', file(code), ...options], '', { env });
}

describe('--accel auto', () => {
  it('takes KVM where it runs on the processor, else tcg, and says why in one line', async () => {
    const ended = await run(HELLO, []);

    expect(ended).toMatchObject({ status: 3, stdout: 'Hi\n' });
    const [, engine, why] = ENGINE.exec(ended.stderr) ?? [];
    expect(engine).toBe(hasKvm && !probeKvm().software ? 'kvm' : 'tcg');
    expect(why).toMatch(
      hasKvm ? /\/dev\/kvm can be used|emulates kernel code, at [\d.]+ million/ : /cannot be used/,
    );
  });

  it('is the default', async () => {
    const [ended, asked] = await Promise.all([run(HELLO, []), run(HELLO, ['--accel', 'auto'])]);

    expect(ENGINE.exec(asked.stderr)?.[1]).toBe(ENGINE.exec(ended.stderr)?.[1]);
  });

  it('takes tcg without the addon, and names what is missing', async () => {
    const ended = await run(HELLO, [], WITHOUT_ADDON);

    expect(ended).toMatchObject({ status: 3, stdout: 'Hi\n' });
    expect(ended.stderr).toMatch(/^tsvisor: engine tcg: KVM cannot be used: The native addon is missing/);
  });

  it.runIf(canUnshare)('takes tcg without /dev/kvm, and names what is missing', () => {
    const [command, ...args] = [...WITHOUT_KVM, process.execPath, MAIN, 'run', '--flat', file(HELLO)];
    const { status, stdout, stderr } = spawnSync(command, args, { encoding: 'utf8' });

    expect({ status, stdout }).toEqual({ status: 3, stdout: 'Hi\n' });
    expect(stderr).toMatch(
      hasAddon
        ? /^tsvisor: engine tcg: KVM cannot be used: .*\/dev\/kvm/
        : /^tsvisor: engine tcg: KVM cannot/,
    );
  });

  it('takes tcg for what only tcg can do', async () => {
    const ended = await run(HELLO, ['--clock', 'virtual']);

    expect(ended).toMatchObject({ status: 3, stdout: 'Hi\n' });
    expect(ended.stderr).toMatch(/^tsvisor: engine tcg: only it has a virtual clock\n/);
  });
});

describe('--accel kvm', () => {
  it('is refused without the addon: nothing else is taken instead', async () => {
    const ended = await run(HELLO, ['--accel', 'kvm'], WITHOUT_ADDON);

    expect(ended).toMatchObject({ status: 4, stdout: '' });
    expect(ended.stderr).toMatch(/^tsvisor: TSV_E_ADDON_MISSING: .+\n {2}\S/m);
  });

  it.runIf(canUnshare)('is refused without /dev/kvm', () => {
    const run = ['run', '--accel', 'kvm', '--flat', file(HELLO)];
    const [command, ...args] = [...WITHOUT_KVM, process.execPath, MAIN, ...run];
    const { status, stderr } = spawnSync(command, args, { encoding: 'utf8' });

    expect(status).toBe(4);
    expect(stderr).toMatch(hasKvm ? /^tsvisor: TSV_E_KVM_MISSING: .+\n {2}\S/m : /^tsvisor: TSV_E_/m);
  });
});

describe('--accel tcg', () => {
  it.each([
    ['more vCPUs than it can have', ['--cpus', '65'], 'TSV_E_CPU_COUNT'],
    ['more memory than it can have', ['--memory', '5G'], 'TSV_E_MEMORY_SIZE'],
    ['a CPU feature that it does not have', ['--cpu', 'x86-64-v1,+amx_tile'], 'TSV_E_CPU_MODEL'],
  ])('refuses %s', async (_, options, code) => {
    const ended = await run(HELLO, ['--accel', 'tcg', ...options]);

    expect(ended.status).toBe(2);
    expect(ended.stderr).toMatch(new RegExp(`^tsvisor: ${code}: .+\\n {2}\\S`, 'm'));
  });
});

describe('with nothing but Node', () => {
  const start = (code: readonly number[], ...more: string[]) =>
    startCli(['run', '--flat', file(code), ...more], { env: WITHOUT_ADDON });

  it('input and output pass', async () => {
    const cli = start(ECHO);
    cli.child.stdin?.end(`${'The quick brown fox. '.repeat(50)}\x04`);

    expect(await cli.ended).toMatchObject({ status: 1, stdout: 'The quick brown fox. '.repeat(50) });
  });

  it.each([
    ['spins with interrupts off', [0xfa, ...SPIN]],
    ['sleeps', [0xfa, 0xf4]],
    ['floods the serial port', FLOOD],
  ])('the time limit ends a guest that %s', async (_, code) => {
    const ended = await start(code, '--timeout', '0.3').ended;

    expect(ended.status).toBe(124);
    expect(ended.stderr).toContain('RIP=');
  });

  it('signals end a machine of two vCPUs', async () => {
    const cli = start([...print('up\n'), ...SPIN], '--cpus', '2');
    await cli.shows(/up/);

    cli.child.kill('SIGINT');

    expect(await cli.ended).toMatchObject({ status: 130, signal: null, stdout: 'up\n' });
  });

  it.each([
    ['pinning', ['--pin', '0']],
    ['memory of a file', ['--mem-backend', 'memfd']],
  ])('%s, which needs the addon, is refused by its name', async (_, options) => {
    const ended = await start(HELLO, ...options).ended;

    expect(ended.status).toBe(4);
    expect(ended.stderr).toMatch(/^tsvisor: TSV_E_ADDON_MISSING: .+\n {2}\S/m);
  });
});
