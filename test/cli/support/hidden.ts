/** Hosts that lack something, made of this one. */
import { spawnSync } from 'node:child_process';

/** Whether this process may make mount namespaces, which hide devices from a command. */
export const canUnshare = process.getuid?.() === 0 && spawnSync('unshare', ['-m', 'true']).status === 0;

/** Runs the command behind it where /dev has nothing but what Node needs. Needs {@link canUnshare}. */
export const WITHOUT_KVM: readonly string[] = [
  ...['unshare', '-m', 'sh', '-c'],
  'mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && mknod -m 666 /dev/urandom c 1 9 && exec "$@"',
  'sh',
];

/** The environment of a command that finds no native addon. */
export const WITHOUT_ADDON: NodeJS.ProcessEnv = {
  ...process.env,
  TSVISOR_ADDON: '/nonexistent/tsvisor.node',
};
