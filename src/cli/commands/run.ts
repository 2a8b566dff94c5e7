/** `tsvisor run`: a virtual machine in the foreground. */
import type { CliCommand } from '../cli.ts';
import { ESCAPE_HELP } from '../escape-keys.ts';
import { EXIT_STATUS_HELP } from '../exit-codes.ts';
import { planRun, RUN_OPTIONS, type RunArguments } from '../run-options.ts';

export const runCommand: CliCommand<RunArguments> = {
  name: 'run',
  describe: 'Boots a kernel or runs machine code, with the serial console on this terminal.',
  options: RUN_OPTIONS,
  examples: [
    [
      'tsvisor run --kernel vmlinuz --initrd initrd.img --append "console=ttyS0" --memory 512M --cpus 2',
      'Linux',
    ],
    ['tsvisor run --kernel test.elf --timeout 30 --json --serial file:console.log', 'in CI'],
    ['tsvisor run --flat boot.bin --flat-address 0x7c00', 'real-mode code'],
    ['tsvisor run --kernel vmlinux --serial socket:/tmp/console.sock', 'console for another program'],
  ],
  epilogue: `Keys of the console on a terminal (input from a pipe is sent as it is)\n  ${ESCAPE_HELP.replaceAll('\n', '\n  ')}\n\n${EXIT_STATUS_HELP}`,
  async run(args) {
    const plan = planRun(args);
    const { runVm } = await import('../run-vm.ts');
    return runVm(plan);
  },
};
