/** Where a virtio PCI function has its structures, and the capabilities that say so (virtio 1.2 section 4.1.4). */
import type { PciConfigSpace, PciIdentity } from '../../pci/config-space.ts';
import { MSIX_ENTRY_SIZE } from '../../pci/msix.ts';
import { VIRTIO_ID } from '../abi.ts';

/** Vendor-specific capability. */
const VENDOR_CAPABILITY = 0x09;

/** Structure types, section 4.1.4. */
const CFG_TYPE = { COMMON: 1, NOTIFY: 2, ISR: 3, DEVICE: 4, PCI: 5 } as const;

/** BAR 0 has the structures, BAR 1 table and pending bits of MSI-X. */
export const STRUCTURES_BAR = 0;
export const MSIX_BAR = 1;

/** Offsets within the device: BAR 0 begins at 0, BAR 1 where BAR 0 ends. */
export const LAYOUT = {
  COMMON: 0x0000,
  ISR: 0x1000,
  CONFIG: 0x2000,
  NOTIFY: 0x3000,
  MSIX_TABLE: 0x4000,
  MSIX_PENDING: 0x4800,
  END: 0x5000,
} as const;
/** The BARs' sizes. */
export const STRUCTURES_SIZE = LAYOUT.MSIX_TABLE;
export const MSIX_SIZE = LAYOUT.END - LAYOUT.MSIX_TABLE;
/** Most vectors that the table has room for. */
export const MAX_VECTORS = (LAYOUT.MSIX_PENDING - LAYOUT.MSIX_TABLE) / MSIX_ENTRY_SIZE;

/** Bytes of struct virtio_pci_common_cfg as far as it goes without NOTIFICATION_DATA and RING_RESET. */
const COMMON_SIZE = 56;
/** Queues notify at addresses of their own, so many bytes apart. */
export const NOTIFY_MULTIPLIER = 4;

/** Offset of the window's fields within the PCI configuration access capability (section 4.1.4.9). */
export const WINDOW = { BAR: 4, OFFSET: 8, LENGTH: 12, DATA: 16 } as const;

const VENDOR = 0x1af4;
/** Section 4.1.2: modern devices have this plus the virtio device ID. */
const FIRST_DEVICE = 0x1040;
/** PCI class codes: mass storage, network, serial communication, other. */
const CLASSES = new Map<number, number>([
  [VIRTIO_ID.BLOCK, 0x010000],
  [VIRTIO_ID.NET, 0x020000],
  [VIRTIO_ID.CONSOLE, 0x078000],
]);
const CLASS_OTHER = 0x00ff00;

/** Who a virtio device is on the PCI bus. */
export function virtioIdentity(type: number): PciIdentity {
  return {
    vendor: VENDOR,
    device: FIRST_DEVICE + type,
    revision: 1,
    classCode: CLASSES.get(type) ?? CLASS_OTHER,
    subsystemVendor: VENDOR,
    subsystem: 0x40 + type,
  };
}

/**
 * Adds the capabilities.
 * @returns the offset of the window through which configuration accesses reach the BARs
 */
export function addVirtioCapabilities(space: PciConfigSpace, queues: number, configSize: number): number {
  const add = (type: number, offset: number, length: number, more?: number) => {
    const view = new DataView(new ArrayBuffer(more === undefined ? 14 : 18));
    view.setUint8(0, view.byteLength + 2);
    view.setUint8(1, type);
    view.setUint8(2, STRUCTURES_BAR);
    view.setUint32(6, offset, true);
    view.setUint32(10, length, true);
    if (more !== undefined) view.setUint32(14, more, true);
    return space.addCapability(VENDOR_CAPABILITY, new Uint8Array(view.buffer));
  };
  add(CFG_TYPE.COMMON, LAYOUT.COMMON, COMMON_SIZE);
  add(CFG_TYPE.NOTIFY, LAYOUT.NOTIFY, queues * NOTIFY_MULTIPLIER, NOTIFY_MULTIPLIER);
  add(CFG_TYPE.ISR, LAYOUT.ISR, 1);
  if (configSize > 0) add(CFG_TYPE.DEVICE, LAYOUT.CONFIG, configSize);
  const window = add(CFG_TYPE.PCI, 0, 0, 0);
  space.allow(window + WINDOW.BAR, 1, 0xff);
  space.allow(window + WINDOW.OFFSET, 4, 0xffffffff);
  space.allow(window + WINDOW.LENGTH, 4, 0xffffffff);
  return window;
}
