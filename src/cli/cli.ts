/**
 * Commands and options of `tsvisor`; each command is a module in commands/, and loads what it needs when it runs.
 *
 * Commands are found here and only options are left to yargs: its own commands render the help text of every command
 * they run, which is a fifth of the time to a guest's first instruction.
 */
import yargs, { type Argv, type Options } from 'yargs';
import { TsvError } from '../errors.ts';
import { demoCommand } from './commands/demo.ts';
import { diskCommand } from './commands/disk.ts';
import { doctorCommand } from './commands/doctor.ts';
import { imageCommand } from './commands/image.ts';
import { initramfsCommand } from './commands/initramfs.ts';
import { kernelCommand } from './commands/kernel.ts';
import { runCommand } from './commands/run.ts';
import { EXIT_STATUS_HELP } from './exit-codes.ts';
import { camelCase, unknownCommand, usageError } from './usage.ts';
import { tsvisorVersion } from './version.ts';

/** A command: one that runs, or a group of others. */
export interface CliCommand<T = Record<string, unknown>> {
  readonly name: string;
  readonly describe: string;
  /** A required argument without a dash. */
  readonly argument?: { readonly name: string; readonly describe: string };
  readonly options?: Readonly<Record<string, Options>>;
  readonly examples?: readonly (readonly [line: string, what: string])[];
  readonly epilogue?: string;
  readonly commands?: readonly CliCommand<never>[];
  /** @returns the exit status */
  run?(args: T): Promise<number>;
}

const MAX_WIDTH = 110;

const TSVISOR: CliCommand<never> = {
  name: 'tsvisor',
  describe: 'Runs x86-64 virtual machines.',
  commands: [
    runCommand,
    doctorCommand,
    kernelCommand,
    initramfsCommand,
    imageCommand,
    diskCommand,
    demoCommand,
  ] as readonly CliCommand<never>[],
  examples: [
    ['tsvisor doctor', 'see what this host can do'],
    ['tsvisor demo', 'boot a Debian kernel with a shell on this terminal'],
    ['tsvisor run --kernel vmlinuz --initrd initrd.img --append console=ttyS0', 'boot a kernel'],
  ],
  epilogue: EXIT_STATUS_HELP,
};

/**
 * Runs a command line.
 * @param args without node and the script
 * @returns the exit status
 * @throws TsvError
 */
export async function runCli(args: readonly string[]): Promise<number> {
  let command = TSVISOR;
  let path = command.name;
  let rest = args;
  for (;;) {
    const next = command.commands?.find(({ name }) => name === rest[0]);
    if (next === undefined) break;
    command = next;
    path += ` ${next.name}`;
    rest = rest.slice(1);
  }
  return command.run === undefined ? runGroup(command, path, rest) : runLeaf(command, path, rest);
}

async function runLeaf(command: CliCommand<never>, path: string, args: readonly string[]): Promise<number> {
  const { argument } = command;
  let parser = describe(command, path, args);
  if (argument !== undefined) {
    parser = parser.command(
      `$0 <${argument.name}>`,
      false,
      (inner) => inner.positional(argument.name, { type: 'string', describe: argument.describe }),
      () => {},
    );
  }
  const parsed = await parser.parseAsync();
  if (parsed.help) return 0;
  return command.run!(lastOfRepeated(parsed, command.options ?? {}) as never);
}

/** An option that is not made to be repeated has the last value that it was given; yargs makes a list of all. */
function lastOfRepeated(
  parsed: Readonly<Record<string, unknown>>,
  options: Readonly<Record<string, Options>>,
): Record<string, unknown> {
  // yargs has each option by its name in camel case, too.
  const names = Object.keys(options).filter((name) => options[name].array);
  const lists = new Set(names.flatMap((name) => [name, camelCase(name)]));
  return Object.fromEntries(
    Object.entries(parsed).map(([key, value]) => [
      key,
      Array.isArray(value) && key !== '_' && !lists.has(key) ? value.at(-1) : value,
    ]),
  );
}

async function runGroup(command: CliCommand<never>, path: string, args: readonly string[]): Promise<number> {
  const commands = command.commands ?? [];
  const [word] = args;
  if (word !== undefined && !word.startsWith('-')) {
    const names = commands.map(({ name }) => name);
    throw unknownCommand(word, names, path);
  }
  let parser = describe(command, path, args);
  for (const { name, describe: text } of commands) parser = parser.command(name, text);
  const parsed = await parser.parseAsync();
  if (parsed.help || parsed.version) return 0;
  throw new TsvError('TSV_E_USAGE', `A command is missing: ${commands.map(({ name }) => name).join(', ')}.`, {
    hint: `"${path} --help" tells what each of them does.`,
  });
}

/** A yargs for the options and the help text of one command. */
function describe(command: CliCommand<never>, path: string, args: readonly string[]): Argv {
  const { options = {}, argument, commands, examples = [], epilogue } = command;
  const isRoot = command === TSVISOR;
  const known = [...Object.keys(options), 'help', ...(isRoot ? ['version'] : [])];
  const operand = commands !== undefined ? ' <command>' : argument !== undefined ? ` <${argument.name}>` : '';
  const parser = yargs([...args])
    .scriptName(path)
    .usage(`${path}${operand} [options]\n\n${command.describe}`)
    .options(options)
    .parserConfiguration({
      'dot-notation': false,
      'greedy-arrays': false,
    })
    .help('help')
    .alias('help', 'h')
    .wrap(Math.min(MAX_WIDTH, process.stdout.columns || MAX_WIDTH))
    .strict()
    .exitProcess(false)
    .example(examples.map(([line, what]): [string, string] => [line, what]))
    .epilogue(epilogue ?? '')
    .fail((message: string, error: Error | undefined) => {
      if (error !== undefined && error.name !== 'YError') throw error;
      const text = error?.message ?? message ?? 'The command line cannot be understood.';
      throw usageError(text, { options: known, command: path, args });
    });
  return isRoot ? parser.version(tsvisorVersion()) : parser.version(false);
}
