/** How this process can act as the root user of a tree of files: as root, or in namespaces of its own. */
import { TsvError } from '../errors.ts';
import { run } from '../host/command.ts';

/** A way to run a script as the root user of a tree. */
export interface RootNamespace {
  /** What comes before the command. */
  readonly prefix: readonly string[];
  /** True when mounts vanish with the command. */
  readonly mounts: boolean;
}

const OWN_MOUNTS = ['--mount', '--pid', '--fork', '--kill-child'];
/** In a user namespace: our user is root there, and our subordinate ids (subuid(5)) are all others. */
const OWN_USERS = ['--user', '--map-root-user', '--map-auto'];

/**
 * Finds a way, by trying.
 * @throws TSV_E_IMAGE when there is none
 */
export async function findRootNamespace(signal: AbortSignal | undefined): Promise<RootNamespace> {
  const isRoot = process.getuid?.() === 0;
  const prefix = ['unshare', ...(isRoot ? [] : OWN_USERS), ...OWN_MOUNTS];
  const [command, ...args] = prefix;
  const attempt = await run(command, [...args, 'mount', '-t', 'tmpfs', 'none', '/tmp'], { signal });
  if (attempt.status === 0) return { prefix, mounts: true };
  // Containers often have root without the right to mount: chroot(8) and mknod(1) are enough.
  if (isRoot) return { prefix: [], mounts: false };
  const reason = attempt.stderr.trim().split('\n')[0];
  throw new TsvError('TSV_E_IMAGE', `This user cannot act as the root of a new system (${reason}).`, {
    hint: 'Run this as root, or install uidmap and give the user subordinate ids in /etc/subuid and /etc/subgid.',
  });
}
