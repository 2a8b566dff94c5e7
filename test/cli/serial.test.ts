/** Where the console of `tsvisor run` goes, on the engine that it chooses itself. */
import { spawn, spawnSync } from 'node:child_process';
import { closeSync, constants, existsSync, openSync, readFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { hasAddon } from '../support/capabilities.ts';
import { file, MAIN, runCli, scratch, startCli } from './support/cli.ts';
import { ECHO, exit, FLOOD, print, SPIN, STRING_FLOOD } from './support/guests.ts';

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
    expect(ended.stderr).toContain(
      'TSV_E_HOST_IO: The output of the serial console cannot be written: ENOSPC.',
    );
  });

  it.runIf(hasAddon)('--serial pty gives a terminal without echo that works both ways', async () => {
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
