/** Checks the consistency of an image, as `qemu-img check` does: refcounts, COPIED flags, offsets. */
import type { EntryTable } from './entry-table.ts';
import * as q from './format.ts';
import { decodeL2 } from './l2-entry.ts';
import type { Layout } from './layout.ts';
import { readRefcount } from './refcount-block.ts';
import { countReferences, type References, type WalkOptions } from './references.ts';

/** What a check has found. */
export interface CheckResult {
  /** Clusters that count as used but are not: lost space, nothing worse. */
  leaks: number;
  /** Clusters that count as used less often than they are, wrong flags and impossible offsets: data may get lost. */
  corruptions: number;
  /** Clusters of the disk. */
  clusters: number;
  /** Those that have a place in the image. */
  allocated: number;
  /** Those of them that are compressed. */
  compressed: number;
  /** Offset of the end of what is used, bytes. */
  imageEnd: number;
  /** What was found, in words; the first hundred. */
  problems: string[];
}

/** What is wrong with an image, in a form that repair can work with. */
export interface Findings {
  readonly result: CheckResult;
  readonly references: References;
  /** Refcounts to raise and to lower to what was counted. */
  readonly tooLow: number[];
  readonly tooHigh: number[];
  /** Entries of the active tables whose COPIED flag is wrong once that is done: offset in the file, right upper half. */
  readonly flags: { offset: number; high: number }[];
  /** Refcounts as they are, where they are not as counted. */
  readonly stored: Map<number, number>;
}

/** Problems that are put into words. */
const MAX_PROBLEMS = 100;

/** Reads all of an image's metadata. The caller has locked the image. */
export async function findProblems(
  layout: Layout,
  refcountTable: EntryTable,
  options: WalkOptions = {},
): Promise<Findings> {
  const problems: string[] = [];
  const report = (problem: string) => {
    if (problems.length < MAX_PROBLEMS) problems.push(problem);
  };
  const references = await countReferences(layout, refcountTable, report, options);
  const findings: Findings = {
    references,
    tooLow: [],
    tooHigh: [],
    flags: [],
    stored: new Map(),
    result: {
      leaks: 0,
      corruptions: references.broken,
      clusters: Math.ceil(layout.header.size / layout.clusterSize),
      allocated: references.allocated,
      compressed: references.compressed,
      imageEnd: 0,
      problems,
    },
  };
  await compareRefcounts(layout, refcountTable, findings, report, options.signal);
  await checkFlags(layout, findings, report, options.signal);
  return findings;
}

async function compareRefcounts(
  layout: Layout,
  table: EntryTable,
  findings: Findings,
  report: (problem: string) => void,
  signal: AbortSignal | undefined,
): Promise<void> {
  const { clusterSize, header, file } = layout;
  const { counts } = findings.references;
  const perBlock = (clusterSize * 8) >> header.refcountOrder;
  const bytes = new Uint8Array(clusterSize);
  const view = new DataView(bytes.buffer);
  const { result } = findings;
  const blocks = Math.max(Math.ceil(counts.end / perBlock), table.entries);
  let lastUsed = counts.end;
  for (let index = 0; index < blocks; index++) {
    signal?.throwIfAborted();
    const offset = index < table.entries ? table.blockOffset(index) : 0;
    const sound = offset !== 0 && offset % clusterSize === 0 && offset < file.length;
    const first = index * perBlock;
    if (!sound && first >= counts.end) continue;
    bytes.fill(0);
    if (sound) await file.read(offset, [bytes.subarray(0, Math.min(clusterSize, file.length - offset))]);
    for (let i = 0; i < perBlock; i++) {
      const stored = sound ? readRefcount(view, i, header.refcountOrder) : 0;
      const cluster = first + i;
      const counted = counts.get(cluster);
      if (stored > 0) lastUsed = Math.max(lastUsed, cluster + 1);
      if (stored === counted) continue;
      const leak = stored > counted;
      if (leak) result.leaks++;
      else result.corruptions++;
      findings.stored.set(cluster, stored);
      (leak ? findings.tooHigh : findings.tooLow).push(cluster);
      report(
        `${leak ? 'leak' : 'error'}: cluster ${cluster} has refcount ${stored}, but ${counted} references`,
      );
    }
  }
  result.imageEnd = lastUsed * clusterSize;
}

/** COPIED must say whether the refcount is one, in the active tables (L1 and L2). */
async function checkFlags(
  layout: Layout,
  findings: Findings,
  report: (problem: string) => void,
  signal: AbortSignal | undefined,
): Promise<void> {
  const { clusterSize, clusterBits, version, file } = layout;
  const { l1, counts } = findings.references;
  const check = (at: number, high: number, cluster: number | undefined, what: string) => {
    const flag = (high & q.COPIED_HIGH) !== 0;
    const count = cluster === undefined ? 0 : counts.get(cluster);
    if (flag !== (count === 1)) findings.flags.push({ offset: at, high: (high ^ q.COPIED_HIGH) >>> 0 });
    const own = (cluster === undefined ? 0 : (findings.stored.get(cluster) ?? count)) === 1;
    if (flag === own) return;
    findings.result.corruptions++;
    report(`error: the COPIED flag of ${what} should be ${own ? 'set' : 'clear'}`);
  };
  const bytes = new Uint8Array(clusterSize);
  const view = new DataView(bytes.buffer);
  const seen = new Set<number>();
  for (let i = 0; i < l1.entries; i++) {
    const offset = l1.l2Offset(i);
    if (offset === 0 || offset % clusterSize !== 0 || offset >= file.length) continue;
    check(l1.offset + i * q.ENTRY_SIZE, l1.high(i), offset / clusterSize, `L2 table ${i}`);
    if (seen.has(offset)) continue;
    seen.add(offset);
    signal?.throwIfAborted();
    bytes.fill(0);
    await file.read(offset, [bytes.subarray(0, Math.min(clusterSize, file.length - offset))]);
    for (let at = 0; at < clusterSize; at += q.ENTRY_SIZE) {
      const high = view.getUint32(at);
      const entry = decodeL2(high, view.getUint32(at + 4), clusterBits, version);
      if (entry.offset === 0) continue;
      const host = entry.kind === 'compressed' ? undefined : Math.floor(entry.offset / clusterSize);
      check(offset + at, high, host, `guest cluster ${i * layout.l2Entries + at / q.ENTRY_SIZE}`);
    }
  }
}
