/** `tsvisor demo`: a Debian kernel and a shell on this terminal; what `npm start` runs. */
import type { CliCommand } from '../cli.ts';

/** Arguments of the demo. */
export interface DemoArguments {
  cacheDir?: string;
  memory?: string;
  cpus?: string;
  accel?: string;
  command?: string;
  timeout?: string;
}

export const demoCommand: CliCommand<DemoArguments> = {
  name: 'demo',
  describe:
    'Boots a Debian kernel with busybox and gives a shell; fetches both unless they are cached. /disk is kept.',
  options: {
    memory: { type: 'string', nargs: 1, default: '256M', describe: 'RAM' },
    cpus: { type: 'string', nargs: 1, default: '1', describe: 'number of vCPUs' },
    accel: { type: 'string', nargs: 1, choices: ['auto', 'kvm', 'tcg'], default: 'auto', describe: 'engine' },
    command: {
      type: 'string',
      nargs: 1,
      describe: 'run this in the guest and power off, instead of a shell',
    },
    timeout: { type: 'string', nargs: 1, describe: 'end after so many seconds, with status 124' },
    'cache-dir': {
      type: 'string',
      nargs: 1,
      describe: 'where to keep what is fetched, and the disk (default ~/.cache/tsvisor)',
    },
  },
  examples: [
    ['tsvisor demo', ''],
    ['tsvisor demo --command "uname -a; cat /proc/cpuinfo"', 'without a shell'],
  ],
  async run(args) {
    const { runDemo } = await import('../demo.ts');
    return runDemo(args);
  },
};
