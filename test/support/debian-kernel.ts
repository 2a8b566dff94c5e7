/**
 * Debian's cloud kernel for tests: taken from the user's cache, or downloaded there through apt. Tests that need it fail
 * when it cannot be had; they are never skipped.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';

/** The package that always depends on the current kernel. */
const META_PACKAGE = 'linux-image-cloud-amd64';

/** Path of a Debian bzImage. @throws Error saying what failed */
export function debianKernel(): string {
  const cache = join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'tsvisor', 'test-kernel');
  mkdirSync(cache, { recursive: true });
  return findKernel(cache) ?? download(cache);
}

function findKernel(cache: string): string | undefined {
  for (const name of readdirSync(cache).sort().reverse()) {
    const boot = join(cache, name, 'boot');
    if (!name.startsWith('linux-image-') || !existsSync(boot)) continue;
    const kernel = readdirSync(boot).find((file) => file.startsWith('vmlinuz-'));
    if (kernel !== undefined) return join(boot, kernel);
  }
  return undefined;
}

function download(cache: string): string {
  const name = currentPackage();
  // Unpacked aside and renamed, so that tests running in parallel never see half of it.
  const work = mkdtempSync(join(cache, 'download-'));
  try {
    run('apt-get', ['download', name], work);
    const deb = readdirSync(work).find((file) => file.endsWith('.deb'));
    if (deb === undefined) throw new Error(`apt-get download ${name} left no .deb file.`);
    run('dpkg-deb', ['-x', deb, 'root'], work);
    if (!existsSync(join(cache, name))) renameSync(join(work, 'root'), join(cache, name));
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
  const kernel = findKernel(cache);
  if (kernel === undefined) throw new Error(`The package ${name} has no boot/vmlinuz-*.`);
  return kernel;
}

function currentPackage(): string {
  const depends = run('apt-cache', ['depends', META_PACKAGE], '/');
  const name = /Depends: (linux-image-\S+)/.exec(depends)?.[1];
  if (name === undefined) {
    throw new Error(`apt does not know ${META_PACKAGE}; run "apt-get update" on a Debian system.`);
  }
  return name;
}

function run(command: string, args: readonly string[], cwd: string): string {
  try {
    return execFileSync(command, args, { cwd, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
  } catch (error) {
    const { stderr, message } = error as { stderr?: string; message: string };
    throw new Error(
      `The Debian kernel that tests boot cannot be had: ${command} failed: ${stderr || message}`,
      {
        cause: error,
      },
    );
  }
}
