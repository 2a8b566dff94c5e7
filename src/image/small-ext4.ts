/**
 * Makes small ext4 file systems without any program of the host: one block group, an extent for each file, a journal.
 * Layout: Linux Documentation/filesystems/ext4; the journal's is big-endian, all else is little-endian.
 */
import { randomFillSync } from 'node:crypto';
import { TsvError } from '../errors.ts';
import type { BlockBackend } from '../storage/backend.ts';

const BLOCK = 4096;
/** A block group has as many blocks as its bitmap, a block, has bits. */
const MAX_BLOCKS = 8 * BLOCK;
const INODE_SIZE = 256;
const INODES_PER_BLOCK = BLOCK / INODE_SIZE;
/** Bytes of the disk for each inode, as mke2fs(8) has it. */
const BYTES_PER_INODE = 16384;
/** The fewest that jbd2 takes (JBD2_MIN_JOURNAL_BLOCKS). */
const JOURNAL_BLOCKS = 1024;

const SUPERBLOCK_OFFSET = 1024;
const SUPERBLOCK_SIZE = 1024;
const MAGIC = 0xef53;
const STATE_CLEAN = 1;
const STATE_ERRORS = 2;

// Places of blocks.
const GROUP_DESCRIPTORS = 1;
const BLOCK_BITMAP = 2;
const INODE_BITMAP = 3;
const INODE_TABLE = 4;

// Inodes with a fixed number.
const ROOT = 2;
const JOURNAL = 8;
const LOST_FOUND = 11;

const DIRECTORY = 0o040000;
const REGULAR = 0o100000;
const EXTENTS_FLAG = 0x80000;

/** Which blocks are what, on a disk of some size. */
interface Layout {
  readonly blocks: number;
  readonly inodes: number;
  readonly root: number;
  readonly lostFound: number;
  readonly journal: number;
  /** The first free block. */
  readonly free: number;
}

function layOut(size: number): Layout {
  const blocks = Math.floor(size / BLOCK);
  const tableBlocks = Math.ceil(size / BYTES_PER_INODE / INODES_PER_BLOCK);
  const root = INODE_TABLE + tableBlocks;
  const journal = root + 2;
  const free = journal + JOURNAL_BLOCKS;
  if (blocks > MAX_BLOCKS || free >= blocks) {
    throw new TsvError('TSV_E_CONFIG', `A small ext4 cannot be made on a disk of ${size} bytes.`, {
      hint: `Use more than ${(free * BLOCK) / 2 ** 20} MiB and up to ${(MAX_BLOCKS * BLOCK) / 2 ** 20} MiB.`,
    });
  }
  return { blocks, inodes: tableBlocks * INODES_PER_BLOCK, root, lostFound: root + 1, journal, free };
}

/**
 * Makes an empty file system.
 * @param disk all zeros; up to 128 MiB
 * @param options.label up to 16 bytes
 * @throws TSV_E_CONFIG, and what the disk throws
 */
export async function formatSmallExt4(disk: BlockBackend, options: { label: string }): Promise<void> {
  const layout = layOut(disk.size);
  const uuid = randomFillSync(new Uint8Array(16));
  const now = Math.floor(Date.now() / 1000);
  const put = (block: number, content: Uint8Array) => disk.write(block * BLOCK, [content]);
  await put(GROUP_DESCRIPTORS, groupDescriptors(layout));
  await put(BLOCK_BITMAP, bitmap(layout.free, layout.blocks));
  await put(INODE_BITMAP, bitmap(LOST_FOUND, layout.inodes));
  await put(INODE_TABLE, inodeTable(layout, now));
  await put(layout.root, directory(ROOT, ROOT, { 'lost+found': LOST_FOUND }));
  await put(layout.lostFound, directory(LOST_FOUND, ROOT, {}));
  await put(layout.journal, journalSuperblock(uuid));
  // Last: without it there is no file system.
  await disk.write(SUPERBLOCK_OFFSET, [superblock(layout, uuid, options.label, now)]);
  await disk.flush();
}

/** What is wrong with a file system as far as its superblock tells; undefined when nothing is. */
export async function smallExt4Problem(disk: BlockBackend): Promise<string | undefined> {
  const bytes = new Uint8Array(SUPERBLOCK_SIZE);
  if (disk.size >= SUPERBLOCK_OFFSET + SUPERBLOCK_SIZE) await disk.read(SUPERBLOCK_OFFSET, [bytes]);
  const view = new DataView(bytes.buffer);
  if (view.getUint16(0x38, true) !== MAGIC) return 'there is no file system on it';
  if (view.getUint32(4, true) * BLOCK > disk.size) return 'it is shorter than its file system';
  if ((view.getUint16(0x3a, true) & STATE_ERRORS) !== 0) return 'its file system is damaged';
  return undefined;
}

/** Bits up to `used` are set, and those that stand for nothing, from `count` on. */
function bitmap(used: number, count: number): Uint8Array {
  const bytes = new Uint8Array(BLOCK);
  for (let bit = 0; bit < 8 * BLOCK; bit++) {
    if (bit < used || bit >= count) bytes[bit >> 3] |= 1 << (bit & 7);
  }
  return bytes;
}

function groupDescriptors(layout: Layout): Uint8Array {
  const view = new DataView(new ArrayBuffer(BLOCK));
  view.setUint32(0, BLOCK_BITMAP, true);
  view.setUint32(4, INODE_BITMAP, true);
  view.setUint32(8, INODE_TABLE, true);
  view.setUint16(12, layout.blocks - layout.free, true);
  view.setUint16(14, layout.inodes - LOST_FOUND, true);
  view.setUint16(16, 2, true); // directories
  return new Uint8Array(view.buffer);
}

/** The blocks of the table that hold the inodes in use, which are numbered from 1. */
function inodeTable({ root, lostFound, journal }: Layout, now: number): Uint8Array {
  const bytes = new Uint8Array(Math.ceil(LOST_FOUND / INODES_PER_BLOCK) * BLOCK);
  const put = (inode: number, mode: number, links: number, start: number, blocks: number) => {
    const view = new DataView(bytes.buffer, (inode - 1) * INODE_SIZE, INODE_SIZE);
    view.setUint16(0, mode, true);
    view.setUint32(4, blocks * BLOCK, true);
    for (const time of [8, 12, 16]) view.setUint32(time, now, true);
    view.setUint16(26, links, true);
    view.setUint32(28, (blocks * BLOCK) / 512, true);
    view.setUint32(32, EXTENTS_FLAG, true);
    // An extent tree's header and its one extent.
    view.setUint16(40, 0xf30a, true);
    view.setUint16(42, 1, true);
    view.setUint16(44, 4, true);
    view.setUint16(56, blocks, true);
    view.setUint32(60, start, true);
    view.setUint16(128, 32, true); // bytes of fields beyond the first 128
  };
  put(ROOT, DIRECTORY | 0o755, 3, root, 1);
  put(LOST_FOUND, DIRECTORY | 0o700, 2, lostFound, 1);
  put(JOURNAL, REGULAR | 0o600, 1, journal, JOURNAL_BLOCKS);
  return bytes;
}

function directory(self: number, parent: number, entries: Readonly<Record<string, number>>): Uint8Array {
  const view = new DataView(new ArrayBuffer(BLOCK));
  const all = [['.', self], ['..', parent], ...Object.entries(entries)] as const;
  let at = 0;
  for (const [index, [name, inode]] of all.entries()) {
    // The last takes the rest of the block.
    const length = index === all.length - 1 ? BLOCK - at : Math.ceil((8 + name.length) / 4) * 4;
    view.setUint32(at, inode, true);
    view.setUint16(at + 4, length, true);
    view.setUint8(at + 6, name.length);
    view.setUint8(at + 7, 2); // a directory
    new Uint8Array(view.buffer).set(Buffer.from(name), at + 8);
    at += length;
  }
  return new Uint8Array(view.buffer);
}

function journalSuperblock(uuid: Uint8Array): Uint8Array {
  const view = new DataView(new ArrayBuffer(BLOCK));
  view.setUint32(0, 0xc03b3998);
  view.setUint32(4, 4); // superblock, version 2
  view.setUint32(12, BLOCK);
  view.setUint32(16, JOURNAL_BLOCKS);
  view.setUint32(20, 1); // first block of the log
  view.setUint32(24, 1); // first commit expected
  view.setUint32(64, 1); // file systems that use it
  const bytes = new Uint8Array(view.buffer);
  bytes.set(uuid, 48);
  return bytes;
}

function superblock(layout: Layout, uuid: Uint8Array, label: string, now: number): Uint8Array {
  const bytes = new Uint8Array(SUPERBLOCK_SIZE);
  const view = new DataView(bytes.buffer);
  const u32 = (offset: number, value: number) => view.setUint32(offset, value, true);
  const u16 = (offset: number, value: number) => view.setUint16(offset, value, true);
  u32(0x00, layout.inodes);
  u32(0x04, layout.blocks);
  u32(0x0c, layout.blocks - layout.free);
  u32(0x10, layout.inodes - LOST_FOUND);
  u32(0x18, 2); // blocks of 1024 << 2 bytes
  u32(0x1c, 2); // clusters likewise
  u32(0x20, MAX_BLOCKS);
  u32(0x24, MAX_BLOCKS);
  u32(0x28, layout.inodes);
  u32(0x30, now);
  u16(0x36, 0xffff); // no check after so many mounts
  u16(0x38, MAGIC);
  u16(0x3a, STATE_CLEAN);
  u16(0x3c, 2); // errors make it read-only
  u32(0x40, now);
  u32(0x4c, 1); // dynamic revision
  u32(0x54, LOST_FOUND); // first inode that is not reserved
  u16(0x58, INODE_SIZE);
  u32(0x5c, 0x4 | 0x8 | 0x20); // has_journal, ext_attr, dir_index
  u32(0x60, 0x2 | 0x40); // filetype, extents
  u32(0x64, 0x1 | 0x2 | 0x40); // sparse_super, large_file, extra_isize
  bytes.set(uuid, 0x68);
  bytes.set(Buffer.from(label).subarray(0, 16), 0x78);
  u32(0xe0, JOURNAL);
  bytes.set(randomFillSync(new Uint8Array(16)), 0xec); // seed of directory hashes
  bytes[0xfc] = 1; // half MD4
  u32(0x108, now);
  u16(0x15c, 32);
  u16(0x15e, 32);
  u32(0x160, 1); // hashes of signed characters
  return bytes;
}
