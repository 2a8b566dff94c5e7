/** Builds a disk with a Debian system that boots in a virtual machine, and the kernel and initramfs for it. */
import { randomUUID } from 'node:crypto';
import { copyFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { buildInitramfs } from '../boot/initramfs/build.ts';
import { ROOT_MODULES } from '../boot/initramfs/root-script.ts';
import { TsvError } from '../errors.ts';
import { Cache } from '../host/cache.ts';
import { fetchBusybox, fetchKernel } from '../host/kernel-fetch.ts';
import type { FetchProgress } from '../host/packages.ts';
import { debianBase } from './debian-base.ts';
import { debianFiles } from './debian-files.ts';
import { EXT4_TOOLS, makeExt4 } from './ext4.ts';
import type { ImageProgress } from './progress.ts';
import { requireTools } from './tool.ts';

/** Options of {@link buildDebianImage}. */
export interface DebianImageOptions {
  /** The image: an ext4 file system without a partition table. */
  readonly output: string;
  /** Bytes; 2 GiB when absent. The host's disk only holds what is used. */
  readonly size?: number;
  /** `debian` when absent. */
  readonly hostname?: string;
  /** Root's password; root logs in without one when absent. */
  readonly password?: string;
  /** Packages beyond the smallest system that boots. */
  readonly include?: readonly string[];
  /** The package of the kernel; see {@link fetchKernel}. */
  readonly kernelPackage?: string;
  /** Where packages, kernel and the installed system are kept. */
  readonly cacheDir?: string;
  /** Look for newer packages although there is a system in the cache. */
  readonly refresh?: boolean;
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: ImageProgress) => void;
}

/** What was built, and how to boot it. */
export interface DebianImage {
  readonly image: string;
  /** Bytes of the disk. */
  readonly size: number;
  /** Bytes it takes on the host. */
  readonly used: number;
  /** Copies beside the image, because only this kernel has the modules that are in it. */
  readonly kernel: string;
  readonly initrd: string;
  /** The kernel command line that boots it when it is the first virtio disk. */
  readonly cmdline: string;
  readonly kernelVersion: string;
  /** NAME_VERSION_ARCHITECTURE of what is installed. */
  readonly packages: readonly string[];
}

const TOOLS = { ...EXT4_TOOLS, 'apt-get': 'apt', 'dpkg-deb': 'dpkg', flock: 'util-linux' };
const DEFAULT_SIZE = 2 * 2 ** 30;

/**
 * Builds a Debian disk, of the release the host's apt has. The image, `X.img`, gets `X.vmlinuz` and `X.initrd` beside
 * it. None of the three is touched before all of it has been built.
 * @throws TSV_E_FETCH, TSV_E_IMAGE, TSV_E_DISK_FULL, TSV_E_USAGE, TSV_E_FILE
 */
export async function buildDebianImage(options: DebianImageOptions): Promise<DebianImage> {
  const { output, signal, cacheDir, refresh = false, hostname = 'debian', include = [] } = options;
  const { size = DEFAULT_SIZE, onProgress: report = () => {} } = options;
  checkHostname(hostname);
  const uuid = randomUUID();
  const stem = output.replace(/\.(?:img|raw|ext4)$/, '');
  const [kernelFile, initrdFile] = [`${stem}.vmlinuz`, `${stem}.initrd`];

  await requireTools(TOOLS, signal); // before anything is downloaded
  const fetching = { cacheDir, refresh, signal, onProgress: fetchReporter(report) };
  const kernel = await fetchKernel({ ...fetching, package: options.kernelPackage });
  const busybox = await fetchBusybox(fetching);
  report({ step: 'initrd' });
  const modules = { root: kernel.modules, names: [], optional: ROOT_MODULES };
  const initrd = await buildInitramfs({ busybox, switchRoot: true, modules });

  // A cache of its own: its lock is held for as long as building takes, which nobody who fetches a kernel has to wait.
  const cache = new Cache(join(new Cache(cacheDir).root, 'debian'));
  const base = await cache.locked(
    signal,
    () => report({ step: 'wait' }),
    async () => {
      const found = await debianBase(cache, { include, refresh, signal, report });
      await makeExt4(cache, {
        output,
        size,
        archive: found.archive,
        files: debianFiles({ hostname, uuid }),
        uuid,
        modules: kernel.modules,
        password: options.password,
        signal,
        report,
      });
      return found;
    },
  );
  await place(kernelFile, (partial) => copyFile(kernel.vmlinuz, partial));
  await place(initrdFile, (partial) => writeFile(partial, initrd));
  return {
    image: output,
    size,
    used: (await stat(output)).blocks * 512,
    kernel: kernelFile,
    initrd: initrdFile,
    cmdline: 'console=ttyS0 root=/dev/vda',
    kernelVersion: kernel.version,
    packages: base.packages.map((file) => basename(file, '.deb').replace('%3a', ':')),
  };
}

/** hostname(7): letters, digits and hyphens, up to 63 characters. */
function checkHostname(name: string): void {
  if (/^(?!-)[a-z\d-]{1,63}(?<!-)$/i.test(name)) return;
  throw new TsvError('TSV_E_USAGE', `"${name}" is not a host name.`, {
    hint: 'Use up to 63 letters, digits and hyphens.',
  });
}

async function place(path: string, write: (partial: string) => Promise<void>): Promise<void> {
  const partial = `${path}.${process.pid}.part`;
  try {
    await write(partial);
    await rename(partial, path);
  } catch (cause) {
    await rm(partial, { force: true });
    const { code } = cause as NodeJS.ErrnoException;
    throw new TsvError(
      code === 'ENOSPC' ? 'TSV_E_DISK_FULL' : 'TSV_E_FILE',
      `${path} cannot be written (${code}).`,
      {
        hint: 'Check the directory, its permissions and its free space.',
        cause,
      },
    );
  }
}

function fetchReporter(report: (progress: ImageProgress) => void): (progress: FetchProgress) => void {
  return ({ phase, fraction }) => {
    if (phase === 'wait') report({ step: 'wait' });
    else if (phase !== 'cached') report({ step: 'kernel', ...(phase === 'download' && { fraction }) });
  };
}
