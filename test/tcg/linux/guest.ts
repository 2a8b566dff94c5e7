/** Runs a shell script in a Debian guest on the tcg engine and takes its output apart. */
import { buildInitramfs, type InitramfsOptions } from '../../../src/boot/initramfs/build.ts';
import { fetchBusybox, fetchKernel } from '../../../src/host/kernel-fetch.ts';
import { Vm, type VmConfig, type VmExit } from '../../../src/index.ts';

/** A guest's whole run may take this long, ms; only one that hangs does. */
export const LIMIT = 900_000;

/** The kernel without what only costs time here: its crypto self-tests (stock.test.ts runs them) and its messages. */
const QUICK = 'cryptomgr.notests quiet';

/** Options of {@link runGuest}. */
export interface GuestOptions {
  /** What /init runs, with busybox's applets in the PATH, as the shell that is process 1's child. */
  readonly script: string;
  readonly cpus?: number;
  /** CPU model as for `Vm.create`. */
  readonly cpu?: string;
  /** Default 256M. */
  readonly memory?: string;
  /** Kernel parameters in place of the quick ones; console and `panic=-1` are always given. */
  readonly cmdline?: string;
  /** More contents of the initramfs. */
  readonly initramfs?: InitramfsOptions;
  /** Debian package of the kernel; the cloud kernel when absent. */
  readonly kernel?: string;
  /** What else the machine has. */
  readonly config?: Partial<VmConfig>;
  /** Sees all the output there is so far, each time more has come: a line may come in pieces. */
  readonly onOutput?: (output: string, vm: Vm) => void;
}

/** What a guest did. */
export interface GuestRun {
  readonly exit: VmExit;
  /** Everything the console showed, with \n as the end of a line. */
  readonly console: string;
  /** `uname -r` of the kernel that was booted. */
  readonly version: string;
}

/** Boots a guest, and waits until it has ended. */
export async function runGuest(options: GuestOptions): Promise<GuestRun> {
  const kernel = await fetchKernel({ package: options.kernel });
  const initrd = await buildInitramfs({
    busybox: await fetchBusybox(),
    command: options.script,
    ...options.initramfs,
  });
  await using vm = await Vm.create({
    accel: 'tcg',
    cpus: options.cpus ?? 1,
    cpu: options.cpu,
    memory: options.memory ?? '256M',
    ...options.config,
    boot: {
      kernel: kernel.vmlinuz,
      initrd,
      cmdline: `console=ttyS0 panic=-1 ${options.cmdline ?? QUICK}`,
    },
  });
  const decoder = new TextDecoder();
  let output = '';
  vm.console.onData((bytes) => {
    output += decoder.decode(bytes, { stream: true });
    options.onOutput?.(output, vm);
  });
  const limit = setTimeout(() => void vm.stop('timeout'), LIMIT);
  vm.start();
  const exit = await vm.exited;
  clearTimeout(limit);
  const console = output.replaceAll('\r\n', '\n');
  if (exit.reason === 'timeout') throw new Error(`The guest hung. Last output:\n${console.slice(-2000)}`);
  return { exit, console, version: kernel.version };
}

/** Name of a section, and what its commands wrote to both outputs, with their exit status as the last line. */
export type Sections = Readonly<Record<string, string>>;

/** Shell functions that scripts write their sections with; the script runs in a directory of its own. */
export const SECTIONS = `
section() { echo "@@begin $1"; }
end() { echo "@@status $?"; }
`;

/** Takes apart output of a script whose sections are `section NAME; { ... } 2>&1; end`. */
export function sections(output: string): Sections {
  const found = output.matchAll(/^@@begin (\S+)\n([\s\S]*?)^@@status (\d+)$/gm);
  const ended = Object.fromEntries(
    [...found].map(([, name, text, status]) => [name, `${text}status ${status}`]),
  );
  for (const [, name] of output.matchAll(/^@@begin (\S+)$/gm)) {
    if (name in ended) continue;
    throw new Error(`The section "${name}" has no end. The last output:\n${output.slice(-3000)}`);
  }
  return ended;
}
