/** Guests that drive each virtio device by its registers and rings, in the kernel's mode and the user's, on every engine. */
import { describe, expect, it } from 'vitest';
import { BLK_T } from '../../../src/devices/virtio/blk/abi.ts';
import { VirtioConsole } from '../../../src/devices/virtio/console/console.ts';
import { ENGINES } from '../../support/engines.ts';
import { BUFFERS, GuestMachine, type GuestPlan, type GuestRequest } from './support/guest-driver.ts';
import { MemoryDisk } from './support/memory-disk.ts';

type Variant = Pick<GuestPlan, 'cpl' | 'transport' | 'packed'>;

const VARIANTS: (Variant & { ring: string })[] = ([0, 3] as const).flatMap((cpl) => [
  { cpl, transport: 'mmio', ring: 'split' },
  { cpl, transport: 'mmio', ring: 'packed', packed: true },
  { cpl, transport: 'msix', ring: 'split' },
  { cpl, transport: 'msix', ring: 'packed', packed: true },
  { cpl, transport: 'pin', ring: 'split' },
]);

const sent = (gpa: number, length: number) => ({ gpa, length, isWritable: false });
const answered = (gpa: number, length: number) => ({ gpa, length, isWritable: true });
const at = (index: number) => BUFFERS + index * 0x2000;

/** A request to a disk, its parts at `at(index)`: header, status and, a page on, data. */
function blk(index: number, type: number, length: number, wait = true): GuestRequest {
  const data = { gpa: at(index) + 0x1000, length, isWritable: type !== BLK_T.OUT };
  return { buffers: [sent(at(index), 16), data, answered(at(index) + 16, 1)], wait };
}

function writeHeader({ vm }: GuestMachine, index: number, type: number, sector: number): void {
  vm.memory.writeU32(at(index), type);
  vm.memory.writeU64(at(index) + 8, BigInt(sector));
  vm.memory.writeU8(at(index) + 16, 0xff);
}

/** Under kvm no notification exits, and interrupts but those of a pin go by irqfds. */
function expectEventfds({ vm, notified }: GuestMachine, { transport }: Variant): void {
  const { ioeventfd, irqfd } = vm.stats();
  if (vm.accel.engine === 'tcg') {
    expect([ioeventfd, irqfd]).toEqual([undefined, undefined]);
    return;
  }
  expect(ioeventfd).toBeGreaterThan(0);
  expect(ioeventfd).toBeLessThanOrEqual(notified);
  if (transport === 'pin') expect(irqfd).toBe(0);
  else expect(irqfd).toBeGreaterThan(0);
}

describe.each(ENGINES)('on %s', (accel) => {
  describe.each(VARIANTS)('a guest at CPL $cpl by $transport with a $ring ring', (variant) => {
    it('reads and writes a disk', async () => {
      const disk = new MemoryDisk();
      const before = disk.content.slice();
      const requests = [
        blk(0, BLK_T.OUT, 4096),
        blk(1, BLK_T.IN, 4096, false),
        blk(2, BLK_T.IN, 512, false),
        blk(3, BLK_T.GET_ID, 20, false),
        blk(4, BLK_T.IN, 512),
      ];
      await using guest = await GuestMachine.create(
        { ...variant, requests, rounds: 3, size: 16 },
        { accel, eventfds: 'all', disks: [{ backend: disk, serial: 'disk of a test' }] },
      );
      writeHeader(guest, 0, BLK_T.OUT, 8);
      writeHeader(guest, 1, BLK_T.IN, 8);
      writeHeader(guest, 2, BLK_T.IN, 0);
      writeHeader(guest, 3, BLK_T.GET_ID, 0);
      writeHeader(guest, 4, BLK_T.IN, 64);
      const pattern = Uint8Array.from({ length: 4096 }, (_, i) => i * 5 + (i >> 7));
      const { memory } = guest.vm;
      memory.write(at(0) + 0x1000, pattern);

      await guest.run();

      expect(disk.content.slice(8 * 512, 8 * 512 + 4096)).toEqual(pattern);
      expect(memory.read(at(1) + 0x1000, 4096)).toEqual(pattern);
      expect(memory.read(at(2) + 0x1000, 512)).toEqual(before.slice(0, 512));
      expect(Buffer.from(memory.read(at(3) + 0x1000, 20)).toString()).toBe('disk of a test\0\0\0\0\0\0');
      // The last one is behind the end of the disk.
      expect([0, 1, 2, 3, 4].map((i) => memory.readU8(at(i) + 16))).toEqual([0, 0, 0, 0, 1]);
      expect(guest.written.slice(0, 4)).toEqual([1, 4097, 513, 21]);
      expect(guest.config.getBigUint64(0, true)).toBe(64n);
      expect(guest.notified).toBe(6);
      expect(guest.interrupts[0]).toBeGreaterThanOrEqual(6);
      expectEventfds(guest, variant);
    });

    it('gets random bytes', async () => {
      const requests = [
        { buffers: [answered(at(0), 64)], wait: false },
        { buffers: [answered(at(1), 100), answered(at(2), 200)] },
      ];
      await using guest = await GuestMachine.create(
        { ...variant, requests, rounds: 2 },
        { accel, eventfds: 'all', rng: true },
      );

      await guest.run();

      const pieces = [
        [0, 64],
        [1, 100],
        [2, 200],
      ].map(([index, length]) => Buffer.from(guest.vm.memory.read(at(index), length)).toString('latin1'));
      expect(guest.written).toEqual([64, 300]);
      for (const piece of pieces) expect(new Set(piece).size).toBeGreaterThan(20);
      expect(new Set(pieces.map((piece) => piece.slice(0, 64))).size).toBe(3);
      expectEventfds(guest, variant);
    });

    it('prints on a console and reads what is typed', async () => {
      let printed = '';
      const console = new VirtioConsole({
        ports: [
          {
            onOutput(bytes) {
              printed += Buffer.from(bytes).toString();
            },
            onInputSpace: () => void console.receive(Buffer.from('typed')),
          },
        ],
        columns: 132,
        rows: 43,
      });
      const requests = [
        { queue: 1, buffers: [sent(at(0), 6), sent(at(1), 5)] },
        { queue: 0, buffers: [answered(at(2), 64)] },
      ];
      await using guest = await GuestMachine.create(
        { ...variant, requests, queues: 2, rounds: 2 },
        { accel, eventfds: 'all', virtio: [console] },
      );
      guest.vm.memory.write(at(0), Buffer.from('hello '));
      guest.vm.memory.write(at(1), Buffer.from('guest'));

      await guest.run();

      expect(printed).toBe('hello guesthello guest');
      expect(guest.written).toEqual([0, 5]);
      expect(Buffer.from(guest.vm.memory.read(at(2), 5)).toString()).toBe('typed');
      expect([guest.config.getUint16(0, true), guest.config.getUint16(2, true)]).toEqual([132, 43]);
      expectEventfds(guest, variant);
    });

    it('reads and writes persistent memory, and flushes it', async () => {
      const image = new MemoryDisk();
      const requests = [{ buffers: [sent(at(0), 4), answered(at(1), 4)] }];
      await using guest = await GuestMachine.create(
        { ...variant, requests, window: true, rounds: 2 },
        { accel, eventfds: 'all', pmem: [{ backend: image, overlay: true }] },
      );
      guest.vm.memory.writeU32(at(1), 0xffffffff);

      await guest.run();

      expect(guest.seen).toEqual(image.content.slice(0, 64).with(0, ~image.content[0]));
      expect(guest.written).toEqual([4]);
      expect(guest.vm.memory.readU32(at(1))).toBe(0);
      expect(guest.config.getBigUint64(8, true)).toBe(2n << 20n);
      expectEventfds(guest, variant);
    });
  });
});
