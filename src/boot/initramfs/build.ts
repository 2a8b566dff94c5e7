/** Builds an initramfs: a cpio archive, packed if wanted, from host files, made-up files, busybox and modules. */
import { promisify } from 'node:util';
import { gzip } from 'node:zlib';
import { TsvError } from '../../errors.ts';
import { addBusybox } from './busybox.ts';
import { encodeCpio } from './cpio.ts';
import { addHostFile, type HostFile } from './host-files.ts';
import { type InitMount, initScript, SHELL_SETUP, SHELL_SETUP_PATH } from './init-script.ts';
import { addModules, type ModuleOptions } from './modules.ts';
import { rootScript } from './root-script.ts';
import { FileTree } from './tree.ts';

/** What goes into an initramfs. Paths in it may be written with or without a leading slash. */
export interface InitramfsOptions {
  /** Files and directories of the host. */
  readonly files?: readonly HostFile[];
  /** Files made here; mode 0644 when absent. */
  readonly contents?: readonly { path: string; content: string | Uint8Array; mode?: number }[];
  /** Empty directories; mode 0755 when absent. */
  readonly directories?: readonly { path: string; mode?: number }[];
  /** Symbolic links; the target need not exist. */
  readonly symlinks?: readonly { path: string; target: string }[];
  /** Device nodes and pipes; mode 0600 when absent. */
  readonly nodes?: readonly InitramfsNode[];
  /** A static busybox on the host; brings its applets and an /init. */
  readonly busybox?: string;
  /** Kernel modules; the /init that comes with busybox loads them. */
  readonly modules?: ModuleOptions;
  /** Contents of /init: a script or a program. */
  readonly init?: string | Uint8Array;
  /** Shell commands for the /init that comes with busybox; an interactive shell when absent. */
  readonly command?: string;
  /** What the shell of that /init greets with. */
  readonly greeting?: string;
  /** File systems that this /init mounts before, and takes off at the end. */
  readonly mounts?: readonly InitMount[];
  /** The /init that comes with busybox mounts the disk that the kernel command line has as `root=`, and runs its init. */
  readonly switchRoot?: boolean;
  /** `none` when absent: unpacking costs the guest time and the host's memory is large. */
  readonly compression?: 'none' | 'gzip';
  /** Seconds since 1970 that all files get; 0 when absent, so that the same input gives the same bytes. */
  readonly mtime?: number;
}

/** What the /init that runs the system on a disk needs of busybox. */
const SWITCH_ROOT_APPLETS = ['sh', 'cat', 'findfs', 'insmod', 'mkdir', 'mount', 'sleep', 'switch_root'];

/** A device node or a pipe. */
export type InitramfsNode =
  | {
      readonly type: 'char' | 'block';
      readonly path: string;
      readonly major: number;
      readonly minor: number;
      readonly mode?: number;
    }
  | { readonly type: 'fifo'; readonly path: string; readonly mode?: number };

/**
 * Builds an initramfs. /dev/console and /dev/null are always there, unless given otherwise: without a console the
 * kernel starts /init with no output.
 * @throws TSV_E_INITRAMFS for what an initramfs cannot hold, TSV_E_FILE for host files that cannot be read
 */
export async function buildInitramfs(options: InitramfsOptions): Promise<Uint8Array> {
  const tree = new FileTree();
  for (const file of options.files ?? []) await addHostFile(tree, file);
  for (const { path, content, mode = 0o644 } of options.contents ?? []) {
    tree.add({ type: 'file', path, mode, data: toBytes(content) });
  }
  for (const { path, mode = 0o755 } of options.directories ?? []) tree.add({ type: 'directory', path, mode });
  for (const { path, target } of options.symlinks ?? [])
    tree.add({ type: 'symlink', path, mode: 0o777, target });
  for (const node of options.nodes ?? []) tree.add({ mode: 0o600, ...node });
  addMissingNode(tree, 'dev/console', 5, 1);
  addMissingNode(tree, 'dev/null', 1, 3);

  const applets = options.busybox === undefined ? undefined : await addBusybox(tree, options.busybox);
  const modules = options.modules === undefined ? [] : await addModules(tree, options.modules);
  const init = options.init ?? defaultInit(tree, options, applets, modules);
  if (init !== undefined) tree.add({ type: 'file', path: 'init', mode: 0o755, data: toBytes(init) });

  const archive = encodeCpio(tree.entries(), options.mtime);
  return options.compression === 'gzip' ? promisify(gzip)(archive) : archive;
}

function defaultInit(
  tree: FileTree,
  options: InitramfsOptions,
  applets: readonly string[] | undefined,
  modules: readonly string[],
): string | undefined {
  if (tree.has('init')) return undefined;
  if (options.switchRoot === true) {
    checkSwitchRoot(options, applets);
    return rootScript({ modules });
  }
  const { command, greeting, mounts = [] } = options;
  if (applets !== undefined) {
    if (!tree.has(SHELL_SETUP_PATH)) {
      tree.add({ type: 'file', path: SHELL_SETUP_PATH, mode: 0o644, data: toBytes(SHELL_SETUP) });
    }
    return initScript({ modules, applets, command, greeting, mounts });
  }
  if (command === undefined) return undefined;
  throw new TsvError('TSV_E_INITRAMFS', 'A command needs a shell in the initramfs to run it.', {
    hint: 'Add busybox, or give an /init of your own.',
  });
}

function checkSwitchRoot(options: InitramfsOptions, applets: readonly string[] | undefined): void {
  if (options.command !== undefined) {
    throw new TsvError('TSV_E_INITRAMFS', 'An initramfs runs either a command or the system on a disk.', {
      hint: 'Leave one of the two out; the kernel parameter init= names another program on the disk.',
    });
  }
  const missing = SWITCH_ROOT_APPLETS.filter((name) => applets?.includes(name) !== true);
  if (missing.length === 0) return;
  throw new TsvError(
    'TSV_E_INITRAMFS',
    `Mounting the root file system needs ${missing.join(', ')} in the initramfs.`,
    { hint: 'Add the busybox of the Debian package busybox-static.' },
  );
}

function addMissingNode(tree: FileTree, path: string, major: number, minor: number): void {
  if (!tree.has(path)) tree.add({ type: 'char', path, mode: 0o600, major, minor });
}

function toBytes(content: string | Uint8Array): Uint8Array {
  return typeof content === 'string' ? Buffer.from(content) : content;
}
