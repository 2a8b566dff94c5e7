/**
 * How many instructions a second the tcg engine executes in a few small loops, over all and in the loop's first 100 ms,
 * against QEMU's tcg with the same guest.
 */
import { findQemu } from './lib/host.mjs';
import { LOOP_NAMES, loopGuest } from './lib/loop-guests.mjs';
import { file, qemuMachine, start, tsvisor } from './lib/programs.mjs';
import { compareRow, interleave } from './lib/stats.mjs';

/** The first part of a run that is looked at, ms. */
const EARLY = 100;
const EXIT_STATUS = 1;

/**
 * Runs the guest once.
 *
 * The guest takes its times by RDTSC, for its output is batched on the way; how long a tick is follows from the arrival
 * of the bytes before and after the loop.
 * @returns millions of instructions a second: over all, and in the first 100 ms
 */
async function once(command, { instructions }, pieces) {
  const output = [];
  let endAt;
  let bytes = 0;
  const { status, errors, firstAt } = await start(command, {
    stdout(data, at) {
      output.push(data);
      bytes += data.length;
      if (bytes > 1) endAt ??= at;
    },
  }).ended;
  const text = Buffer.concat(output);
  if (status !== EXIT_STATUS || text.length !== 2 + (pieces + 1) * 8 || text[0] !== 0x53 || text[1] !== 0x45)
    throw new Error(`${command[0]}: ${bytes} bytes, status ${status}: ${errors}`);
  const stamps = Array.from({ length: pieces + 1 }, (_, i) => text.readBigUInt64LE(2 + i * 8));
  const tick = (endAt - firstAt) / Number(stamps[pieces] - stamps[0]);
  const times = stamps.map((stamp) => Number(stamp - stamps[0]) * tick);
  const whole = (pieces * instructions) / times[pieces] / 1000;
  return { whole, early: (doneBy(EARLY, times) * instructions) / EARLY / 1000 };
}

/** How many pieces were done by a time, counting a part of one. `times[i]` is the start of piece i. */
function doneBy(time, times) {
  const next = times.findIndex((start) => start > time);
  if (next < 0) throw new Error(`The loop took less than ${time} ms.`);
  return next - 1 + (time - times[next - 1]) / (times[next] - times[next - 1]);
}

async function measure(qemu, name, pieces, rounds) {
  const guest = loopGuest(name, pieces);
  const kernel = file(`${name.replace(/\W/g, '-')}.elf`, guest.kernel);
  const commands = {
    'tsvisor run': tsvisor('run', '--accel', 'tcg', '--kernel', kernel),
    ...(qemu && { QEMU: qemuMachine(qemu, { accel: 'tcg' }, '-kernel', kernel) }),
  };
  const series = Object.fromEntries(
    Object.entries(commands).map(([program, command]) => [program, () => once(command, guest, pieces)]),
  );
  const samples = await interleave(series, rounds, 0);
  const PARTS = { whole: name, early: `${name}, first ${EARLY} ms` };
  return Object.entries(PARTS).flatMap(([part, what]) =>
    Object.keys(samples).map((program) =>
      compareRow(`${what}: ${program}`, samples, part, program, program === 'QEMU' ? undefined : 'QEMU'),
    ),
  );
}

/** The benchmark. */
export async function loops({ quick, progress }) {
  const qemu = findQemu();
  const rows = [];
  for (const name of LOOP_NAMES) {
    progress(name);
    rows.push(...(await measure(qemu, name, quick ? 256 : 512, quick ? 3 : 7)));
  }
  const notes = [
    'Each loop is a machine of its own, started with cold caches and code that nothing has compiled yet.',
    `Some forty instructions come before the loop, so its first ${EARLY} ms are those of the machine.`,
    qemu ? `${qemu.version}, -M microvm -accel tcg.` : 'QEMU is not installed: nothing to compare with.',
  ];
  return { title: 'Hot loops', unit: 'million instructions/s', digits: 0, rows, notes };
}
