/** Damaged and hostile images: an error with a code or a disk, but never a crash, a hang or a file without end. */
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { beforeAll, expect, it, vi } from 'vitest';
import { ERROR_CODES, TsvError } from '../../../src/errors.ts';
import { checkDisk } from '../../../src/storage/check.ts';
import { diskInfo } from '../../../src/storage/info.ts';
import { openDisk } from '../../../src/storage/open.ts';
import { createQcow2 } from '../../../src/storage/qcow2/create.ts';
import { pattern, qemuCheck, qemuImg, qemuIo, testFolder } from '../support.ts';

vi.setConfig({ testTimeout: 300_000 });

const SIZE = 1 << 20;
const RUNS = Number(process.env.TSV_DISK_CASES ?? 150);
const folder = testFolder();
const seeds: Buffer[] = [];

beforeAll(async () => {
  for (const clusterSize of [512, 4096]) {
    const path = join(folder, `seed${clusterSize}.qcow2`);
    await createQcow2(path, { size: SIZE, clusterSize });
    const disk = await openDisk(path);
    for (let i = 0; i < 8; i++) await disk.write(i * 100_352, [pattern(9728, i)]);
    await disk.discard!(0, 4096);
    await disk[Symbol.asyncDispose]();
    qemuImg('snapshot', '-c', 'one', path);
    qemuIo(path, 'write 300k 20k', 'write -z 500k 64k');
    seeds.push(readFileSync(path));
  }
  const raw = join(folder, 'seed.raw');
  writeFileSync(raw, pattern(SIZE, 3).fill('compressible', 0, 900_000));
  for (const type of ['zlib', 'zstd']) {
    const path = join(folder, `seed-${type}.qcow2`);
    const options = `cluster_size=4096,compression_type=${type}`;
    qemuImg('convert', '-c', '-O', 'qcow2', '-o', options, raw, path);
    qemuImg('bitmap', '--add', path, 'bitmap');
    seeds.push(readFileSync(path));
  }
});

const interesting = fc.oneof(
  fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  fc.nat(300).map((cluster) => BigInt(cluster * 512)),
  fc.nat(40).map((cluster) => BigInt(cluster * 4096)),
  fc.nat(300).map((cluster) => (1n << 63n) | BigInt(cluster * 512)),
  fc.nat(40).map((cluster) => (1n << 63n) | BigInt(cluster * 4096)),
  fc.constantFrom(
    0n,
    1n,
    2n ** 63n,
    2n ** 62n,
    2n ** 56n - 512n,
    2n ** 53n,
    0xffffffffn,
    2n ** 64n - 1n,
    (1n << 62n) | 511n,
  ),
);

const mutation = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      kind: fc.constant('u64' as const),
      at: fc.double({ min: 0, max: 1, noNaN: true }),
      value: interesting,
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({ kind: fc.constant('header' as const), at: fc.nat(27), value: interesting }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant('byte' as const),
      at: fc.double({ min: 0, max: 1, noNaN: true }),
      value: interesting,
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant('cut' as const),
      at: fc.double({ min: 0, max: 1, noNaN: true }),
      value: interesting,
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constantFrom('table' as const, 'refcount' as const),
      at: fc.double({ min: 0, max: 1, noNaN: true }),
      value: interesting,
    }),
  },
);

type Mutation = { kind: 'u64' | 'header' | 'byte' | 'cut' | 'table' | 'refcount'; at: number; value: bigint };

/** Tables are what is not zero, and the first part of the file; most mutations are to hit them. */
function mutate(seed: Buffer, mutations: Mutation[]): Buffer {
  let bytes = Buffer.from(seed);
  for (const { kind, at, value } of mutations) {
    if (kind === 'cut') {
      bytes = bytes.subarray(0, Math.max(8, Math.floor(bytes.length * at)));
      continue;
    }
    if (bytes.length < 128) continue;
    const early = Math.floor((bytes.length - 8) * at ** 3);
    const l1 = Number(seed.readBigUInt64BE(40));
    const table = at < 0.3 ? l1 : Number(seed.readBigUInt64BE(l1) & 0xfffffffffe00n);
    if (kind === 'byte') bytes[early] = Number(value & 255n);
    else if (kind === 'header') bytes.writeUInt32BE(Number(value & 0xffffffffn), at * 4);
    else if (kind === 'refcount') {
      const block = Number(seed.readBigUInt64BE(Number(seed.readBigUInt64BE(48))));
      if (block + 128 <= bytes.length)
        bytes.writeUInt16BE(Number(value & 3n), block + 2 * Math.floor(at * 60));
    } else {
      const where = kind === 'u64' ? early - (early % 8) : table + 8 * Math.floor(at * 40);
      if (where + 8 <= bytes.length) bytes.writeBigUInt64BE(value, where);
    }
  }
  return bytes;
}

/** Runs an action that may fail, but only in a way that is told. */
async function tolerate<T>(action: () => Promise<T>): Promise<T | undefined> {
  try {
    return await action();
  } catch (error) {
    if (!(error instanceof TsvError) || !(error.code in ERROR_CODES) || error.code === 'TSV_E_INTERNAL')
      throw error;
    expect(error.code).toMatch(/^TSV_E_DISK_/);
    expect(error.hint).not.toBe('');
    return undefined;
  }
}

async function use(path: string, readOnly: boolean): Promise<void> {
  const disk = await tolerate(() => openDisk(path, { format: 'qcow2', readOnly, lock: false, cacheSize: 0 }));
  if (disk === undefined) return;
  try {
    const step = Math.max(512, Math.floor(Math.min(disk.size, 64 << 20) / 64 / 512) * 512);
    for (let i = 0; i < 64 && i * step + 1024 <= disk.size; i++) {
      await tolerate(() => disk.read(i * step, [Buffer.alloc(1024)]));
      await tolerate(() => disk.extent!(i * step));
      if (readOnly) continue;
      if (i % 4 === 0) await tolerate(() => disk.write(i * step, [pattern(1024, i)]));
      if (i % 8 === 3) await tolerate(() => disk.discard!(i * step, Math.min(20_480, disk.size - i * step)));
      if (i % 8 === 5)
        await tolerate(() => disk.writeZeroes!(i * step, Math.min(20_480, disk.size - i * step), i > 30));
      if (i % 16 === 7) await tolerate(() => disk.flush());
    }
  } finally {
    await tolerate(async () => disk[Symbol.asyncDispose]());
  }
}

it('answers damaged images with errors', async () => {
  let repaired = 0;
  await fc.assert(
    fc.asyncProperty(
      fc.nat(3),
      fc.array(mutation, { minLength: 1, maxLength: 4 }),
      async (seed, mutations) => {
        const path = join(folder, 'fuzz.qcow2');
        const bytes = mutate(seeds[seed], mutations as Mutation[]);
        writeFileSync(path, bytes);
        await tolerate(() => diskInfo(path));
        await use(path, true);
        const found = await tolerate(() => checkDisk(path));
        expect(readFileSync(path).equals(bytes)).toBe(true);
        await use(path, false);
        expect(statSync(path).blocks * 512).toBeLessThan(64 << 20);
        if (found?.found.corruptions === 0 && found.found.leaks === 0) return;
        writeFileSync(path, bytes);
        const repair = await tolerate(() => checkDisk(path, { repair: 'all' }));
        if (repair?.left?.corruptions === 0) {
          // What bitmaps say is not looked at here.
          if (seed < 2) qemuCheck(path);
          repaired++;
        }
        await use(path, false);
      },
    ),
    {
      numRuns: RUNS,
      endOnFailure: true,
      // One that can be repaired, at least.
      examples: [[0, [{ kind: 'refcount', at: 0.2, value: 0n }]]],
    },
  );
  expect(repaired).toBeGreaterThan(0);
});
