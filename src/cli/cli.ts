/** Commands and options of `tsvisor`; each command is a module in commands/, and loads what it needs when it runs. */
import yargs, { type Argv, type CommandModule } from 'yargs';
import { demoCommand } from './commands/demo.ts';
import { doctorCommand } from './commands/doctor.ts';
import { initramfsCommand } from './commands/initramfs.ts';
import { kernelCommand } from './commands/kernel.ts';
import { runCommand } from './commands/run.ts';
import { EXIT_STATUS_HELP } from './exit-codes.ts';
import { unknownCommand, usageError } from './usage.ts';
import { tsvisorVersion } from './version.ts';

/** A command, and the names of its subcommands and options for suggestions. */
export interface CliCommand<T = Record<string, unknown>> {
  readonly name: string;
  readonly describe: string;
  /** Positional arguments, as yargs writes them: "<bzimage>". */
  readonly positionals?: string;
  readonly options?: Readonly<Record<string, import('yargs').Options>>;
  readonly examples?: readonly (readonly [command: string, what: string])[];
  readonly epilogue?: string;
  readonly commands?: readonly CliCommand<never>[];
  /** @returns the exit status */
  run?(args: T): Promise<number>;
  /** Adds positional arguments. */
  configure?(argv: Argv): Argv;
}

type Args = readonly string[];
type Done = (status: number) => void;

const MAX_WIDTH = 110;
const COMMANDS = [
  runCommand,
  doctorCommand,
  kernelCommand,
  initramfsCommand,
  demoCommand,
] as readonly CliCommand<never>[];

/**
 * Runs a command line.
 * @param args without node and the script
 * @returns the exit status
 * @throws TsvError
 */
export async function runCli(args: readonly string[]): Promise<number> {
  let status = 0;
  const root: CliCommand<never> = {
    name: 'tsvisor',
    describe: 'Runs x86-64 virtual machines.',
    commands: COMMANDS,
    examples: [
      ['tsvisor doctor', 'see what this host can do'],
      ['tsvisor demo', 'boot a Debian kernel with a shell on this terminal'],
      ['tsvisor run --kernel vmlinuz --initrd initrd.img --append console=ttyS0', 'boot a kernel'],
    ],
    epilogue: EXIT_STATUS_HELP,
  };
  const parser = level(yargs([...args]), root, 'tsvisor', args, (result) => {
    status = result;
  })
    .scriptName('tsvisor')
    .version(tsvisorVersion())
    .exitProcess(false);
  await parser.parseAsync();
  return status;
}

/** Sets yargs up for a command and what is below it. */
function level(argv: Argv, command: CliCommand<never>, path: string, args: Args, done: Done): Argv {
  const { commands = [], options = {}, examples = [], epilogue } = command;
  const known = [...Object.keys(options), 'help', ...(path === 'tsvisor' ? ['version'] : [])];
  let parser = argv
    .usage(
      `${path}${command.positionals ? ` ${command.positionals}` : ''}${commands.length > 0 ? ' <command>' : ''} [options]\n\n${command.describe}`,
    )
    .options(options)
    .parserConfiguration({
      'duplicate-arguments-array': false,
      'dot-notation': false,
      'greedy-arrays': false,
    })
    .help('help')
    .alias('help', 'h')
    .wrap(Math.min(MAX_WIDTH, process.stdout.columns || MAX_WIDTH))
    .strict()
    .fail((message: string | null, error: Error | undefined) => {
      if (error !== undefined && error.name !== 'YError') throw error;
      const text = error?.message ?? message ?? 'The command line cannot be understood.';
      throw usageError(text, { options: known, command: path, args });
    });
  if (path !== 'tsvisor') parser = parser.version(false);
  for (const [line, what] of examples) parser = parser.example(line, what);
  if (epilogue !== undefined) parser = parser.epilogue(epilogue);
  for (const sub of commands) parser = parser.command(moduleOf(sub, `${path} ${sub.name}`, args, done));
  if (commands.length > 0) {
    parser = parser.command({
      command: '$0 [word]',
      describe: false,
      builder: (inner: Argv) => inner.strict(false),
      handler: ({ word, _ }: { word?: string; _?: (string | number)[] }) => {
        const names = commands.map(({ name }) => name);
        const first = word ?? _?.[0];
        if (first !== undefined) throw unknownCommand(String(first), names, path);
        throw usageError(`A command is missing: ${names.join(', ')}`, { options: [], command: path, args });
      },
    });
  }
  return parser;
}

function moduleOf(command: CliCommand<never>, path: string, args: Args, done: Done): CommandModule {
  return {
    command: `${command.name}${command.positionals ? ` ${command.positionals}` : ''}`,
    describe: command.describe,
    builder: (argv: Argv) => {
      const parser = level(argv, command, path, args, done);
      return command.configure?.(parser) ?? parser;
    },
    handler: async (parsed) => {
      if (command.run !== undefined) done(await command.run(parsed as never));
    },
  };
}
