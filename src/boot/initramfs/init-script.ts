/** The /init of an initramfs with busybox. */
import { quote } from './quote.ts';

/** What {@link initScript} puts into the script. */
export interface InitScriptOptions {
  /** Modules to load, in this order; absolute paths. */
  readonly modules: readonly string[];
  /** Shell commands to run when the system is up; an interactive shell when absent. */
  readonly command?: string;
  /** The busybox's applets. */
  readonly applets: readonly string[];
}

/**
 * A script that mounts the kernel's file systems, loads modules, runs the command and powers the machine off. The exit
 * status of the command is printed, so that whoever watches the console can tell.
 */
export function initScript(options: InitScriptOptions): string {
  const { modules, applets } = options;
  // cttyhack makes the console the controlling terminal, so that Ctrl-C and job control work in the shell.
  const shell = applets.includes('setsid') && applets.includes('cttyhack') ? 'setsid cttyhack sh' : 'sh';
  return [
    '#!/bin/sh',
    'export PATH=/bin HOME=/',
    'mkdir -p /proc /sys /dev /tmp',
    'mount -t proc proc /proc',
    'mount -t sysfs sysfs /sys',
    'mount -t devtmpfs devtmpfs /dev 2>/dev/null',
    ...modules.map((path) => `insmod ${quote(path)}`),
    options.command === undefined ? shell : `(\n${options.command}\n)`,
    'echo "init: exit status $?"',
    // What the console has not sent when the power goes is lost.
    'sleep 0.5',
    'sync',
    'poweroff -f',
    '',
  ].join('\n');
}
