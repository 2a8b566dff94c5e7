/** Runs a machine in the foreground: console, signals, time limit, reports, exit status. */

import { TsvError } from '../errors.ts';
import type { VmConfig } from '../machine/config.ts';
import type { PmemConfig } from '../machine/pmem.ts';
import { Vm } from '../machine/vm.ts';
import { ESCAPE_HELP, type EscapeCommand } from './escape-keys.ts';
import { cliLog } from './log.ts';
import { RunConsoles } from './run-consoles.ts';
import { closeDisks, openDisks } from './run-disks.ts';
import type { RunPlan } from './run-options.ts';
import { openPmem } from './run-pmem.ts';
import { exitError, exitToJson, formatDumps, formatExit, formatStats, type RunTiming } from './run-report.ts';
import { dieOf, type EndSignal, signalStatus, watchSignals } from './signals.ts';
import { stdioSize } from './targets/stdio.ts';
import { openTarget, type Target, type TargetEvents, type TargetSpec } from './targets/target.ts';
import { openTrace, type TraceOutput } from './trace-output.ts';

/** How long output may still take when a signal or the time limit ends the run, ms: its reader may be what is stuck. */
const FLUSH_LIMIT = 2000;

const CTRL_C = 0x03;

/** What the caller of {@link runVm} may add. */
export interface RunHooks {
  /** The machine exists and is about to start. */
  onStart?(vm: Vm): void;
  /** Guest output, before it is shown. */
  onOutput?(bytes: Uint8Array): void;
  /** While it answers true, Ctrl-C ends the machine even though the terminal is in raw mode. */
  ctrlCEnds?(): boolean;
  /** The run has ended; nothing has been reported yet. */
  onEnd?(): void;
}

/**
 * Runs a machine to its end and reports how it ended.
 * @returns the exit status
 * @throws what `Vm.create` and the console and trace outputs throw; signals other than SIGINT end the process
 */
export async function runVm(plan: RunPlan, hooks: RunHooks = {}): Promise<number> {
  const run = new ForegroundRun(plan, hooks);
  const unwatch = watchSignals((signal) => run.interrupt(signal));
  try {
    return await run.main();
  } finally {
    unwatch();
  }
}

class ForegroundRun {
  readonly #plan: RunPlan;
  readonly #hooks: RunHooks;
  readonly #consoles: RunConsoles | undefined;
  #vm: Vm | undefined;
  /** Of the serial port and of the virtio consoles. */
  readonly #targets: Target[] = [];
  #trace: TraceOutput | undefined;
  #signal: EndSignal | undefined;
  /** The reader of our output has gone: there is nobody to report to. */
  #broken = false;
  #outputError: TsvError | undefined;
  #startGrace!: () => void;
  /** Resolves when output that is still on its way is given up. */
  readonly #grace: Promise<void>;

  constructor(plan: RunPlan, hooks: RunHooks) {
    this.#plan = plan;
    this.#hooks = hooks;
    if (plan.consoles.length > 0)
      this.#consoles = new RunConsoles(plan.consoles, stdioSize(plan.json ? 2 : 1));
    this.#grace = new Promise((resolve) => {
      this.#startGrace = () => void setTimeout(resolve, FLUSH_LIMIT);
    });
  }

  interrupt(signal: EndSignal): void {
    this.#signal = signal;
    if (this.#vm === undefined) dieOf(signal);
    this.#stop('stopped');
  }

  #stop(reason: 'stopped' | 'timeout'): void {
    for (const target of this.#targets) target.hurry();
    this.#startGrace();
    void this.#vm?.stop(reason);
  }

  async main(): Promise<number> {
    const { config, traceFile, timeout } = this.#plan;
    try {
      if (config.trace !== undefined)
        this.#trace = openTrace(traceFile, (error) => this.#onOutputError(error, 'trace'));
      await using vm = await this.#create(config);
      this.#vm = vm;
      process.stderr.write(`tsvisor: engine ${vm.accel.engine}: ${vm.accel.why}\n`);
      await this.#connect(vm);
      this.#hooks.onStart?.(vm);
      const setup = performance.now();
      const timer = timeout === undefined ? undefined : setTimeout(() => this.#stop('timeout'), timeout);
      vm.start();
      const exit = await vm.exited;
      clearTimeout(timer);
      const timing = { setup, run: performance.now() - setup };
      await this.#drain();
      this.#hooks.onEnd?.();
      return this.#report(vm, exit, timing);
    } finally {
      this.#closeTargets();
      this.#trace?.close();
    }
  }

  async #create(config: VmConfig): Promise<Vm> {
    const log = cliLog();
    const pmem: PmemConfig[] = [];
    const disks = [...(config.disks ?? [])];
    try {
      disks.push(...(await openDisks(this.#plan.disks, (message) => log.warn(message))));
      pmem.push(...(await openPmem(this.#plan.pmem, (message) => log.warn(message))));
      const virtio = this.#consoles === undefined ? [] : [this.#consoles.device];
      return await Vm.create({ log, ...config, disks, pmem, virtio });
    } catch (error) {
      await closeDisks([...disks, ...pmem]);
      throw error;
    }
  }

  /** Joins the serial port and the virtio consoles with the host. */
  async #connect(vm: Vm): Promise<void> {
    const { serial } = this.#plan;
    const target = await this.#open(serial, 'serial console', vm, {
      onInput: (bytes) => {
        if (bytes.includes(CTRL_C) && this.#hooks.ctrlCEnds?.()) this.interrupt('SIGINT');
        else vm.console.write(bytes);
      },
    });
    vm.console.onData((bytes) => {
      this.#hooks.onOutput?.(bytes);
      return target.write(bytes);
    });
    await this.#consoles?.connect((spec, label, events) => this.#open(spec, label, vm, events));
  }

  async #open(
    spec: TargetSpec,
    label: string,
    vm: Vm,
    events: Omit<TargetEvents, 'onCommand' | 'onError'>,
  ): Promise<Target> {
    const target = await openTarget(spec, label, this.#plan.json ? 2 : 1, {
      ...events,
      onCommand: (command) => this.#onCommand(vm, command),
      onError: (error) => this.#onOutputError(error, `output of the ${label}`),
    });
    this.#targets.push(target);
    if (target.notice !== undefined) process.stderr.write(`tsvisor: ${target.notice}\n`);
    return target;
  }

  #closeTargets(): void {
    for (const target of this.#targets.splice(0)) target.close();
  }

  #onCommand(vm: Vm, command: EscapeCommand): void {
    switch (command) {
      case 'quit':
        this.#stop('stopped');
        break;
      case 'break':
        vm.sendBreak();
        break;
      case 'power':
        vm.pressPowerButton();
        break;
      case 'stats':
        process.stderr.write(`\n${formatStats(vm)}`);
        break;
      case 'help':
        process.stderr.write(`\n${ESCAPE_HELP}\n`);
        break;
    }
  }

  #onOutputError(error: NodeJS.ErrnoException, what: string): void {
    if (error.code === 'EPIPE') this.#broken = true;
    else {
      this.#outputError ??= new TsvError('TSV_E_HOST_IO', `The ${what} cannot be written: ${error.code}.`, {
        hint: 'Check the space and permissions where it goes.',
        cause: error,
      });
    }
    this.#stop('stopped');
  }

  /** Lets all output arrive, within the limits of {@link FLUSH_LIMIT}. */
  async #drain(): Promise<void> {
    await Promise.race([
      Promise.all([...this.#targets, this.#trace].map((output) => output?.flush())),
      this.#grace,
    ]);
    // Standard output may lead to the same reader as standard error: a report would be stuck as well.
    if (this.#targets.some(({ busy }) => busy)) dieOf(this.#signal ?? 'SIGTERM');
  }

  #report(vm: Vm, exit: Awaited<Vm['exited']>, timing: RunTiming): number {
    this.#closeTargets();
    const { json, dumpRegisters, timeout } = this.#plan;
    const error = this.#outputError ?? exitError(exit, timeout);
    const ended = this.#outputError === undefined ? exit : { ...exit, reason: 'error' as const };
    const status = this.#status(exit);
    if (dumpRegisters && !this.#broken) process.stderr.write(formatDumps(exit));
    if (json) process.stdout.write(`${JSON.stringify(exitToJson(vm, ended, status, error, timing))}\n`);
    else if (!this.#broken) process.stderr.write(formatExit(ended, status, error));
    if (this.#signal === 'SIGTERM' || this.#signal === 'SIGHUP') dieOf(this.#signal);
    return status;
  }

  #status(exit: Awaited<Vm['exited']>): number {
    if (this.#signal !== undefined) return signalStatus(this.#signal);
    if (this.#broken) return signalStatus('SIGPIPE');
    return this.#outputError?.exitStatus ?? exit.status;
  }
}
