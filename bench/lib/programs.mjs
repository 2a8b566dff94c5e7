/** Programs that are measured: tsvisor and QEMU with the same real-mode code, and those written in C. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { temporary } from './host.mjs';
import { firmware } from './real-mode.mjs';

const CLI = fileURLToPath(new URL('../../dist/bin/main.js', import.meta.url));

function file(name, bytes) {
  const path = temporary(name);
  writeFileSync(path, bytes);
  return path;
}

/** The command line of `tsvisor run`. */
export function tsvisorCommand(name, code) {
  return [process.execPath, CLI, 'run', '--flat', file(`${name}.bin`, code), '--memory', '128M'];
}

/** QEMU's smallest machine: a serial port and the exit device. */
export function qemuCommand(qemu, name, code) {
  return [
    ...[
      qemu.program,
      '-M',
      'microvm',
      '-accel',
      'kvm',
      '-m',
      '128M',
      '-bios',
      file(`${name}.rom`, firmware(code)),
    ],
    ...['-nodefaults', '-no-user-config', '-display', 'none', '-serial', 'stdio'],
    ...['-device', 'isa-debug-exit,iobase=0xf4,iosize=4'],
  ];
}

/**
 * Starts a program.
 * @returns its process id, when its first byte came and when it ended (ms from the start), and functions to wait
 */
export function start([program, ...args]) {
  const begin = performance.now();
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  let errors = '';
  let bytes = 0;
  let firstAt;
  let lastAt;
  child.stderr.on('data', (data) => {
    errors += data;
  });
  const ended = new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (status) => {
      resolve({ status, errors, bytes, firstAt, lastAt, endAt: performance.now() - begin });
    });
  });
  const first = new Promise((resolve, reject) => {
    child.stdout.on('data', (data) => {
      lastAt = performance.now() - begin;
      bytes += data.length;
      firstAt ??= lastAt;
      resolve(firstAt);
    });
    ended.then(
      () => reject(new Error(`${program} printed nothing: ${errors.trim().split('\n').pop()}`)),
      reject,
    );
  });
  first.catch(() => {});
  return { pid: child.pid, first, ended, kill: () => child.kill('SIGKILL') };
}

/** Starts a program that answers each line of its input with a line. */
export function talkTo([program, ...args]) {
  const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const gone = once(child, 'exit');
  return {
    async ask(question) {
      child.stdin.write(`${question}\n`);
      const { value = 'nothing' } = await lines.next();
      return value;
    },
    async close() {
      child.stdin.end();
      await gone;
    },
  };
}
