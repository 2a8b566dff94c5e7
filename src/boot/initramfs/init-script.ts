/** The /init of an initramfs with busybox. */
import { NAME_PORTS, OPEN_CONSOLE } from './console-script.ts';
import { quote } from './quote.ts';

/** A file system that /init mounts, and takes off again at the end. */
export interface InitMount {
  /** Such as /dev/vda. */
  readonly device: string;
  /** Where; it is made. */
  readonly path: string;
  readonly type: string;
  /** As for mount(8). */
  readonly options?: string;
  /** Said when it cannot be mounted; a file system in memory is then in its place. */
  readonly problem: string;
}

/** What {@link initScript} puts into the script. */
export interface InitScriptOptions {
  /** Modules to load, in this order; absolute paths. */
  readonly modules: readonly string[];
  readonly mounts: readonly InitMount[];
  /** Shell commands to run when the system is up; an interactive shell when absent. */
  readonly command?: string;
  /** Said before the shell shows its prompt. */
  readonly greeting?: string;
  /** The busybox's applets. */
  readonly applets: readonly string[];
}

/** Where {@link SHELL_SETUP} is in the initramfs. */
export const SHELL_SETUP_PATH = '/etc/tsvisor.sh';

/**
 * What the shell and /init's command start with: poweroff and its like. Busybox's own ask its init, which /init is not.
 * Without -f these end all programs, so that /init goes on to its end, and file systems come off before the power goes.
 */
export const SHELL_SETUP = `finish() {
  case " $* " in *' -f '*) busybox "$@" ;; esac
  kill -HUP -1
  exit
}
poweroff() { finish poweroff "$@"; }
halt() { finish halt "$@"; }
reboot() { finish reboot "$@"; }
`;

/**
 * A script that mounts the kernel's file systems, loads modules, runs the command and powers the machine off. The exit
 * status of the command is printed, so that whoever watches the console can tell.
 */
export function initScript(options: InitScriptOptions): string {
  const { modules, mounts, applets, command, greeting } = options;
  const hasVirtioConsole = modules.some((path) => /\/virtio_console\.ko/.test(path));
  // cttyhack makes the console the controlling terminal, so that Ctrl-C and job control work in the shell.
  const shell = applets.includes('setsid') && applets.includes('cttyhack') ? 'setsid cttyhack sh' : 'sh';
  const shellLines = greeting === undefined ? [shell] : [`echo ${quote(greeting)}`, shell];
  return [
    '#!/bin/sh',
    `export PATH=/bin HOME=/ ENV=${SHELL_SETUP_PATH}`,
    'mkdir -p /proc /sys /dev /tmp',
    'mount -t proc proc /proc',
    'mount -t sysfs sysfs /sys',
    'mount -t devtmpfs devtmpfs /dev 2>/dev/null',
    ...modules.map((path) => `insmod ${quote(path)}`),
    ...(hasVirtioConsole ? [OPEN_CONSOLE, NAME_PORTS] : []),
    ...mounts.map(mountLines),
    ...(command === undefined ? shellLines : [`(\n. ${SHELL_SETUP_PATH}\n${command}\n)`]),
    'echo "init: exit status $?"',
    ...mounts.toReversed().map(unmountLines),
    // What the console has not sent when the power goes is lost.
    'sleep 0.5',
    'sync',
    'poweroff -f',
    '',
  ].join('\n');
}

function mountLines({ device, path, type, options, problem }: InitMount): string {
  const how = options === undefined ? '' : ` -o ${quote(options)}`;
  return `mkdir -p ${quote(path)}
mount -t ${quote(type)}${how} ${quote(device)} ${quote(path)} || {
  echo ${quote(problem)}
  mount -t tmpfs tmpfs ${quote(path)}
}`;
}

/** What still runs, in the background, may have files open; a file system in use becomes read-only at least. */
function unmountLines({ path }: InitMount): string {
  return `umount ${quote(path)} 2>/dev/null || {
  kill -TERM -1
  sleep 0.1
  kill -KILL -1
  umount -r ${quote(path)}
}`;
}
