import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { VirtioPmem } from '../../../src/devices/virtio/pmem/pmem.ts';
import { PmemWriteGuard } from '../../../src/devices/virtio/pmem/write-guard.ts';
import * as host from '../../../src/memory/host-memory.ts';
import type { BlockBackend } from '../../../src/storage/backend.ts';
import { openDisk } from '../../../src/storage/open.ts';
import { createQcow2 } from '../../../src/storage/qcow2/create.ts';
import { DeviceBench, settle } from '../../support/device-bench.ts';
import { MemoryDisk } from './support/memory-disk.ts';
import { MmioDriver } from './support/mmio-driver.ts';
import { F } from './support/transport-driver.ts';

vi.mock('../../../src/memory/host-memory.ts', { spy: true });
afterEach(() => {
  vi.mocked(host.hostMemory).mockReset();
});

const GPA = 0x1_4000_0000;
const MIB = 2 ** 20;
const FLUSH = 0;
const OK = 0;
const EIO = 1;
const NEEDS_RESET = 64;

/** A guest's driver, and the memory it would see. */
class Guest {
  readonly memory: Uint8Array;
  readonly device: VirtioPmem;
  readonly driver: MmioDriver;

  constructor({ readOnly = true, size = 2 * MIB } = {}) {
    this.memory = new Uint8Array(size);
    this.device = new VirtioPmem({ gpa: GPA, memory: this.memory, readOnly });
    this.driver = new MmioDriver(this.device);
  }

  async start(features = 0n): Promise<this> {
    await this.driver.start({ features: features | F.INDIRECT });
    return this;
  }

  /** Sends a request, each of its parts in pieces of the given sizes. @returns the answer, if there is one */
  request(type: number, pieces: number[] = [4]): number | undefined {
    const { heap, bench, rings } = this.driver;
    const [request, answer] = [heap.take(4), heap.take(4)];
    bench.memory.writeU32(request, type);
    bench.memory.writeU32(answer, 0xdeadbeef);
    const cut = (gpa: number, isWritable: boolean) =>
      pieces.map((length, i) => ({
        gpa: gpa + pieces.slice(0, i).reduce((sum, n) => sum + n, 0),
        length,
        isWritable,
      }));
    const token = rings[0].add([...cut(request, false), ...cut(answer, true)], 'indirect');
    this.driver.notify(0);
    const [done] = rings[0].collect();
    if (done === undefined) return undefined;
    expect(done).toEqual({ token, written: 4 });
    return bench.memory.readU32(answer);
  }
}

describe('persistent memory', () => {
  it('says where it is and how large', async () => {
    const { driver } = await new Guest({ size: 6 * MIB }).start();

    const words = [0, 4, 8, 12].map((offset) => driver.config(offset, 4));

    expect(words).toEqual([0x4000_0000, 1, 6 * MIB, 0]);
    expect([driver.config(4, 1), driver.config(10, 2), driver.config(16, 4)]).toEqual([1, 0x60, 0]);
  });

  it.each([
    ['split', 0n],
    ['packed', F.PACKED],
  ])('answers flushes over a %s ring, wherever their bytes lie', async (_, features) => {
    for (const readOnly of [true, false]) {
      const guest = await new Guest({ readOnly }).start(features);
      expect([guest.request(FLUSH), guest.request(FLUSH, [1, 2, 1])]).toEqual([OK, OK]);
      expect(guest.driver.interrupts).toBeGreaterThan(0);
    }
  });

  it('fails what it does not know', async () => {
    const guest = await new Guest().start();
    expect([guest.request(1), guest.request(0xffffffff), guest.request(FLUSH)]).toEqual([EIO, EIO, OK]);
  });

  it('takes a request that is too short for a broken driver', async () => {
    const guest = await new Guest().start();
    expect(guest.request(FLUSH, [3])).toBeUndefined();
    expect(guest.driver.status() & NEEDS_RESET).toBe(NEEDS_RESET);
    await guest.start();
    expect(guest.request(FLUSH)).toBe(OK);
  });

  it('fails flushes once the guest has written where nothing can be written, and logs it once', async () => {
    const guest = await new Guest().start();
    const guard = new DeviceBench(new PmemWriteGuard(guest.device));

    guard.out(0x1000, 1, 4);
    guard.out(0x1004, 1, 4);

    expect([guest.request(FLUSH), guest.request(FLUSH)]).toEqual([EIO, EIO]);
    const { logs } = guest.driver.bench;
    expect(logs).toEqual([{ level: 'warn', message: expect.stringMatching(/^virtio-pmem0: .*read-only/) }]);
    await guest.start();
    expect(guest.request(FLUSH)).toBe(OK);
  });
});

describe('its content', () => {
  it('is that of the disk, continued with zeros; the disk is closed then', async () => {
    const guest = new Guest({ size: 4 * MIB });
    const disk = new MemoryDisk(5000);

    await guest.device.load(disk);

    expect(Buffer.compare(guest.memory.subarray(0, disk.size), disk.content)).toBe(0);
    expect(guest.memory.subarray(disk.size).every((byte) => byte === 0)).toBe(true);
    expect(disk.calls.at(-1)).toBe('close');
  });

  it('is not read where the disk knows that it is zero', async () => {
    const guest = new Guest({ size: 4 * MIB });
    const disk = new MemoryDisk(8192);
    const sparse: BlockBackend = Object.assign(disk, {
      extent: async (offset: number) => ({ length: disk.size - offset, zero: offset >= MIB }),
    });

    await guest.device.load(sparse);

    expect(disk.calls).toEqual(['read 0', 'close']);
    expect(guest.memory[MIB]).toBe(0);
  });

  it('comes from any format, and from any place of a large disk', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'tsvisor-pmem-'));
    const path = join(folder, 'image.qcow2');
    await createQcow2(path, { size: 64 * MIB });
    const disk = await openDisk(path);
    for (const at of [0, 5 * MIB - 512, 64 * MIB - 512])
      await disk.write(at, [new Uint8Array(512).fill(at + 7)]);
    const guest = new Guest({ size: 64 * MIB });

    await guest.device.load(disk);

    const seen = [0, 511, 512, 5 * MIB - 512, 5 * MIB, 64 * MIB - 513, 64 * MIB - 1];
    expect(seen.map((at) => guest.memory[at])).toEqual([7, 7, 0, 7, 0, 0, 7]);
    rmSync(folder, { recursive: true });
  });

  it('is refused by a host that has no memory for it', async () => {
    const guest = new Guest({ size: 4 * MIB });
    vi.mocked(host.hostMemory).mockReturnValue({ total: 2 ** 33, available: 2 ** 20 });

    await expect(guest.device.load(new MemoryDisk(8192))).rejects.toMatchObject({
      code: 'TSV_E_HOST_MEMORY',
    });

    expect(guest.memory[0]).toBe(0);
  });

  it('fails with what the disk fails with; nothing is written afterwards', async () => {
    const guest = new Guest({ size: 4 * MIB });
    const disk = new MemoryDisk(8192);
    disk.isHeld = true;
    disk.error = new Error('cut off');

    const loading = guest.device.load(disk);
    let isClosed = false;
    const closing = guest.device.close().then(() => {
      isClosed = true;
    });
    await settle();
    expect(isClosed).toBe(false);
    while (!isClosed) {
      disk.release();
      await Promise.race([settle(), loading.catch(() => undefined)]);
    }

    await expect(loading).rejects.toThrow('cut off');
    await closing;
    expect(disk.calls.filter((call) => call.startsWith('read')).length).toBeLessThan(4);
    expect(disk.calls.at(-1)).toBe('close');
  });
});

describe('its saved state', () => {
  it('carries what the guest wrote', async () => {
    const old = await new Guest({ readOnly: false, size: 4 * MIB }).start();
    old.memory.fill(7, 100, 200);
    old.memory.fill(9, 3 * MIB - 1, 3 * MIB + 1);
    const next = new Guest({ readOnly: false, size: 4 * MIB });
    next.memory.fill(1);

    next.driver.continue(old.driver);

    expect(Buffer.compare(next.memory, old.memory)).toBe(0);
    next.driver.bench.clock.advance(1);
    expect(next.request(FLUSH)).toBe(OK);
  });

  it('remembers that writes were lost, and leaves a read-only content to the image', async () => {
    const old = await new Guest().start();
    old.memory.fill(1);
    old.device.lostWrite();
    const next = new Guest();

    next.driver.continue(old.driver);

    expect(next.memory[0]).toBe(0);
    expect(next.request(FLUSH)).toBe(EIO);
  });

  it('is refused when it is of another size, or damaged, and changes nothing then', () => {
    const { device, memory } = new Guest({ readOnly: false });
    memory.fill(3, 0, 65536);
    const good = device.save();
    memory.fill(4, 0, 65536);

    for (const damage of [
      { size: 4 * MIB },
      { blocks: [32] },
      { blocks: [0, 1] },
      { content: new Uint8Array(65535) },
      { content: 'text' },
      { lost: 1 },
    ]) {
      expect(() => device.restore({ ...good, ...damage })).toThrow(/state/);
    }

    expect(memory[0]).toBe(4);
    device.restore(good);
    expect(memory[0]).toBe(3);
  });
});
