/**
 * Reads of a disk a second by the driver of fixtures/virtio under the kvm engine, with eventfds and without, against the
 * same guest in QEMU with the same file.
 */
import { randomBytes } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import { findQemu, impossible, kvmProblem } from './lib/host.mjs';
import { file, qemuMachine, start } from './lib/programs.mjs';
import { interleave, ratio, summarize } from './lib/stats.mjs';
import { COUNT, virtioGuest } from './lib/virtio-guest.mjs';

const DISK_SIZE = 64 << 20;
const EXIT_STATUS = 1;
const VM = fileURLToPath(new URL('lib/virtio-vm.mjs', import.meta.url));

/** A second of each, or some, where KVM is software. */
const CASES = [
  { what: '4 KiB, one at a time, CPL 0', cpl: 0, length: 4096, depth: 1, rounds: 100 },
  { what: '512 B, one at a time, CPL 0', cpl: 0, length: 512, depth: 1, rounds: 100 },
  { what: '4 KiB, 16 at a time, CPL 0', cpl: 0, length: 4096, depth: 16, rounds: 200 },
  { what: '4 KiB, one at a time, CPL 3', cpl: 3, length: 4096, depth: 1, rounds: 100 },
];

/** Runs the guest once. @returns reads a second between the marks that it prints before and after */
async function once(command, rounds) {
  const marks = [];
  const watch = { stdout: (data, at) => marks.push(...[...data].map((byte) => ({ byte, at }))) };
  const { status, errors } = await start(command, watch).ended;
  const [begin, end] = marks;
  if (status !== EXIT_STATUS || marks.length !== 2) throw new Error(`${command[0]}: ${status}: ${errors}`);
  return ((COUNT * rounds) / (end.at - begin.at)) * 1000;
}

function commands(qemu, kernel, disk) {
  const ours = (eventfds) => [process.execPath, VM, kernel, disk, eventfds];
  // Without ACPI the interrupts are inputs of the first I/O APIC; by default its virtio devices are not of version 1.
  const machine = { accel: 'kvm', machine: 'microvm,acpi=off' };
  const drive = [
    '-drive',
    `if=none,id=disk,format=raw,file=${disk}`,
    '-device',
    'virtio-blk-device,drive=disk',
  ];
  const modern = ['-cpu', 'qemu64', '-global', 'virtio-mmio.force-legacy=false'];
  return {
    tsvisor: ours('auto'),
    'without eventfds': ours('none'),
    ...(qemu && { QEMU: qemuMachine(qemu, machine, ...modern, ...drive, '-kernel', kernel) }),
  };
}

async function measure(qemu, disk, { what, rounds, ...guest }, repeats) {
  const kernel = virtioGuest({ ...guest, rounds, diskSize: DISK_SIZE });
  const series = Object.fromEntries(
    Object.entries(commands(qemu, kernel, disk)).map(([name, command]) => [
      name,
      () => once(command, rounds),
    ]),
  );
  const samples = await interleave(series, repeats, 1);
  return Object.keys(samples).map((name) => {
    const others = name === 'tsvisor' ? ['QEMU', 'without eventfds'] : name === 'QEMU' ? [] : ['QEMU'];
    const compared = others.filter((other) => samples[other] !== undefined);
    return {
      name: `${what}: ${name}`,
      value: summarize(samples[name]),
      ratios: Object.fromEntries(compared.map((other) => [other, ratio(samples[name], samples[other])])),
    };
  });
}

/** The benchmark. */
export async function virtio({ quick, progress }) {
  const title = 'Virtio disk, kvm';
  const unit = 'reads/s';
  const problem = kvmProblem();
  if (problem !== undefined) return { title, unit, rows: [impossible('kvm', problem)] };
  const qemu = findQemu();
  const disk = file('disk.raw', randomBytes(DISK_SIZE));
  const rows = [];
  for (const each of CASES) {
    progress(each.what);
    try {
      rows.push(...(await measure(qemu, disk, each, quick ? 3 : 9)));
    } catch (error) {
      if (error.code !== 'ENOENT') throw error;
      return { title, unit, rows: [impossible('the guest', `${error.path} is missing (Debian: binutils)`)] };
    }
  }
  const notes = [
    'The file is in the page cache of the host. At CPL 0 the guest halts until it is interrupted, at CPL 3 it looks.',
    qemu
      ? `${qemu.version}, -M microvm -accel kvm, its defaults.`
      : 'QEMU is not installed: nothing to compare with.',
  ];
  return { title, unit, digits: 0, rows, notes };
}
