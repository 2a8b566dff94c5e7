/** `tsvisor disk create`: an empty disk, or one for the changes to another. */
import type { DiskFormat } from '../../storage/open.ts';
import type { CliCommand } from '../cli.ts';
import { DISK_EXIT_STATUS, NEW_IMAGE_OPTIONS, type NewImageArguments } from '../disk-options.ts';

interface CreateArguments extends NewImageArguments {
  file: string;
  size?: string;
  format?: string;
  backing?: string;
  backingFormat?: string;
  json?: boolean;
}

export const diskCreateCommand: CliCommand<CreateArguments> = {
  name: 'create',
  argument: { name: 'file', describe: 'the new image; it must not be there yet' },
  describe: 'Makes an empty disk, or one that holds the changes to another.',
  options: {
    size: { alias: 's', type: 'string', nargs: 1, describe: 'size of the disk, such as 20G' },
    format: {
      alias: 'f',
      type: 'string',
      nargs: 1,
      choices: ['raw', 'qcow2'],
      describe: 'format (default qcow2 for *.qcow2, else raw)',
    },
    backing: {
      alias: 'b',
      type: 'string',
      nargs: 1,
      describe: 'image that the disk begins as; it must not be changed from then on',
    },
    'backing-format': {
      alias: 'F',
      type: 'string',
      nargs: 1,
      choices: ['raw', 'qcow2'],
      describe: 'its format (default: found out)',
    },
    ...NEW_IMAGE_OPTIONS,
    json: { type: 'boolean', describe: 'describe the new image as JSON' },
  },
  examples: [
    ['tsvisor disk create data.qcow2 --size 20G', ''],
    ['tsvisor disk create data.img --size 512M', 'raw'],
    ['tsvisor disk create test1.qcow2 --backing debian.img', 'begins as debian.img, which stays as it is'],
  ],
  epilogue: DISK_EXIT_STATUS,
  async run(args) {
    const { TsvError } = await import('../../errors.ts');
    const { createOverlay, createRaw } = await import('../../storage/create.ts');
    const { diskInfo } = await import('../../storage/info.ts');
    const { createQcow2 } = await import('../../storage/qcow2/create.ts');
    const { newImageOptions, targetFormat } = await import('../disk-options.ts');
    const { describeDisk } = await import('../disk-report.ts');
    const { parseDiskSize } = await import('../disk-size.ts');
    const { longOperation } = await import('../long-operation.ts');
    const { file, backing } = args;
    const format = backing === undefined ? targetFormat(file, args.format) : (args.format ?? 'qcow2');
    const size = args.size === undefined ? undefined : parseDiskSize('--size', args.size);
    const options = newImageOptions(args, format as DiskFormat);
    if (backing !== undefined && format === 'raw') {
      throw new TsvError('TSV_E_USAGE', 'A raw image cannot hold the changes to another.', {
        hint: 'Use --format qcow2.',
      });
    }
    if (backing === undefined && size === undefined) {
      throw new TsvError('TSV_E_USAGE', 'The size of the disk is missing.', {
        hint: 'Add --size, such as --size 20G, or --backing with an image it is to begin as.',
      });
    }
    if (backing === undefined && args.backingFormat !== undefined) {
      throw new TsvError('TSV_E_USAGE', '--backing-format has no meaning without --backing.', {
        hint: 'Name the backing file, or leave its format out.',
      });
    }
    // It takes no time, but Ctrl-C must not come in the middle.
    await longOperation(async () => {
      if (backing !== undefined) {
        const backingFormat = args.backingFormat as DiskFormat | undefined;
        await createOverlay(file, backing, {
          ...options,
          ...(size !== undefined && { size }),
          format: backingFormat,
          backing: 'any',
        });
      } else if (format === 'raw') {
        await createRaw(file, size!);
      } else {
        await createQcow2(file, { ...options, size: size! });
      }
    });
    const info = await diskInfo(file);
    process.stdout.write(args.json ? `${JSON.stringify(info, null, 2)}\n` : describeDisk(info));
    return 0;
  },
};
