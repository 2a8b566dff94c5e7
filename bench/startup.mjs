/**
 * How long it takes from starting the program to the guest's first instruction, and how much memory the process has
 * beyond the guest's RAM: `tsvisor run` against QEMU's microvm with the same code.
 */
import { readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { findQemu } from './lib/host.mjs';
import { qemuCommand, start, tsvisorCommand } from './lib/programs.mjs';
import { firstByteGuest } from './lib/real-mode.mjs';
import { interleave, ratio, summarize } from './lib/stats.mjs';

const EXIT_STATUS = 1;

/** Both programs with a guest, by name. */
function programs(qemu, then) {
  const code = firstByteGuest(then);
  return {
    'tsvisor run': tsvisorCommand(then, code),
    ...(qemu && { 'QEMU microvm': qemuCommand(qemu, then, code) }),
  };
}

/** Processor time that ended child processes have used, seconds (proc_pid_stat(5), cutime and cstime). */
function childTime() {
  const fields = readFileSync('/proc/self/stat', 'utf8').split(') ')[1].split(' ');
  const TICKS = 100;
  return (Number(fields[13]) + Number(fields[14])) / TICKS;
}

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
  return { first: endAt, end: endAt, cpu: (childTime() - before) * 1000 };
}

/** The benchmark. */
export async function startup({ quick, progress }) {
  const qemu = findQemu();
  const commands = programs(qemu, 'exit');
  const series = Object.fromEntries(
    Object.entries(commands).map(([name, command]) => [name, () => once(command)]),
  );
  progress('starting programs');
  const samples = await interleave({ ...series, 'node -e 0': nodeAlone }, quick ? 5 : 21);
  const PARTS = { first: 'to the first instruction', end: 'to the end', cpu: 'processor time' };
  const rows = Object.entries(PARTS).flatMap(([part, what]) =>
    Object.entries(samples)
      .filter(([name]) => part !== 'first' || name in commands)
      .map(([name, runs]) => {
        const times = runs.map((run) => run[part]);
        const theirs = samples['QEMU microvm']?.map((run) => run[part]);
        const compared = name === 'tsvisor run' && theirs !== undefined && part !== 'cpu';
        return {
          name: `${what}: ${name}`,
          value: summarize(times),
          ...(compared && { ratios: { 'QEMU microvm': ratio(times, theirs) } }),
        };
      }),
  );
  const notes = [
    "The guest's first instructions write a byte to the serial port: its arrival at the program's standard output is the moment of the first instruction. Then the guest ends the run.",
    'Processor time is that of all threads, in steps of 10 ms; on a busy host it tells more than the wall clock.',
    qemu ? `${qemu.version}, -M microvm -accel kvm.` : 'QEMU is not installed: nothing to compare with.',
  ];
  return { title: 'Start-up', unit: 'ms', rows, notes };
}

const GUEST_RAM_KB = 128 * 1024;

/** Resident memory of a process, kB: RSS and PSS, without the mapping that is the guest's RAM. */
function memoryBeyondGuest(pid) {
  const mappings = readFileSync(`/proc/${pid}/smaps`, 'utf8')
    .split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m)
    .map((text) => {
      const field = (name) => Number(new RegExp(`^${name}: *(\\d+) kB`, 'm').exec(text)[1]);
      return { writable: /^\S+ rw/.test(text), size: field('Size'), rss: field('Rss'), pss: field('Pss') };
    });
  const sum = (part) => mappings.reduce((total, mapping) => total + mapping[part], 0);
  // The smallest writable mapping that can hold it; what the guest has touched of it is not the program's.
  const [ram] = mappings
    .filter(({ writable, size }) => writable && size >= GUEST_RAM_KB)
    .sort((a, b) => a.size - b.size);
  return { rss: (sum('rss') - ram.rss) / 1024, pss: (sum('pss') - ram.pss) / 1024 };
}

/** Time for garbage collection and late initialisation to settle, ms. */
const SETTLE = 1000;

async function residentMemory(command) {
  const child = start(command);
  await child.first;
  await delay(SETTLE);
  try {
    return memoryBeyondGuest(child.pid);
  } finally {
    child.kill();
    await child.ended;
  }
}

/** The benchmark. */
export async function memory({ quick, progress }) {
  const qemu = findQemu();
  const series = Object.fromEntries(
    Object.entries(programs(qemu, 'halt')).map(([name, command]) => [name, () => residentMemory(command)]),
  );
  progress('a halted guest');
  const samples = await interleave(series, quick ? 2 : 5, 0);
  const rows = ['rss', 'pss'].flatMap((part) =>
    Object.entries(samples).map(([name, runs]) => {
      const sizes = runs.map((run) => run[part]);
      const compared = name === 'tsvisor run' && qemu !== undefined;
      return {
        name: `${part.toUpperCase()}: ${name}`,
        value: summarize(sizes),
        ...(compared && {
          ratios: {
            'QEMU microvm': ratio(
              sizes,
              samples['QEMU microvm'].map((run) => run[part]),
            ),
          },
        }),
      };
    }),
  );
  const notes = [
    'A guest with 128 MB of RAM that has printed a byte and halted. The mapping of its RAM does not count.',
    qemu ? `${qemu.version}, -M microvm -accel kvm.` : 'QEMU is not installed: nothing to compare with.',
  ];
  return { title: 'Memory beyond guest RAM', unit: 'MiB', rows, notes };
}
