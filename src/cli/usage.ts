/** Mistakes on the command line: what is wrong, and what was probably meant. */
import { TsvError } from '../errors.ts';
import { nearest } from '../vcpu/cpuid/features.ts';

/** Where a mistake was made. */
export interface UsageContext {
  /** Names of the options that the command has. */
  readonly options: readonly string[];
  /** What to ask for help, such as "tsvisor run". */
  readonly command: string;
  /** The command line. */
  readonly args: readonly string[];
}

/** A usage error made of what yargs says about it. */
export function usageError(message: string, { options, command, args }: UsageContext): TsvError {
  const help = `"${command} --help" lists the options.`;
  const unknown = /^Unknown arguments?: (.*)$/s.exec(message)?.[1].split(', ') ?? [];
  if (unknown.length === 0) return new TsvError('TSV_E_USAGE', oneLine(message), { hint: help });
  // yargs names an option twice, as written and in camel case.
  const names = unknown.filter(
    (name) => !unknown.some((other) => other !== name && camelCase(other) === name),
  );
  const isOption = (name: string) =>
    args.some((arg) => arg.startsWith('-') && arg.replace(/^-+(no-)?/, '').startsWith(name));
  const words = names.filter((name) => !isOption(name));
  if (words.length > 0) {
    return new TsvError('TSV_E_USAGE', `Nothing is known to do with "${words.join(' ')}".`, {
      hint: `Options start with --, and values with spaces need quotes. ${help}`,
    });
  }
  const suggestions = names.flatMap((name) => nearest(name, options) ?? []);
  const what = names.map((name) => (name.length > 1 ? `--${name}` : `-${name}`)).join(', ');
  return new TsvError('TSV_E_USAGE', `Unknown option${names.length > 1 ? 's' : ''}: ${what}.`, {
    hint:
      suggestions.length > 0 ? `Did you mean ${suggestions.map((s) => `--${s}`).join(', ')}? ${help}` : help,
  });
}

/** The same for a word that is no command. */
export function unknownCommand(word: string, commands: readonly string[], command: string): TsvError {
  const near = nearest(word, commands);
  return new TsvError('TSV_E_USAGE', `Unknown command: ${word}.`, {
    hint: `${near === undefined ? '' : `Did you mean "${near}"? `}"${command} --help" lists the commands.`,
  });
}

/** A name as yargs also has it: --cache-dir is cacheDir. */
export function camelCase(name: string): string {
  return name.replace(/-([a-z])/g, (_, letter: string) => letter.toUpperCase());
}

function oneLine(message: string): string {
  const text = message.replace(/\s*\n\s*/g, ' ').trim();
  return /[.!?]$/.test(text) ? text : `${text}.`;
}
