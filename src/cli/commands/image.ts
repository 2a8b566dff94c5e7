/** `tsvisor image`: disks with a system on them. */
import type { CliCommand } from '../cli.ts';
import { imageDebianCommand } from './image-debian.ts';

export const imageCommand: CliCommand<never> = {
  name: 'image',
  describe: 'Builds disks with a system on them.',
  commands: [imageDebianCommand] as readonly CliCommand<never>[],
  examples: [['tsvisor image debian -o debian.img', 'a Debian that boots']],
};
