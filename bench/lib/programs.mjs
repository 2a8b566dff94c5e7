/** Programs that are measured: tsvisor and QEMU with the same guest, and those written in C. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { temporary } from './host.mjs';
import { firmware } from './real-mode.mjs';

const CLI = fileURLToPath(new URL('../../dist/bin/main.js', import.meta.url));

/** Writes a file that goes with this process. @returns its path */
export function file(name, bytes) {
  const path = temporary(name);
  writeFileSync(path, bytes);
  return path;
}

/** The command line of the `tsvisor` command. */
export function tsvisor(...args) {
  return [process.execPath, CLI, ...args];
}

/** The command line of `tsvisor run` for real-mode code. */
export function tsvisorCommand(accel, name, code) {
  return tsvisor('run', '--accel', accel, '--memory', '128M', '--flat', file(`${name}.bin`, code));
}

/**
 * The command line of QEMU's smallest machine: a serial port and the exit device, and one vCPU, whose code the tcg
 * accelerator translates in one thread.
 */
export function qemuMachine(qemu, { accel, machine = 'microvm', memory = '128M' }, ...args) {
  return [
    ...[qemu.program, '-M', machine, '-accel', accel === 'tcg' ? 'tcg,thread=single' : accel, '-smp', '1'],
    ...['-m', memory, '-nodefaults', '-no-user-config', '-display', 'none', '-serial', 'stdio', '-no-reboot'],
    ...['-device', 'isa-debug-exit,iobase=0xf4,iosize=4', ...args],
  ];
}

/** {@link qemuMachine} for real-mode code. */
export function qemuCommand(qemu, accel, name, code) {
  return qemuMachine(qemu, { accel }, '-bios', file(`${name}.rom`, firmware(code)));
}

/** Processor time that ended child processes have used, seconds (proc_pid_stat(5), cutime and cstime). */
export function childTime() {
  const fields = readFileSync('/proc/self/stat', 'utf8').split(') ')[1].split(' ');
  const TICKS = 100;
  return (Number(fields[13]) + Number(fields[14])) / TICKS;
}

/**
 * Starts a program.
 * @param watch `stdout` and `stderr`: called with each piece of that output and the time since the start, ms
 * @returns its process id, when its first byte came and when it ended (ms from the start), and functions to wait
 */
export function start([program, ...args], watch = {}) {
  const begin = performance.now();
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  let errors = '';
  let bytes = 0;
  let firstAt;
  let lastAt;
  child.stderr.on('data', (data) => {
    errors += data;
    watch.stderr?.(data, performance.now() - begin);
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
      watch.stdout?.(data, lastAt);
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

/**
 * Starts a program and waits for a text in its output.
 * @param watch called with the process id and the standard output so far whenever there is more of it
 * @returns what {@link start} does; `seen`: when the text came, ms from the start; `output()`: its standard output so far
 */
export function startUntil(command, text, watch = () => {}) {
  const outputs = { stdout: '', stderr: '' };
  let child;
  const seen = new Promise((resolve, reject) => {
    const take = (name) => (data, at) => {
      outputs[name] += data.toString('latin1');
      if (name === 'stdout') watch(child.pid, outputs.stdout);
      if (outputs[name].includes(text)) resolve(at);
    };
    child = start(command, { stdout: take('stdout'), stderr: take('stderr') });
    child.ended.then(({ status }) => {
      const last = (outputs.stdout + outputs.stderr).trim().split('\n').slice(-3).join('\n');
      reject(new Error(`${command[0]} ended with status ${status} before it printed "${text}": ${last}`));
    }, reject);
  });
  seen.catch(() => {});
  return { ...child, seen, output: () => outputs.stdout };
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
