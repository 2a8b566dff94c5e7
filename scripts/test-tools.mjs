// The programs that the tests run, beside node: assembler and compiler for guests, other people's readers and packers to
// compare with. Missing ones are installed where this is root on a Debian system; elsewhere the command is named, and the
// tests that need them fail and say so.
import { spawnSync } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';

/** Debian packages by program. */
const TOOLS = {
  'g++': 'g++',
  gcc: 'gcc',
  make: 'make',
  as: 'binutils',
  cmake: 'cmake',
  python3: 'python3',
  setpriv: 'util-linux',
  cpio: 'cpio',
  iasl: 'acpica-tools',
  lz4: 'lz4',
  xz: 'xz-utils',
  zstd: 'zstd',
  bzip2: 'bzip2',
  'mkfs.ext4': 'e2fsprogs',
  debugfs: 'e2fsprogs',
  'qemu-img': 'qemu-utils',
};

const found = (program) =>
  (process.env.PATH ?? '').split(delimiter).some((directory) => {
    try {
      accessSync(join(directory, program), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });

const packages = [
  ...new Set(
    Object.keys(TOOLS)
      .filter((program) => !found(program))
      .map((program) => TOOLS[program]),
  ),
];
if (packages.length > 0) {
  const install = ['install', '-y', '-qq', '--no-install-recommends', ...packages];
  if (process.getuid?.() === 0 && found('apt-get')) {
    console.log(`tests: installing ${packages.join(' ')}`);
    const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
    const apt = (args) => spawnSync('apt-get', args, { stdio: ['ignore', 'ignore', 'inherit'], env }).status;
    if (apt(['update', '-qq']) !== 0 || apt(install) !== 0) process.exitCode = 1;
  } else {
    console.warn(
      `tests: some need programs that are not here; on Debian: sudo apt-get install ${packages.join(' ')}`,
    );
  }
}
