/** All ways to reach a virtio device. */
import type { TransportOptions } from '../../../../src/devices/virtio/transport/common.ts';
import type { VirtioDevice } from '../../../../src/devices/virtio/virtio-device.ts';
import { MmioDriver } from './mmio-driver.ts';
import { PciDriver, PciPinDriver } from './pci-driver.ts';
import type { TransportDriver } from './transport-driver.ts';

/** Makes a driver for a device. */
export type DriverClass = new (device: VirtioDevice, options?: TransportOptions) => TransportDriver;

/** For `describe.each`. */
export const TRANSPORTS: readonly (readonly [string, DriverClass])[] = [
  ['MMIO', MmioDriver],
  ['PCI with MSI-X', PciDriver],
  ['PCI with a pin', PciPinDriver],
];
