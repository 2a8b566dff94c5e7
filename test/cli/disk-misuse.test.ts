/** Disks that cannot be used as `tsvisor run` and `tsvisor disk` are asked to: what is said, and the exit status. */
import { execFileSync, spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { type Ended, file, MAIN, runCli, scratch, startCli } from './support/cli.ts';
import { exit, print, SPIN } from './support/guests.ts';
import { canUnshare } from './support/hidden.ts';

const MIB = 2 ** 20;
/** The arguments of a run that ends at once with status 1, if it starts. */
const runWith = (disk: string): string[] => [
  'run',
  '--accel',
  'tcg',
  '--flat',
  file(exit(0)),
  '--disk',
  disk,
];

function image(name = 'disk.img', size = MIB): string {
  return file(new Uint8Array(size), name);
}

/** Every one has a code, a sentence and something to do. */
function expectRefusal(
  ended: Pick<Ended, 'status' | 'stderr'>,
  status: number,
  code: string,
  message: RegExp,
) {
  expect(ended.stderr).toMatch(new RegExp(`^tsvisor: ${code}: .+\\n {2}\\S`, 'm'));
  expect(ended.stderr).toMatch(message);
  expect(ended.stderr).not.toContain('    at ');
  expect(ended.status).toBe(status);
}

describe('run --disk', () => {
  it('refuses an image that another run has, and names it', async () => {
    const path = image();
    const first = startCli([
      ...['run', '--accel', 'tcg', '--flat', file([...print('up'), ...SPIN]), '--disk', path],
    ]);
    await first.shows(/up/);

    const second = await runCli(runWith(path));
    const reading = await runCli(runWith(`${path},overlay`));
    first.child.kill('SIGINT');
    await first.ended;

    expectRefusal(second, 4, 'TSV_E_DISK_LOCKED', new RegExp(`"${path}" is in use`));
    expectRefusal(reading, 4, 'TSV_E_DISK_LOCKED', /Wait until that has ended/);
    expect((await runCli(runWith(path))).status).toBe(1);
  });

  it('lets several runs have one image under overlays, but no overlay twice', async () => {
    const path = image();
    const changes = join(scratch(), 'changes.qcow2');
    const first = startCli([
      ...['run', '--accel', 'tcg', '--flat', file([...print('up'), ...SPIN])],
      ...['--disk', `${path},overlay=${changes}`],
    ]);
    await first.shows(/up/);

    const other = await runCli(runWith(`${path},overlay`));
    const same = await runCli(runWith(`${path},overlay=${changes}`));
    first.child.kill('SIGINT');
    await first.ended;

    expect(other.status).toBe(1);
    expectRefusal(same, 4, 'TSV_E_DISK_LOCKED', new RegExp(`"${changes}" is in use`));
    expect((await runCli(runWith(`${path},overlay=${changes}`))).status).toBe(1);
  });

  it('refuses to write to an image that may only be read, and says how to use it', async () => {
    const path = image();
    chmodSync(path, 0o444);
    const flat = file(exit(0));
    for (const folder of [dirname(path), dirname(flat)]) chmodSync(folder, 0o755);
    const unprivileged = (disk: string) => {
      const args = [process.execPath, MAIN, 'run', '--accel', 'tcg', '--flat', flat, '--disk', disk];
      const asNobody = ['--reuid=65534', '--regid=65534', '--clear-groups', ...args];
      return process.getuid?.() === 0
        ? spawnSync('setpriv', asNobody, { encoding: 'utf8' })
        : spawnSync(args[0], args.slice(1), { encoding: 'utf8' });
    };

    const refused = unprivileged(path);

    expectRefusal(refused as Ended, 2, 'TSV_E_FILE', /\(EACCES\)\.\n .*readonly.*overlay/);
    expect(unprivileged(`${path},readonly`).status).toBe(1);
    expect(unprivileged(`${path},overlay`).status).toBe(1);
  });

  const missingBacking = () => {
    const base = image('base.img');
    const path = join(scratch(), 'overlay.qcow2');
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', '-F', 'raw', '-b', base, path]);
    rmSync(base);
    return path;
  };
  const folder = () => {
    const path = join(scratch(), 'folder');
    mkdirSync(path);
    return path;
  };
  it.each<[string, () => string, string, RegExp]>([
    ['a folder', () => folder(), 'TSV_E_FILE', /Give the path of a disk image/],
    ['a folder to read', () => `${folder()},readonly`, 'TSV_E_FILE', /neither a file nor a block device/],
    ['a file that is not there', () => '/nonexistent.img', 'TSV_E_FILE', /\(ENOENT\)/],
    ['an image based on a file, unasked', missingBacking, 'TSV_E_DISK_BACKING', /Allow backing files/],
    [
      'an image whose base is gone',
      () => `${missingBacking()},backing`,
      'TSV_E_DISK_BACKING',
      /is based on ".*base\.img", which cannot be opened \(ENOENT\)/,
    ],
    ['a raw image as qcow2', () => `${image()},format=qcow2`, 'TSV_E_DISK_FORMAT', /qcow2/],
    [
      'the changes to another image',
      () => {
        const changes = join(scratch(), 'changes.qcow2');
        execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', '-F', 'raw', '-b', image(), changes]);
        return `${image('other.img')},overlay=${changes}`;
      },
      'TSV_E_DISK_BACKING',
      /holds changes to ".*disk\.img", not to ".*other\.img"/,
    ],
    ['an overlay in no folder', () => `${image()},overlay=/nonexistent/x`, 'TSV_E_FILE', /ENOENT/],
    [
      'a serial number that is too long',
      () => `${image()},serial=${'x'.repeat(21)}`,
      'TSV_E_CONFIG',
      /serial/,
    ],
    ['half an option', () => `${image()},iops`, 'TSV_E_USAGE', /"iops" is nothing that can be said/],
  ])('refuses %s', async (_, disk, code, message) => {
    expectRefusal(await runCli(runWith(disk())), 2, code, message);
  });

  it('takes all of several disks, and the last of what is given twice by mistake', async () => {
    const path = image();
    const args = [...runWith(path), '--disk', path, '--memory', '1K', '--memory', '128M'];

    // The second is locked by the first.
    expectRefusal(await runCli(args), 4, 'TSV_E_DISK_LOCKED', new RegExp(path));
  });
});

describe('a host without room', () => {
  it('is told of a disk larger than any file can be', async () => {
    const path = join(scratch(), 'huge.img');

    const ended = await runCli(['disk', 'create', path, '--size', '7P']);

    // File systems differ in how large a file may be; where this one may, there is nothing to refuse.
    if (ended.status === 0) expect(statSync(path).size).toBe(7 * 2 ** 50);
    else {
      expectRefusal(ended, 4, 'TSV_E_DISK_FULL', /The host has no room for/);
      expect(existsSync(path)).toBe(false);
    }
  });

  it.runIf(canUnshare)('leaves nothing of a copy that does not fit', () => {
    const source = file(Buffer.alloc(3 * MIB, 'x'), 'source.img');
    const script =
      'mount -t tmpfs -o size=1M none "$1" && { "$2" "$3" disk convert "$4" -o "$1/copy.img"; echo "status $?"; ls -A "$1"; }';
    const args = ['-m', 'sh', '-c', script, 'sh', scratch(), process.execPath, MAIN, source];

    const { stdout, stderr } = spawnSync('unshare', args, { encoding: 'utf8' });

    expect(stdout).toBe('status 4\n');
    expect(stderr).toMatch(/^tsvisor: TSV_E_DISK_FULL: The host has no room for .*copy\.img/m);
  });

  it.runIf(canUnshare)('is told of before a guest starts when its overlay has no room', () => {
    const path = file(new Uint8Array(MIB), 'disk.img');
    const script =
      'mount -t tmpfs -o size=4k none "$1" && echo x > "$1/full" && exec "$2" "$3" run --flat "$4" --disk "$5"';
    const temporary = scratch();
    const args = ['-m', 'sh', '-c', script, 'sh', temporary, process.execPath, MAIN, file(exit(0))];

    const ended = spawnSync('unshare', [...args, `${path},overlay=${join(temporary, 'changes.qcow2')}`], {
      encoding: 'utf8',
    });

    expectRefusal(ended as Ended, 4, 'TSV_E_DISK_FULL', /The host has no room for/);
    expect(readFileSync(path).every((byte) => byte === 0)).toBe(true);
  });
});
