/** Runs Linux guests that power their machine off. */
import type { Vm } from '../../../../src/index.ts';

/** Starts a machine and waits until its guest has powered it off. @returns what the console showed, without \r */
export async function untilPoweroff(vm: Vm, limit: number): Promise<string> {
  let output = '';
  vm.console.onData((bytes) => {
    output += Buffer.from(bytes).toString('latin1').replaceAll('\r', '');
  });
  const timer = setTimeout(() => void vm.stop('timeout'), limit);
  vm.start();
  const exit = await vm.exited;
  clearTimeout(timer);
  if (exit.reason !== 'poweroff') throw new Error(`${exit.reason}:\n${output.slice(-3000)}`);
  return output;
}
