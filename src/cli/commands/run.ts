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
    [
      'tsvisor run --kernel vmlinuz --initrd initrd.img --disk debian.img,overlay',
      'a disk; changes are dropped',
    ],
    [
      'tsvisor run --kernel vmlinuz --initrd initrd.img --disk debian.img,overlay=mine.qcow2',
      'kept in mine.qcow2',
    ],
    [
      'tsvisor run --kernel vmlinuz --initrd initrd.img --disk data.qcow2,iops=500:2000,bps=50M',
      'limited, with bursts',
    ],
    [
      'tsvisor run --kernel vmlinuz --initrd initrd.img --append console=hvc0 --console stdio',
      'a virtio console',
    ],
    [
      'tsvisor run --kernel vmlinuz --initrd initrd.img --console socket:/tmp/a.sock,name=org.example.agent',
      'a port for a program',
    ],
  ],
  epilogue: `Disks
  readonly      PATH is only read; several runs may do so
  overlay       changes end with the run, and PATH stays as it is
  overlay=FILE  changes are kept in FILE, a qcow2 that is made when it is not there
  backing       PATH may be based on other files of this host
  iops, bps     operations and bytes a second; BURST is how many at once after a pause (default N)

Consoles
  hvc0, hvc1 and so on in the guest; a port with a name is /dev/virtio-ports/NAME

Keys of the console on a terminal (input from a pipe is sent as it is)\n  ${ESCAPE_HELP.replaceAll('\n', '\n  ')}\n\n${EXIT_STATUS_HELP}`,
  async run(args) {
    const plan = planRun(args);
    const { runVm } = await import('../run-vm.ts');
    return runVm(plan);
  },
};
