/** Runs a tool of the host and collects what it says. */
import { type ChildProcess, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import type { Readable } from 'node:stream';
import { TsvError } from '../errors.ts';

/** Options of {@link run}. */
export interface RunOptions {
  readonly cwd?: string;
  /** Ends the tool; {@link run} then rejects with the signal's reason as the cause. */
  readonly signal?: AbortSignal;
  /** A file descriptor the tool gets as number 3. */
  readonly fd3?: number;
  /** Gets the lines the tool writes to file descriptor 3, when `fd3` is not given. */
  readonly onStatusLine?: (line: string) => void;
  /** Variables for the tool's environment. */
  readonly env?: Readonly<Record<string, string>>;
  /**
   * Give the tool a process group of its own, which the signal kills with all that is in it: for scripts, which would
   * start the next tool when one ends.
   */
  readonly killGroup?: boolean;
}

/** What a tool did. */
export interface RunResult {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** What is kept of each output, characters; tools that repeat themselves must not fill memory. */
const MAX_OUTPUT = 2 ** 24;

/**
 * Runs a tool with messages in English and no input, and waits for it.
 * @throws TSV_E_FETCH when it is not installed, was interrupted, or the signal was aborted; an exit status is the caller's to judge
 */
export async function run(
  command: string,
  args: readonly string[],
  options: RunOptions = {},
): Promise<RunResult> {
  const { cwd, signal, fd3, onStatusLine, env, killGroup = false } = options;
  throwIfAborted(signal);
  const third = fd3 ?? (onStatusLine === undefined ? 'ignore' : 'pipe');
  const child = spawn(command, args, {
    cwd,
    stdio: ['ignore', 'pipe', 'pipe', third],
    env: { ...process.env, LC_ALL: 'C', DEBIAN_FRONTEND: 'noninteractive', ...env },
    detached: killGroup,
  });
  const stop = () => (killGroup ? killGroupOf(child) : terminate(child));
  signal?.addEventListener('abort', stop, { once: true });
  let stdout = '';
  let stderr = '';
  child.stdout?.setEncoding('utf8').on('data', (text: string) => {
    if (stdout.length < MAX_OUTPUT) stdout += text;
  });
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    if (stderr.length < MAX_OUTPUT) stderr += text;
  });
  if (onStatusLine !== undefined) eachLine(child.stdio[3] as Readable | null, onStatusLine);
  try {
    const status = await new Promise<number>((resolve, reject) => {
      child.once('error', reject);
      // A tool that a signal ended was interrupted with us: Ctrl-C reaches every process of the terminal.
      child.once('close', (code, by) => (code === null ? reject(interrupted(by)) : resolve(code)));
    });
    throwIfAborted(signal);
    return { status, stdout, stderr };
  } catch (cause) {
    if (cause instanceof TsvError) throw cause;
    const missing = (cause as NodeJS.ErrnoException).code === 'ENOENT';
    throw new TsvError(
      'TSV_E_FETCH',
      missing ? `This host has no ${command}.` : `${command} cannot be run.`,
      {
        hint: 'Fetching needs apt, dpkg-deb and flock (Debian, Ubuntu and relatives); elsewhere give a kernel of your own with --kernel.',
        cause,
      },
    );
  } finally {
    signal?.removeEventListener('abort', stop);
  }
}

/** @throws TSV_E_FETCH */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw interrupted(signal.reason);
}

function interrupted(cause?: unknown): TsvError {
  const hint = 'Run it again; what was downloaded is kept.';
  return new TsvError('TSV_E_FETCH', 'Fetching was interrupted.', { hint, cause });
}

/**
 * Ends a tool and what it has started. The latter first: apt's download methods then note the file's time of
 * modification, without which a server would not let the download continue.
 */
function terminate(child: ChildProcess): void {
  try {
    const children = readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, 'latin1');
    for (const pid of children.split(' ').filter(Boolean)) process.kill(Number(pid), 'SIGTERM');
  } catch {
    // It has ended already, or this kernel does not list children.
  }
  child.kill('SIGTERM');
}

function killGroupOf(child: ChildProcess): void {
  try {
    if (child.pid !== undefined) process.kill(-child.pid, 'SIGKILL');
  } catch {
    // It has ended already.
  }
}

function eachLine(stream: Readable | null, visit: (line: string) => void): void {
  let rest = '';
  stream?.setEncoding('utf8').on('data', (text: string) => {
    const lines = (rest + text).split('\n');
    rest = lines.pop()!.slice(-4096);
    for (const line of lines) visit(line);
  });
}
