/** Repairs what a check has found. */
import type { ImageFile } from '../file.ts';
import { type CheckResult, type Findings, findProblems } from './check.ts';
import { ClusterMap } from './cluster-map.ts';
import { type EntryTable, readRefcountTable } from './entry-table.ts';
import { corruptError } from './errors.ts';
import * as q from './format.ts';
import { type Header, readHeader } from './header.ts';
import { Layout } from './layout.ts';
import { maxRefcount } from './refcount-block.ts';
import { type ClusterUse, Refcounts } from './refcounts.ts';
import type { ClusterCounts, WalkOptions } from './references.ts';
import { WriteBack } from './write-back.ts';

/** What may be repaired: lost space only, or refcounts and flags too. */
export type RepairMode = 'leaks' | 'all';

/** A check's result, and what is left after repair. */
export interface RepairResult {
  readonly found: CheckResult;
  /** The result of a second check, when something was repaired. */
  readonly left?: CheckResult;
}

/** Rebuilds the refcounts of an image that was not closed. @throws TSV_E_DISK_CORRUPT when it has other damage */
export async function repairRefcounts(file: ImageFile, header: Header): Promise<void> {
  const { found, left = found } = await checkImage(file, header, 'all');
  if (left.corruptions > 0) {
    throw corruptError(file.path, `it was not closed and cannot be repaired (${left.problems[0]})`);
  }
}

/** Checks an image and repairs it. @param file writable when something is to be repaired; it stays open */
export async function checkImage(
  file: ImageFile,
  header: Header,
  repair?: RepairMode,
  options: WalkOptions = {},
): Promise<RepairResult> {
  const layout = new Layout(file, header);
  const table = await readRefcountTable(layout);
  const findings = await findProblems(layout, table, options);
  const { result: found, references } = findings;
  if (repair === undefined) return { found };
  // What broken tables have led to looks like lost space. It is left alone, for whoever can rescue it.
  if (references.broken > 0) return { found };
  const marks = q.INCOMPATIBLE_DIRTY | q.INCOMPATIBLE_CORRUPT;
  const wrong = found.leaks + (repair === 'all' ? found.corruptions : 0) > 0;
  if (!wrong && (repair !== 'all' || (header.incompatible & marks) === 0n)) return { found };
  await repairAll(layout, table, findings, repair);
  const after = new Layout(file, await readHeader(file));
  const left = await findProblems(after, await readRefcountTable(after), options);
  if (left.result.corruptions === 0 && repair === 'all') await after.clearIncompatible(marks);
  return { found, left: left.result };
}

async function repairAll(
  layout: Layout,
  table: EntryTable,
  findings: Findings,
  mode: RepairMode,
): Promise<void> {
  const { references, tooLow, tooHigh, flags } = findings;
  const { counts } = references;
  const most = maxRefcount(layout.header.refcountOrder);
  const refcounts = new Refcounts(layout, usedClusters(counts), table);
  const writeBack = new WriteBack(layout, new ClusterMap(layout, references.l1, 0), refcounts, () => {});
  const setAll = async (clusters: readonly number[]) => {
    for (const cluster of clusters) {
      if (counts.get(cluster) > most) throw corruptError(layout.file.path, 'its refcounts have too few bits');
      await refcounts.set(cluster, counts.get(cluster));
      if (writeBack.crowded) await writeBack.run();
    }
    await writeBack.run();
  };
  // In this order, so that nothing looks free or unshared at any moment that is not.
  if (mode === 'all') await setAll(tooLow);
  await setAll(tooHigh);
  if (mode === 'leaks' && tooLow.length > 0) return;
  for (const { offset, high } of flags) {
    const bytes = new Uint8Array(4);
    new DataView(bytes.buffer).setUint32(0, high);
    await layout.file.write(offset, [bytes]);
  }
  await layout.file.sync();
}

/** Everything that was counted is in use, whatever the refcounts say. */
function usedClusters(counts: ClusterCounts): ClusterUse {
  const kind = (cluster: number) => (counts.get(cluster) > 0 ? 'content' : undefined);
  return {
    kind,
    add(cluster, count) {
      for (let i = 0; i < count; i++) {
        if (kind(cluster + i) !== undefined) return 'content';
        counts.add(cluster + i, 1);
      }
      return undefined;
    },
    delete() {},
  };
}
