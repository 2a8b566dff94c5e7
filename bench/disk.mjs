/**
 * How fast a disk is: bytes and operations a second, flushes, and the host's processor time for an operation, as a C program
 * in the guest sees it that reads and writes past the page cache. Raw and qcow2, under the tcg engine and under QEMU's tcg with
 * the same images, kernel and initramfs.
 */
import { execFileSync } from 'node:child_process';
import { closeSync, fsyncSync, openSync, readFileSync } from 'node:fs';
import { buildInitramfs } from '../dist/boot/initramfs/build.js';
import { fetchBusybox, fetchKernel } from '../dist/host/kernel-fetch.js';
import { clockOption, comparedWith, diskCommands, unpackKernel } from './lib/disk-machine.mjs';
import { compile, findQemu, impossible, temporary } from './lib/host.mjs';
import { file, startUntil, tsvisor } from './lib/programs.mjs';
import { interleave, quantile, ratio, summarize } from './lib/stats.mjs';

const MIB = 2 ** 20;
const DISK_SIZE = 128 * MIB;
const MEMORY = '256M';
/** Of each test. */
const MILLISECONDS = 1000;
const CMDLINE = 'console=ttyS0 panic=-1 quiet cryptomgr.notests';
const MODULES = ['virtio_mmio', 'virtio_blk'];

/** Tests of disk.c, and what is told of each. */
const TESTS = {
  'read-1M': ['sequential read, MB/s', 'bytes'],
  'write-1M': ['sequential write, MB/s', 'bytes'],
  'read-4K': ['4 KiB random read, operations/s', 'operations'],
  'write-4K': ['4 KiB random write, operations/s', 'operations'],
  'read-4K-deep': ['4 KiB random read, 16 at once, operations/s', 'operations'],
  'write-4K-deep': ['4 KiB random write, 16 at once, operations/s', 'operations'],
  flush: ['flush behind a 4 KiB write, microseconds', 'latency'],
};

const FIGURES = {
  bytes: ({ bytes, guest }) => bytes / 1e6 / guest,
  operations: ({ operations, guest }) => operations / guest,
  latency: ({ operations, guest }) => (guest / operations) * 1e6,
};

/** Processor time that a running process has used, seconds (proc_pid_stat(5), utime and stime). */
function processTime(pid) {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1].split(' ');
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

/**
 * Boots and runs disk.c.
 * @returns by test { figure, cpu, clock }: cpu in microseconds an operation, clock is the guest's seconds for one of the host
 */
async function once(command) {
  const marks = {};
  let seen = 0;
  // Looked at as it arrives: what the host's clocks say at that moment belongs to it.
  const child = startUntil(command, 'done\r\n', (pid, output) => {
    const lines = output.split('\r\n');
    for (; seen < lines.length - 1; seen++) {
      const [, what, name] = /^(begin|end) (\S+)/.exec(lines[seen]) ?? [];
      if (what === undefined) continue;
      marks[name] ??= {};
      marks[name][what] = { at: performance.now() / 1000, cpu: processTime(pid), line: lines[seen] };
    }
  });
  try {
    await child.seen;
  } finally {
    child.kill();
    await child.ended;
  }
  return Object.fromEntries(
    Object.entries(TESTS).map(([name, [, kind]]) => {
      const { begin, end } = marks[name];
      const [operations, bytes, whole, flushing] = end.line.split(' ').slice(2).map(Number);
      const guest = (kind === 'latency' ? flushing : whole) / 1e9;
      return [
        name,
        {
          figure: FIGURES[kind]({ operations, bytes, guest }),
          cpu: ((end.cpu - begin.cpu) / operations) * 1e6,
          clock: whole / 1e9 / (end.at - begin.at),
        },
      ];
    }),
  );
}

async function prepare(program, milliseconds) {
  const { vmlinuz, modules } = await fetchKernel();
  const initrd = await buildInitramfs({
    busybox: await fetchBusybox(),
    modules: { root: modules, names: MODULES },
    files: [{ source: program, path: 'disk', mode: 0o755 }],
    command: `/disk /dev/vda ${milliseconds}`,
  });
  return {
    kernel: await unpackKernel(vmlinuz),
    initrd: file('disk.cpio', initrd),
    cmdline: CMDLINE,
    memory: MEMORY,
  };
}

/** A raw image with something everywhere, and its content as qcow2. */
function images() {
  const content = Buffer.alloc(DISK_SIZE);
  for (let i = 0; i < DISK_SIZE; i += 4) content.writeUInt32LE((i * 2654435761) >>> 0, i);
  const raw = file('disk.raw', content);
  const qcow2 = temporary('disk.qcow2');
  const [program, ...args] = tsvisor('disk', 'convert', raw, '-o', qcow2);
  execFileSync(program, args, { stdio: ['ignore', 'ignore', 'pipe'] });
  // No test shall share the host's disk with what was written here.
  for (const path of [raw, qcow2]) {
    const fd = openSync(path, 'r+');
    fsyncSync(fd);
    closeSync(fd);
  }
  return { raw, qcow2 };
}

/** The benchmark. */
export async function disk({ quick, progress }) {
  const title = 'Disks';
  const unit = 'see the row';
  const qemu = findQemu();
  const clock = clockOption();
  const program = compile('disk.c', '-static');
  if (program === undefined) return { title, unit, rows: [impossible('disk.c', 'no C compiler')] };
  progress('getting the kernel');
  let boot;
  try {
    boot = await prepare(program, quick ? 200 : MILLISECONDS);
  } catch (error) {
    return { title, unit, rows: [impossible('Linux', error.message)] };
  }
  const series = {};
  for (const [format, path] of Object.entries(images())) {
    const commands = diskCommands(qemu, clock, boot, { path, format, throwAway: false });
    for (const [name, command] of Object.entries(commands))
      series[`${name}, ${format}`] = () => once(command);
  }
  progress('running');
  const samples = await interleave(series, quick ? 1 : 3, 0);
  return {
    title,
    unit,
    rows: Object.keys(TESTS).flatMap((test) => rowsOf(samples, test)),
    notes: notes(samples, qemu, clock),
  };
}

/** What a program's figures are compared with: QEMU with the same format, and qcow2 with raw. */
function against(name, part) {
  const [program, format] = name.split(', ');
  if (program !== 'tsvisor run') return [];
  return [
    `QEMU microvm, ${format}`,
    ...(format === 'qcow2' && part === 'figure' ? ['tsvisor run, raw'] : []),
  ];
}

function rowsOf(samples, test) {
  const [what] = TESTS[test];
  const figures = (name, part) => samples[name].map((sample) => sample[test][part]);
  const row = (part, text) => (name) => ({
    name: `${text}: ${name}`,
    value: summarize(figures(name, part)),
    ratios: Object.fromEntries(
      against(name, part)
        .filter((other) => other in samples)
        .map((other) => [other, ratio(figures(name, part), figures(other, part))]),
    ),
  });
  const names = Object.keys(samples);
  const cpu = `${what.replace(/, [^,]*$/, '')}, processor time an operation, microseconds`;
  return [...names.map(row('figure', what)), ...names.map(row('cpu', cpu))];
}

function notes(samples, qemu, clock) {
  const clocks = Object.values(samples).flatMap((runs) =>
    runs.flatMap((run) => Object.values(run).map((test) => test.clock)),
  );
  const [low, high] = [0, 1].map((share) => quantile(clocks, share).toFixed(3));
  return [
    `A ${DISK_SIZE / MIB} MiB image in the host's page cache, read and written past the guest's with O_DIRECT for ${MILLISECONDS} ms a test; 1 MiB at once in sequence.`,
    `While the host's clock counted a second from a test's first line to its last, the guest's counted ${low} to ${high}.`,
    'Processor time is that of the whole process, guest included.',
    comparedWith(qemu, clock),
  ];
}
