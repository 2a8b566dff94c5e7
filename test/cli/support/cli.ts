/** Runs the built command as a user would. `npm test` builds it first. */
import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach } from 'vitest';

/** The command's script. */
export const MAIN = fileURLToPath(new URL('../../../dist/bin/main.js', import.meta.url));
if (!existsSync(MAIN)) throw new Error(`${MAIN} is missing: run "npm run build" first`);

/** How a command ended. */
export interface Ended {
  /** Exit status as a shell reports it: 128 and the number of the signal when one ended it. */
  status: number;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

const SIGNAL_STATUS: Readonly<Record<string, number>> = {
  SIGHUP: 129,
  SIGINT: 130,
  SIGKILL: 137,
  SIGTERM: 143,
};

/** How long a command may show nothing at all, ms, before a test stops waiting for more. */
const PATIENCE = 45_000;

/** A running command. */
export class RunningCli {
  readonly child: ChildProcess;
  readonly ended: Promise<Ended>;
  stdout = '';
  stderr = '';
  #changed: (() => void)[] = [];

  constructor(command: string, args: readonly string[], options: SpawnOptions = {}) {
    this.child = spawn(command, args, { stdio: ['pipe', 'pipe', 'pipe'], ...options });
    running.add(this.child);
    this.child.stdout?.on('data', (bytes: Buffer) => this.#add('stdout', bytes));
    this.child.stderr?.on('data', (bytes: Buffer) => this.#add('stderr', bytes));
    this.child.stdin?.on('error', () => {});
    this.ended = new Promise((resolve, reject) => {
      this.child.on('error', reject);
      this.child.on('close', (code, signal) => {
        running.delete(this.child);
        const status = code ?? SIGNAL_STATUS[signal ?? ''] ?? -1;
        resolve({ status, signal, stdout: this.stdout, stderr: this.stderr });
        for (const wake of this.#changed.splice(0)) wake();
      });
    });
  }

  /** Waits until an output shows something; a command that shows nothing new for long is given up. */
  async shows(pattern: RegExp, stream: 'stdout' | 'stderr' = 'stdout'): Promise<RegExpExecArray> {
    for (let isLate = false; ; ) {
      const match = pattern.exec(this[stream]);
      if (match !== null) return match;
      if (isLate || !running.has(this.child)) {
        throw new Error(`${stream} never showed ${pattern}:\n${this.stdout}\n${this.stderr}`);
      }
      isLate = await new Promise<boolean>((resolve) => {
        const limit = setTimeout(() => resolve(true), PATIENCE);
        this.#changed.push(() => {
          clearTimeout(limit);
          resolve(false);
        });
      });
    }
  }

  #add(stream: 'stdout' | 'stderr', bytes: Buffer): void {
    this[stream] += bytes.toString('latin1');
    for (const wake of this.#changed.splice(0)) wake();
  }
}

const running = new Set<ChildProcess>();
const folders: string[] = [];

afterEach(() => {
  for (const child of running) child.kill('SIGKILL');
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true, force: true });
});

/** Starts `tsvisor`. */
export function startCli(args: readonly string[], options: SpawnOptions = {}): RunningCli {
  return new RunningCli(process.execPath, [MAIN, ...args], options);
}

/** Runs `tsvisor` to its end. @param input for its standard input, which then ends */
export function runCli(args: readonly string[], input = '', options: SpawnOptions = {}): Promise<Ended> {
  const cli = startCli(args, options);
  cli.child.stdin?.end(input);
  return cli.ended;
}

/** A folder for one test. */
export function scratch(): string {
  const folder = mkdtempSync(join(tmpdir(), 'tsvisor-cli-'));
  folders.push(folder);
  return folder;
}

/** A file for one test. */
export function file(bytes: readonly number[] | Uint8Array | string, name = 'guest.bin'): string {
  const path = join(scratch(), name);
  writeFileSync(path, typeof bytes === 'string' ? bytes : Uint8Array.from(bytes));
  return path;
}
