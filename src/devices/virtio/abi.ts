/** Numbers of the virtio specification 1.2 that all devices share. */

/** Device IDs, chapter 5. */
export const VIRTIO_ID = { NET: 1, BLOCK: 2, CONSOLE: 3, ENTROPY: 4, PMEM: 27 } as const;

/** Reserved feature bits, chapter 6, as masks. */
export const VIRTIO_F = {
  RING_INDIRECT_DESC: 1n << 28n,
  RING_EVENT_IDX: 1n << 29n,
  VERSION_1: 1n << 32n,
  RING_PACKED: 1n << 34n,
} as const;

/** Device status bits, section 2.1. */
export const STATUS = {
  ACKNOWLEDGE: 1,
  DRIVER: 2,
  DRIVER_OK: 4,
  FEATURES_OK: 8,
  NEEDS_RESET: 64,
  FAILED: 128,
} as const;

/** Interrupt status bits: MMIO section 4.2.2, PCI's ISR section 4.1.4.5. */
export const INTERRUPT = { QUEUE: 1, CONFIG: 2 } as const;

/** Descriptor flags, sections 2.7.5 and 2.8.1. */
export const DESC_F = { NEXT: 1, WRITE: 2, INDIRECT: 4, AVAIL: 1 << 7, USED: 1 << 15 } as const;

/** Bytes of a descriptor, in both ring formats. */
export const DESC_SIZE = 16;
/** Largest queue, section 2.7 and 2.8. */
export const MAX_QUEUE_SIZE = 32768;
