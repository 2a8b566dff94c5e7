/** Random use of a disk, several requests at a time, against a buffer; afterwards QEMU must read and like the image. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it, vi } from 'vitest';
import type { BlockBackend } from '../../../src/storage/backend.ts';
import { openDisk } from '../../../src/storage/open.ts';
import { createQcow2 } from '../../../src/storage/qcow2/create.ts';
import { content, pattern, qemuCheck, qemuImg, testFolder } from '../support.ts';

vi.setConfig({ testTimeout: 300_000 });

const SIZE = 3 << 20;
const SECTORS = SIZE / 512;
const RUNS = Number(process.env.TSV_DISK_CASES ?? 6);

const folder = testFolder();
let images = 0;

type Op =
  | { kind: 'write' | 'read' | 'discard' | 'zero' | 'unmap'; sector: number; sectors: number; seed: number }
  | { kind: 'flush' };
type Step = Op[] | 'reopen';

const range = fc.oneof(
  { weight: 4, arbitrary: fc.integer({ min: 1, max: 40 }) },
  { weight: 1, arbitrary: fc.integer({ min: 1, max: 2000 }) },
);
const op: fc.Arbitrary<Op> = fc.oneof(
  {
    weight: 9,
    arbitrary: fc.record({
      kind: fc.constantFrom('write', 'write', 'write', 'read', 'discard', 'zero', 'unmap'),
      sector: fc.oneof(
        fc.nat(SECTORS - 1),
        fc.nat(63).map((n) => n * 96),
      ),
      sectors: range,
      seed: fc.nat(1e6),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('flush' as const) }) },
) as fc.Arbitrary<Op>;
const steps: fc.Arbitrary<Step[]> = fc.array(
  fc.oneof(
    { weight: 12, arbitrary: fc.array(op, { minLength: 1, maxLength: 8 }) },
    { weight: 1, arbitrary: fc.constant('reopen' as const) },
  ),
  { minLength: 4, maxLength: 25 },
);

/** Runs operations at the same time; those that would touch what another one of them changes are left out. */
async function batch(disk: BlockBackend, model: Buffer, ops: Op[]): Promise<void> {
  const taken: [number, number][] = [];
  await Promise.all(
    ops.map(async (each) => {
      if (each.kind === 'flush') return disk.flush();
      const start = each.sector * 512;
      const length = Math.min(each.sectors, SECTORS - each.sector) * 512;
      if (taken.some(([from, to]) => start < to && from < start + length)) return;
      taken.push([start, start + length]);
      const half = Math.floor(length / 1024) * 512;
      const parts = (bytes: Buffer) => [bytes.subarray(0, half), bytes.subarray(half)];
      if (each.kind === 'write') {
        const bytes = pattern(length, each.seed);
        await disk.write(start, parts(bytes));
        bytes.copy(model, start);
      } else if (each.kind === 'read') {
        const bytes = Buffer.alloc(length, 0xee);
        await disk.read(start, parts(bytes));
        expect(bytes.equals(model.subarray(start, start + length))).toBe(true);
      } else if (each.kind === 'discard') {
        await disk.discard!(start, length);
        const bytes = Buffer.alloc(length);
        await disk.read(start, [bytes]);
        for (let at = 0; at < length; at += 512) {
          const sector = bytes.subarray(at, at + 512);
          if (!sector.equals(Buffer.alloc(512)))
            expect(sector).toEqual(model.subarray(start + at, start + at + 512));
        }
        bytes.copy(model, start);
      } else {
        await disk.writeZeroes!(start, length, each.kind === 'unmap');
        model.fill(0, start, start + length);
      }
    }),
  );
}

async function play(path: string, model: Buffer, list: Step[], options = {}): Promise<void> {
  let disk = await openDisk(path, { backing: 'any', lock: false, ...options });
  try {
    for (const step of list) {
      if (step === 'reopen') {
        await disk[Symbol.asyncDispose]();
        expect(qemuCheck(path).leaks).toBe(0);
        disk = await openDisk(path, { backing: 'any', lock: false, ...options });
      } else {
        await batch(disk, model, step);
      }
    }
    expect((await content(disk)).equals(model)).toBe(true);
  } finally {
    await disk[Symbol.asyncDispose]();
  }
  expect(qemuCheck(path).leaks).toBe(0);
  qemuImg('convert', '-f', 'qcow2', '-O', 'raw', path, `${path}.out`);
  expect(readFileSync(`${path}.out`).equals(model)).toBe(true);
}

describe.each([
  { clusterSize: 512, refcountBits: 64 },
  { clusterSize: 512, refcountBits: 1 },
  { clusterSize: 1024, refcountBits: 16, version: 2 as const },
  { clusterSize: 4096, refcountBits: 8 },
  { clusterSize: 65536, refcountBits: 16, lazyRefcounts: true },
  { clusterSize: 2 << 20, refcountBits: 2 },
])('with $clusterSize bytes a cluster, $refcountBits bits a refcount', (options) => {
  it('is what was written, and QEMU agrees', async () => {
    await fc.assert(
      fc.asyncProperty(steps, async (list) => {
        const path = join(folder, `plain${images++}.qcow2`);
        await createQcow2(path, { size: SIZE, ...options });
        await play(path, Buffer.alloc(SIZE), list);
      }),
      { numRuns: RUNS, endOnFailure: true },
    );
  });
});

describe.each(['raw', 'qcow2', 'compressed', 'zstd', 'v2'] as const)('over a backing file (%s)', (kind) => {
  it('leaves the backing file as it is', async () => {
    const raw = join(folder, `${kind}-base.raw`);
    const baseSize = kind === 'v2' ? SIZE - 300 * 512 : SIZE;
    const base = pattern(baseSize, 5).fill(0, 100_000, 900_000).fill('compressible ', 1_000_000, 2_000_000);
    writeFileSync(raw, base);
    const file = kind === 'raw' ? raw : join(folder, `${kind}-base.qcow2`);
    const format = kind === 'raw' ? 'raw' : 'qcow2';
    if (kind === 'compressed') qemuImg('convert', '-c', '-f', 'raw', '-O', 'qcow2', raw, file);
    else if (kind === 'zstd')
      qemuImg('convert', '-c', '-f', 'raw', '-O', 'qcow2', '-o', 'compression_type=zstd', raw, file);
    else if (kind !== 'raw') qemuImg('convert', '-f', 'raw', '-O', 'qcow2', raw, file);
    const before = readFileSync(file);
    await fc.assert(
      fc.asyncProperty(steps, async (list) => {
        const path = join(folder, `over${images++}.qcow2`);
        const version = kind === 'v2' ? 2 : 3;
        await createQcow2(path, { size: SIZE, clusterSize: 8192, version, backing: { file, format } });
        const model = Buffer.alloc(SIZE);
        base.copy(model);
        await play(path, model, list);
      }),
      { numRuns: RUNS, endOnFailure: true },
    );
    expect(readFileSync(file).equals(before)).toBe(true);
  });
});

it('writes to images with compressed clusters and snapshots, which stay as they were', async () => {
  const raw = join(folder, 'snapshot.raw');
  const base = pattern(SIZE, 6).fill('compressible ', 0, 2_000_000);
  writeFileSync(raw, base);
  await fc.assert(
    fc.asyncProperty(steps, steps, fc.constantFrom(4096, 65536), async (list, more, clusterSize) => {
      const path = join(folder, `snapshot${images++}.qcow2`);
      qemuImg('convert', '-c', '-f', 'raw', '-O', 'qcow2', '-o', `cluster_size=${clusterSize}`, raw, path);
      qemuImg('snapshot', '-c', 'first', path);
      const model = Buffer.from(base);
      await play(path, model, list);
      qemuImg('snapshot', '-c', 'second', path);
      const second = Buffer.from(model);
      await play(path, model, more);
      for (const [name, expected] of [['first', base] as const, ['second', second] as const]) {
        qemuImg('convert', '-f', 'qcow2', '-O', 'raw', '-l', name, path, `${path}.snap`);
        expect(readFileSync(`${path}.snap`).equals(expected)).toBe(true);
      }
      qemuImg('snapshot', '-d', 'first', path);
      await play(path, model, list);
    }),
    { numRuns: RUNS, endOnFailure: true },
  );
});

it('keeps few L2 tables in memory when told so', async () => {
  await fc.assert(
    fc.asyncProperty(steps, async (list) => {
      const path = join(folder, `cache${images++}.qcow2`);
      await createQcow2(path, { size: SIZE, clusterSize: 512 });
      await play(path, Buffer.alloc(SIZE), list, { cacheSize: 0 });
    }),
    { numRuns: RUNS, endOnFailure: true },
  );
});
