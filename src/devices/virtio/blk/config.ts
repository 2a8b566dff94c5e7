/** The block device's configuration space (virtio 1.2 section 5.2.4). */
import { BLK_CONFIG, SECTOR_SIZE } from './abi.ts';

/** Most sectors of one range to discard or zero: 2 GiB. */
export const MAX_RANGE_SECTORS = 1 << 22;
/** Most ranges in one request. */
export const MAX_RANGES = 32;
/** What the guest's file systems align their blocks to; images have clusters of at least this many bytes. */
const PHYSICAL_BLOCK = 4096;

/** What the configuration says. */
export interface BlkConfigOptions {
  /** Bytes. */
  readonly size: number;
  readonly segMax: number;
  readonly queues: number;
}

/** The fields, as they lie in memory. */
export class BlkConfig {
  readonly size = BLK_CONFIG.SIZE;
  readonly #view = new DataView(new ArrayBuffer(BLK_CONFIG.SIZE));

  constructor({ size, segMax, queues }: BlkConfigOptions) {
    const view = this.#view;
    view.setBigUint64(BLK_CONFIG.CAPACITY, BigInt(size) / BigInt(SECTOR_SIZE), true);
    view.setUint32(BLK_CONFIG.SEG_MAX, segMax, true);
    view.setUint32(BLK_CONFIG.BLK_SIZE, SECTOR_SIZE, true);
    view.setUint8(BLK_CONFIG.PHYSICAL_BLOCK_EXP, Math.log2(PHYSICAL_BLOCK / SECTOR_SIZE));
    view.setUint8(BLK_CONFIG.WRITEBACK, 1);
    view.setUint16(BLK_CONFIG.NUM_QUEUES, queues, true);
    view.setUint32(BLK_CONFIG.MAX_DISCARD_SECTORS, MAX_RANGE_SECTORS, true);
    view.setUint32(BLK_CONFIG.MAX_DISCARD_SEG, MAX_RANGES, true);
    view.setUint32(BLK_CONFIG.DISCARD_SECTOR_ALIGNMENT, PHYSICAL_BLOCK / SECTOR_SIZE, true);
    view.setUint32(BLK_CONFIG.MAX_WRITE_ZEROES_SECTORS, MAX_RANGE_SECTORS, true);
    view.setUint32(BLK_CONFIG.MAX_WRITE_ZEROES_SEG, MAX_RANGES, true);
    view.setUint8(BLK_CONFIG.WRITE_ZEROES_MAY_UNMAP, 1);
  }

  /** What the driver may write: whether the disk has a volatile write cache. */
  get writeback(): boolean {
    return this.#view.getUint8(BLK_CONFIG.WRITEBACK) === 1;
  }

  set writeback(value: boolean) {
    this.#view.setUint8(BLK_CONFIG.WRITEBACK, value ? 1 : 0);
  }

  read(offset: number, size: 1 | 2 | 4): number {
    if (size === 1) return this.#view.getUint8(offset);
    return size === 2 ? this.#view.getUint16(offset, true) : this.#view.getUint32(offset, true);
  }

  write(offset: number, size: 1 | 2 | 4, value: number): void {
    if (offset === BLK_CONFIG.WRITEBACK && size === 1) this.writeback = (value & 1) !== 0;
  }
}
