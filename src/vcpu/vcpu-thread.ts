/** A vCPU as the machine sees it: its thread, its state while it stands, its counters. */
import { Worker } from 'node:worker_threads';
import { TsvError, type TsvErrorCode } from '../errors.ts';
import { COMMAND, VcpuControl } from './control.ts';
import type { EngineVm, StateKey } from './engine.ts';
import type { ErrorMessage, RunOutcome, VcpuCalls, VcpuInit, VcpuReport, VcpuRequest } from './protocol.ts';
import type { VcpuState } from './state.ts';

/** Milliseconds between kicks while a vCPU has not yet come out of the guest. */
const KICK_AGAIN_MS = 10;

/**
 * The worker runs compiled JavaScript: from the sources (under a test runner that strips types) it is taken from the
 * build beside them.
 */
const WORKER_URL = import.meta.url.endsWith('.ts')
  ? new URL('../../dist/vcpu/worker.js', import.meta.url)
  : new URL('./worker.js', import.meta.url);

/** What the machine hears from a vCPU. */
export interface VcpuThreadEvents {
  /** The run ended by itself: anything but `paused` and `stopped`. */
  onOutcome(vcpu: VcpuThread, outcome: RunOutcome): void;
  onTrace(lines: string[]): void;
  onLog(level: 'info' | 'warn', message: string): void;
  /** Split irqchip: a level-triggered interrupt of this vector was acknowledged. */
  onEoi(vector: number): void;
}

interface PendingCall {
  resolve(value: unknown): void;
  reject(error: TsvError): void;
}

/** One vCPU and its thread. */
export class VcpuThread {
  readonly index: number;
  readonly control: VcpuControl;
  readonly #engine: EngineVm;
  readonly #run: Uint8Array;
  readonly #worker: Worker;
  readonly #events: VcpuThreadEvents;
  readonly #calls = new Map<number, PendingCall>();
  readonly #gone: Promise<void>;
  #nextCall = 1;
  #running = false;
  #closed = false;
  #ready: Promise<void>;
  #readyDone!: { resolve(): void; reject(error: TsvError): void };
  #stopped: { promise: Promise<void>; resolve(): void } | undefined;

  constructor(engine: EngineVm, init: Omit<VcpuInit, 'control'>, run: Uint8Array, events: VcpuThreadEvents) {
    this.index = init.port.index;
    this.#engine = engine;
    this.#run = run;
    this.#events = events;
    this.control = new VcpuControl();
    this.#ready = new Promise((resolve, reject) => {
      this.#readyDone = { resolve, reject };
    });
    this.#ready.catch(() => {});
    const workerData: VcpuInit = { ...init, control: this.control.shared };
    this.#worker = new Worker(WORKER_URL, { workerData, execArgv: [], name: `vcpu${this.index}` });
    this.#worker.on('message', (message: VcpuReport) => this.#onReport(message));
    this.#gone = new Promise((resolve) => {
      this.#worker.on('exit', () => {
        engine.retire(this.index);
        this.#lost('its thread ended');
        resolve();
      });
      this.#worker.on('error', (error) => this.#lost(error.message));
    });
  }

  /** Resolves when the thread has opened its vCPU. @throws what went wrong there */
  get ready(): Promise<void> {
    return this.#ready;
  }

  get running(): boolean {
    return this.#running;
  }

  /** Lets the vCPU run. It must stand. */
  run(): void {
    this.#running = true;
    this.control.command = COMMAND.run;
    this.#post({ type: 'run' });
  }

  /** Brings the vCPU to a stand; resolves when its state can be read. */
  pause(): Promise<void> {
    return this.#halt(COMMAND.pause);
  }

  /** Ends the vCPU's run for good; resolves when it has left the guest. */
  stop(): Promise<void> {
    return this.#halt(COMMAND.stop);
  }

  /** Synchronous request to stop, for the moment when the process ends: no event loop turns any more. */
  stopNow(): void {
    this.control.command = COMMAND.stop;
    if (this.#running) this.#engine.kick(this.control.tid, this.#run);
  }

  /** Reads state components. The vCPU must stand. @throws TSV_E_STATE, TSV_E_IOCTL */
  async get<K extends StateKey>(...keys: K[]): Promise<Pick<VcpuState, K>> {
    return (await this.call('get', keys)) as Pick<VcpuState, K>;
  }

  /** Writes state components, in the order they depend on each other. @throws TSV_E_STATE, TSV_E_IOCTL */
  async set(state: Partial<VcpuState>): Promise<void> {
    await this.call('set', state);
  }

  /** Carries out an operation in the vCPU's thread. @throws TSV_E_STATE while it runs */
  call<M extends keyof VcpuCalls>(
    method: M,
    ...args: Parameters<VcpuCalls[M]>
  ): Promise<ReturnType<VcpuCalls[M]>> {
    if (this.#running || this.#closed) {
      throw new TsvError('TSV_E_STATE', `vCPU ${this.index} ${this.#closed ? 'is gone' : 'is running'}.`, {
        hint: 'Pause the machine first.',
      });
    }
    const id = this.#nextCall++;
    return new Promise((resolve, reject) => {
      this.#calls.set(id, { resolve: resolve as (value: unknown) => void, reject });
      this.#post({ type: 'call', id, method, args });
    });
  }

  /** Stops and ends the thread. */
  async close(): Promise<void> {
    if (!this.#closed) {
      await this.stop();
      this.#closed = true;
      this.#post({ type: 'close' });
    }
    await this.#gone;
  }

  async #halt(command: number): Promise<void> {
    this.control.command = command;
    if (!this.#running) return;
    if (this.#stopped === undefined) {
      let resolve!: () => void;
      const promise = new Promise<void>((done) => {
        resolve = done;
      });
      this.#stopped = { promise, resolve };
    }
    // The vCPU may be anywhere between two looks at its command: kick until it answers.
    const kick = () => {
      if (this.control.tid !== 0) this.#engine.kick(this.control.tid, this.#run);
    };
    kick();
    const timer = setInterval(kick, KICK_AGAIN_MS);
    await this.#stopped.promise;
    clearInterval(timer);
  }

  #post(message: VcpuRequest): void {
    this.#worker.postMessage(message);
  }

  #onReport(message: VcpuReport): void {
    switch (message.type) {
      case 'ready':
        this.#readyDone.resolve();
        break;
      case 'ended':
        this.#ended(message.outcome);
        break;
      case 'reply': {
        const call = this.#calls.get(message.id);
        this.#calls.delete(message.id);
        if (message.error === undefined) call?.resolve(message.value);
        else call?.reject(fromMessage(message.error));
        break;
      }
      case 'trace':
        this.#events.onTrace(message.lines);
        break;
      case 'log':
        this.#events.onLog(message.level, message.message);
        break;
      case 'eoi':
        this.#events.onEoi(message.vector);
        break;
    }
  }

  #ended(outcome: RunOutcome): void {
    this.#running = false;
    this.#stopped?.resolve();
    this.#stopped = undefined;
    if (outcome.kind === 'error') this.#readyDone.reject(fromMessage(outcome.error));
    if (outcome.kind !== 'paused' && outcome.kind !== 'stopped') this.#events.onOutcome(this, outcome);
  }

  /** The thread is gone: whoever waits for it must not wait for ever. */
  #lost(why: string): void {
    if (this.#closed) return;
    this.#closed = true;
    const error = new TsvError('TSV_E_INTERNAL', `vCPU ${this.index} was lost: ${why}.`, {
      hint: 'This is a defect of tsvisor, or the host is short of memory: please report it with TSVISOR_DEBUG=1.',
    });
    this.#readyDone.reject(error);
    for (const call of this.#calls.values()) call.reject(error);
    this.#calls.clear();
    const { code, message, hint, stack } = error;
    if (this.#running) this.#ended({ kind: 'error', error: { code, message, hint, stack } });
  }
}

/** The error that a thread reported. */
export function fromMessage(message: ErrorMessage): TsvError {
  const error = new TsvError(message.code as TsvErrorCode, message.message, { hint: message.hint });
  if (message.stack !== undefined) error.stack = message.stack;
  return error;
}
