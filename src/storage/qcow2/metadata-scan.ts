/** Finds an image's metadata when it is opened for writing. */

import type { EntryTable } from './entry-table.ts';
import { ENTRY_SIZE } from './format.ts';
import type { Layout } from './layout.ts';
import { MetadataMap } from './metadata-map.ts';
import { readSnapshots } from './snapshots.ts';

/**
 * Notes where header, tables, refcount blocks and active L2 tables are.
 * @throws TSV_E_DISK_CORRUPT when two of them are in one place or one is outside of the file
 */
export async function scanMetadata(
  layout: Layout,
  l1: EntryTable,
  refcountTable: EntryTable,
): Promise<MetadataMap> {
  const { clusterSize, header, file } = layout;
  const map = new MetadataMap();
  const add = (offset: number, length: number, kind: string) => {
    const other = map.add(offset / clusterSize, Math.ceil(length / clusterSize), kind);
    if (other !== undefined)
      throw layout.corrupt(`its ${kind} and its ${other} are both at offset ${offset}`);
  };
  add(0, clusterSize, 'header');
  add(refcountTable.offset, refcountTable.entries * ENTRY_SIZE, 'refcount table');
  add(l1.offset, l1.entries * ENTRY_SIZE, 'L1 table');
  const { snapshots, length } = await readSnapshots(file, header);
  if (length > 0) add(header.snapshotsOffset, length, 'snapshot table');
  for (const { l1Offset, l1Entries } of snapshots)
    add(l1Offset, l1Entries * ENTRY_SIZE, 'L1 table of a snapshot');
  for (let i = 0; i < refcountTable.entries; i++) {
    const offset = refcountTable.blockOffset(i);
    if (offset === 0) continue;
    layout.checkCluster(offset, `refcount block ${i}`);
    add(offset, clusterSize, 'refcount block');
  }
  for (let i = 0; i < l1.entries; i++) {
    const offset = l1.l2Offset(i);
    if (offset === 0) continue;
    layout.checkCluster(offset, `L2 table ${i}`);
    add(offset, clusterSize, 'L2 table');
  }
  return map;
}
