/** A machine's virtio devices: which there are, and where guests find them. */
import { PCI_ECAM, PCI_MMIO_WINDOW } from '../boot/acpi/build.ts';
import type { DsdtOptions, VirtioMmioPlace } from '../boot/acpi/dsdt.ts';
import type { PciHost } from '../devices/pci/host.ts';
import { VirtioBlk } from '../devices/virtio/blk/blk.ts';
import { VirtioRng } from '../devices/virtio/rng/rng.ts';
import { VIRTIO_MMIO_SIZE, VirtioMmio } from '../devices/virtio/transport/mmio.ts';
import { VirtioPci } from '../devices/virtio/transport/pci.ts';
import type { VirtioDevice } from '../devices/virtio/virtio-device.ts';
import { TsvError } from '../errors.ts';
import type { BlockBackend } from '../storage/backend.ts';
import type { ResolvedConfig } from './config.ts';
import { addPmem } from './pmem.ts';
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

/** How guests reach virtio devices: registers of their own, or functions of the PCI bus. */
export type VirtioTransport = 'mmio' | 'pci';

/** Registers of device i, a page each: behind the ECAM, before the I/O APIC. */
const MMIO_BASE = 0xe8000000;
const MMIO_STRIDE = 0x1000;
/** Inputs of the I/O APIC that nothing else on the board is wired to. */
const MMIO_GSIS = [5, 10, 11, 7, 6, 3, 12, 14, 15, 16, 17, 18, 19] as const;
/** PCI device i has slot i + 1; the host bridge is in slot 0. */
const PCI_SLOTS = 31;
/** The inputs that INTA of the slots is wired to, by turns. */
const PCI_GSIS = [20, 21, 22, 23] as const;
const MAX_DISK_QUEUES = 8;

/** What the ACPI tables say of the virtio devices of a machine. @throws TSV_E_CONFIG when they are too many */
export function virtioPlaces(config: ResolvedConfig): Pick<DsdtOptions, 'virtioMmio' | 'pci'> {
  const { disks, pmem, rng, virtio, transport } = config;
  const count = disks.length + pmem.length + virtio.length + (rng ? 1 : 0);
  const room = transport === 'pci' ? PCI_SLOTS : MMIO_GSIS.length;
  if (count > room) {
    throw new TsvError('TSV_E_CONFIG', `The board has no room for ${count} virtio devices.`, {
      hint: `Use at most ${room}${transport === 'pci' ? '' : `, or up to ${PCI_SLOTS} with transport: "pci"`}.`,
    });
  }
  const pci = { mmio: PCI_MMIO_WINDOW, ecam: PCI_ECAM };
  if (transport === 'pci') {
    const routes = Array.from({ length: count }, (_, i) => ({ slot: i + 1, pin: 0, gsi: pciGsi(i) }));
    return { pci: { ...pci, routes } };
  }
  return { virtioMmio: Array.from({ length: count }, (_, i) => mmioPlace(i)), pci };
}

/**
 * A kernel's command line with what a kernel without ACPI has to be told of virtio-mmio devices, as far as it takes such
 * parameters; with ACPI it would find each of them twice.
 */
export function virtioCmdline(cmdline: string | undefined, config: ResolvedConfig): string | undefined {
  if (cmdline === undefined || !/(?:^|\s)acpi=off(?:\s|$)/.test(cmdline)) return cmdline;
  const { virtioMmio = [] } = virtioPlaces(config);
  const devices = virtioMmio.map(
    ({ address, length, gsi }) => `virtio_mmio.device=${length}@0x${address.toString(16)}:${gsi}`,
  );
  return [cmdline, ...devices].join(' ');
}

function pciGsi(index: number): number {
  return PCI_GSIS[index % PCI_GSIS.length];
}

function mmioPlace(index: number): VirtioMmioPlace {
  return {
    address: MMIO_BASE + index * MMIO_STRIDE,
    length: VIRTIO_MMIO_SIZE,
    gsi: MMIO_GSIS[index],
  };
}

/**
 * Attaches the devices that the configuration asks for.
 * @returns settles when they are complete and the guest may run
 * @throws TSV_E_CONFIG, TSV_E_MEMORY_SIZE, TSV_E_HOST_MEMORY
 */
export function addVirtio(vm: Vm, pciHost: PciHost): Promise<void> {
  virtioPlaces(vm.config);
  const pmem = addPmem(vm);
  for (const [i, device] of virtioDevices(vm.config, pmem.devices).entries()) {
    if (vm.config.transport === 'pci') {
      const pci = new VirtioPci(device);
      vm.addDevice(pci, { irq: [pciGsi(i)] });
      pciHost.plug(i + 1, 0, pci);
    } else {
      const { address, length, gsi } = mmioPlace(i);
      vm.addDevice(new VirtioMmio(device), { mmio: [{ base: address, size: length }], irq: [gsi] });
    }
  }
  return pmem.load();
}

function virtioDevices(
  { disks, rng, virtio, cpus, seed }: ResolvedConfig,
  pmem: readonly VirtioDevice[],
): VirtioDevice[] {
  return [
    ...disks.map(
      ({ backend, serial, queues = Math.min(cpus, MAX_DISK_QUEUES) }, i) =>
        new VirtioBlk({ name: `virtio-blk${i}`, backend, serial, queues }),
    ),
    ...pmem,
    ...virtio,
    ...(rng ? [new VirtioRng({ seed })] : []),
  ];
}
