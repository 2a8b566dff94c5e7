/** `tsvisor disk info`: what an image is. */
import type { CliCommand } from '../cli.ts';
import { DISK_EXIT_STATUS } from '../disk-options.ts';

interface InfoArguments {
  file: string;
  shared?: boolean;
  json?: boolean;
}

export const diskInfoCommand: CliCommand<InfoArguments> = {
  name: 'info',
  argument: { name: 'file', describe: 'the image' },
  describe: 'Describes a disk image.',
  options: {
    shared: {
      type: 'boolean',
      describe: 'also while a machine uses it; what is said may then be out of date',
    },
    json: { type: 'boolean', describe: 'as JSON' },
  },
  examples: [
    ['tsvisor disk info debian.qcow2', ''],
    ['tsvisor disk info debian.qcow2 --shared --json', 'for a program, while a machine runs from it'],
  ],
  epilogue: DISK_EXIT_STATUS,
  async run({ file, shared, json }) {
    const { diskInfo } = await import('../../storage/info.ts');
    const { describeDisk } = await import('../disk-report.ts');
    const info = await diskInfo(file, { lock: !shared });
    process.stdout.write(json ? `${JSON.stringify(info, null, 2)}\n` : describeDisk(info));
    return 0;
  },
};
