/**
 * How long Debian's kernel takes from the start of the run to the first line that /init prints, under the tcg engine and
 * under QEMU's tcg with the same vmlinux, initramfs and command line.
 */
import { findQemu, impossible } from './lib/host.mjs';
import { INIT_LINE, linuxCommands, MEMORY_MIB, NO_TESTS, prepareLinux, STOCK } from './lib/linux.mjs';
import { childTime, startUntil } from './lib/programs.mjs';
import { compareRow, interleave } from './lib/stats.mjs';

const EXIT_STATUS = 1;
const BOOTS = { 'stock command line': STOCK, 'cryptomgr.notests': NO_TESTS };

/** @returns seconds until /init's line and of processor time; under tsvisor also millions of instructions, and a second */
async function once(command) {
  const before = childTime();
  const child = startUntil(command, INIT_LINE);
  const init = (await child.seen) / 1000;
  const { status, errors } = await child.ended;
  if (status !== EXIT_STATUS) throw new Error(`${command[0]}: status ${status}: ${errors}`);
  const sample = { init, cpu: childTime() - before };
  if (!command.includes('--json')) return sample;
  const { stats, timing } = JSON.parse(child.output());
  const instructions = stats.instructions / 1e6;
  return { ...sample, instructions, rate: (instructions / timing.runMs) * 1000 };
}

/** What is told of a boot; QEMU does not count instructions. */
const PARTS_OF_BOTH = { init: 'to /init, seconds', cpu: 'processor time, seconds' };
const PARTS = {
  ...PARTS_OF_BOTH,
  instructions: 'million instructions',
  rate: 'million instructions a second',
};

async function measure(qemu, linux, name, rounds) {
  const commands = linuxCommands(qemu, linux, BOOTS[name], '--json');
  const series = Object.fromEntries(
    Object.entries(commands).map(([program, command]) => [program, () => once(command)]),
  );
  const samples = await interleave(series, rounds, 0);
  return Object.entries(PARTS).flatMap(([part, what]) =>
    Object.keys(samples)
      .filter((program) => part in samples[program][0])
      .map((program) => {
        const against = program === 'tsvisor run' && part in PARTS_OF_BOTH ? 'QEMU microvm' : undefined;
        return compareRow(`${name}, ${what}: ${program}`, samples, part, program, against);
      }),
  );
}

/** The benchmark. */
export async function boot({ quick, progress }) {
  const qemu = findQemu();
  const title = 'Booting Linux';
  const unit = 'see the row';
  progress('getting the kernel');
  let linux;
  try {
    linux = await prepareLinux('exit');
  } catch (error) {
    return { title, unit, rows: [impossible('Linux', error.message)] };
  }
  const rows = [];
  for (const name of Object.keys(BOOTS)) {
    progress(name);
    rows.push(...(await measure(qemu, linux, name, quick ? 2 : 7)));
  }
  const notes = [
    `Linux ${linux.version} with ${MEMORY_MIB} MB of RAM, one vCPU and a console that prints everything. "To /init" is from starting the program to the arrival of /init's first line at its reader.`,
    'Instructions are those that the tcg engine has executed until /init ended the run; a second is one of the machine, without the start of the program.',
    qemu
      ? `${qemu.version}, -M microvm -accel tcg,thread=single, with the same CPU model as far as it has it. Its Linux boots without ACPI: with it, it finds no timer to start with.`
      : 'QEMU is not installed: nothing to compare with.',
  ];
  return { title, unit, digits: 2, rows, notes };
}
