/** What is said at the end of a run: lines on stderr, or one JSON object. */
import { TsvError } from '../errors.ts';
import type { RegisterDump, VmExit } from '../machine/exit.ts';
import { formatRegisters } from '../machine/registers.ts';
import type { Vm } from '../machine/vm.ts';
import { errorToJson, formatError } from './report-error.ts';

/** Milliseconds that the parts of a run took. */
export interface RunTiming {
  /** From the program's start to the machine's start. */
  setup: number;
  /** From the machine's start to its end. */
  run: number;
}

/** The exit's error; a timeout gets one here, for only the command line knows its limit. */
export function exitError(exit: VmExit, timeout: number | undefined): TsvError | undefined {
  if (exit.error !== undefined || exit.reason !== 'timeout') return exit.error;
  const limit = timeout === undefined ? 'in time' : `within ${timeout / 1000} s`;
  return new TsvError('TSV_E_TIMEOUT', `The guest did not end ${limit}.`, {
    hint: 'Give it more with --timeout; the register dump shows where it was.',
  });
}

const ENDINGS: Readonly<Record<VmExit['reason'], string>> = {
  poweroff: 'the guest powered off',
  reset: 'the guest asked for a reset',
  exit: 'the guest wrote its exit status',
  halt: 'the guest halted for good',
  panic: 'the guest panicked',
  'triple-fault': 'the guest triple-faulted',
  stopped: 'the machine was stopped',
  timeout: 'time ran out',
  error: 'the run failed',
};

/** The registers of a run that ended badly, as text; empty when it did not. */
export function formatDumps(exit: VmExit): string {
  return (exit.registers ?? []).map((dump) => `${formatRegisters(dump)}\n`).join('');
}

/** The end of a run as text. */
export function formatExit(exit: VmExit, status: number, error: TsvError | undefined): string {
  const ending = `tsvisor: ${ENDINGS[exit.reason]} (by ${exit.by}); exit status ${status & 0xff}\n`;
  return error === undefined ? ending : `${ending}${formatError(error)}\n`;
}

/** The end of a run as a value for JSON. Registers are hexadecimal texts. */
export function exitToJson(
  vm: Vm,
  exit: VmExit,
  status: number,
  error: TsvError | undefined,
  timing: RunTiming,
): Record<string, unknown> {
  return {
    name: vm.name,
    reason: exit.reason,
    status: status & 0xff,
    by: exit.by,
    ...(error && { error: errorToJson(error) }),
    engine: { name: vm.accel.engine, why: vm.accel.why },
    machine: { cpus: vm.config.cpus, memory: vm.config.memory },
    stats: vm.stats(),
    timing: { setupMs: Math.round(timing.setup), runMs: Math.round(timing.run) },
    ...(exit.registers && { registers: exit.registers.map(registersToJson) }),
  };
}

function registersToJson(dump: RegisterDump): unknown {
  const { code, ...rest } = dump;
  const plain = JSON.stringify(rest, (_, value) =>
    typeof value === 'bigint' ? `0x${value.toString(16)}` : value,
  );
  return { ...(JSON.parse(plain) as object), code: Buffer.from(code).toString('hex') };
}

/** Counters, for Ctrl-A s. */
export function formatStats(vm: Vm): string {
  const { exits, entries, assisted, unclaimed } = vm.stats();
  const reasons = Object.entries(exits)
    .sort(([, a], [, b]) => b - a)
    .map(([reason, count]) => `  ${reason.padEnd(24)} ${count}`);
  const summary = `${entries} entries, ${assisted} instructions assisted, ${unclaimed} accesses that no device claimed`;
  return `tsvisor: ${vm.name} (${vm.accel.engine}): ${summary}\n${reasons.map((line) => `${line}\n`).join('')}`;
}
