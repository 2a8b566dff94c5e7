/**
 * How long it takes from starting the program to the guest's first instruction: `tsvisor run` against QEMU's microvm with
 * the same code, on both engines; and to the shell of `tsvisor demo`.
 */
import { execFileSync } from 'node:child_process';
import { fetchBusybox, fetchKernel } from '../dist/host/kernel-fetch.js';
import { findQemu, impossible, kvmProblem } from './lib/host.mjs';
import { childTime, qemuCommand, start, startUntil, tsvisor, tsvisorCommand } from './lib/programs.mjs';
import { firstByteGuest } from './lib/real-mode.mjs';
import { compareRow, interleave, summarize } from './lib/stats.mjs';

const EXIT_STATUS = 1;

/** @returns ms until the first byte, until the end, and of processor time */
async function once(command) {
  const before = childTime();
  const { status, errors, firstAt, endAt } = await start(command).ended;
  if (status !== EXIT_STATUS || firstAt === undefined)
    throw new Error(`${command[0]}: status ${status}: ${errors}`);
  return { first: firstAt, end: endAt, cpu: (childTime() - before) * 1000 };
}

/** Node itself, doing nothing: what no program written for it can go below. */
async function nodeAlone() {
  const before = childTime();
  const { endAt } = await start([process.execPath, '-e', '0']).ended;
  return { end: endAt, cpu: (childTime() - before) * 1000 };
}

const PARTS = { first: 'to the first instruction', end: 'to the end', cpu: 'processor time' };

/** One engine: tsvisor and QEMU in turn. */
async function measure(qemu, accel, rounds) {
  const code = firstByteGuest('exit');
  const commands = {
    'tsvisor run': tsvisorCommand(accel, 'exit', code),
    ...(qemu && { 'QEMU microvm': qemuCommand(qemu, accel, 'exit', code) }),
  };
  const samples = await interleave(
    {
      ...Object.fromEntries(Object.entries(commands).map(([name, command]) => [name, () => once(command)])),
      'node -e 0': nodeAlone,
    },
    rounds,
  );
  return Object.entries(PARTS).flatMap(([part, what]) =>
    Object.keys(samples)
      .filter((program) => part in samples[program][0])
      .map((program) => {
        const against = program === 'tsvisor run' && part !== 'cpu' ? 'QEMU microvm' : undefined;
        return compareRow(`${accel}, ${what}: ${program}`, samples, part, program, against);
      }),
  );
}

const INTERPRETER = new URL('../dist/tcg/interpreter.js', import.meta.url).href;
const LOAD = `
const { loadInterpreter } = await import(${JSON.stringify(INTERPRETER)});
const start = performance.now();
loadInterpreter();
console.log(performance.now() - start);
`;

/** What the tcg engine itself adds to a start: reading and compiling the interpreter, in a process of its own each time. */
function interpreter(rounds) {
  const load = () => Number(execFileSync(process.execPath, ['--input-type=module', '-e', LOAD]));
  return {
    name: 'tcg, to load the interpreter (target: 150)',
    value: summarize(Array.from({ length: rounds }, load)),
  };
}

/** What `npm start` does once everything is built and downloaded. */
async function demo(rounds) {
  const name = 'tcg, to the shell: tsvisor demo';
  try {
    await fetchKernel();
    await fetchBusybox();
  } catch (error) {
    return impossible(name, error.message);
  }
  const times = [];
  for (let i = 0; i < rounds; i++) {
    const child = startUntil(tsvisor('demo', '--accel', 'tcg'), '/ # ');
    times.push(await child.seen);
    child.kill();
    await child.ended;
  }
  return { name, value: summarize(times) };
}

/** The benchmark. */
export async function startup({ quick, progress }) {
  const qemu = findQemu();
  const rows = [];
  const problem = kvmProblem();
  for (const accel of ['kvm', 'tcg']) {
    progress(`starting programs, ${accel}`);
    if (accel === 'kvm' && problem !== undefined) rows.push(impossible('kvm', problem));
    else rows.push(...(await measure(qemu, accel, quick ? 5 : 21)));
  }
  rows.push(interpreter(quick ? 3 : 11));
  progress('the demo');
  rows.push(await demo(quick ? 1 : 5));
  const notes = [
    "The guest's first instructions write a byte to the serial port: its arrival at the program's standard output is the moment of the first instruction. Then the guest ends the run.",
    'Processor time is that of all threads, in steps of 10 ms; on a busy host it tells more than the wall clock.',
    'The shell is there when its prompt is; the kernel and busybox were in the cache.',
    qemu ? `${qemu.version}, -M microvm.` : 'QEMU is not installed: nothing to compare with.',
  ];
  return { title: 'Start-up', unit: 'ms', rows, notes };
}
