/** `tsvisor kernel fetch`: a stock Debian kernel, through apt, into the cache. */
import type { CliCommand } from '../cli.ts';

interface FetchArguments {
  package?: string;
  cacheDir?: string;
  refresh?: boolean;
  json?: boolean;
}

export const kernelFetchCommand: CliCommand<FetchArguments> = {
  name: 'fetch',
  describe: "Gets Debian's kernel for virtual machines, unless it is cached, and prints its path.",
  options: {
    package: { type: 'string', nargs: 1, describe: 'kernel package (default linux-image-cloud-amd64)' },
    'cache-dir': { type: 'string', nargs: 1, describe: 'where to keep it (default ~/.cache/tsvisor)' },
    refresh: { type: 'boolean', describe: 'look for a newer version although one is cached' },
    json: { type: 'boolean', describe: 'print paths and versions as JSON' },
  },
  examples: [
    ['tsvisor kernel fetch', ''],
    ['tsvisor run --kernel "$(tsvisor kernel fetch)" --append console=ttyS0', 'boot it'],
    ['tsvisor kernel fetch --package linux-image-amd64', "with real hardware's drivers"],
  ],
  async run({ json, ...options }) {
    const { fetchKernelWithProgress } = await import('../fetch.ts');
    const kernel = await fetchKernelWithProgress({
      package: options.package,
      cacheDir: options.cacheDir,
      refresh: options.refresh,
    });
    process.stdout.write(json ? `${JSON.stringify(kernel, null, 2)}\n` : `${kernel.vmlinuz}\n`);
    return 0;
  },
};
