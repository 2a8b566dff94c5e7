/** A machine's virtio devices: which there are, and where guests find them. */
import type { VirtioMmioPlace } from '../boot/acpi/dsdt.ts';
import { VirtioBlk } from '../devices/virtio/blk/blk.ts';
import { VirtioRng } from '../devices/virtio/rng/rng.ts';
import { VIRTIO_MMIO_SIZE, VirtioMmio } from '../devices/virtio/transport/mmio.ts';
import type { VirtioDevice } from '../devices/virtio/virtio-device.ts';
import { TsvError } from '../errors.ts';
import type { BlockBackend } from '../storage/backend.ts';
import type { ResolvedConfig } from './config.ts';
import type { Vm } from './vm.ts';

/** A disk of a machine. */
export interface DiskConfig {
  /** What holds its content: an image of `openDisk`, or an object of your own. It is closed with the machine. */
  backend: BlockBackend;
  /** Up to 20 ASCII characters; guests show it below /dev/disk/by-id. */
  serial?: string;
  /** Queues; default one for each vCPU, up to 8. */
  queues?: number;
}

/** Registers of device i, a page each: behind the ECAM, before the I/O APIC. */
const MMIO_BASE = 0xe8000000;
const MMIO_STRIDE = 0x1000;
/** Inputs of the I/O APIC that nothing else on the board is wired to; the last four are the PCI slots'. */
const MMIO_GSIS = [5, 10, 11, 7, 6, 3, 12, 14, 15, 16, 17, 18, 19] as const;
const MAX_DISK_QUEUES = 8;

/** Where the virtio-mmio devices of a machine are. */
export function virtioMmioPlaces({ disks, rng, virtio }: ResolvedConfig): VirtioMmioPlace[] {
  const count = disks.length + virtio.length + (rng ? 1 : 0);
  if (count > MMIO_GSIS.length) {
    throw new TsvError('TSV_E_CONFIG', `The board has no room for ${count} virtio devices.`, {
      hint: `Use at most ${MMIO_GSIS.length}.`,
    });
  }
  return MMIO_GSIS.slice(0, count).map((gsi, i) => ({
    address: MMIO_BASE + i * MMIO_STRIDE,
    length: VIRTIO_MMIO_SIZE,
    gsi,
  }));
}

/** Attaches the devices that the configuration asks for. @throws TSV_E_CONFIG */
export function addVirtio(vm: Vm): void {
  const devices = virtioDevices(vm.config);
  for (const [i, { address, length, gsi }] of virtioMmioPlaces(vm.config).entries()) {
    vm.addDevice(new VirtioMmio(devices[i]), { mmio: [{ base: address, size: length }], irq: [gsi] });
  }
}

function virtioDevices({ disks, rng, virtio, cpus, seed }: ResolvedConfig): VirtioDevice[] {
  return [
    ...disks.map(
      ({ backend, serial, queues = Math.min(cpus, MAX_DISK_QUEUES) }, i) =>
        new VirtioBlk({ name: `virtio-blk${i}`, backend, serial, queues }),
    ),
    ...virtio,
    ...(rng ? [new VirtioRng({ seed })] : []),
  ];
}
