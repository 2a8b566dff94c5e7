/** `tsvisor kernel extract`: the vmlinux in a bzImage. */
import type { CliCommand } from '../cli.ts';

interface ExtractArguments {
  bzimage: string;
  output: string;
  json?: boolean;
}

export const kernelExtractCommand: CliCommand<ExtractArguments> = {
  name: 'extract',
  argument: { name: 'bzimage', describe: 'the compressed kernel' },
  describe: 'Unpacks the vmlinux in a bzImage.',
  options: {
    output: { alias: 'o', type: 'string', nargs: 1, default: 'vmlinux', describe: 'where the vmlinux goes' },
    json: { type: 'boolean', describe: 'say what was done as JSON' },
  },
  examples: [['tsvisor kernel extract /boot/vmlinuz -o vmlinux', '']],
  async run({ bzimage, output, json }) {
    const { isBzImage, parseBzImage, unpackPayload } = await import('../../boot/bzimage.ts');
    const { SourceFile } = await import('../../boot/source-file.ts');
    const { TsvError } = await import('../../errors.ts');
    const { writeOutput } = await import('../write-output.ts');
    const file = await SourceFile.open(bzimage, 'kernel');
    const bytes = await file.readAll().finally(() => file.close());
    if (!isBzImage(bytes)) {
      throw new TsvError('TSV_E_KERNEL_FORMAT', `${bzimage} is not a bzImage.`, {
        hint: 'Give the compressed kernel, usually named vmlinuz; a vmlinux needs no extraction.',
      });
    }
    const vmlinux = await unpackPayload(parseBzImage(bytes));
    await writeOutput(output, vmlinux, 'vmlinux');
    process.stdout.write(
      json
        ? `${JSON.stringify({ path: output, size: vmlinux.length })}\n`
        : `${output}: ${vmlinux.length} bytes\n`,
    );
    return 0;
  },
};
