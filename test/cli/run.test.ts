// needs: kvm
/** `tsvisor run` with real guests on /dev/kvm. */

import { spawn, spawnSync } from 'node:child_process';
import { closeSync, constants, existsSync, mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { file, MAIN, runCli, scratch, startCli } from './support/cli.ts';
import {
  ECHO,
  exit,
  FLOOD,
  HALT,
  kernelElf,
  print,
  print64,
  SPIN,
  STRING_FLOOD,
  TRIPLE_FAULT_64,
} from './support/guests.ts';

describe('how a run ends', () => {
  it.each([0, 1, 21, 127])('the exit device with %i gives (v << 1) | 1', async (value) => {
    const ended = await runCli(['run', '--flat', file([...print('Hi\r\n'), ...exit(value)])]);

    expect(ended).toMatchObject({ status: (value << 1) | 1, stdout: 'Hi\r\n' });
    expect(ended.stderr).toMatch(/^tsvisor: engine kvm: .+\n/);
    expect(ended.stderr).toContain('the guest wrote its exit status');
  });

  it('a reset gives 0', async () => {
    const ended = await runCli(['run', '--flat', file([0xb0, 0xfe, 0xe6, 0x64, ...HALT])]); // mov al, 0xfe; out 0x64, al

    expect(ended.status).toBe(0);
    expect(ended.stderr).toContain('the guest asked for a reset');
  });

  it('a triple fault gives 6, the registers and what to look for', async () => {
    const ended = await runCli(['run', '--flat', file(TRIPLE_FAULT_64), '--flat-mode', 'long64']);

    expect(ended.status).toBe(6);
    expect(ended.stderr).toMatch(/RIP=0000000000100000/);
    expect(ended.stderr).toMatch(/Code=0f 0b/);
    expect(ended.stderr).toMatch(/^tsvisor: TSV_E_GUEST_TRIPLE_FAULT: .+\n {2}\S/m);
  });

  it('--no-dump-registers leaves the registers out', async () => {
    const args = ['run', '--flat', file(TRIPLE_FAULT_64), '--flat-mode', 'long64', '--no-dump-registers'];
    const ended = await runCli(args);

    expect(ended.status).toBe(6);
    expect(ended.stderr).not.toContain('RIP=');
  });

  it.each([
    ['spins with interrupts off', [0xfa, ...SPIN]],
    ['halts with interrupts off', HALT],
    ['floods the serial port', FLOOD],
  ])('the time limit gives 124 for a guest that %s', async (_, code) => {
    const ended = await runCli(['run', '--flat', file(code), '--timeout', '0.3']);

    expect(ended.status).toBe(124);
    expect(ended.stderr).toContain('TSV_E_TIMEOUT: The guest did not end within 0.3 s.');
    expect(ended.stderr).toContain('RIP=');
  });

  it('an ELF kernel is entered in 64-bit mode', async () => {
    const ended = await runCli([
      'run',
      '--kernel',
      file(kernelElf([...print64('ELF'), ...exit(1)]), 'vmlinux'),
    ]);

    expect(ended).toMatchObject({ status: 3, stdout: 'ELF' });
  });

  it('two vCPUs end together', async () => {
    const ended = await runCli([
      'run',
      '--flat',
      file([...print('two\n'), ...exit(2)]),
      '--cpus',
      '2',
      '--pin',
      '0,0',
    ]);

    expect(ended).toMatchObject({ status: 5, stdout: 'two\n' });
  });
});

describe('signals', () => {
  it('SIGINT ends the machine cleanly with 130', async () => {
    const cli = startCli(['run', '--flat', file([...print('up\n'), ...SPIN])]);
    await cli.shows(/up/);

    cli.child.kill('SIGINT');

    expect(await cli.ended).toMatchObject({ status: 130, signal: null, stdout: 'up\n' });
    expect(cli.stderr).toContain('the machine was stopped');
  });

  it.each([
    ['SIGTERM', 143],
    ['SIGHUP', 129],
  ] as const)('%s ends the machine cleanly, and the process by the signal', async (signal, status) => {
    const cli = startCli(['run', '--flat', file([...print('up\n'), ...SPIN])]);
    await cli.shows(/up/);

    cli.child.kill(signal);

    expect(await cli.ended).toMatchObject({ status, signal });
    expect(cli.stderr).toContain('the machine was stopped');
  });

  it('a second SIGINT ends a run whose output nobody takes at once', async () => {
    const cli = startCli(['run', '--flat', file(FLOOD)]);
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

describe('input and output', () => {
  it('standard input from a pipe reaches the guest byte for byte, Ctrl-A and Ctrl-C too', async () => {
    const ended = await runCli(['run', '--flat', file(ECHO)], 'a\x01x\x03\x00z\x04');

    expect(ended).toMatchObject({ status: 1, stdout: 'a\x01x\x03\x00z' });
  });

  it('more input than the serial port holds arrives complete', async () => {
    const input = 'The quick brown fox. '.repeat(200);
    const ended = await runCli(['run', '--flat', file(ECHO)], `${input}\x04`);

    expect(ended.stdout).toBe(input);
  });

  it('a reader that goes away ends the run with 141', async () => {
    const script = `"${process.execPath}" "${MAIN}" run --flat "${file(FLOOD)}" | head -c 10; echo " \${PIPESTATUS[0]}"`;
    const { stdout, stderr } = spawnSync('bash', ['-c', script], { encoding: 'utf8' });

    expect(stdout).toBe('XXXXXXXXXX 141\n');
    expect(stderr).not.toMatch(/EPIPE|TSV_E/);
  });

  it('a guest that floods comes to a stand when nobody reads', async () => {
    const path = join(scratch(), 'fifo');
    spawnSync('mkfifo', [path]);
    const reader = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    const cli = startCli(['run', '--flat', file(STRING_FLOOD), '--serial', `file:${path}`]);
    await cli.shows(/engine/, 'stderr');
    // utime and stime, in ticks of 10 ms (proc(5)).
    const ticks = () => {
      const fields = readFileSync(`/proc/${cli.child.pid}/stat`, 'latin1').split(') ')[1].split(' ');
      return Number(fields[11]) + Number(fields[12]);
    };
    const load = async () => {
      const before = ticks();
      await new Promise((resolve) => setTimeout(resolve, 1000));
      return ticks() - before;
    };

    // A guest that goes on keeps a CPU busy all the time, which is 100 ticks.
    await expect.poll(load, { timeout: 50_000, interval: 10 }).toBeLessThan(20);

    cli.child.kill('SIGTERM');
    expect((await cli.ended).status).toBe(143);
    closeSync(reader);
  }, 60_000);

  it('--serial file:PATH has the output, and stdout nothing', async () => {
    const path = join(scratch(), 'console.log');
    const ended = await runCli([
      'run',
      '--flat',
      file([...print('to a file\n'), ...exit(0)]),
      '--serial',
      `file:${path}`,
    ]);

    expect(ended).toMatchObject({ status: 1, stdout: '' });
    expect(readFileSync(path, 'utf8')).toBe('to a file\n');
  });

  it('--serial none discards it', async () => {
    const ended = await runCli(['run', '--flat', file([...print('lost\n'), ...exit(0)]), '--serial', 'none']);

    expect(ended).toMatchObject({ status: 1, stdout: '' });
  });

  it('output that cannot be written is a host error', async () => {
    const ended = await runCli([
      'run',
      '--flat',
      file([...print('x'), ...SPIN]),
      '--serial',
      'file:/dev/full',
    ]);

    expect(ended.status).toBe(4);
    expect(ended.stderr).toContain('TSV_E_HOST_IO: The serial output cannot be written: ENOSPC.');
  });

  it('--serial pty gives a terminal without echo that works both ways', async () => {
    const cli = startCli(['run', '--flat', file([...print('ready'), ...ECHO]), '--serial', 'pty']);
    const [, path] = await cli.shows(/serial console on (\/dev\/pts\/\d+)/, 'stderr');

    const client = spawn('python3', ['-c', PTY_CLIENT, path], { stdio: ['ignore', 'pipe', 'inherit'] });
    let seen = '';
    client.stdout.on('data', (bytes: Buffer) => {
      seen += bytes.toString();
    });
    const ended = await cli.ended;
    await new Promise((resolve) => (client.exitCode === null ? client.once('close', resolve) : resolve(0)));

    expect(seen).toBe('readyping\n');
    expect(ended).toMatchObject({ status: 1, stdout: '' });
  });
});

/** Reads the greeting, sends a line, reads it back, ends the guest. */
const PTY_CLIENT = `
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY)
def read(n):
    data = b''
    while len(data) < n:
        data += os.read(fd, n - len(data))
    return data.decode()
out = read(5)
os.write(fd, b'ping\\n')
out += read(5)
sys.stdout.write(out)
sys.stdout.flush()
os.write(fd, b'\\x04')
`;

describe('--serial socket:PATH', () => {
  /** Connects and collects what arrives. */
  function client(path: string) {
    const socket = connect(path);
    const state = { socket, text: '', closed: new Promise((resolve) => socket.once('close', resolve)) };
    socket.on('data', (bytes) => {
      state.text += bytes.toString('latin1');
    });
    return state;
  }

  it('serves one client after the other, keeps output for the first, and removes its file at the end', async () => {
    const path = join(scratch(), 'console.sock');
    const cli = startCli([
      'run',
      '--flat',
      file([...print('early\n'), ...ECHO]),
      '--serial',
      `socket:${path}`,
    ]);
    await cli.shows(/serial console on/, 'stderr');

    const first = client(path);
    first.socket.write('one');
    await expect.poll(() => first.text).toBe('early\none');
    const second = client(path);
    await second.closed;
    expect(second.text).toContain('another client is connected');
    first.socket.destroy();
    await first.closed;
    let third = client(path);
    // The machine may not have noticed yet that the first has gone.
    await expect
      .poll(async () => {
        if (third.socket.destroyed) third = client(path);
        third.socket.write('x');
        return third.text;
      })
      .toMatch(/^x/);
    third.socket.write('\x04');

    expect(await cli.ended).toMatchObject({ status: 1 });
    await third.closed;
    expect(existsSync(path)).toBe(false);
  });

  it('replaces the socket file of a process that died', async () => {
    const path = join(scratch(), 'stale.sock');
    const server = spawnSync('python3', [
      '-c',
      `import socket; socket.socket(socket.AF_UNIX).bind("${path}")`,
    ]);
    expect(server.status).toBe(0);
    expect(existsSync(path)).toBe(true);

    const ended = await runCli(['run', '--flat', file(exit(1)), '--serial', `socket:${path}`]);

    expect(ended.status).toBe(3);
  });

  it('refuses a socket that another process listens on, and a file that is none', async () => {
    const path = join(scratch(), 'used.sock');
    const server = createServer().listen(path);
    await new Promise((resolve) => server.once('listening', resolve));
    const used = await runCli(['run', '--flat', file(exit(0)), '--serial', `socket:${path}`]);
    server.close();
    const plain = file('precious', 'plain');
    const refused = await runCli(['run', '--flat', file(exit(0)), '--serial', `socket:${plain}`]);

    expect(used.status).toBe(2);
    expect(used.stderr).toContain('TSV_E_USAGE: Another process listens on the socket');
    expect(refused.status).toBe(2);
    expect(readFileSync(plain, 'utf8')).toBe('precious');
  });

  it('removes the file when a signal ends the run', async () => {
    const path = join(scratch(), 'gone.sock');
    const cli = startCli(['run', '--flat', file(SPIN), '--serial', `socket:${path}`]);
    await cli.shows(/serial console on/, 'stderr');

    cli.child.kill('SIGTERM');

    expect((await cli.ended).status).toBe(143);
    expect(existsSync(path)).toBe(false);
  });
});

describe('--json', () => {
  it('puts one object on stdout and the console on stderr', async () => {
    const args = ['run', '--json', '--name', 'test', '--flat', file([...print('console\n'), ...exit(4)])];
    const ended = await runCli(args);

    expect(ended.status).toBe(9);
    expect(ended.stderr).toContain('console\n');
    const report = JSON.parse(ended.stdout);
    expect(report).toMatchObject({
      name: 'test',
      reason: 'exit',
      status: 9,
      by: 'debug-exit',
      engine: { name: 'kvm' },
      machine: { cpus: 1, memory: 128 * 2 ** 20 },
      stats: { assisted: 0, unclaimed: 0 },
    });
    expect(report.stats.exits.IO).toBeGreaterThanOrEqual(9);
    expect(report.timing.runMs).toBeGreaterThanOrEqual(0);
  });

  it('has the error and the registers of a run that ends badly', async () => {
    const ended = await runCli(['run', '--json', '--flat', file(SPIN), '--timeout', '0.2']);

    expect(ended.status).toBe(124);
    const report = JSON.parse(ended.stdout);
    expect(report).toMatchObject({ reason: 'timeout', status: 124, error: { code: 'TSV_E_TIMEOUT' } });
    expect(report.error.hint).not.toBe('');
    expect(report.registers[0]).toMatchObject({ vcpu: 0, regs: { rip: '0x7c00' } });
    expect(report.registers[0].code).toMatch(/^ebfe/);
  });

  it('reports errors before the start in the same form', async () => {
    const ended = await runCli(['run', '--json', '--flat', '/nonexistent']);

    expect(ended.status).toBe(2);
    expect(JSON.parse(ended.stdout)).toMatchObject({
      reason: 'error',
      status: 2,
      error: { code: 'TSV_E_FILE' },
    });
  });

  it('reports Ctrl-C', async () => {
    const cli = startCli(['run', '--json', '--flat', file([...print('up\n'), ...SPIN])]);
    await cli.shows(/up/, 'stderr');

    cli.child.kill('SIGINT');

    const ended = await cli.ended;
    expect(ended.status).toBe(130);
    expect(JSON.parse(ended.stdout)).toMatchObject({ reason: 'stopped', status: 130 });
  });
});

describe('--trace', () => {
  it('lists exits and port accesses on stderr', async () => {
    const ended = await runCli(['run', '--flat', file([...print('A'), ...exit(0)]), '--trace', 'exits,io']);

    expect(ended.stderr).toMatch(/^vcpu0 exit IO$/m);
    expect(ended.stderr).toMatch(/^vcpu0 io write 0x3f8\/1 0x41$/m);
  });

  it('goes to a file when asked', async () => {
    const trace = join(scratch(), 'trace');
    const args = ['run', '--flat', file([...print('A'), ...exit(0)]), '--trace', 'io', '--trace-file', trace];
    const ended = await runCli(args);

    expect(ended.stderr).not.toContain('vcpu0');
    expect(readFileSync(trace, 'utf8')).toMatch(/^vcpu0 io write 0x3f8\/1 0x41$/m);
  });
});

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
