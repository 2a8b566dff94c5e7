/**
 * How fast a guest can print: bytes a second through the serial port, a real-mode loop that polls LSR and writes THR,
 * against QEMU with the same code, on both engines.
 */
import { Vm } from '../dist/index.js';
import { findQemu, impossible, kvmProblem } from './lib/host.mjs';
import { qemuCommand, start, tsvisorCommand } from './lib/programs.mjs';
import { serialGuest } from './lib/real-mode.mjs';
import { interleave, ratio, summarize } from './lib/stats.mjs';

const MIB = 1 << 20;

/** In this process: from the first byte of the console to the last. @returns bytes a second */
async function library(accel, code, count) {
  const vm = await Vm.create({ accel, boot: { flat: code } });
  let bytes = 0;
  let first;
  let last;
  vm.console.onData((data) => {
    last = performance.now();
    first ??= { at: last, bytes: data.length };
    bytes += data.length;
  });
  vm.start();
  const { reason } = await vm.exited;
  await vm.close();
  if (bytes !== count || reason !== 'exit') throw new Error(`${bytes} bytes, then ${reason}`);
  return ((bytes - first.bytes) / (last - first.at)) * 1000;
}

/** As a program: its standard output from the first byte to the last. */
async function program(command, count) {
  const { status, errors, bytes, firstAt, lastAt } = await start(command).ended;
  if (bytes !== count || status !== 1)
    throw new Error(`${command[0]}: ${bytes} bytes, status ${status}: ${errors}`);
  return (bytes / (lastAt - firstAt)) * 1000;
}

async function measure(qemu, accel, count, rounds) {
  const code = serialGuest(count);
  const series = {
    'Vm, console.onData': () => library(accel, code, count),
    'tsvisor run': () => program(tsvisorCommand(accel, 'serial', code), count),
    ...(qemu && { QEMU: () => program(qemuCommand(qemu, accel, 'serial', code), count) }),
  };
  const samples = await interleave(series, rounds, 0);
  return Object.entries(samples).map(([name, values]) => ({
    name: `${accel}: ${name}`,
    value: summarize(values),
    ...(qemu && name !== 'QEMU' && { ratios: { QEMU: ratio(values, samples.QEMU) } }),
  }));
}

/** The benchmark. */
export async function serial({ quick, progress }) {
  const count = quick ? MIB / 32 : MIB / 4;
  const qemu = findQemu();
  const rows = [];
  for (const accel of ['kvm', 'tcg']) {
    progress(`${count} bytes, ${accel}`);
    const problem = accel === 'kvm' ? kvmProblem() : undefined;
    if (problem !== undefined) rows.push(impossible('kvm', problem));
    else rows.push(...(await measure(qemu, accel, count, 5)));
  }
  const notes = [
    `${count} bytes a run, each with a read of LSR and a write of THR; from the first byte on the host to the last.`,
    qemu ? `${qemu.version}, -M microvm.` : 'QEMU is not installed: nothing to compare with.',
  ];
  return { title: 'Serial output', unit: 'bytes/s', digits: 0, rows, notes };
}
