/** `tsvisor run` with real guests: how a run ends, and what is reported of it. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { hasAddon } from '../support/capabilities.ts';
import { ENGINES } from '../support/engines.ts';
import { file, runCli, scratch, startCli } from './support/cli.ts';
import { exit, FLOOD, HALT, kernelElf, print, print64, SPIN, TRIPLE_FAULT_64 } from './support/guests.ts';

describe.each(ENGINES)('on %s', (accel) => {
  /** The arguments that run machine code. */
  const flat = (code: readonly number[], ...more: string[]) => [
    ...['run', '--accel', accel, '--flat', file(code)],
    ...more,
  ];

  describe('how a run ends', () => {
    it.each([0, 1, 21, 127])('the exit device with %i gives (v << 1) | 1', async (value) => {
      const ended = await runCli(flat([...print('Hi\r\n'), ...exit(value)]));

      expect(ended).toMatchObject({ status: (value << 1) | 1, stdout: 'Hi\r\n' });
      expect(ended.stderr).toMatch(new RegExp(`^tsvisor: engine ${accel}: it was asked for\n`));
      expect(ended.stderr).toContain('the guest wrote its exit status');
    });

    it('a reset gives 0', async () => {
      const ended = await runCli(flat([0xb0, 0xfe, 0xe6, 0x64, ...HALT])); // mov al, 0xfe; out 0x64, al

      expect(ended.status).toBe(0);
      expect(ended.stderr).toContain('the guest asked for a reset');
    });

    it('a triple fault gives 6, the registers and what to look for', async () => {
      const ended = await runCli(flat(TRIPLE_FAULT_64, '--flat-mode', 'long64'));

      expect(ended.status).toBe(6);
      expect(ended.stderr).toMatch(/RIP=0000000000100000/);
      expect(ended.stderr).toMatch(/Code=0f 0b/);
      expect(ended.stderr).toMatch(/^tsvisor: TSV_E_GUEST_TRIPLE_FAULT: .+\n {2}\S/m);
    });

    it('--no-dump-registers leaves the registers out', async () => {
      const args = flat(TRIPLE_FAULT_64, '--flat-mode', 'long64', '--no-dump-registers');
      const ended = await runCli(args);

      expect(ended.status).toBe(6);
      expect(ended.stderr).not.toContain('RIP=');
    });

    it.each([
      ['spins with interrupts off', [0xfa, ...SPIN]],
      ['halts with interrupts off', HALT],
      ['floods the serial port', FLOOD],
    ])('the time limit gives 124 for a guest that %s', async (_, code) => {
      const ended = await runCli(flat(code, '--timeout', '0.3'));

      expect(ended.status).toBe(124);
      expect(ended.stderr).toContain('TSV_E_TIMEOUT: The guest did not end within 0.3 s.');
      expect(ended.stderr).toContain('RIP=');
    });

    it('an ELF kernel is entered in 64-bit mode', async () => {
      const ended = await runCli([
        'run',
        '--accel',
        accel,
        '--kernel',
        file(kernelElf([...print64('ELF'), ...exit(1)]), 'vmlinux'),
      ]);

      expect(ended).toMatchObject({ status: 3, stdout: 'ELF' });
    });

    it('two vCPUs end together', async () => {
      const ended = await runCli(flat([...print('two\n'), ...exit(2)], '--cpus', '2'));

      expect(ended).toMatchObject({ status: 5, stdout: 'two\n' });
    });

    it.runIf(hasAddon)('--pin says where the vCPUs run', async () => {
      const ended = await runCli(flat(exit(2), '--cpus', '2', '--pin', '0,0'));

      expect(ended.status).toBe(5);
    });
  });

  describe('signals', () => {
    it('SIGINT ends the machine cleanly with 130', async () => {
      const cli = startCli(flat([...print('up\n'), ...SPIN]));
      await cli.shows(/up/);

      cli.child.kill('SIGINT');

      expect(await cli.ended).toMatchObject({ status: 130, signal: null, stdout: 'up\n' });
      expect(cli.stderr).toContain('the machine was stopped');
    });

    it.each([
      ['SIGTERM', 143],
      ['SIGHUP', 129],
    ] as const)('%s ends the machine cleanly, and the process by the signal', async (signal, status) => {
      const cli = startCli(flat([...print('up\n'), ...SPIN]));
      await cli.shows(/up/);

      cli.child.kill(signal);

      expect(await cli.ended).toMatchObject({ status, signal });
      expect(cli.stderr).toContain('the machine was stopped');
    });

    it('a second SIGINT ends a run whose output nobody takes at once', async () => {
      const cli = startCli(flat(FLOOD));
      await cli.shows(/X/);
      cli.child.stdout?.pause();
      await cli.shows(/engine/, 'stderr');

      cli.child.kill('SIGINT');
      setTimeout(() => cli.child.kill('SIGINT'), 100);

      await new Promise((resolve) => cli.child.once('exit', resolve));
      expect(cli.child.signalCode === 'SIGINT' || cli.child.exitCode === 130).toBe(true);
      cli.child.stdout?.resume();
      await cli.ended;
    });
  });

  describe('--json', () => {
    it('puts one object on stdout and the console on stderr', async () => {
      const args = flat([...print('console\n'), ...exit(4)], '--json', '--name', 'test');
      const ended = await runCli(args);

      expect(ended.status).toBe(9);
      expect(ended.stderr).toContain('console\n');
      const report = JSON.parse(ended.stdout);
      expect(report).toMatchObject({
        name: 'test',
        reason: 'exit',
        status: 9,
        by: 'debug-exit',
        engine: { name: accel, why: 'it was asked for' },
        machine: { cpus: 1, memory: 128 * 2 ** 20 },
        stats: { assisted: 0, unclaimed: 0 },
      });
      // The tcg engine posts the console's bytes without an exit.
      expect(report.stats.exits.IO).toBeGreaterThanOrEqual(accel === 'kvm' ? 9 : 1);
      expect(report.timing.runMs).toBeGreaterThanOrEqual(0);
    });

    it('has the error and the registers of a run that ends badly', async () => {
      const ended = await runCli(flat(SPIN, '--json', '--timeout', '0.2'));

      expect(ended.status).toBe(124);
      const report = JSON.parse(ended.stdout);
      expect(report).toMatchObject({ reason: 'timeout', status: 124, error: { code: 'TSV_E_TIMEOUT' } });
      expect(report.error.hint).not.toBe('');
      expect(report.registers[0]).toMatchObject({ vcpu: 0, regs: { rip: '0x7c00' } });
      expect(report.registers[0].code).toMatch(/^ebfe/);
    });

    it('reports errors before the start in the same form', async () => {
      const ended = await runCli(['run', '--accel', accel, '--json', '--flat', '/nonexistent']);

      expect(ended.status).toBe(2);
      expect(JSON.parse(ended.stdout)).toMatchObject({
        reason: 'error',
        status: 2,
        error: { code: 'TSV_E_FILE' },
      });
    });

    it('reports Ctrl-C', async () => {
      const cli = startCli(flat([...print('up\n'), ...SPIN], '--json'));
      await cli.shows(/up/, 'stderr');

      cli.child.kill('SIGINT');

      const ended = await cli.ended;
      expect(ended.status).toBe(130);
      expect(JSON.parse(ended.stdout)).toMatchObject({ reason: 'stopped', status: 130 });
    });
  });

  describe('--trace', () => {
    it('lists exits and port accesses on stderr', async () => {
      const ended = await runCli(flat([...print('A'), ...exit(0)], '--trace', 'exits,io'));

      expect(ended.stderr).toMatch(/^vcpu0 exit IO$/m);
      expect(ended.stderr).toMatch(/^vcpu0 io write 0x3f8\/1 0x41$/m);
    });

    it('goes to a file when asked', async () => {
      const trace = join(scratch(), 'trace');
      const args = flat([...print('A'), ...exit(0)], '--trace', 'io', '--trace-file', trace);
      const ended = await runCli(args);

      expect(ended.stderr).not.toContain('vcpu0');
      expect(readFileSync(trace, 'utf8')).toMatch(/^vcpu0 io write 0x3f8\/1 0x41$/m);
    });
  });
});
