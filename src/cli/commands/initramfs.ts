/** `tsvisor initramfs`: initial RAM disks. */
import type { CliCommand } from '../cli.ts';
import { initramfsBuildCommand } from './initramfs-build.ts';

export const initramfsCommand: CliCommand<never> = {
  name: 'initramfs',
  describe: 'Builds initial RAM disks.',
  commands: [initramfsBuildCommand] as readonly CliCommand<never>[],
  examples: [['tsvisor initramfs build -o initrd.img --busybox', 'a shell']],
};
