/**
 * What is on the disk when the host crashes is what was written before the last sync, and any part of what was written
 * since, in any order. The image must be consistent then, and have what was flushed.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it, vi } from 'vitest';
import { checkDisk } from '../../../src/storage/check.ts';
import { ImageFile } from '../../../src/storage/file.ts';
import { openDisk } from '../../../src/storage/open.ts';
import { createQcow2 } from '../../../src/storage/qcow2/create.ts';
import { Qcow2Disk } from '../../../src/storage/qcow2/disk.ts';
import { Recording } from '../recording.ts';
import { content, pattern, qemuCheck, qemuImg, testFolder } from '../support.ts';

vi.setConfig({ testTimeout: 300_000 });

const RUNS = Number(process.env.TSV_DISK_CASES ?? 6);
const folder = testFolder();
let images = 0;

const write = fc.record({
  kind: fc.constantFrom('write', 'write', 'write', 'discard', 'zero', 'flush'),
  sector: fc.nat(),
  sectors: fc.integer({ min: 1, max: 120 }),
  seed: fc.nat(1e6),
});

describe.each([
  { clusterSize: 512, refcountBits: 64 },
  // The refcount table gets too small meanwhile.
  { clusterSize: 512, refcountBits: 64, size: 4 << 20, filled: 1_985_000 },
  { clusterSize: 4096, refcountBits: 16 },
  { clusterSize: 4096, refcountBits: 16, snapshot: true },
])(
  '$clusterSize bytes a cluster, snapshot: $snapshot, filled: $filled',
  ({ snapshot = false, filled = 0, size = 1 << 20, ...options }) => {
    const diskSectors = size / 512;

    it('is consistent after a crash of the host, and has what was flushed', async () => {
      await fc.assert(
        fc.asyncProperty(
          fc.array(write, { minLength: 5, maxLength: 40 }),
          fc.array(fc.record({ at: fc.nat(1000), mask: fc.integer({ min: 1, max: 2 ** 31 - 1 }) }), {
            minLength: 4,
            maxLength: 4,
          }),
          async (writes, crashes) => {
            const path = join(folder, `crash${images++}.qcow2`);
            await createQcow2(path, { size: size, ...options });
            const model = Buffer.alloc(size);
            if (snapshot || filled) {
              const disk = await openDisk(path);
              const length = snapshot ? size / 2 : filled - (filled % 512);
              pattern(length, 3).copy(model);
              await disk.write(0, [model.subarray(0, length)]);
              await disk[Symbol.asyncDispose]();
            }
            if (snapshot) qemuImg('snapshot', '-c', 'one', path);
            const file = await ImageFile.open(path, { readOnly: false });
            const recording = new Recording(file, readFileSync(path));
            const disk = await Qcow2Disk.open(file);
            // Sectors as they were at each flush, and those written to since, which may be anything.
            const flushed: { event: number; model: Buffer; touched: Set<number> }[] = [];
            const mark = () =>
              flushed.push({ event: recording.length, model: Buffer.from(model), touched: new Set() });
            mark();
            for (const { kind, sector: any, sectors, seed } of writes) {
              const sector = any % diskSectors;
              const length = Math.min(sectors, diskSectors - sector) * 512;
              if (kind === 'flush') {
                await disk.flush();
                mark();
                continue;
              }
              for (const each of flushed) for (let i = 0; i < length / 512; i++) each.touched.add(sector + i);
              const bytes = kind === 'write' ? pattern(length, seed) : Buffer.alloc(length);
              if (kind === 'write') await disk.write(sector * 512, [bytes]);
              else if (kind === 'zero') await disk.writeZeroes(sector * 512, length, true);
              else {
                await disk.discard(sector * 512, length);
                await disk.read(sector * 512, [bytes]);
              }
              bytes.copy(model, sector * 512);
            }
            await disk[Symbol.asyncDispose]();
            // Where tables move, in particular.
            const moves = recording.headerWrites.map((at) => ({ at, mask: crashes[0].mask }));
            for (const { at, mask } of [...crashes, ...moves]) {
              const event = at % (recording.length + 1);
              const crashed = `${path}.crash`;
              recording.crash(crashed, event, (index) => ((mask >> (index % 31)) & 1) === 1);
              const { leaks } = qemuCheck(crashed);
              const { found } = await checkDisk(crashed);
              expect(found.corruptions).toBe(0);
              // QEMU does not see those behind the end of the file.
              expect(found.leaks).toBeGreaterThanOrEqual(leaks);
              const last = flushed.findLast((each) => each.event <= event)!;
              const after = await openDisk(crashed, { readOnly: true });
              const bytes = await content(after);
              await after[Symbol.asyncDispose]();
              for (let sector = 0; sector < diskSectors; sector++) {
                if (last.touched.has(sector)) continue;
                const [from, to] = [sector * 512, sector * 512 + 512];
                expect(bytes.subarray(from, to).equals(last.model.subarray(from, to))).toBe(true);
              }
            }
          },
        ),
        { numRuns: RUNS, endOnFailure: true },
      );
    });
  },
);
