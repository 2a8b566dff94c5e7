/** Disk images in words. */
import type { DiskInfo } from '../storage/info.ts';
import type { CheckResult } from '../storage/qcow2/check.ts';
import type { RepairResult } from '../storage/qcow2/repair.ts';
import { formatBytes } from './disk-size.ts';

/** Lines that describe an image. */
export function describeDisk(info: DiskInfo): string {
  const lines = [
    ['image', info.path],
    ['format', info.qcow2 === undefined ? info.format : `qcow2, version ${info.qcow2.version}`],
    ['disk', `${formatBytes(info.virtualSize)} (${info.virtualSize} bytes)`],
    ['on host', formatBytes(info.allocatedSize)],
  ];
  if (info.qcow2 !== undefined) {
    const { clusterSize, refcountBits, compression, lazyRefcounts, dirty, corrupt } = info.qcow2;
    const { backingFile, backingFormat, snapshots } = info.qcow2;
    const lazy = lazyRefcounts ? ', lazy' : '';
    lines.push([
      'clusters',
      `${formatBytes(clusterSize)}, ${refcountBits}-bit refcounts${lazy}, ${compression}`,
    ]);
    if (backingFile !== undefined)
      lines.push(['backing', `${backingFile} (${backingFormat ?? 'format not said'})`]);
    if (dirty) lines.push(['state', 'was not closed; repaired when it is next opened for writing']);
    if (corrupt) lines.push(['state', 'marked as damaged; see "tsvisor disk check"']);
    for (const { id, name, date, vmStateSize } of snapshots) {
      const state = vmStateSize > 0 ? `, machine state ${formatBytes(vmStateSize)}` : '';
      lines.push(['snapshot', `${id} "${name}", ${new Date(date).toISOString()}${state}`]);
    }
  }
  return lines.map(([key, value]) => `${key.padEnd(9)} ${value}\n`).join('');
}

/** What a check has found and what is left of it. */
export function describeCheck(path: string, { found, left }: RepairResult): string {
  const lines = [...found.problems.map((problem) => `${path}: ${problem}`), summary(path, found)];
  if (left !== undefined) lines.push(`after the repair: ${summary(path, left)}`);
  else if (found.corruptions > 0)
    lines.push('"--repair all" corrects what can be; make a copy of the image first');
  else if (found.leaks > 0) lines.push('"--repair leaks" gives lost space back');
  return `${lines.join('\n')}\n`;
}

function summary(path: string, result: CheckResult): string {
  const { corruptions, leaks, clusters, allocated, compressed } = result;
  const count = (n: number, what: string) => `${n} ${what}${n === 1 ? '' : 's'}`;
  const state = [
    ...(corruptions > 0 ? [count(corruptions, 'error')] : []),
    ...(leaks > 0 ? [count(leaks, 'lost cluster')] : []),
  ];
  const used = `${allocated} of ${count(clusters, 'cluster')} in use, ${compressed} compressed`;
  return `${path}: ${state.length === 0 ? 'consistent' : state.join(', ')}; ${used}`;
}

/** A part of 1, as a percentage. */
export function percent(part: number): string {
  return `${Math.floor(part * 100)} %`;
}
