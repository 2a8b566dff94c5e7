/** Gets a stock Debian kernel, and busybox, through the host's apt. */
import { open, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { TsvError } from '../errors.ts';
import type { Apt, AptPackage } from './apt.ts';
import { type FetchOptions, fetchPackage, type UnpackedPackage } from './packages.ts';

/** Options of {@link fetchKernel}. */
export interface FetchKernelOptions extends FetchOptions {
  /**
   * A kernel package or a meta package that depends on one: `linux-image-cloud-amd64` when absent (made for virtual
   * machines); `linux-image-amd64` has the drivers of real hardware.
   */
  readonly package?: string;
}

/** A kernel in the cache. */
export interface FetchedKernel {
  /** The package it is from. */
  readonly package: string;
  /** That package's version. */
  readonly packageVersion: string;
  /** The kernel's release, as `uname -r` prints it. */
  readonly version: string;
  /** Path of the bzImage. */
  readonly vmlinuz: string;
  /** Path of its folder of modules, `…/lib/modules/VERSION`. */
  readonly modules: string;
  /** Path of the configuration it was built with. */
  readonly config: string;
  /** Path of the table of its symbols; undefined where the package has only a stub of it, as Debian's do. */
  readonly systemMap: string | undefined;
}

/** Names of meta packages lead to packages of this kind. */
const KERNEL_PACKAGE = /^linux-image-/;
/** linux-image-amd64 -> linux-image-6.1.0-56-amd64 is one step; more than a few is a circle. */
const MAX_STEPS = 4;
/** "HdrS" at 0x202 of a bzImage (Documentation/arch/x86/boot.rst). */
const HEADER_MAGIC_OFFSET = 0x202;
const HEADER_MAGIC = 'HdrS';
/** A real System.map has tens of thousands of lines. */
const MIN_SYSTEM_MAP = 65536;

/**
 * Gets a kernel: from the cache, or else downloaded and unpacked into it.
 * @throws TSV_E_FETCH when this host cannot: no apt, no network, no space, no such package; or when interrupted
 */
export async function fetchKernel(options: FetchKernelOptions = {}): Promise<FetchedKernel> {
  const name = options.package ?? 'linux-image-cloud-amd64';
  const check = async (found: UnpackedPackage) => void (await describeKernel(found));
  const found = await fetchPackage(name, options, check, resolveKernel);
  return describeKernel(found);
}

/**
 * Gets a statically linked busybox, from the Debian package busybox-static.
 * @returns its path
 * @throws TSV_E_FETCH as {@link fetchKernel}
 */
export async function fetchBusybox(options: FetchOptions = {}): Promise<string> {
  const locate = async (found: UnpackedPackage): Promise<string> => {
    const path = await firstFile([join(found.root, 'bin/busybox'), join(found.root, 'usr/bin/busybox')]);
    if (path === undefined) throw incomplete(found, 'busybox');
    return path;
  };
  const check = async (found: UnpackedPackage) => void (await locate(found));
  return locate(await fetchPackage('busybox-static', options, check));
}

async function resolveKernel(apt: Apt, found: AptPackage): Promise<AptPackage> {
  let current = found;
  for (let step = 0; step < MAX_STEPS; step++) {
    const next = current.depends.find((name) => KERNEL_PACKAGE.test(name));
    if (next === undefined) return current;
    current = await apt.find(next);
  }
  throw new TsvError('TSV_E_FETCH', `The package ${found.name} does not lead to a kernel.`, {
    hint: 'Name a kernel package such as linux-image-cloud-amd64.',
  });
}

async function describeKernel(found: UnpackedPackage): Promise<FetchedKernel> {
  const boot = join(found.root, 'boot');
  const names = await readdir(boot).catch(() => []);
  const version = names.find((name) => name.startsWith('vmlinuz-'))?.slice('vmlinuz-'.length);
  if (version === undefined) throw incomplete(found, 'kernel');
  const vmlinuz = join(boot, `vmlinuz-${version}`);
  if (!(await isBzImage(vmlinuz))) throw incomplete(found, 'bzImage');
  const candidates = ['lib/modules', 'usr/lib/modules'].map((path) =>
    join(found.root, path, version, 'kernel'),
  );
  const modules = await firstFile(candidates);
  if (modules === undefined) throw incomplete(found, 'folder of modules');
  const config = await firstFile([join(boot, `config-${version}`)]);
  if (config === undefined) throw incomplete(found, 'configuration');
  const map = join(boot, `System.map-${version}`);
  const mapSize = (await stat(map).catch(() => undefined))?.size ?? 0;
  return {
    package: found.name,
    packageVersion: found.version,
    version,
    vmlinuz,
    modules: join(modules, '..'),
    config,
    systemMap: mapSize >= MIN_SYSTEM_MAP ? map : undefined,
  };
}

async function isBzImage(path: string): Promise<boolean> {
  const file = await open(path, 'r').catch(() => undefined);
  if (file === undefined) return false;
  try {
    const bytes = Buffer.alloc(HEADER_MAGIC.length);
    await file.read(bytes, 0, bytes.length, HEADER_MAGIC_OFFSET);
    return bytes.toString('latin1') === HEADER_MAGIC;
  } finally {
    await file.close();
  }
}

/** The first of the paths that is there and not empty. */
async function firstFile(paths: readonly string[]): Promise<string | undefined> {
  for (const path of paths) {
    const status = await stat(path).catch(() => undefined);
    if (status !== undefined && status.size > 0) return path;
  }
  return undefined;
}

function incomplete(found: UnpackedPackage, what: string): TsvError {
  return new TsvError('TSV_E_FETCH', `The package ${found.name} ${found.version} holds no ${what}.`, {
    hint: 'Name another package, or give a kernel of your own with --kernel.',
  });
}
