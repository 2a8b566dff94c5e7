/** Runs the scripts that build an image, and tells what their failures mean. */
import { TsvError } from '../errors.ts';
import { type RunResult, run } from '../host/command.ts';
import type { RootNamespace } from './namespace.ts';

/** Options of {@link runScript}. */
export interface ScriptOptions {
  readonly signal: AbortSignal | undefined;
  readonly onStatusLine?: (line: string) => void;
  readonly env?: Readonly<Record<string, string>>;
  /** Statuses other than 0 that are the caller's to judge. */
  readonly allowed?: readonly number[];
}

/**
 * Runs a script as the root user of a tree.
 * @param doing what it does, for messages: "Installing packages"
 * @throws TSV_E_IMAGE, TSV_E_DISK_FULL, TSV_E_FETCH when interrupted
 */
export async function runScript(
  namespace: RootNamespace,
  doing: string,
  script: string,
  args: readonly string[],
  options: ScriptOptions,
): Promise<RunResult> {
  const { allowed = [], ...rest } = options;
  const [command, ...before] = [...namespace.prefix, 'sh', '-c', script, 'sh'];
  const result = await run(command, [...before, namespace.mounts ? 'yes' : 'no', ...args], {
    ...rest,
    killGroup: true,
  });
  if (result.status !== 0 && !allowed.includes(result.status)) throw scriptError(doing, result.stderr);
  return result;
}

/** Trees are built in memory when there is so many times as much of it. */
const ROOMY = 4;

/**
 * How much memory a tree may take: built there it costs no writing to the disk, for which dpkg waits at every package,
 * and is gone with the namespace.
 * @param size what the tree is expected to take, bytes
 * @returns bytes; 0 when it has to be built on the disk
 */
export function treeMemory(size: number): number {
  const available = process.availableMemory();
  return size > 0 && size * ROOMY <= available ? Math.floor(available / 2) : 0;
}

/** @throws TSV_E_IMAGE when one of the programs is not installed */
export async function requireTools(
  tools: Readonly<Record<string, string>>,
  signal: AbortSignal | undefined,
): Promise<void> {
  const script =
    'PATH=$PATH:/usr/sbin:/sbin; for tool; do command -v "$tool" >/dev/null || echo "$tool"; done';
  const { stdout } = await run('sh', ['-c', script, 'sh', ...Object.keys(tools)], { signal });
  const missing = stdout.split('\n').filter(Boolean);
  if (missing.length === 0) return;
  const packages = [...new Set(missing.map((tool) => tools[tool]))].join(' ');
  throw new TsvError('TSV_E_IMAGE', `This host has no ${missing.join(', ')}.`, {
    hint: `Install what has them; on Debian: apt-get install ${packages}.`,
  });
}

/** What a failed script's messages mean for the user. */
export function scriptError(doing: string, stderr: string): TsvError {
  const lines = stderr
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '' && !/^(?:W:|dpkg: warning|Selecting|Preparing|mke2fs \d)/i.test(line));
  if (/No space left on device|Disk quota exceeded/i.test(stderr)) {
    return new TsvError('TSV_E_DISK_FULL', `${doing} failed because the host's disk is full.`, {
      hint: 'Free space where the image and the cache are (--output, --cache-dir).',
    });
  }
  const reason =
    lines.find((line) => /error|cannot|failed|E:/i.test(line)) ?? lines.at(-1) ?? 'no reason given';
  return new TsvError('TSV_E_IMAGE', `${doing} failed: ${reason}`, { hint: adviceFor(stderr) });
}

function adviceFor(stderr: string): string {
  if (/Could not allocate (?:block|inode)/i.test(stderr)) return 'Make the disk larger with --size.';
  if (/Exec format error|(?:exec|run command).*Permission denied/i.test(stderr)) {
    return 'Use a cache folder on a file system that may hold programs and devices (--cache-dir).';
  }
  if (/Operation not permitted|Permission denied/i.test(stderr)) {
    return 'Run this as root, or where it may make namespaces and device nodes.';
  }
  if (/Exec format error|exec.*Permission/i.test(stderr))
    return 'Use a cache folder that allows programs to run.';
  return 'TSVISOR_DEBUG=1 shows all that was said.';
}
