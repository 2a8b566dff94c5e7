/** Runs the built command on a real terminal (test/cli/support/on-pty.py). */

import type { Readable, Writable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { MAIN, RunningCli } from './cli.ts';

const HELPER = fileURLToPath(new URL('on-pty.py', import.meta.url));

/** What on-pty.py says. */
interface Report {
  pid?: number;
  raw?: boolean;
  status?: number;
  restored?: boolean;
}

/** `tsvisor` on a terminal. */
export class OnTerminal {
  readonly #cli: RunningCli;
  readonly #reports: Report[] = [];
  #changed: (() => void)[] = [];

  /** @param command what to run; tsvisor with these arguments when it is a list of options */
  constructor(args: readonly string[], command: readonly string[] = [process.execPath, MAIN]) {
    this.#cli = new RunningCli('python3', [HELPER, ...command, ...args], {
      stdio: ['pipe', 'pipe', 'pipe', 'pipe', 'pipe'],
    });
    let rest = '';
    (this.#cli.child.stdio[3] as Readable).setEncoding('utf8').on('data', (text: string) => {
      const lines = (rest + text).split('\n');
      rest = lines.pop() as string;
      this.#reports.push(...lines.map((line) => JSON.parse(line) as Report));
      for (const wake of this.#changed.splice(0)) wake();
    });
    void this.#cli.ended.then(() => {
      for (const wake of this.#changed.splice(0)) wake();
    });
  }

  /** Types at the terminal. */
  type(text: string): void {
    (this.#cli.child.stdin as Writable).write(text, 'latin1');
  }

  /** Gives the terminal a size. */
  resize(columns: number, rows: number): void {
    (this.#cli.child.stdio[4] as Writable).write(`${columns} ${rows}\n`);
  }

  /** Waits until the screen shows something. */
  shows(pattern: RegExp): Promise<RegExpExecArray> {
    return this.#cli.shows(pattern);
  }

  /** Waits until the terminal is in raw mode. */
  async isRaw(): Promise<void> {
    await this.#report((report) => report.raw === true);
  }

  /** The modes so far: true for raw. */
  get modes(): boolean[] {
    return this.#reports.flatMap(({ raw }) => raw ?? []);
  }

  /** The process's id. */
  async pid(): Promise<number> {
    return (await this.#report((report) => report.pid !== undefined)).pid as number;
  }

  /** How the command ended, and whether it left the terminal as it was. */
  async ended(): Promise<{ status: number; restored: boolean; screen: string }> {
    const { status, restored } = await this.#report((report) => report.status !== undefined);
    return { status: status as number, restored: restored as boolean, screen: this.#cli.stdout };
  }

  async #report(wanted: (report: Report) => boolean): Promise<Report> {
    for (;;) {
      const found = this.#reports.find(wanted);
      if (found !== undefined) return found;
      if (this.#cli.child.exitCode !== null)
        throw new Error(`no such report: ${this.#cli.stdout}${this.#cli.stderr}`);
      await new Promise<void>((resolve) => this.#changed.push(resolve));
    }
  }
}
