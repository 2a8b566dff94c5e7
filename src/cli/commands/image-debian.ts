/** `tsvisor image debian`: a bootable disk from Debian packages. */
import type { ImageStep } from '../../image/progress.ts';
import type { CliCommand } from '../cli.ts';

interface DebianArguments {
  output: string;
  size: string;
  hostname: string;
  password?: string;
  include?: string[];
  package?: string;
  cacheDir?: string;
  refresh?: boolean;
  json?: boolean;
}

const STEPS: Readonly<Record<ImageStep, string>> = {
  wait: 'waiting for another tsvisor that is building',
  kernel: 'fetching the kernel',
  update: 'fetching package lists',
  resolve: 'looking packages up',
  download: 'downloading packages',
  unpack: 'unpacking packages',
  install: 'installing packages',
  pack: 'keeping the system in the cache',
  copy: 'copying the system',
  format: 'making the file system',
  initrd: 'building the initramfs',
};

export const imageDebianCommand: CliCommand<DebianArguments> = {
  name: 'debian',
  describe:
    'Builds a disk with a Debian that boots (systemd, login on the console), its kernel and initramfs.',
  options: {
    output: {
      alias: 'o',
      type: 'string',
      nargs: 1,
      default: 'debian.img',
      describe: 'the disk, a raw ext4 file system; X.img gets X.vmlinuz and X.initrd beside it',
    },
    size: {
      type: 'string',
      nargs: 1,
      default: '2G',
      describe: 'size of the disk; the file only takes what is used',
    },
    hostname: { type: 'string', nargs: 1, default: 'debian', describe: 'name of the system' },
    password: { type: 'string', nargs: 1, describe: "root's password (default: none is asked for)" },
    include: {
      type: 'string',
      nargs: 1,
      array: true,
      describe: 'more packages, separated by commas; repeatable',
    },
    package: { type: 'string', nargs: 1, describe: 'kernel package (default linux-image-cloud-amd64)' },
    'cache-dir': { type: 'string', nargs: 1, describe: 'where packages are kept (default ~/.cache/tsvisor)' },
    refresh: { type: 'boolean', describe: 'look for newer packages although a system is cached' },
    json: { type: 'boolean', describe: 'say what was built as JSON' },
  },
  examples: [
    ['tsvisor image debian', 'debian.img, debian.vmlinuz and debian.initrd'],
    ['tsvisor image debian -o web.img --size 8G --hostname web --include nginx,curl', 'with more in it'],
    [
      'tsvisor run --kernel debian.vmlinuz --initrd debian.initrd --append "console=ttyS0 root=/dev/vda" --disk debian.img',
      'boot it',
    ],
  ],
  epilogue: `The packages come from the host's apt sources: the host has to be Debian, and its release is that of the disk.
It needs root, or uidmap and subordinate ids (/etc/subuid), and mkfs.ext4 of e2fsprogs. The installed system is
cached: the next disk takes seconds.

Exit status
    0  built
    2  bad input: a size that is too small, an output that cannot be written
    4  the host cannot: no network, no such package, no room, a missing tool or permission
  130  Ctrl-C; nothing is left behind but what was downloaded`,
  async run(args) {
    const { buildDebianImage } = await import('../../image/debian.ts');
    const { formatBytes, parseDiskSize } = await import('../disk-size.ts');
    const { longOperation } = await import('../long-operation.ts');
    const size = parseDiskSize('--size', args.size);
    const built = await longOperation((progress, signal) =>
      buildDebianImage({
        output: args.output,
        size,
        hostname: args.hostname,
        password: args.password,
        include: args.include?.flatMap((names) => names.split(',')).filter(Boolean),
        kernelPackage: args.package,
        cacheDir: args.cacheDir,
        refresh: args.refresh,
        signal,
        onProgress: ({ step, fraction }) =>
          progress.update(
            `tsvisor: ${STEPS[step]}`,
            fraction === undefined ? '' : `${Math.floor(fraction * 100)} %`,
          ),
      }),
    );
    process.stdout.write(
      args.json
        ? `${JSON.stringify(built, null, 2)}\n`
        : `disk    ${built.image} (${formatBytes(built.size)}, ${formatBytes(built.used)} used)
kernel  ${built.kernel} (${built.kernelVersion})
initrd  ${built.initrd}
append  ${built.cmdline}
`,
    );
    return 0;
  },
};
