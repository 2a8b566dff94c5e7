/**
 * How fast a guest can print: bytes a second through the serial port, a real-mode loop that polls LSR and writes THR,
 * against QEMU with the same code.
 */
import { Vm } from '../dist/index.js';
import { findQemu } from './lib/host.mjs';
import { qemuCommand, start, tsvisorCommand } from './lib/programs.mjs';
import { serialGuest } from './lib/real-mode.mjs';
import { interleave, ratio, summarize } from './lib/stats.mjs';

const MIB = 1 << 20;

/** In this process: from the first byte of the console to the last. @returns bytes a second */
async function library(code, count) {
  const vm = await Vm.create({ boot: { flat: code } });
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

/** The benchmark. */
export async function serial({ quick, progress }) {
  const count = quick ? MIB / 32 : MIB;
  const code = serialGuest(count);
  const qemu = findQemu();
  const series = {
    'Vm, console.onData': () => library(code, count),
    'tsvisor run': () => program(tsvisorCommand('serial', code), count),
    ...(qemu && { QEMU: () => program(qemuCommand(qemu, 'serial', code), count) }),
  };
  progress(`${count} bytes`);
  const samples = await interleave(series, quick ? 5 : 3, 0);
  const rows = Object.entries(samples).map(([name, values]) => ({
    name,
    value: summarize(values),
    ...(qemu && name !== 'QEMU' && { ratios: { QEMU: ratio(values, samples.QEMU) } }),
  }));
  const notes = [
    `${count} bytes a run, each with a read of LSR and a write of THR; from the first byte on the host to the last.`,
    qemu ? `${qemu.version}, -accel kvm.` : 'QEMU is not installed: nothing to compare with.',
  ];
  return { title: 'Serial output', unit: 'bytes/s', digits: 0, rows, notes };
}
