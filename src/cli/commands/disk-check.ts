/** `tsvisor disk check`: whether a qcow2 image is consistent. */
import type { RepairMode } from '../../storage/qcow2/repair.ts';
import type { CliCommand } from '../cli.ts';

interface CheckArguments {
  file: string;
  repair?: string;
  json?: boolean;
}

/** As TSV_E_DISK_CORRUPT. */
const DAMAGED = 4;

export const diskCheckCommand: CliCommand<CheckArguments> = {
  name: 'check',
  argument: { name: 'file', describe: 'the image' },
  describe: 'Checks the consistency of a qcow2 image.',
  options: {
    repair: {
      type: 'string',
      nargs: 1,
      choices: ['leaks', 'all'],
      describe: 'leaks: give lost space back; all: correct refcounts and flags too',
    },
    json: { type: 'boolean', describe: 'the result as JSON' },
  },
  examples: [
    ['tsvisor disk check debian.qcow2', ''],
    ['tsvisor disk check debian.qcow2 --repair all', ''],
  ],
  epilogue: `Exit status
    0  consistent, or repaired; lost space alone is no damage
    2  not a qcow2 image, or one that cannot be read at all
    4  damaged; or the host cannot: the image is in use, an I/O error`,
  async run({ file, repair, json }) {
    const { checkDisk } = await import('../../storage/check.ts');
    const { describeCheck, percent } = await import('../disk-report.ts');
    const { longOperation } = await import('../long-operation.ts');
    const result = await longOperation((progress, signal) =>
      checkDisk(file, {
        repair: repair as RepairMode | undefined,
        signal,
        progress: (done) => progress.update(`tsvisor: checking ${file}`, percent(done)),
      }),
    );
    process.stdout.write(json ? `${JSON.stringify(result, null, 2)}\n` : describeCheck(file, result));
    return (result.left ?? result.found).corruptions > 0 ? DAMAGED : 0;
  },
};
