/** Runs a guest case on an engine. */
import { DebugConsole } from '../../src/devices/legacy/debug-console.ts';
import { DEBUG_EXIT_SIZE, DebugExit } from '../../src/devices/legacy/debug-exit.ts';
import { Vm } from '../../src/machine/vm.ts';
import type { EngineName } from '../../src/vcpu/engine.ts';
import { assemble, CODE16 } from '../support/assemble.ts';
import type { GuestCase } from './case.ts';

const DEBUG_PORT = 0xe9;
const EXIT_PORT = 0xf4;
/** Longest time of a guest, ms: far more than any needs. */
const PATIENCE = 30_000;

/** More than any guest prints, bytes. */
const MOST_OUTPUT = 1000;

/** How a guest ended, and what it had printed. */
export interface GuestResult {
  readonly output: string;
  readonly ends: string;
}

/** Carries a guest out. */
export async function runGuest(accel: EngineName, guest: GuestCase): Promise<GuestResult> {
  const long = guest.mode === 'long64';
  const code = long ? assemble(guest.source, 0x100000) : assemble(CODE16 + guest.source, 0x7c00);
  await using vm = await Vm.create({
    accel,
    memory: '16M',
    board: 'none',
    cpu: 'host',
    irqchip: guest.hasApic ? 'kernel' : 'none',
    cpus: guest.cpus ?? 1,
    boot: { flat: code, mode: guest.mode },
  });
  let output = '';
  const console = new DebugConsole((bytes) => {
    output += Buffer.from(bytes).toString('latin1');
    if (output.length > MOST_OUTPUT) void vm.stop();
  });
  vm.addDevice(console, { pio: [{ base: DEBUG_PORT, size: 1 }] });
  vm.addDevice(new DebugExit(), { pio: [{ base: EXIT_PORT, size: DEBUG_EXIT_SIZE }] });
  const timer = setTimeout(() => vm.stop(), PATIENCE);
  vm.start();
  const exit = await vm.exited;
  clearTimeout(timer);
  await console.flush();
  return { output: output.slice(0, MOST_OUTPUT).trim(), ends: exit.reason };
}
