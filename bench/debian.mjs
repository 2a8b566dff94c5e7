/**
 * How long Debian with systemd takes from the start of the run to `login:` on its console, under the tcg engine and under
 * QEMU's tcg with the same disk, kernel, initramfs and command line.
 */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { clockOption, comparedWith, diskCommands, unpackKernel } from './lib/disk-machine.mjs';
import { findQemu, impossible, temporary } from './lib/host.mjs';
import { childTime, startUntil, tsvisor } from './lib/programs.mjs';
import { compareRow, interleave } from './lib/stats.mjs';

const LOGIN = 'login: ';
const CMDLINE = 'console=ttyS0 root=/dev/vda';
const MEMORY = '512M';

/** What `tsvisor image debian` builds, or takes from its cache. */
async function debianImage() {
  const path = temporary('debian.img');
  const [program, ...args] = tsvisor('image', 'debian', '-o', path, '--json');
  const { stdout } = await promisify(execFile)(program, args);
  const { kernel, initrd } = JSON.parse(stdout);
  return { path, kernel: await unpackKernel(kernel), initrd };
}

/** @returns seconds until the prompt, and of processor time */
async function once(command) {
  const before = childTime();
  const child = startUntil(command, LOGIN);
  let login;
  try {
    login = (await child.seen) / 1000;
  } finally {
    child.kill();
    await child.ended;
  }
  return { login, cpu: childTime() - before };
}

const PARTS = { login: 'to the prompt', cpu: 'processor time' };

/** The benchmark. */
export async function debian({ quick, progress }) {
  const qemu = findQemu();
  const clock = clockOption();
  const title = 'Booting Debian';
  const unit = 'seconds';
  progress('building the disk');
  let image;
  try {
    image = await debianImage();
  } catch (error) {
    return { title, unit, rows: [impossible('Debian', (error.stderr || error.message).trim())] };
  }
  progress('booting');
  const { path, kernel, initrd } = image;
  const boot = { kernel, initrd, cmdline: CMDLINE, memory: MEMORY };
  const commands = diskCommands(qemu, clock, boot, { path, format: 'raw', throwAway: true });
  const series = Object.fromEntries(
    Object.entries(commands).map(([program, command]) => [program, () => once(command)]),
  );
  const samples = await interleave(series, quick ? 1 : 3, 0);
  const rows = Object.entries(PARTS).flatMap(([part, what]) =>
    Object.keys(samples).map((program) => {
      const against = program === 'tsvisor run' ? 'QEMU microvm' : undefined;
      return compareRow(`${what}: ${program}`, samples, part, program, against);
    }),
  );
  const notes = [
    `A disk of \`tsvisor image debian\`, which stays as it is, one vCPU, ${MEMORY} of RAM, "${CMDLINE}". From starting the program to the prompt's arrival at its reader.`,
    comparedWith(qemu, clock),
  ];
  return { title, unit, digits: 2, rows, notes };
}
