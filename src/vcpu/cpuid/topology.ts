/** CPU topology: APIC ids and the leaves that tell a guest which vCPUs share a core and a socket. */
import { TsvError } from '../../errors.ts';
import type { CpuidEntry } from '../state.ts';

/** Sockets of cores of hardware threads. */
export interface CpuTopology {
  readonly sockets: number;
  /** Cores of a socket. */
  readonly cores: number;
  /** Threads of a core. */
  readonly threads: number;
}

/** Level types of leaves 0xB and 0x1F (Intel SDM vol. 2A, CPUID). */
const LEVEL_SMT = 1;
const LEVEL_CORE = 2;

/** Bits of an APIC id that number `count` things. */
function bitsFor(count: number): number {
  return count <= 1 ? 0 : 32 - Math.clz32(count - 1);
}

/** Bits of the thread number and of thread and core number together within an APIC id. */
function shifts({ cores, threads }: CpuTopology): { thread: number; socket: number } {
  const thread = bitsFor(threads);
  return { thread, socket: thread + bitsFor(cores) };
}

/**
 * One socket with a core per vCPU unless the caller says otherwise.
 * @throws TSV_E_CONFIG when the parts do not multiply to `cpus`
 */
export function topologyOf(cpus: number, topology?: CpuTopology): CpuTopology {
  if (topology === undefined) return { sockets: 1, cores: cpus, threads: 1 };
  const { sockets, cores, threads } = topology;
  const whole = [sockets, cores, threads].every((count) => Number.isInteger(count) && count >= 1);
  if (!whole || sockets * cores * threads !== cpus) {
    throw new TsvError(
      'TSV_E_CONFIG',
      `A topology of ${sockets} sockets, ${cores} cores and ${threads} threads does not have ${cpus} vCPUs.`,
      { hint: 'Choose sockets, cores and threads whose product is the number of vCPUs.' },
    );
  }
  return topology;
}

/**
 * APIC id of the n-th vCPU. Threads and cores occupy whole bits (SDM vol. 3A 9.9.1), so ids have gaps when their
 * counts are not powers of two.
 */
export function apicIdOf(index: number, topology: CpuTopology): number {
  const { thread, socket } = shifts(topology);
  const perSocket = topology.cores * topology.threads;
  const core = Math.floor((index % perSocket) / topology.threads);
  return (Math.floor(index / perSocket) << socket) | (core << thread) | (index % topology.threads);
}

/** Leaf 0xB or 0x1F: the extended topology enumeration. */
export function extendedTopologyLeaf(leaf: 0xb | 0x1f, apicId: number, topology: CpuTopology): CpuidEntry[] {
  const { thread, socket } = shifts(topology);
  const level = (index: number, eax: number, ebx: number, type: number): CpuidEntry => ({
    function: leaf,
    index,
    flags: 1,
    eax,
    ebx,
    ecx: index | (type << 8),
    edx: apicId,
  });
  return [
    level(0, thread, topology.threads, LEVEL_SMT),
    level(1, socket, topology.cores * topology.threads, LEVEL_CORE),
    level(2, 0, 0, 0),
  ];
}

/** A cache of leaf 4 or 0x8000001D. Sizes in bytes. */
interface Cache {
  type: 1 | 2 | 3;
  level: 1 | 2 | 3;
  ways: number;
  sets: number;
  shared: 'core' | 'socket';
}

/** Line size of every cache, bytes; leaf 1 reports the same for CLFLUSH. */
const CACHE_LINE = 64;

/** A plain cache hierarchy: 32 KiB L1D and L1I and 1 MiB L2 a core, 16 MiB L3 a socket. */
const CACHES: readonly Cache[] = [
  { type: 1, level: 1, ways: 8, sets: 64, shared: 'core' },
  { type: 2, level: 1, ways: 8, sets: 64, shared: 'core' },
  { type: 3, level: 2, ways: 16, sets: 1024, shared: 'core' },
  { type: 3, level: 3, ways: 16, sets: 16384, shared: 'socket' },
];

/** Leaf 4 (Intel, with core counts) or 0x8000001D (AMD): deterministic cache parameters. */
export function cacheLeaf(leaf: 4 | 0x8000_001d, topology: CpuTopology): CpuidEntry[] {
  const { thread, socket } = shifts(topology);
  const cores = leaf === 4 ? Math.min(2 ** (socket - thread), 64) - 1 : 0;
  const entries = CACHES.map(({ type, level, ways, sets, shared }, index) => {
    const sharing = shared === 'core' ? 2 ** thread : 2 ** socket;
    return {
      function: leaf,
      index,
      flags: 1,
      // Bit 8: self-initialising.
      eax: (type | (level << 5) | (1 << 8) | ((Math.min(sharing, 4096) - 1) << 14) | (cores << 26)) >>> 0,
      ebx: ((CACHE_LINE - 1) | ((ways - 1) << 22)) >>> 0,
      ecx: sets - 1,
      edx: 0,
    };
  });
  return [...entries, { function: leaf, index: CACHES.length, flags: 1, eax: 0, ebx: 0, ecx: 0, edx: 0 }];
}

/** Leaf 0x8000001E: extended APIC id, core id and node id (AMD APM vol. 3 E.4.17). */
export function amdTopologyLeaf(apicId: number, topology: CpuTopology): CpuidEntry {
  const { thread, socket } = shifts(topology);
  const core = (apicId >>> thread) & (2 ** (socket - thread) - 1);
  return {
    function: 0x8000_001e,
    index: 0,
    flags: 0,
    eax: apicId,
    ebx: (core & 0xff) | ((topology.threads - 1) << 8),
    ecx: (apicId >>> socket) & 0xff,
    edx: 0,
  };
}

/** Leaf 0x80000008 ECX: thread count and the size of the APIC id's part within a package. */
export function amdCoreCount(topology: CpuTopology): number {
  const { socket } = shifts(topology);
  return ((topology.cores * topology.threads - 1) & 0xff) | (socket << 12);
}

/** Leaf 1 EBX: CLFLUSH line size, addressable ids of a package and the initial APIC id. */
export function leaf1Ebx(apicId: number, topology: CpuTopology): number {
  const { socket } = shifts(topology);
  const logical = Math.min(2 ** socket, 255);
  return (((CACHE_LINE / 8) << 8) | (logical << 16) | ((apicId & 0xff) << 24)) >>> 0;
}
