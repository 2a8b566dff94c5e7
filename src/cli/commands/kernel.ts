/** `tsvisor kernel`: kernels to boot. */
import type { CliCommand } from '../cli.ts';
import { kernelExtractCommand } from './kernel-extract.ts';
import { kernelFetchCommand } from './kernel-fetch.ts';
import { kernelListCommand } from './kernel-list.ts';

export const kernelCommand: CliCommand<never> = {
  name: 'kernel',
  describe: 'Gets and inspects kernels.',
  commands: [kernelFetchCommand, kernelListCommand, kernelExtractCommand] as readonly CliCommand<never>[],
  examples: [['tsvisor kernel fetch', "get Debian's cloud kernel"]],
};
