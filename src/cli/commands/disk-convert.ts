/** `tsvisor disk convert`: a copy of a disk in another format, or the same. */
import type { DiskFormat } from '../../storage/open.ts';
import type { CliCommand } from '../cli.ts';
import { DISK_EXIT_STATUS, NEW_IMAGE_OPTIONS, type NewImageArguments } from '../disk-options.ts';

interface ConvertArguments extends NewImageArguments {
  source: string;
  output: string;
  sourceFormat?: string;
  format?: string;
  compress?: boolean;
  allowBacking?: boolean;
  json?: boolean;
}

export const diskConvertCommand: CliCommand<ConvertArguments> = {
  name: 'convert',
  argument: { name: 'source', describe: 'the image to copy' },
  describe: 'Copies a disk into a new image, without what is zero.',
  options: {
    output: { alias: 'o', type: 'string', nargs: 1, demandOption: true, describe: 'the new image' },
    format: {
      alias: 'O',
      type: 'string',
      nargs: 1,
      choices: ['raw', 'qcow2'],
      describe: 'its format (default qcow2 for *.qcow2, else raw)',
    },
    'source-format': {
      alias: 'f',
      type: 'string',
      nargs: 1,
      choices: ['raw', 'qcow2'],
      describe: 'format of the source (default: found out)',
    },
    compress: { type: 'boolean', describe: 'qcow2: compress clusters' },
    'allow-backing': {
      type: 'boolean',
      describe: 'read the files of this host that the source names as its backing files',
    },
    ...NEW_IMAGE_OPTIONS,
    json: { type: 'boolean', describe: 'describe the new image as JSON' },
  },
  examples: [
    ['tsvisor disk convert debian.img -o debian.qcow2 --compress', ''],
    ['tsvisor disk convert disk.bin -f raw -o debian.img', 'raw, whatever it looks like'],
    ['tsvisor disk convert test1.qcow2 --allow-backing -o whole.img', 'an overlay and its base in one'],
  ],
  epilogue: DISK_EXIT_STATUS,
  async run(args) {
    const { TsvError } = await import('../../errors.ts');
    const { convertDisk } = await import('../../storage/convert.ts');
    const { diskInfo } = await import('../../storage/info.ts');
    const { openDisk } = await import('../../storage/open.ts');
    const { newImageOptions, targetFormat } = await import('../disk-options.ts');
    const { describeDisk, percent } = await import('../disk-report.ts');
    const { formatBytes } = await import('../disk-size.ts');
    const { longOperation } = await import('../long-operation.ts');
    const format = targetFormat(args.output, args.format);
    const options = newImageOptions(args, format);
    if (args.compress && format === 'raw') {
      throw new TsvError('TSV_E_USAGE', 'A raw image cannot be compressed.', { hint: 'Use --format qcow2.' });
    }
    await longOperation(async (progress, signal) => {
      await using disk = await openDisk(args.source, {
        format: args.sourceFormat as DiskFormat | undefined,
        readOnly: true,
        backing: args.allowBacking ? 'any' : 'none',
      });
      const copied = (done: number, total: number) =>
        progress.update(
          `tsvisor: copying ${args.source}`,
          `${percent(done / total)} of ${formatBytes(total)}`,
        );
      await convertDisk(disk, args.output, {
        ...options,
        format,
        compress: args.compress,
        signal,
        progress: copied,
      });
    });
    const info = await diskInfo(args.output);
    process.stdout.write(args.json ? `${JSON.stringify(info, null, 2)}\n` : describeDisk(info));
    return 0;
  },
};
