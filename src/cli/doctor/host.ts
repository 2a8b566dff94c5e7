/** The doctor on the host: kernel, processor, memory, limits, tools. */
import { accessSync, constants, readdirSync, readFileSync } from 'node:fs';
import { arch, cpus, platform, release } from 'node:os';
import { join } from 'node:path';
import { hostMemory } from '../../memory/host-memory.ts';
import type { Check } from './check.ts';

const GIB = 2 ** 30;
/** A machine needs a few descriptors for itself and each vCPU; disks and networks more. */
const ENOUGH_FILES = 256;

/** Host operating system and processor. */
export function hostChecks(): Check[] {
  const fits = platform() === 'linux' && arch() === 'x64';
  const host: Check = {
    id: 'host.kernel',
    title: 'Host',
    verdict: fits ? 'ok' : 'fail',
    detail: `${platform()} ${release()}, ${arch()}, Node ${process.versions.node}`,
    ...(!fits && { repair: 'KVM needs Linux on x86-64.' }),
    data: { platform: platform(), release: release(), arch: arch(), node: process.versions.node },
  };
  return [host, cpuCheck()];
}

function cpuCheck(): Check {
  const text = read('/proc/cpuinfo') ?? '';
  const field = (name: string) => new RegExp(`^${name}\\s*: (.*)$`, 'm').exec(text)?.[1] ?? '';
  const flags = new Set(field('flags').split(' '));
  const extension = flags.has('vmx') ? 'VT-x' : flags.has('svm') ? 'AMD-V' : undefined;
  const inGuest = flags.has('hypervisor');
  const where = inGuest ? ', itself in a virtual machine' : '';
  return {
    id: 'host.cpu',
    title: 'Processor',
    verdict: extension === undefined ? 'warn' : 'ok',
    detail: `${field('model name') || 'unknown'} (${field('vendor_id')}), ${cpus().length} CPUs, ${extension ?? 'no VT-x or AMD-V'}${where}`,
    ...(extension === undefined && {
      repair: inGuest
        ? 'Enable nested virtualisation for this machine in its hypervisor.'
        : 'Enable VT-x or AMD-V (SVM) in the firmware.',
    }),
    data: {
      vendor: field('vendor_id'),
      model: field('model name'),
      cpus: cpus().length,
      virtualization: extension ?? null,
      hypervisor: inGuest,
    },
  };
}

/** Host memory, huge pages, page merging. */
export function memoryChecks(): Check[] {
  const { total, available } = hostMemory();
  const ksm = read('/sys/kernel/mm/ksm/run')?.trim();
  return [
    {
      id: 'memory.host',
      title: 'Memory',
      verdict: available >= GIB / 4 ? 'ok' : 'warn',
      detail: `${(available / GIB).toFixed(1)} GiB available of ${(total / GIB).toFixed(1)} GiB`,
      ...(available < GIB / 4 && { repair: 'Free memory, or give guests less (--memory).' }),
      data: { total, available },
    },
    hugepageCheck(),
    {
      id: 'memory.ksm',
      title: 'Page merging',
      verdict: 'ok',
      detail:
        ksm === undefined
          ? 'KSM is not in this kernel (--mergeable fails)'
          : ksm === '1'
            ? 'KSM runs'
            : 'KSM is off',
      ...(ksm === '0' && { repair: 'For --mergeable: echo 1 | sudo tee /sys/kernel/mm/ksm/run' }),
      data: { run: ksm ?? null },
    },
  ];
}

function hugepageCheck(): Check {
  const root = '/sys/kernel/mm/hugepages';
  const pools = list(root).map((name) => ({
    size: Number(/\d+/.exec(name)?.[0]) * 1024,
    total: Number(read(join(root, name, 'nr_hugepages'))),
    free: Number(read(join(root, name, 'free_hugepages'))),
  }));
  pools.sort((a, b) => a.size - b.size);
  const thp = /\[(\w+)\]/.exec(read('/sys/kernel/mm/transparent_hugepage/enabled') ?? '')?.[1] ?? 'absent';
  const free = pools.map(({ size, total, free }) => `${size / 2 ** 20} MiB: ${free} of ${total} free`);
  return {
    id: 'memory.hugepages',
    title: 'Huge pages',
    verdict: 'ok',
    detail: `${free.join(', ') || 'no pools'}; transparent: ${thp}`,
    ...(pools.every(({ total }) => total === 0) && {
      repair: 'For --mem-backend hugepages: echo 256 | sudo tee /proc/sys/vm/nr_hugepages',
    }),
    data: { pools, transparent: thp },
  };
}

/** Limits of this process. */
export function limitChecks(): Check[] {
  const files = limit('Max open files');
  const memlock = limit('Max locked memory');
  const enough = files.soft >= ENOUGH_FILES;
  return [
    {
      id: 'limits.nofile',
      title: 'Open files',
      verdict: enough ? 'ok' : 'warn',
      detail: `${show(files.soft)} (at most ${show(files.hard)})`,
      ...(!enough && { repair: `ulimit -n ${Math.min(4096, files.hard)}` }),
      data: { soft: finite(files.soft), hard: finite(files.hard) },
    },
    {
      id: 'limits.memlock',
      title: 'Locked memory',
      verdict: 'ok',
      detail: `${show(memlock.soft)} bytes (guest RAM is not locked)`,
      data: { soft: finite(memlock.soft), hard: finite(memlock.hard) },
    },
  ];
}

/** The tools that `kernel fetch` uses. */
export function toolChecks(): Check[] {
  const missing = ['apt-get', 'apt-cache', 'dpkg-deb', 'flock'].filter((tool) => !inPath(tool));
  return [
    {
      id: 'tools.apt',
      title: 'Fetching kernels',
      verdict: missing.length === 0 ? 'ok' : 'warn',
      detail: missing.length === 0 ? 'apt and dpkg are there' : `${missing.join(', ')} not found`,
      ...(missing.length > 0 && {
        repair:
          '"kernel fetch" and "demo" need Debian or a relative of it; elsewhere give --kernel a kernel of your own.',
      }),
      data: { missing },
    },
  ];
}

function limit(name: string): { soft: number; hard: number } {
  const line = new RegExp(`^${name}\\s+(\\S+)\\s+(\\S+)`, 'm').exec(read('/proc/self/limits') ?? '');
  const value = (text: string | undefined) =>
    text === undefined || text === 'unlimited' ? Infinity : Number(text);
  return { soft: value(line?.[1]), hard: value(line?.[2]) };
}

const show = (value: number) => (Number.isFinite(value) ? String(value) : 'unlimited');
/** JSON has no infinity. */
const finite = (value: number) => (Number.isFinite(value) ? value : null);

function inPath(tool: string): boolean {
  return (process.env.PATH ?? '').split(':').some((folder) => {
    try {
      accessSync(join(folder, tool), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

function read(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}

function list(path: string): string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}
