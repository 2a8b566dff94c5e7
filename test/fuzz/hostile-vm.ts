/** Machines for hostile guests: one is used for many runs, for as long as it survives them. */

import pino, { type Logger } from 'pino';
import { expect } from 'vitest';
import { TsvError } from '../../src/errors.ts';
import type { VmConfig } from '../../src/machine/config.ts';
import type { VmExit } from '../../src/machine/exit.ts';
import { Vm } from '../../src/machine/vm.ts';
import { TcgVm } from '../../src/tcg/vm.ts';
import type { EntryState } from '../../src/vcpu/entry.ts';
import type { VcpuState } from '../../src/vcpu/state.ts';
import { type Canary, canariesAround } from './support.ts';

const REASONS = ['poweroff', 'reset', 'exit', 'halt', 'panic', 'triple-fault', 'stopped', 'timeout', 'error'];
const silent: Logger = pino({ level: 'silent' });

/** What a run leaves behind that the next must not find. */
const RESET = ['xcrs', 'xsave', 'debugregs', 'msrs', 'events', 'mp_state'] as const;

/** A machine that takes many runs. */
export class HostileVm {
  readonly #options: Partial<VmConfig>;
  readonly #onCreate: (vm: Vm) => void;
  #vm: Vm | undefined;
  #initial: Partial<VcpuState> = {};
  #engine: Record<string, unknown> = {};
  #canaries: Canary[] = [];
  /** Runs by how they ended; `paused` ones did not. */
  readonly ends = new Map<string, number>();

  constructor(options: Partial<VmConfig>, onCreate: (vm: Vm) => void = () => {}) {
    this.#options = options;
    this.#onCreate = onCreate;
  }

  /** The machine, paused; a new one when the last did not survive. */
  async get(): Promise<Vm> {
    if (this.#vm !== undefined && this.#vm.state === 'paused') return this.#vm;
    await this.#vm?.close();
    const vm = await Vm.create({
      memory: '2M',
      boot: { flat: Uint8Array.of(0xeb, 0xfe), startAll: this.#options.board === 'none' },
      log: silent,
      ...this.#options,
    });
    this.#onCreate(vm);
    // The tcg engine has its own state before RAM, in the same memory.
    const reserve = vm.accel.engine === 'tcg' ? TcgVm.reserve(vm.config.cpus) : 0;
    this.#canaries = canariesAround(vm.memory, reserve);
    this.#initial = await vm.readVcpu(
      0,
      ...RESET,
      ...(vm.config.irqchip === 'none' ? [] : (['lapic'] as const)),
    );
    // Not all that can be read can be written back: this one follows from the others.
    this.#initial.msrs = this.#initial.msrs?.filter(({ index }) => RESTORED_MSRS.has(index));
    this.#engine = vm.engine.save();
    vm.start();
    await vm.pause();
    this.#vm = vm;
    return vm;
  }

  /**
   * Runs the guest from a state for a while.
   * @param stop end the machine then, instead of pausing it
   * @returns how the machine ended, or undefined when it is paused
   */
  async run(state: EntryState, milliseconds: number, stop = false): Promise<VmExit | undefined> {
    const vm = await this.get();
    for (const device of vm.devices) device.reset?.();
    vm.engine.restore(this.#engine);
    await vm.writeVcpu(0, { ...this.#initial, ...state });
    vm.resume();
    const exit = await Promise.race([vm.exited, after(milliseconds)]);
    if (exit === undefined) await (stop ? vm.stop() : vm.pause().catch(unlessEnded));
    const ended = vm.state === 'paused' ? undefined : await vm.exited;
    this.#count(ended);
    if (ended !== undefined) checkExit(ended);
    return ended;
  }

  #count(exit: VmExit | undefined): void {
    const key = exit === undefined ? 'paused' : (exit.error?.code ?? exit.reason);
    this.ends.set(key, (this.ends.get(key) ?? 0) + 1);
  }

  /** True when nothing beside guest RAM was written. */
  get intact(): boolean {
    return this.#canaries.every((canary) => canary.intact);
  }

  async close(): Promise<void> {
    await this.#vm?.close();
  }
}

const RESTORED_MSRS = new Set([
  0xc0000080, 0xc0000081, 0xc0000082, 0xc0000083, 0xc0000084, 0xc0000100, 0xc0000101, 0xc0000102, 0x174,
  0x175, 0x176, 0x277, 0x1b,
]);

function unlessEnded(error: unknown): void {
  if (!(error instanceof TsvError && error.code === 'TSV_E_STATE')) throw error;
}

/** An end that a guest may bring about. */
export function checkExit(exit: VmExit): void {
  expect(REASONS).toContain(exit.reason);
  expect(exit.error?.code).not.toBe('TSV_E_INTERNAL');
  if (exit.reason === 'error') expect(exit.error).toBeInstanceOf(TsvError);
  expect(Number.isInteger(exit.status) && exit.status >= 0 && exit.status < 2 ** 32).toBe(true);
  expect(exit.error?.message ?? '').not.toMatch(/undefined|NaN|\[object/);
}

function after(milliseconds: number): Promise<undefined> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds, undefined));
}
