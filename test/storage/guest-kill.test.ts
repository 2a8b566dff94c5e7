/**
 * A whole virtual machine is killed while its guest writes: every record whose fsync the guest saw return is there, the
 * image is consistent, and the next machine goes on with it.
 */
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { beforeAll, describe, expect, it } from 'vitest';
import { buildInitramfs } from '../../src/boot/initramfs/build.ts';
import { fetchBusybox, fetchKernel } from '../../src/host/kernel-fetch.ts';
import { checkDisk } from '../../src/storage/check.ts';
import { createRaw } from '../../src/storage/create.ts';
import { type DiskFormat, openDisk } from '../../src/storage/open.ts';
import { createQcow2 } from '../../src/storage/qcow2/create.ts';
import { startCli } from '../cli/support/cli.ts';
import { qemuCheck, testFolder } from './support.ts';

/** Only a guest that hangs takes so long, ms. */
const LIMIT = 300_000;
const KILLS = process.env.TSVISOR_SLOW_TESTS ? 25 : 3;
/** The kill comes up to so long, ms, after one of the first records of a run. */
const LATEST = 300;
const FIRST_RECORDS = 8;
const MIB = 2 ** 20;
/** Records go to slots by turns, a MiB apart, so that they need new tables of a qcow2 image; junk goes behind them. */
const SLOTS = 48;
const SIZE = 2 * SLOTS * MIB;
const WRITERS = 2;
const SECTOR = 512;

/** Bytes of record n: 1 to 16 blocks of 4 KiB, as the guest computes it too. */
const blocksOf = (n: number) => 1 + ((n * 7) % 16);

/**
 * Record n is its number in lines of 16 bytes. Each writer has every second number; another job writes and
 * discards what nobody looks at, so that the image's tables change under the records.
 */
const SCRIPT = `
  writer() {
    n=$(($1 + start))
    while true; do
      blocks=$((1 + n * 7 % 16))
      yes "$(printf 'record %08d' $n)" | head -c $((blocks * 4096)) > /tmp/record$1
      dd if=/tmp/record$1 of=/dev/vda bs=4096 seek=$((n % ${SLOTS} * 256)) conv=notrunc,fsync 2>/dev/null || break
      echo "done $n"
      n=$((n + ${WRITERS}))
    done
    echo "writer failed"
  }
  junk() {
    i=0
    while true; do
      at=$((${SLOTS} + i * 5 % ${SLOTS}))
      dd if=/dev/zero of=/dev/vda bs=16k seek=$((at * 64)) count=$((1 + i % 9)) conv=notrunc 2>/dev/null
      [ $((i % 3)) = 2 ] && blkdiscard -o $((at * ${MIB})) -l 65536 /dev/vda
      i=$((i + 1))
    done
  }
  junk &
  writer 1 &
  writer 0`;

const folder = testFolder();
let kernel: string;
const initrd = join(folder, 'initrd');
beforeAll(async () => {
  const { vmlinuz, version } = await fetchKernel();
  kernel = vmlinuz;
  const root = join(vmlinuz, '../..', 'lib/modules', version);
  const names = ['virtio_mmio', 'virtio_pci', 'virtio_blk'];
  const busybox = await fetchBusybox();
  writeFileSync(initrd, await buildInitramfs({ busybox, modules: { root, names }, command: SCRIPT }));
}, LIMIT);

/** One machine's life. */
interface Round {
  transport: string;
  /** Number of the first record. */
  start: number;
  /** It is killed so long after so many of them. */
  records: number;
  milliseconds: number;
}

/** Runs the guest on an image until it is killed. @returns the records whose fsync had returned */
async function writeUntilKilled(
  path: string,
  { transport, start, records, milliseconds }: Round,
): Promise<number[]> {
  const append = `console=ttyS0 panic=-1 cryptomgr.notests quiet start=${start}`;
  const machine = ['--accel', 'tcg', '--cpus', '2', '--memory', '128M', '--transport', transport];
  const files = ['--kernel', kernel, '--initrd', initrd, '--disk', path];
  const run = startCli(['run', ...machine, ...files, '--append', append]);
  await run.shows(new RegExp(`(?:^done \\d+\\r?\\n[^]*?){${records}}`, 'm'));
  await delay(milliseconds);
  run.child.kill('SIGKILL');
  const { signal, stdout } = await run.ended;
  expect(signal).toBe('SIGKILL');
  expect(stdout).not.toMatch(/writer failed|I\/O error|BUG|Oops/);
  return [...stdout.matchAll(/^done (\d+)\r?\n/gm)].map(([, n]) => Number(n));
}

/** The record that each sector of a slot is of; -1 for zeros. @throws when it is of none */
function recordsIn(bytes: Buffer): number[] {
  return Array.from({ length: bytes.length / SECTOR }, (_, i) => {
    const sector = bytes.toString('latin1', i * SECTOR, (i + 1) * SECTOR);
    if (/^\0*$/.test(sector)) return -1;
    const line = sector.slice(0, 16);
    if (!/^record \d{8}\n$/.test(line) || sector !== line.repeat(SECTOR / 16))
      throw new Error(`a sector of ${sector}`);
    return Number(line.slice(7, 15));
  });
}

/** Every slot has its last acknowledged record whole, or has in its place what a later record began to write. */
async function expectRecords(path: string, acknowledged: ReadonlyMap<number, number>, last: number) {
  await using disk = await openDisk(path, { readOnly: true });
  for (const [slot, n] of acknowledged) {
    const bytes = Buffer.alloc(blocksOf(n) * 4096);
    await disk.read(slot * MIB, [bytes]);
    for (const found of new Set(recordsIn(bytes))) {
      const isLater = found > n && found <= last && found % SLOTS === slot;
      if (found !== n && !isLater) throw new Error(`slot ${slot} should have record ${n} and has ${found}`);
    }
  }
}

describe.each([
  { format: 'raw', transport: 'mmio' },
  { format: 'qcow2', transport: 'pci' },
] as const)('a machine with a $format disk on $transport', ({ format, transport }) => {
  it(
    `keeps what its guest was told is flushed when it is killed ${KILLS} times`,
    async () => {
      const seed = Date.now() >>> 0;
      console.log(`${format}: seed ${seed}`);
      const path = join(folder, `disk.${format}`);
      await create(path, format);
      const acknowledged = new Map<number, number>();
      let state = seed;
      const random = (below: number) => {
        state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
        return Math.floor((state / 2 ** 32) * below);
      };
      let start = 0;
      for (let kill = 0; kill < KILLS; kill++) {
        const records = 1 + random(FIRST_RECORDS);
        const milliseconds = random(LATEST);

        const done = await writeUntilKilled(path, { transport, start, records, milliseconds });

        for (const n of done) acknowledged.set(n % SLOTS, Math.max(n, acknowledged.get(n % SLOTS) ?? -1));
        // Each writer may have begun one record more.
        const last = Math.max(...done) + WRITERS;
        await expectRecords(path, acknowledged, last);
        console.log(`${format}: killed ${milliseconds} ms after record ${records} of ${done.length}`);
        if (format === 'qcow2') {
          qemuCheck(path);
          expect((await checkDisk(path)).found.corruptions).toBe(0);
        }
        start = Math.ceil((last + 1) / WRITERS) * WRITERS;
      }
      expect(acknowledged.size).toBeGreaterThan(WRITERS);
      rmSync(path);
    },
    LIMIT,
  );
});

function create(path: string, format: DiskFormat): Promise<void> {
  return format === 'raw' ? createRaw(path, SIZE) : createQcow2(path, { size: SIZE, clusterSize: 4096 });
}
