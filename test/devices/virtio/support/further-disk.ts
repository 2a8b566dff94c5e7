/** A further disk for a machine, on the PCI bus that every PC board has, with the ring format that a test wants. */
import type { PciHost } from '../../../../src/devices/pci/host.ts';
import { VirtioBlk } from '../../../../src/devices/virtio/blk/blk.ts';
import { VirtioPci } from '../../../../src/devices/virtio/transport/pci.ts';
import type { Vm } from '../../../../src/machine/vm.ts';
import type { BlockBackend } from '../../../../src/storage/backend.ts';

/** Behind those that a configuration fills. */
const SLOT = 30;
const GSI = 23;

/** Plugs a disk into a machine that has not been started. */
export function addDisk(
  vm: Vm,
  { backend, ring, queues }: { backend: BlockBackend; ring: 'packed' | 'split'; queues: number },
): void {
  const disk = new VirtioPci(new VirtioBlk({ name: 'virtio-blk-test', backend, queues }), {
    packed: ring === 'packed',
  });
  const host = vm.devices.find(({ name }) => name === 'pci-host') as PciHost | undefined;
  if (host === undefined) throw new Error('the machine has no PCI bus');
  vm.addDevice(disk, { irq: [GSI] });
  host.plug(SLOT, 0, disk);
}
