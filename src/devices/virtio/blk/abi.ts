/** Numbers of the block device (virtio 1.2 section 5.2). */

/** Feature bits, section 5.2.3. */
export const BLK_F = {
  SEG_MAX: 1n << 2n,
  RO: 1n << 5n,
  BLK_SIZE: 1n << 6n,
  FLUSH: 1n << 9n,
  TOPOLOGY: 1n << 10n,
  CONFIG_WCE: 1n << 11n,
  MQ: 1n << 12n,
  DISCARD: 1n << 13n,
  WRITE_ZEROES: 1n << 14n,
} as const;

/** Request types, section 5.2.6. */
export const BLK_T = { IN: 0, OUT: 1, FLUSH: 4, GET_ID: 8, DISCARD: 11, WRITE_ZEROES: 13 } as const;

/** Request statuses, section 5.2.6. */
export const BLK_S = { OK: 0, IOERR: 1, UNSUPP: 2 } as const;

/** Bytes before the data: type, reserved, sector. */
export const BLK_HEADER_SIZE = 16;
/** Bytes of a disk's name in a GET_ID answer, padded with zeros. */
export const BLK_ID_SIZE = 20;
/** struct virtio_blk_discard_write_zeroes: sector, number of sectors, flags. */
export const BLK_RANGE_SIZE = 16;
export const BLK_RANGE_F_UNMAP = 1;
/** Capacities, positions and lengths are in sectors of this many bytes, whatever the block size. */
export const SECTOR_SIZE = 512;

/** Offsets in struct virtio_blk_config, section 5.2.4. */
export const BLK_CONFIG = {
  CAPACITY: 0,
  SEG_MAX: 12,
  BLK_SIZE: 20,
  PHYSICAL_BLOCK_EXP: 24,
  OPT_IO_SIZE: 28,
  WRITEBACK: 32,
  NUM_QUEUES: 34,
  MAX_DISCARD_SECTORS: 36,
  MAX_DISCARD_SEG: 40,
  DISCARD_SECTOR_ALIGNMENT: 44,
  MAX_WRITE_ZEROES_SECTORS: 48,
  MAX_WRITE_ZEROES_SEG: 52,
  WRITE_ZEROES_MAY_UNMAP: 56,
  SIZE: 60,
} as const;
