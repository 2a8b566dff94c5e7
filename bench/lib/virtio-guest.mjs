/** The guest of the virtio benchmark: virtio-guest.s around fixtures/virtio/driver.s, by the host's binutils. */
import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { temporary } from './host.mjs';

const SOURCE = fileURLToPath(new URL('virtio-guest.s', import.meta.url));
const DRIVER = fileURLToPath(new URL('../../fixtures/virtio', import.meta.url));
const MMIO = 0;
const VIRTIO_F_VERSION_1 = '0x100000000';
/** Where the guest has its parts; see there. */
const SECTIONS = { text: 0x100000, note: 0x110000, requests: 0x310000, headers: 0x500000 };
const SECTOR = 512;

/** Requests in the guest's list. */
export const COUNT = 64;

/**
 * A kernel that works its list off and prints S before and E after it, then ends the run with status 1.
 * @param cpl 0: it halts until interrupted; 3: it looks until all is done
 * @param length bytes of each read
 * @param depth reads under way at the same time
 * @param rounds how often it works the list off
 * @param diskSize bytes
 */
export function virtioGuest({ cpl, length, depth, rounds, diskSize }) {
  const output = temporary(`virtio-${cpl}-${length}-${depth}-${rounds}`);
  const parameters = {
    ...{ CPL: cpl, TRANSPORT: MMIO, PACKED: 0, INTERRUPTS: cpl === 0 ? 1 : 0, QUEUES: 1, SIZE: 256 },
    ...{ FEATURES: VIRTIO_F_VERSION_1, ROUNDS: rounds, WINDOW: 0, MOVE: 0, MARKS: 1 },
    ...{ LENGTH: length, DEPTH: depth, COUNT, SECTORS: (diskSize - length) / SECTOR },
  };
  const symbols = Object.entries(parameters).flatMap(([name, value]) => ['--defsym', `${name}=${value}`]);
  const starts = Object.entries(SECTIONS).map(
    ([name, at]) => `--section-start=.${name}=0x${at.toString(16)}`,
  );
  execFileSync('as', ['--64', '-I', DRIVER, ...symbols, '-o', `${output}.o`, SOURCE]);
  execFileSync('ld', ['-n', '-e', 'entry', ...starts, '-o', `${output}.elf`, `${output}.o`]);
  return `${output}.elf`;
}
