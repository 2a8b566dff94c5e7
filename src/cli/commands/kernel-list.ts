/** `tsvisor kernel list`: the kernels in the cache. */
import type { CliCommand } from '../cli.ts';

interface ListArguments {
  cacheDir?: string;
  json?: boolean;
}

export const kernelListCommand: CliCommand<ListArguments> = {
  name: 'list',
  describe: 'Lists the cached kernels and their paths.',
  options: {
    'cache-dir': { type: 'string', nargs: 1, describe: 'which cache (default ~/.cache/tsvisor)' },
    json: { type: 'boolean', describe: 'print all that is known as JSON' },
  },
  examples: [['tsvisor kernel list', '']],
  async run({ cacheDir, json }) {
    const { cachedKernels } = await import('../fetch.ts');
    const kernels = await cachedKernels(cacheDir);
    if (json) {
      process.stdout.write(`${JSON.stringify(kernels, null, 2)}\n`);
    } else if (kernels.length === 0) {
      process.stderr.write('tsvisor: no kernel is cached; "tsvisor kernel fetch" gets one\n');
    } else {
      for (const kernel of kernels) process.stdout.write(`${kernel.version}\t${kernel.vmlinuz}\n`);
    }
    return 0;
  },
};
