/** How much memory this host can still give to a guest. */
import { readFileSync } from 'node:fs';
import { freemem, totalmem } from 'node:os';

/** Bytes of memory. */
export interface HostMemory {
  /** What the host, or this process's control group, has in all. */
  readonly total: number;
  /** What can be used without taking it from something else: MemAvailable and free swap. */
  readonly available: number;
}

/** Reads the host's memory figures, limited to those of the control group this process runs in. */
export function hostMemory(): HostMemory {
  const meminfo = readMeminfo();
  // 0, undefined or a number beyond all bounds when there is no limit, depending on the cgroup version.
  const limit = process.constrainedMemory() || Number.POSITIVE_INFINITY;
  const total = Math.min(totalmem() + (meminfo.get('SwapTotal') ?? 0), limit);
  const available = (meminfo.get('MemAvailable') ?? freemem()) + (meminfo.get('SwapFree') ?? 0);
  return { total, available: Math.min(available, total) };
}

function readMeminfo(): Map<string, number> {
  try {
    const text = readFileSync('/proc/meminfo', 'latin1');
    return new Map(Array.from(text.matchAll(/^(\w+):\s+(\d+) kB$/gm), (m) => [m[1], Number(m[2]) * 1024]));
  } catch {
    return new Map(); // not Linux: os.freemem() is what there is
  }
}
