/**
 * Kernel modules with what they depend on, in the order in which they can be loaded.
 *
 * The dependencies come from modules.dep where depmod has written one, otherwise from the modules themselves, because
 * a kernel package that was unpacked but not installed has none.
 */
import { readdir, readFile, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { TsvError } from '../../errors.ts';
import { detectCompression } from '../compression.ts';
import { canDecompress, decompress } from '../decompress.ts';
import { readHostFile } from './host-files.ts';
import { readModinfo } from './modinfo.ts';
import type { FileTree } from './tree.ts';

/** Which modules go into an initramfs. */
export interface ModuleOptions {
  /** The kernel's module folder on the host, `lib/modules/VERSION`; its last component is the version. */
  readonly root: string;
  /** Names such as `virtio_blk`; `-` and `_` are the same. Built-in ones are left out. */
  readonly names: readonly string[];
  /** Left out, without an error, when the kernel has no such module; else loaded in this order behind `names`. */
  readonly optional?: readonly string[];
  /** Unpack compressed modules, for kernels without CONFIG_MODULE_DECOMPRESS; true when absent. */
  readonly decompress?: boolean;
}

/** Larger than any module; protects the host from a compressed bomb. */
const MAX_MODULE_SIZE = 256 * 2 ** 20;
const MODULE_FILE = /\.ko(?:\.(?:gz|xz|zst))?$/;

/**
 * The modules asked for and those they need, dependencies first.
 * @returns paths below the module folder, such as `kernel/drivers/block/virtio_blk.ko.xz`
 * @throws TSV_E_INITRAMFS for modules the kernel does not have, TSV_E_FILE
 */
export async function resolveModules(options: ModuleOptions): Promise<string[]> {
  const { root, names } = options;
  await checkFolder(root);
  const builtin = new Set((await readLines(join(root, 'modules.builtin'))).map(moduleName));
  const graph = (await readDepFile(root)) ?? (await scanFolder(root));
  const order: string[] = [];
  const done = new Set<string>();
  const visit = async (name: string, wantedBy: string): Promise<void> => {
    if (builtin.has(name) || done.has(name)) return;
    done.add(name);
    const module = graph.get(name);
    if (module === undefined) {
      throw new TsvError('TSV_E_INITRAMFS', `The kernel in "${root}" has no module ${name}${wantedBy}.`, {
        hint: 'Check the name with modinfo(8), or use a kernel package that has it.',
      });
    }
    for (const dependency of await module.dependencies()) await visit(dependency, ` (needed by ${name})`);
    order.push(module.path);
  };
  for (const name of names) await visit(moduleName(name), '');
  for (const name of (options.optional ?? []).map(moduleName)) if (graph.has(name)) await visit(name, '');
  return order;
}

/**
 * Adds modules with their dependencies below /lib/modules, and a modules.dep for modprobe.
 * @returns their paths in the initramfs, in the order in which to load them
 * @throws TSV_E_INITRAMFS, TSV_E_FILE, TSV_E_KERNEL_FORMAT for a damaged compressed module
 */
export async function addModules(tree: FileTree, options: ModuleOptions): Promise<string[]> {
  const order = await resolveModules(options);
  const folder = `lib/modules/${basename(options.root)}`;
  const loaded: string[] = [];
  for (const path of order) {
    const file = await readHostFile(join(options.root, path));
    const unpack = (options.decompress ?? true) && detectCompression(file) !== undefined;
    const target = unpack ? path.replace(MODULE_FILE, '.ko') : path;
    const data = unpack ? await unpackModule(file, path) : file;
    tree.add({ type: 'file', path: `${folder}/${target}`, mode: 0o644, data });
    loaded.push(target);
  }
  // The modules are in loading order, so naming all before it is correct for each, and modprobe skips loaded ones.
  const dep = loaded.map(
    (path, i) =>
      `${path}:${loaded
        .slice(0, i)
        .reverse()
        .map((p) => ` ${p}`)
        .join('')}\n`,
  );
  tree.add({ type: 'file', path: `${folder}/modules.dep`, mode: 0o644, data: Buffer.from(dep.join('')) });
  return loaded.map((path) => `/${folder}/${path}`);
}

interface Module {
  readonly path: string;
  dependencies(): Promise<string[]> | string[];
}

/** modules.dep: "path: paths of all modules it needs" (modules.dep(5)). */
async function readDepFile(root: string): Promise<Map<string, Module> | undefined> {
  const lines = await readLines(join(root, 'modules.dep'));
  if (lines.length === 0) return undefined;
  const graph = new Map<string, Module>();
  for (const line of lines) {
    const [path, rest] = split(line, ':');
    if (!isBelowRoot(path)) continue;
    const dependencies = rest.split(/\s+/).filter(Boolean).map(moduleName);
    // Listed from the module upwards; the last has to be loaded first.
    graph.set(moduleName(path), { path, dependencies: () => dependencies.toReversed() });
  }
  return graph;
}

/** A path of modules.dep is used to read a file of the host: it must stay below the folder. */
function isBelowRoot(path: string): boolean {
  return MODULE_FILE.test(path) && !path.startsWith('/') && !path.split('/').includes('..');
}

async function scanFolder(root: string): Promise<Map<string, Module>> {
  const graph = new Map<string, Module>();
  for (const entry of await readdir(root, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile() || !MODULE_FILE.test(entry.name)) continue;
    const file = join(entry.parentPath, entry.name);
    const path = file.slice(root.replace(/\/+$/, '').length + 1);
    graph.set(moduleName(entry.name), {
      path,
      dependencies: async () => {
        const data = await readHostFile(file);
        const module = detectCompression(data) === undefined ? data : await unpackModule(data, path);
        const depends = readModinfo(module, path).get('depends')?.[0] ?? '';
        return depends.split(',').filter(Boolean).map(moduleName);
      },
    });
  }
  return graph;
}

async function unpackModule(data: Uint8Array, path: string): Promise<Uint8Array> {
  const compression = detectCompression(data);
  if (compression === undefined || !canDecompress(compression)) {
    throw new TsvError(
      'TSV_E_INITRAMFS',
      `The module "${path}" is compressed in a format that is not supported.`,
      {
        hint: 'gzip, xz and zstd are; unpack it by hand, or keep it compressed if the kernel can load it.',
      },
    );
  }
  return decompress(data, { compression, maxSize: MAX_MODULE_SIZE, what: `the module ${path}` });
}

/** The name of a module as the kernel knows it, from its file's name or as people write it. */
function moduleName(path: string): string {
  return basename(path).replace(MODULE_FILE, '').replaceAll('-', '_');
}

function split(line: string, separator: string): [string, string] {
  const at = line.indexOf(separator);
  return at < 0 ? [line, ''] : [line.slice(0, at), line.slice(at + 1)];
}

async function readLines(path: string): Promise<string[]> {
  try {
    return (await readFile(path, 'utf8')).split('\n').filter(Boolean);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw new TsvError('TSV_E_FILE', `"${path}" cannot be read (${(error as Error).message}).`, {
      hint: 'Check its permissions.',
      cause: error,
    });
  }
}

async function checkFolder(root: string): Promise<void> {
  const status = await stat(root).catch(() => undefined);
  if (status?.isDirectory()) return;
  throw new TsvError('TSV_E_FILE', `"${root}" is not a folder of kernel modules.`, {
    hint: 'Name the lib/modules/VERSION folder of the kernel.',
  });
}
