/** `tsvisor disk`: disk images. */
import type { CliCommand } from '../cli.ts';
import { diskCheckCommand } from './disk-check.ts';
import { diskConvertCommand } from './disk-convert.ts';
import { diskCreateCommand } from './disk-create.ts';
import { diskInfoCommand } from './disk-info.ts';

export const diskCommand: CliCommand<never> = {
  name: 'disk',
  describe: 'Makes, describes, converts and checks disk images (raw and qcow2).',
  commands: [
    diskCreateCommand,
    diskInfoCommand,
    diskConvertCommand,
    diskCheckCommand,
  ] as readonly CliCommand<never>[],
  examples: [
    ['tsvisor disk create data.qcow2 --size 20G', 'an empty disk'],
    ['tsvisor disk create test1.qcow2 --backing debian.img', 'one for the changes to another'],
    ['tsvisor disk info test1.qcow2', 'what it is'],
    ['tsvisor disk convert debian.img -o debian.qcow2', 'another format'],
    ['tsvisor disk check debian.qcow2 --repair all', 'after a crash of the host'],
  ],
};
