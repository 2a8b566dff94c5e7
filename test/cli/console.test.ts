/** `--console`: a virtio console and named ports, under Debian's kernel. */
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { closeSync, openSync, readFileSync, writeFileSync, writeSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { buildInitramfs } from '../../src/boot/initramfs/build.ts';
import { parseConsole, RunConsoles } from '../../src/cli/run-consoles.ts';
import { planRun } from '../../src/cli/run-options.ts';
import { fetchBusybox, fetchKernel } from '../../src/host/kernel-fetch.ts';
import { hasAddon } from '../support/capabilities.ts';
import { file, runCli, scratch, startCli } from './support/cli.ts';
import { SPIN } from './support/guests.ts';
import { OnTerminal } from './support/terminal.ts';

/** Only a guest that hangs takes so long, ms. */
const LIMIT = 120_000;
const NAME = 'org.example.agent';

let kernel = '';
let archive: Uint8Array;

beforeAll(async () => {
  const { vmlinuz, modules } = await fetchKernel();
  kernel = vmlinuz;
  archive = await buildInitramfs({
    busybox: await fetchBusybox(),
    modules: { root: modules, names: ['virtio_mmio', 'virtio_console'] },
  });
}, 600_000);

/** The arguments of a guest whose console is hvc0. */
function hvcGuest(...more: string[]): string[] {
  const initrd = join(scratch(), 'initrd.img');
  writeFileSync(initrd, archive);
  return [
    ...['run', '--accel', 'tcg', '--kernel', kernel, '--initrd', initrd],
    ...['--append', 'console=hvc0 panic=-1 cryptomgr.notests quiet', ...more],
  ];
}

const md5 = (bytes: Uint8Array) => createHash('md5').update(bytes).digest('hex');

describe('a guest with console=hvc0', () => {
  it(
    'has its shell on the terminal, which has its size there; a named port leads to a socket',
    async () => {
      const path = join(scratch(), 'agent.sock');
      const args = hvcGuest('--console', 'stdio', '--console', `socket:${path},name=${NAME}`);
      const terminal = new OnTerminal(args);
      terminal.resize(100, 40);
      await terminal.isRaw();
      await terminal.shows(new RegExp(`port ${NAME} on ${path} \\(socat`));
      await terminal.shows(/\/ # /);

      terminal.type('stty size; tty; echo "[$?]"\r');
      await terminal.shows(/40 100[\r\n]+\/dev\/hvc0[\r\n]+\[0\]/);
      terminal.resize(132, 43);
      terminal.type('until [ "$(stty size)" = "43 132" ]; do sleep 0.1; done; echo "[resized]"\r');
      await terminal.shows(/\n\[resized\]/);
      // What says so is the program that Ctrl-C shall end, not the shell on its way to it.
      terminal.type(`sh -c 'echo "[started]"; sleep 1000'\r`);
      await terminal.shows(/\n\[started\]/);
      terminal.type('\x03');
      terminal.type('echo "[$((6 * 7))]"\r');
      await terminal.shows(/\n\[42\]/);

      // A program that writes waits for its client.
      terminal.type(
        `port=/dev/virtio-ports/${NAME}; (echo early >$port; echo "[$((6 * 8))]") & echo "[waits]"\r`,
      );
      await terminal.shows(/\n\[waits\]/);
      const client = connect(path);
      const received: Buffer[] = [];
      client.on('data', (bytes) => received.push(bytes));
      await terminal.shows(/\[48\]/);
      await expect.poll(() => Buffer.concat(received).toString()).toBe('early\n');

      // More than the queue of the port holds, which has to wait for the guest.
      const sent = randomBytes(300_000);
      client.write(sent);
      terminal.type('head -c 300000 $port >/tmp/sent; md5sum /tmp/sent\r');
      await terminal.shows(new RegExp(`\\n${md5(sent)}  /tmp/sent`));
      received.length = 0;
      terminal.type('cat /tmp/sent >$port; echo "[sent]"\r');
      await terminal.shows(/\n\[sent\]/);
      await expect.poll(() => md5(Buffer.concat(received))).toBe(md5(sent));

      terminal.type('\x01h');
      await terminal.shows(/Ctrl-A x {2}end/);
      terminal.type('\x01x');
      expect(await terminal.ended()).toMatchObject({ status: 0, restored: true });
      await (client.closed || once(client, 'close'));
    },
    LIMIT,
  );

  it(
    'has it on stderr with --json, and further consoles in a file and on a pty',
    async () => {
      const path = join(scratch(), 'hvc1.log');
      const pty = hasAddon ? ['--console', 'pty'] : [];
      const cli = startCli(hvcGuest('--json', '--console', 'stdio', '--console', `file:${path}`, ...pty));
      const commands = [
        'echo "to the file" >/dev/hvc1',
        ...(hasAddon ? ['read -r line </dev/hvc2; echo "pty: $line"'] : []),
        'exit',
      ];
      cli.child.stdin?.end(`${commands.join('\n')}\n`);
      if (hasAddon) {
        const [, name] = await cli.shows(/console hvc2 on (\/dev\/pts\/\d+) \(screen/, 'stderr');
        const client = openSync(name, 'r+');
        writeSync(client, 'from the pty\n');
        closeSync(client);
        await cli.shows(/\npty: from the pty\r?\n/, 'stderr');
      }

      const ended = await cli.ended;

      expect(ended.status).toBe(0);
      expect(JSON.parse(ended.stdout)).toMatchObject({ reason: 'poweroff', status: 0 });
      expect(ended.stderr).toContain('init: exit status 0');
      expect(readFileSync(path, 'latin1')).toBe('to the file\r\n');
    },
    LIMIT,
  );
});

describe('a port that no guest listens at', () => {
  it('lets a client hang up, and takes the next', async () => {
    const path = join(scratch(), 'port.sock');
    const cli = startCli([
      'run',
      '--accel',
      'tcg',
      '--flat',
      file(SPIN),
      '--console',
      `socket:${path},name=a`,
    ]);
    await cli.shows(/port a on/, 'stderr');

    const visit = async () => {
      const client = connect(path);
      const seen: Buffer[] = [];
      client.on('data', (bytes) => seen.push(bytes));
      client.end('input');
      await once(client, 'close');
      return Buffer.concat(seen).toString();
    };
    // That the one before has gone may be noticed a moment later.
    for (let i = 0; i < 3; i++) await expect.poll(visit).toBe('');

    cli.child.kill('SIGINT');
    expect((await cli.ended).status).toBe(130);
  });
});

describe('a --console value', () => {
  it('is a target, and the name of a port', () => {
    expect(parseConsole('stdio')).toEqual({ target: { kind: 'stdio' } });
    expect(parseConsole('socket:/tmp/a,,b,name=org.example.0')).toEqual({
      target: { kind: 'socket', path: '/tmp/a,b' },
      name: 'org.example.0',
    });
  });

  it.each([
    '',
    'modem',
    'stdio:x',
    'pty,name',
    'pty,name=',
    'pty,name=a/b',
    'pty,nam=x',
    'pty,name=a,name=b',
  ])('that makes no sense is refused: "%s"', (text) => {
    expect(() => parseConsole(text)).toThrow(expect.objectContaining({ code: 'TSV_E_USAGE' }));
  });

  it('takes the terminal from the serial port, unless that is wanted elsewhere', () => {
    const plan = (...console: string[]) => planRun({ flat: 'x', console });

    expect(plan().serial).toEqual({ kind: 'stdio' });
    expect(plan('stdio').serial).toEqual({ kind: 'none' });
    expect(plan('pty').serial).toEqual({ kind: 'stdio' });
    expect(planRun({ flat: 'x', console: ['stdio'], serial: 'pty' }).serial).toEqual({ kind: 'pty' });
    expect(() => plan('stdio', 'stdio')).toThrow(expect.objectContaining({ code: 'TSV_E_USAGE' }));
    expect(() => planRun({ flat: 'x', console: ['stdio'], serial: 'stdio' })).toThrow('Only one console');
    expect(() => plan('file:a', 'socket:a')).toThrow('Only one console can have a.');
    expect(plan('pty', 'none', 'pty', 'none').consoles).toHaveLength(4);
  });

  it('for a port alone makes no console of it', () => {
    const MULTIPORT = 1n << 1n;

    expect(new RunConsoles([parseConsole('none,name=a')], undefined).device.features & MULTIPORT).toBe(
      MULTIPORT,
    );
    expect(new RunConsoles([parseConsole('none')], undefined).device.features & MULTIPORT).toBe(0n);
  });

  it('more than the device has ports for is refused', async () => {
    const consoles = new Array(32).fill(['--console', 'none']).flat();
    const ended = await runCli(['run', '--flat', '/dev/null', ...consoles]);

    expect(ended.status).toBe(2);
    expect(ended.stderr).toContain('TSV_E_CONFIG: A virtio console cannot have 32 ports.');
  });
});
