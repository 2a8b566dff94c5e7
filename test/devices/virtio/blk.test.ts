import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { BLK_CONFIG, BLK_F, BLK_T } from '../../../src/devices/virtio/blk/abi.ts';
import { type BlkOptions, VirtioBlk } from '../../../src/devices/virtio/blk/blk.ts';
import { settle } from '../../support/device-bench.ts';
import { MemoryDisk } from './support/memory-disk.ts';
import { MmioDriver } from './support/mmio-driver.ts';
import type { Buffer as Segment } from './support/rings.ts';
import { F } from './support/transport-driver.ts';

/** A guest's block driver. */
class Guest {
  readonly disk: MemoryDisk;
  readonly device: VirtioBlk;
  readonly driver: MmioDriver;
  readonly #places = new Map<number, { answer: Segment[]; status: number }>();

  constructor(disk = new MemoryDisk(), options: Omit<BlkOptions, 'backend'> = {}) {
    this.disk = disk;
    this.device = new VirtioBlk({ ...options, backend: disk });
    this.driver = new MmioDriver(this.device);
  }

  async start(features = this.device.features): Promise<this> {
    await this.driver.start({ features: features | F.INDIRECT });
    return this;
  }

  /** Sends a request with its data in pieces of the given sizes, and without any regard to where parts begin. */
  send(type: number, sector: number, data: Uint8Array | number, pieces: number[] = [], queue = 0): number {
    const { heap, bench, rings } = this.driver;
    const sent = new Uint8Array(16 + (typeof data === 'number' ? 0 : data.length));
    const header = new DataView(sent.buffer);
    header.setUint32(0, type, true);
    header.setBigUint64(8, BigInt(sector), true);
    if (typeof data !== 'number') sent.set(data, 16);
    const cut = (length: number, isWritable: boolean): Segment[] => {
      const gpa = heap.take(length, 1);
      const list: Segment[] = [];
      let at = 0;
      for (const size of [...pieces, length]) {
        const part = Math.min(size, length - at);
        if (part > 0) list.push({ gpa: gpa + at, length: part, isWritable });
        at += part;
      }
      return list;
    };
    const out = cut(sent.length, false);
    bench.memory.write(out[0].gpa, sent);
    const room = typeof data === 'number' ? data : 0;
    const back = cut(room + 1, true);
    const status = back[0].gpa + room;
    bench.memory.writeU8(status, 0xff);
    const token = rings[queue].add([...out, ...back], 'indirect');
    if (token === undefined) throw new Error('no room');
    this.#places.set(token, { answer: [{ gpa: back[0].gpa, length: room, isWritable: true }], status });
    this.driver.notify(queue);
    return token;
  }

  /** What has come back: status, bytes written, answer. */
  done(queue = 0): { token: number; status: number; written: number; answer: Buffer }[] {
    const { memory } = this.driver.bench;
    return this.driver.rings[queue].collect().map(({ token, written }) => {
      const { answer, status } = this.#places.get(token)!;
      const [{ gpa, length }] = answer;
      return { token, status: memory.readU8(status), written, answer: Buffer.from(memory.read(gpa, length)) };
    });
  }

  async ask(type: number, sector: number, data: Uint8Array | number = 0, pieces: number[] = []) {
    this.send(type, sector, data, pieces);
    await settle();
    const [result] = this.done();
    return result;
  }

  /** The same guest on a fresh device, over the same disk. */
  moved(): Guest {
    const next = new Guest(this.disk);
    next.driver.continue(this.driver);
    for (const [token, place] of this.#places) next.#places.set(token, place);
    return next;
  }
}

/** struct virtio_blk_discard_write_zeroes. */
function range(sector: number, sectors: number, flags: number): Uint8Array {
  const view = new DataView(new ArrayBuffer(16));
  view.setBigUint64(0, BigInt(sector), true);
  view.setUint32(8, sectors, true);
  view.setUint32(12, flags, true);
  return new Uint8Array(view.buffer);
}

describe('configuration', () => {
  it('says what the disk is', async () => {
    const { driver } = new Guest(new MemoryDisk(100), { queues: 3 });
    expect([driver.config(BLK_CONFIG.CAPACITY, 4), driver.config(BLK_CONFIG.CAPACITY + 4, 4)]).toEqual([
      100, 0,
    ]);
    expect(driver.config(BLK_CONFIG.NUM_QUEUES, 2)).toBe(3);
    expect(driver.offered() & BLK_F.MQ).toBe(BLK_F.MQ);
    expect(driver.offered() & BLK_F.RO).toBe(0n);
  });

  it.each([{ serial: 'x'.repeat(21) }, { serial: 'ß' }, { queues: 0 }, { queues: 65 }])(
    'cannot have %j',
    (options) => {
      expect(() => new Guest(new MemoryDisk(), options)).toThrow(
        expect.objectContaining({ code: 'TSV_E_CONFIG' }),
      );
    },
  );

  it('offers no changes of a read-only disk', () => {
    const { device } = new Guest(new MemoryDisk(8, true));
    const changes = BLK_F.DISCARD | BLK_F.WRITE_ZEROES | BLK_F.CONFIG_WCE;
    expect([device.features & BLK_F.RO, device.features & changes]).toEqual([BLK_F.RO, 0n]);
  });
});

describe.each([
  ['split', 0n],
  ['packed', F.PACKED | F.EVENT_IDX],
])('requests over a %s ring', (_, ring) => {
  const start = async (guest = new Guest()) => guest.start(guest.device.features | ring);

  it('read and write any sectors, with buffers cut anywhere', async () => {
    const step = fc.record({
      isWrite: fc.boolean(),
      sector: fc.nat(63),
      sectors: fc.integer({ min: 0, max: 8 }),
      pieces: fc.array(fc.integer({ min: 1, max: 700 }), { maxLength: 8 }),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 12 }), async (steps) => {
        const guest = await start();
        const expected = guest.disk.content.slice();
        for (const [i, { isWrite, sector, sectors, pieces }] of steps.entries()) {
          const fits = sector + sectors <= 64;
          const at = sector * 512;
          const data = new Uint8Array(sectors * 512).fill(i + 1);
          const result = await guest.ask(isWrite ? 1 : 0, sector, isWrite ? data : data.length, pieces);
          expect(result.status).toBe(fits ? 0 : 1);
          if (!fits) continue;
          if (isWrite) expected.set(data, at);
          else expect(result.answer.equals(expected.subarray(at, at + data.length))).toBe(true);
          expect(result.written).toBe(isWrite ? 1 : data.length + 1);
        }
        expect(Buffer.from(guest.disk.content).equals(expected)).toBe(true);
      }),
      { numRuns: 30 },
    );
  });

  it('finish in any order', async () => {
    const guest = await start();
    guest.disk.isHeld = true;
    const tokens = [0, 1, 2].map((sector) => guest.send(BLK_T.IN, sector, 512));
    guest.disk.release(1);
    await settle();
    guest.disk.release();
    await settle();
    expect(guest.done().map(({ token }) => token)).toEqual([tokens[1], tokens[0], tokens[2]]);
  });

  it('survive a move to a fresh device while they are under way', async () => {
    const guest = await start();
    guest.disk.isHeld = true;
    const first = guest.send(BLK_T.IN, 5, 1024);
    guest.send(BLK_T.OUT, 9, new Uint8Array(512).fill(0xaa));
    guest.send(BLK_T.IN, 6, 512);
    guest.disk.release(0);
    await settle();
    const next = guest.moved();
    expect(next.disk.calls.length).toBe(3);
    next.disk.isHeld = false;
    next.driver.bench.clock.advance(1);
    await settle();
    const done = next.done();
    expect(done.map(({ status }) => status)).toEqual([0, 0, 0]);
    expect(done[0].token).toBe(first);
    expect(next.disk.calls.slice(3)).toEqual([`write ${9 * 512}`, `read ${6 * 512}`]);
    expect(done[2].answer.equals(next.disk.content.subarray(6 * 512, 7 * 512))).toBe(true);
    expect(next.disk.content[9 * 512]).toBe(0xaa);
  });

  it('are held back when too many are under way, and then go on', async () => {
    const guest = await start();
    guest.disk.isHeld = true;
    for (let i = 0; i < 200; i++) guest.send(BLK_T.IN, 0, 0);
    guest.driver.bench.clock.advance(1);
    expect(guest.disk.waiting).toBe(128);
    guest.disk.isHeld = false;
    guest.disk.release();
    for (let i = 0; i < 5; i++) {
      await settle();
      guest.driver.bench.clock.advance(1);
    }
    await settle();
    expect(guest.done().length).toBe(200);
  });
});

describe('requests', () => {
  it('tell the serial number', async () => {
    const guest = await new Guest(new MemoryDisk(), { serial: 'root-disk-1' }).start();
    const { answer } = await guest.ask(BLK_T.GET_ID, 0, 20);
    expect(answer.toString('latin1')).toBe('root-disk-1'.padEnd(20, '\0'));
  });

  it('discard and zero ranges', async () => {
    const guest = await new Guest().start();
    const two = Buffer.concat([range(1, 2, 1), range(8, 1, 0)]);
    expect((await guest.ask(BLK_T.WRITE_ZEROES, 0, two)).status).toBe(0);
    expect((await guest.ask(BLK_T.DISCARD, 0, range(4, 4, 0))).status).toBe(0);
    expect(guest.disk.calls).toEqual(['zero 512+1024 unmap', 'zero 4096+512', 'discard 2048+2048']);
  });

  it.each([
    ['a flag that a discard has not', BLK_T.DISCARD, range(0, 1, 1), 2],
    ['an unknown flag', BLK_T.WRITE_ZEROES, range(0, 1, 2), 2],
    ['a range beyond the end', BLK_T.DISCARD, range(60, 5, 0), 1],
    ['a position of 2^63', BLK_T.DISCARD, range(2 ** 63, 1, 0), 1],
    ['half a range', BLK_T.DISCARD, new Uint8Array(8), 1],
    ['too many ranges', BLK_T.DISCARD, Buffer.concat(Array(33).fill(range(0, 1, 0))), 1],
    ['an unknown type', 77, new Uint8Array(0), 2],
    ['data that is no sectors', BLK_T.OUT, new Uint8Array(100), 1],
  ])('with %s are refused', async (_, type, data, status) => {
    const guest = await new Guest().start();
    expect([(await guest.ask(type, 0, data)).status, guest.disk.calls]).toEqual([status, []]);
  });

  it('that write to a read-only disk are refused', async () => {
    const guest = await new Guest(new MemoryDisk(8, true)).start();
    expect((await guest.ask(BLK_T.OUT, 0, new Uint8Array(512))).status).toBe(1);
  });

  it('that the host fails are I/O errors to the guest and in the log', async () => {
    const guest = await new Guest().start();
    guest.disk.error = new Error('the disk is on fire');
    const { status, written } = await guest.ask(BLK_T.IN, 3, 512);
    expect([status, written]).toEqual([1, 0]);
    expect(guest.driver.bench.logs[0].message).toContain('the disk is on fire');
    expect((await guest.ask(BLK_T.IN, 3, 512)).status).toBe(0);
  });

  it('however long, leave the event loop its turns', async () => {
    const MIB = 2 ** 20;
    const guest = await new Guest(new MemoryDisk((10 * MIB) / 512)).start();
    const { bench, heap, rings } = guest.driver;
    const header = heap.take(16);
    const gpa = 2 * MIB;
    const piece = { gpa, length: MIB, isWritable: false };
    const status = { gpa: heap.take(1), length: 1, isWritable: true };
    bench.memory.writeU32(header, BLK_T.OUT);
    bench.memory.fill(gpa, MIB, 0x5a);

    rings[0].add(
      [{ gpa: header, length: 16, isWritable: false }, ...new Array(9).fill(piece), status],
      'indirect',
    );
    guest.driver.notify(0);
    await settle(1);
    const before = guest.disk.calls.length;
    await settle(10);

    expect(before).toBeLessThan(3);
    expect(guest.disk.calls).toEqual(['write 0', `write ${4 * MIB}`, `write ${8 * MIB}`]);
    expect(rings[0].collect()).toHaveLength(1);
    const { content } = guest.disk;
    expect([content[9 * MIB - 1], content[9 * MIB]]).toEqual([0x5a, (9 * MIB * 7 + ((9 * MIB) >> 8)) & 0xff]);
  });

  it('are durable at once for a driver that knows no flush, or wants no write cache', async () => {
    const plain = await new Guest().start(0n);
    await plain.ask(BLK_T.OUT, 0, new Uint8Array(512));
    expect(plain.disk.calls).toEqual(['write 0', 'flush']);
    const chosen = await new Guest().start();
    await chosen.ask(BLK_T.OUT, 0, new Uint8Array(512));
    chosen.driver.setConfig(BLK_CONFIG.WRITEBACK, 1, 0);
    await chosen.ask(BLK_T.OUT, 0, new Uint8Array(512));
    await chosen.ask(BLK_T.FLUSH, 0);
    expect(chosen.disk.calls).toEqual(['write 0', 'write 0', 'flush', 'flush']);
  });

  it('too short to be one stop the device', async () => {
    const guest = await new Guest().start();
    const { driver } = guest;
    driver.rings[0].add([{ gpa: 0x1000, length: 15, isWritable: false }]);
    driver.notify(0);
    expect([driver.status() & 64, driver.takeInterrupt()]).toEqual([64, 2]);
  });
});

describe('reset', () => {
  it('waits for requests under way, and lets none touch memory afterwards', async () => {
    const guest = await new Guest().start();
    guest.disk.isHeld = true;
    guest.send(BLK_T.IN, 0, 512);
    let isOver = false;
    const over = guest.driver.setStatus(0).then(() => {
      isOver = true;
    });
    await settle();
    expect([isOver, guest.driver.status()]).toEqual([false, 15]);
    guest.disk.release();
    await over;
    expect([guest.driver.status(), guest.driver.takeInterrupt()]).toEqual([0, 0]);
    guest.disk.isHeld = false;
    await guest.start();
    expect((await guest.ask(BLK_T.IN, 1, 512)).status).toBe(0);
  });
});

describe('a saved state', () => {
  it('is refused by a disk of another size', async () => {
    const guest = await new Guest().start();
    const other = new Guest(new MemoryDisk(32));
    expect(() => other.driver.bench.device.restore(guest.driver.bench.device.save())).toThrow(
      expect.objectContaining({ code: 'TSV_E_STATE' }),
    );
  });
});
