/** `tsvisor initramfs build`: a cpio archive from files, busybox and kernel modules. */
import { readdirSync } from 'node:fs';
import { basename, join } from 'node:path';
import type { InitramfsOptions } from '../../boot/initramfs/build.ts';
import type { ModuleOptions } from '../../boot/initramfs/modules.ts';
import { TsvError } from '../../errors.ts';
import type { CliCommand } from '../cli.ts';

interface BuildArguments {
  output: string;
  busybox?: string;
  add?: string[];
  module?: string[];
  kernelTree?: string;
  init?: string;
  command?: string;
  switchRoot?: boolean;
  compress: 'none' | 'gzip';
  json?: boolean;
}

export const initramfsBuildCommand: CliCommand<BuildArguments> = {
  name: 'build',
  describe: 'Builds an initramfs from files, busybox and kernel modules.',
  options: {
    output: { alias: 'o', type: 'string', nargs: 1, demandOption: true, describe: 'where the archive goes' },
    busybox: {
      type: 'string',
      describe: 'add busybox with an /init that gives a shell; a path, or fetched when none is given',
    },
    add: { type: 'string', nargs: 1, array: true, describe: 'file or directory, HOST[:GUEST]; repeatable' },
    module: {
      type: 'string',
      nargs: 1,
      array: true,
      describe:
        'kernel module, with what it needs; repeatable (--switch-root brings those for virtio disks and pmem)',
    },
    'kernel-tree': {
      type: 'string',
      nargs: 1,
      describe: 'where the modules are: lib/modules/VERSION, or a directory with one in it',
    },
    init: { type: 'string', nargs: 1, describe: 'host file that becomes /init' },
    command: { type: 'string', nargs: 1, describe: 'what the /init of busybox runs instead of a shell' },
    'switch-root': {
      type: 'boolean',
      describe: 'the /init of busybox runs the system on the disk that root= names',
    },
    compress: {
      type: 'string',
      nargs: 1,
      choices: ['none', 'gzip'],
      default: 'none',
      describe: 'compression',
    },
    json: { type: 'boolean', describe: 'say what was done as JSON' },
  },
  examples: [
    ['tsvisor initramfs build -o initrd.img --busybox', 'a shell'],
    ['tsvisor initramfs build -o initrd.img --init ./test --add ./data:/data', 'a static program as /init'],
    [
      'tsvisor initramfs build -o i.img --busybox --module virtio_mmio --module virtio_blk --kernel-tree ./kernel',
      'with drivers',
    ],
    [
      'tsvisor initramfs build -o i.img --busybox --module virtio_mmio --module virtio_console --kernel-tree ./kernel',
      'a shell on hvc0, for console=hvc0',
    ],
    [
      'tsvisor initramfs build -o i.img --busybox --switch-root --kernel-tree ./kernel',
      'boots a virtio disk',
    ],
  ],
  async run(args) {
    const { buildInitramfs } = await import('../../boot/initramfs/build.ts');
    const { writeOutput } = await import('../write-output.ts');
    const archive = await buildInitramfs(await planInitramfs(args));
    await writeOutput(args.output, archive, 'initramfs');
    process.stdout.write(
      args.json
        ? `${JSON.stringify({ path: args.output, size: archive.length })}\n`
        : `${args.output}: ${archive.length} bytes\n`,
    );
    return 0;
  },
};

async function planInitramfs(args: BuildArguments): Promise<InitramfsOptions> {
  const modules = await planModules(args);
  const { readHostFile } = await import('../../boot/initramfs/host-files.ts');
  const { fetchBusyboxWithProgress } = await import('../fetch.ts');
  return {
    files: args.add?.map(parseAdd),
    busybox: args.busybox === undefined ? undefined : args.busybox || (await fetchBusyboxWithProgress()),
    modules,
    switchRoot: args.switchRoot,
    init: args.init === undefined ? undefined : await readHostFile(args.init),
    command: args.command,
    compression: args.compress,
  };
}

async function planModules(args: BuildArguments): Promise<ModuleOptions | undefined> {
  const { module: names = [], kernelTree, switchRoot = false } = args;
  if (kernelTree === undefined ? names.length > 0 : names.length === 0 && !switchRoot) {
    throw new TsvError('TSV_E_USAGE', '--module and --kernel-tree belong together.', {
      hint: 'Name the modules, and the tree of the kernel they are for.',
    });
  }
  if (kernelTree === undefined) return undefined;
  const { ROOT_MODULES } = await import('../../boot/initramfs/root-script.ts');
  return { root: moduleFolder(kernelTree), names, optional: switchRoot ? ROOT_MODULES : [] };
}

/** HOST[:GUEST]; without GUEST the file goes into the root directory. */
export function parseAdd(value: string): { source: string; path: string } {
  const colon = value.indexOf(':');
  const source = colon < 0 ? value : value.slice(0, colon);
  const path = colon < 0 ? `/${basename(source)}` : value.slice(colon + 1);
  if (source !== '' && path !== '') return { source, path };
  throw new TsvError('TSV_E_USAGE', `"${value}" does not say what to add.`, {
    hint: 'Write HOST or HOST:GUEST.',
  });
}

/** The folder of modules in an unpacked kernel package, or the folder itself. */
function moduleFolder(tree: string): string {
  for (const parent of ['lib/modules', 'usr/lib/modules']) {
    const folder = join(tree, parent);
    const versions = listDirectories(folder);
    if (versions.length === 1) return join(folder, versions[0]);
    if (versions.length > 1) {
      throw new TsvError('TSV_E_USAGE', `${folder} has modules of ${versions.length} kernels.`, {
        hint: `Name one: ${versions.map((version) => join(folder, version)).join(', ')}.`,
      });
    }
  }
  return tree;
}

function listDirectories(path: string): string[] {
  try {
    return readdirSync(path, { withFileTypes: true }).flatMap((entry) =>
      entry.isDirectory() ? entry.name : [],
    );
  } catch {
    return [];
  }
}
