/** Resident memory of a machine's process beyond the guest's RAM: `tsvisor run` against QEMU's microvm. */
import { closeSync, openSync, readFileSync, readSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { engineSize } from '../dist/tcg/layout.js';
import { findQemu, impossible, kvmProblem } from './lib/host.mjs';
import { INIT_LINE, linuxCommands, MEMORY_MIB, NO_TESTS, prepareLinux } from './lib/linux.mjs';
import { qemuCommand, startUntil, tsvisorCommand } from './lib/programs.mjs';
import { firstByteGuest } from './lib/real-mode.mjs';
import { compareRow, interleave } from './lib/stats.mjs';

const MIB = 1 << 20;
const SMALL_MIB = 128;
/** Alignment of RAM in a machine's memory (src/memory/backends.ts). */
const ALIGNMENT = 2 * MIB;
const alignUp = (value) => Math.ceil(value / ALIGNMENT) * ALIGNMENT;

const PAGE = 4096;
/** Bit 63 of an entry of /proc/pid/pagemap: present (Documentation/admin-guide/mm/pagemap.rst). */
const PRESENT = 1n << 63n;

/** Bytes of a range of a process's address space that are resident. */
function resident(pid, from, to) {
  const entries = Buffer.alloc(((to - from) / PAGE) * 8);
  const pagemap = openSync(`/proc/${pid}/pagemap`, 'r');
  try {
    readSync(pagemap, entries, 0, entries.length, (from / PAGE) * 8);
  } finally {
    closeSync(pagemap);
  }
  let pages = 0;
  for (let at = 0; at < entries.length; at += 8) if (entries.readBigUInt64LE(at) & PRESENT) pages++;
  return pages * PAGE;
}

/**
 * Memory of a process, MiB: RSS and PSS, without the guest's RAM.
 * @param reserve bytes that its own state takes in the mapping of the guest's RAM, before it
 */
function memoryBeyondGuest(pid, guestMib, reserve) {
  const guest = guestMib * MIB;
  const mappings = readFileSync(`/proc/${pid}/smaps`, 'utf8')
    .split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m)
    .map((text) => {
      const field = (name) => Number(new RegExp(`^${name}: *(\\d+) kB`, 'm').exec(text)[1]) * 1024;
      const [, start, end, access] = /^(\w+)-(\w+) (\S+)/.exec(text);
      return {
        start: Number.parseInt(start, 16),
        end: Number.parseInt(end, 16),
        holdsRam: access.startsWith('rw-') && field('Size') >= guest + reserve,
        rss: field('Rss'),
        pss: field('Pss'),
      };
    });
  const sum = (part) => mappings.reduce((total, mapping) => total + mapping[part], 0);
  // The smallest one that can hold it; what the guest has touched of it is not the program's.
  const [ram] = mappings
    .filter(({ holdsRam }) => holdsRam)
    .sort((a, b) => a.end - a.start - (b.end - b.start));
  let own = 0;
  if (reserve > 0) {
    const first = alignUp(ram.start) + alignUp(reserve);
    own = resident(pid, ram.start, first) + resident(pid, first + guest, ram.end);
  }
  return { rss: (sum('rss') - ram.rss + own) / MIB, pss: (sum('pss') - ram.pss + own) / MIB };
}

/** Time for garbage collection and late initialisation to settle, ms. */
const SETTLE = 1000;

async function once(command, text, guestMib, reserve) {
  const child = startUntil(command, text);
  await child.seen;
  await delay(SETTLE);
  try {
    return memoryBeyondGuest(child.pid, guestMib, reserve);
  } finally {
    child.kill();
    await child.ended;
  }
}

/** The same guest in both programs, in turn. */
async function measure(commands, { name, text, guestMib, accel }, rounds) {
  const reserve = { 'tsvisor run': accel === 'tcg' ? engineSize(1) : 0, 'QEMU microvm': 0 };
  const series = Object.entries(commands).map(([program, command]) => [
    program,
    () => once(command, text, guestMib, reserve[program]),
  ]);
  const samples = await interleave(Object.fromEntries(series), rounds, 0);
  return ['rss', 'pss'].flatMap((part) =>
    Object.keys(samples).map((program) => {
      const against = program === 'tsvisor run' ? 'QEMU microvm' : undefined;
      return compareRow(`${name}, ${part.toUpperCase()}: ${program}`, samples, part, program, against);
    }),
  );
}

async function halted(qemu, accel, rounds) {
  const problem = accel === 'kvm' ? kvmProblem() : undefined;
  if (problem !== undefined) return [impossible('kvm', problem)];
  const code = firstByteGuest('halt');
  const commands = {
    'tsvisor run': tsvisorCommand(accel, 'halt', code),
    ...(qemu && { 'QEMU microvm': qemuCommand(qemu, accel, 'halt', code) }),
  };
  const guest = { name: `halted, ${accel}`, text: '.', guestMib: SMALL_MIB, accel };
  return measure(commands, guest, rounds);
}

async function booted(qemu, rounds) {
  const name = 'Linux, tcg';
  let linux;
  try {
    linux = await prepareLinux('stay');
  } catch (error) {
    return [impossible(name, error.message)];
  }
  const commands = linuxCommands(qemu, linux, NO_TESTS);
  return measure(commands, { name, text: INIT_LINE, guestMib: MEMORY_MIB, accel: 'tcg' }, rounds);
}

/** The benchmark. */
export async function memory({ quick, progress }) {
  const qemu = findQemu();
  const rows = [];
  for (const accel of ['kvm', 'tcg']) {
    progress(`a halted guest, ${accel}`);
    rows.push(...(await halted(qemu, accel, quick ? 2 : 5)));
  }
  progress('Linux, tcg');
  rows.push(...(await booted(qemu, quick ? 1 : 5)));
  const notes = [
    `"Halted" is a guest with ${SMALL_MIB} MB of RAM that has printed a byte and halted; "Linux" one with ${MEMORY_MIB} MB whose /init waits. What is resident of the guest's RAM does not count; the tcg engine's own state beside it does.`,
    'Both hold the kernel file, 50 MB as a vmlinux.',
    qemu ? `${qemu.version}, -M microvm.` : 'QEMU is not installed: nothing to compare with.',
  ];
  return { title: 'Memory beyond guest RAM', unit: 'MiB', rows, notes };
}
