/** Persistent bitmaps: only where they are, so that a check does not take them for lost. */

import { EntryTable } from './entry-table.ts';
import { formatError } from './errors.ts';
import type { BitmapDirectory } from './extensions.ts';
import * as q from './format.ts';
import type { Layout } from './layout.ts';

/** Bytes of a directory entry's fixed part. */
const ENTRY_FIXED = 24;
/** Limits of what is read into memory. */
const MAX_DIRECTORY = 64 << 20;
const MAX_TABLE = 32 << 20;

/** Calls `visit` for every area that bitmaps take. @throws TSV_E_DISK_FORMAT when the directory is damaged */
export async function countBitmaps(
  { file, clusterSize }: Layout,
  directory: BitmapDirectory,
  visit: (offset: number, size: number, what: string) => void,
): Promise<void> {
  const inFile = (offset: number, size: number, limit: number) => {
    if (size > limit || offset % clusterSize !== 0 || offset + size > file.length) {
      throw formatError(file.path, 'its directory of bitmaps is damaged');
    }
  };
  inFile(directory.offset, directory.size, MAX_DIRECTORY);
  const view = new DataView((await file.readBytes(directory.offset, directory.size)).buffer);
  visit(directory.offset, directory.size, 'bitmap directory');
  let at = 0;
  for (let i = 0; i < directory.count; i++) {
    if (at + ENTRY_FIXED > directory.size)
      throw formatError(file.path, 'its directory of bitmaps is damaged');
    const offset = Number(view.getBigUint64(at));
    const size = view.getUint32(at + 8) * q.ENTRY_SIZE;
    const names = view.getUint16(at + 18) + view.getUint32(at + 20);
    inFile(offset, size, MAX_TABLE);
    visit(offset, size, 'bitmap table');
    const table = await EntryTable.read(file, offset, size / q.ENTRY_SIZE);
    for (let n = 0; n < table.entries; n++) {
      if (table.l2Offset(n) !== 0) visit(table.l2Offset(n), clusterSize, 'bitmap');
    }
    at += Math.ceil((ENTRY_FIXED + names) / 8) * 8;
  }
}
