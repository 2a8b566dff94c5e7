/**
 * The interpreter that vCPUs run: read from the files that the build wrote beside the JavaScript, or generated in memory
 * where the sources run as they are. Every vCPU of a thread shares the compiled modules.
 */
import { readFileSync } from 'node:fs';
import v8 from 'node:v8';
import { TsvError } from '../errors.ts';
import { type DecodeTable, parseDecodeTable } from './interp/decode-table.ts';

/** The generated modules and what the predecoder must know of them. */
export interface Interpreter extends DecodeTable {
  /** Module of run(). */
  readonly run: Uint8Array<ArrayBuffer>;
  /** Module of the other handlers and of what TypeScript calls. */
  readonly outOfLine: Uint8Array<ArrayBuffer>;
}

/** An interpreter whose modules are compiled. */
export interface CompiledInterpreter extends DecodeTable {
  readonly run: WebAssembly.Module;
  readonly outOfLine: WebAssembly.Module;
}

/** The compiled modules alone: what one thread can post to another, to spare it the compilation. */
export type CompiledModules = Pick<CompiledInterpreter, 'run' | 'outOfLine'>;

/** Functions and constants that the modules import. */
export type InterpreterImports = Readonly<Record<string, unknown>>;

/** What an instance offers. */
export interface InterpreterExports {
  /** Runs guest code. @returns a STATUS */
  run(budget: number): number;
  /** Linear address of a record's memory operand. */
  address(pc: number, what: number): bigint;
  /** The same without its segment. */
  offset(pc: number): bigint;
  /** The six arithmetic flags. */
  getFlags(): bigint;
  setFlags(image: bigint): void;
}

/** Names of the build's files, in GENERATED. */
export const FILES = { run: 'run.wasm', outOfLine: 'handlers.wasm', table: 'table.json' } as const;

/** Beside this file's folder, and beside that of the bundled command. */
const GENERATED = new URL('../tcg/generated/', import.meta.url);

/** Only sources that run as they are generate: the build's files must be there otherwise. */
const generated: Interpreter | undefined = import.meta.url.endsWith('.ts')
  ? (await import('./interp/generate.ts')).generateInterpreter(
      (await import('./table/index.ts')).INSTRUCTIONS,
    )
  : undefined;

let compiled: CompiledInterpreter | undefined;

/**
 * The interpreter, compiled at the first call in a thread.
 * @param modules compiled by another thread; only the first call looks at them
 * @throws TSV_E_ENGINE when the build is not complete
 */
export function loadInterpreter(modules?: CompiledModules): CompiledInterpreter {
  if (compiled === undefined) {
    const { run, outOfLine, instructions, fused } = generated ?? readInterpreter();
    compiled = {
      run: modules?.run ?? compileOptimized(run),
      outOfLine: modules?.outOfLine ?? new WebAssembly.Module(outOfLine),
      instructions,
      fused,
    };
  }
  return compiled;
}

/**
 * The modules for threads that are to come. Undefined where the sources run as they are: the threads then run the build,
 * which may be of other sources.
 * @throws TSV_E_ENGINE when the build is not complete
 */
export function modulesForThreads(): CompiledModules | undefined {
  if (generated !== undefined) return undefined;
  const { run, outOfLine } = loadInterpreter();
  return { run, outOfLine };
}

/** Makes a vCPU's instance. */
export function instantiate(
  { run, outOfLine }: CompiledInterpreter,
  imports: InterpreterImports,
): InterpreterExports {
  const services = new WebAssembly.Instance(outOfLine, { env: { ...imports } }).exports;
  const loop = new WebAssembly.Instance(run, { env: { ...imports, handlers: services.handlers } }).exports;
  return { ...services, ...loop } as unknown as InterpreterExports;
}

function readInterpreter(): Interpreter {
  try {
    const read = (name: string) => readFileSync(new URL(name, GENERATED)) as Uint8Array<ArrayBuffer>;
    return {
      run: read(FILES.run),
      outOfLine: read(FILES.outOfLine),
      ...parseDecodeTable(read(FILES.table).toString()),
    };
  } catch (error) {
    throw new TsvError('TSV_E_ENGINE', 'The generated interpreter of the tcg engine cannot be read.', {
      hint: 'Install tsvisor again, or run "npm run build" in its sources.',
      cause: error,
    });
  }
}

/**
 * Compiles a module with V8's optimizing compiler at once. Left alone, V8 would start run() in its baseline compiler,
 * at a half of its speed, for the first hundreds of milliseconds. The flags are the whole process's: another thread
 * that compiles at this moment gets optimized code too.
 */
function compileOptimized(bytes: Uint8Array<ArrayBuffer>): WebAssembly.Module {
  v8.setFlagsFromString('--no-liftoff');
  v8.setFlagsFromString('--no-wasm-lazy-compilation');
  try {
    return new WebAssembly.Module(bytes);
  } finally {
    v8.setFlagsFromString('--liftoff');
    v8.setFlagsFromString('--wasm-lazy-compilation');
  }
}
