/** What `tsvisor` says about arguments and files that are wrong. */
import { spawnSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { file, MAIN, runCli, scratch } from './support/cli.ts';
import { exit, kernelElf, SPIN } from './support/guests.ts';

describe('bad input', () => {
  const spin = () => file(SPIN);
  const folder = () => {
    const path = join(scratch(), 'folder');
    mkdirSync(path);
    return path;
  };
  const cases: [string, () => string[], number, string][] = [
    ['an option that does not exist', () => ['run', '--kernle', 'x'], 2, 'Did you mean --kernel?'],
    ['a word that is nothing', () => ['run', '--flat', spin(), 'more'], 2, '"more"'],
    ['a command that does not exist', () => ['dokter'], 2, 'Did you mean "doctor"?'],
    ['no command', () => [], 2, 'A command is missing'],
    ['an option without its value', () => ['run', '--kernel'], 2, 'TSV_E_USAGE'],
    ['nothing to boot', () => ['run'], 2, 'There is nothing to boot'],
    ['two things to boot', () => ['run', '--kernel', 'x', '--flat', 'y'], 2, 'exclude each other'],
    [
      'an initrd for machine code',
      () => ['run', '--flat', spin(), '--initrd', 'x'],
      2,
      '--initrd has no meaning',
    ],
    ['a kernel that is not there', () => ['run', '--kernel', '/nonexistent'], 2, 'TSV_E_FILE'],
    ['a directory as kernel', () => ['run', '--kernel', folder()], 2, 'TSV_E_FILE'],
    ['an empty kernel', () => ['run', '--kernel', file([])], 2, 'TSV_E_FILE'],
    ['a text as kernel', () => ['run', '--kernel', file('#!/bin/sh\n')], 2, 'TSV_E_KERNEL_FORMAT'],
    [
      'a kernel cut off',
      () => ['run', '--kernel', file([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1])],
      2,
      'TSV_E_KERNEL_TRUNCATED',
    ],
    [
      'an initrd that is not there',
      () => ['run', '--kernel', MAIN, '--initrd', '/nonexistent'],
      2,
      'TSV_E_FILE',
    ],
    ['0 CPUs', () => ['run', '--flat', spin(), '--cpus', '0'], 2, 'TSV_E_CPU_COUNT'],
    ['a million CPUs', () => ['run', '--flat', spin(), '--cpus', '1e6'], 2, 'TSV_E_CPU_COUNT'],
    ['one and a half CPUs', () => ['run', '--flat', spin(), '--cpus', '1.5'], 2, 'TSV_E_CPU_COUNT'],
    [
      'CPUs in words',
      () => ['run', '--flat', spin(), '--cpus', 'two'],
      2,
      '--cpus wants a number, not "two"',
    ],
    ['no memory', () => ['run', '--flat', spin(), '--memory', '0'], 2, 'TSV_E_MEMORY_SIZE'],
    ['negative memory', () => ['run', '--flat', spin(), '--memory', '-5'], 2, 'TSV_E_MEMORY_SIZE'],
    ['3 bytes of memory', () => ['run', '--flat', spin(), '--memory', '3B'], 2, 'TSV_E_MEMORY_SIZE'],
    ['10 TB of memory', () => ['run', '--flat', spin(), '--memory', '10T'], 2, 'TSV_E_MEMORY_SIZE'],
    ['an unknown CPU model', () => ['run', '--flat', spin(), '--cpu', 'x86-64-v9'], 2, 'TSV_E_CPU_MODEL'],
    ['an unknown CPU feature', () => ['run', '--flat', spin(), '--cpu', 'host,+warp'], 2, 'TSV_E_CPU_MODEL'],
    ['an unknown engine', () => ['run', '--flat', spin(), '--accel', 'hax'], 2, 'TSV_E_USAGE'],
    [
      'an unknown memory back end',
      () => ['run', '--flat', spin(), '--mem-backend', 'tape'],
      2,
      'TSV_E_CONFIG',
    ],
    [
      'an unknown serial target',
      () => ['run', '--flat', spin(), '--serial', 'modem'],
      2,
      'not a serial target',
    ],
    ['an unknown trace', () => ['run', '--flat', spin(), '--trace', 'exits,all'], 2, '"all" is nothing'],
    [
      'a trace file without a trace',
      () => ['run', '--flat', spin(), '--trace-file', 'x'],
      2,
      'nothing is traced',
    ],
    [
      'a time limit of nothing',
      () => ['run', '--flat', spin(), '--timeout', '0'],
      2,
      '--timeout cannot be 0',
    ],
    [
      'a time limit in words',
      () => ['run', '--flat', spin(), '--timeout', 'soon'],
      2,
      '--timeout wants a number',
    ],
    ['a time scale of 0', () => ['run', '--flat', spin(), '--time-scale', '0'], 2, 'TSV_E_CONFIG'],
    ['more pins than vCPUs', () => ['run', '--flat', spin(), '--pin', '0,1'], 2, '--pin names 2 host CPUs'],
    [
      'a serial file in no directory',
      () => ['run', '--flat', spin(), '--serial', 'file:/no/x'],
      2,
      'TSV_E_FILE',
    ],
    [
      'a socket path too long',
      () => ['run', '--flat', spin(), '--serial', `socket:/${'x'.repeat(120)}`],
      2,
      '107 bytes',
    ],
    [
      'machine code outside memory',
      () => ['run', '--flat', spin(), '--flat-address', '0x7fffffff', '--flat-mode', 'long64'],
      2,
      'TSV_E_',
    ],
  ];

  it.each(cases)('%s', async (_, args, status, message) => {
    const ended = await runCli(args());

    expect(ended.stderr).toContain(message);
    expect(ended.stderr).toMatch(/^tsvisor: TSV_E_\w+: .+\n {2}\S/m);
    expect(ended.stderr).not.toContain('    at ');
    expect(ended).toMatchObject({ status, signal: null });
  });

  it('a command line that is too long', async () => {
    const kernel = file(kernelElf(exit(0)), 'vmlinux');
    const ended = await runCli(['run', '--kernel', kernel, '--append', 'x'.repeat(100_000)]);

    expect(ended.status).toBe(2);
    expect(ended.stderr).toContain('TSV_E_CMDLINE_TOO_LONG');
  });

  it('an initrd larger than memory', async () => {
    const kernel = file(kernelElf(exit(0)), 'vmlinux');
    const initrd = file(new Uint8Array(8 * 2 ** 20), 'initrd');
    const ended = await runCli(['run', '--kernel', kernel, '--initrd', initrd, '--memory', '8M']);

    expect(ended.status).toBe(2);
    expect(ended.stderr).toContain('TSV_E_INITRD');
  });

  it('TSVISOR_DEBUG=1 adds the stack', async () => {
    const env = { ...process.env, TSVISOR_DEBUG: '1' };
    const ended = await runCli(['run', '--flat', '/nonexistent'], '', { env });

    expect(ended.stderr).toContain('    at ');
  });

  it('more memory than the host has', async () => {
    const ended = await runCli(['run', '--flat', spin(), '--memory', '3T']);

    expect(ended.status).toBe(2);
    expect(ended.stderr).toMatch(/TSV_E_MEMORY_SIZE: .* but the host has/);
  });

  it('unreadable files', async () => {
    const path = file(SPIN);
    writeFileSync(path, Uint8Array.from(SPIN), { mode: 0 });
    spawnSync('chmod', ['000', path]);
    const asNobody = [
      '--reuid=65534',
      '--regid=65534',
      '--clear-groups',
      process.execPath,
      MAIN,
      'run',
      '--flat',
      path,
    ];
    const isRoot = process.getuid?.() === 0;
    spawnSync('chmod', ['755', join(path, '..')]);

    const { status, stderr } = isRoot
      ? spawnSync('setpriv', asNobody, { encoding: 'utf8' })
      : spawnSync(process.execPath, asNobody.slice(4), { encoding: 'utf8' });

    // Without the right to open /dev/kvm it ends there first.
    expect(stderr).toMatch(/TSV_E_FILE|TSV_E_KVM_PERMISSION/);
    expect([2, 4]).toContain(status);
  });
});
