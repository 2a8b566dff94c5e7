/**
 * Generates the interpreter as two modules. The first has run(): the dispatch loop with the frequent handlers inline in
 * a br_table. The second has a function for every other handler in a table, which run() reaches by call_indirect.
 * Measured before it was built: larger inline sets and one call for each handler are both slower.
 *
 * Two, so that run() can be compiled optimized before it is first entered and the others when they are first called. Both are
 * the same for every vCPU and every size of memory: the address of the vCPU's area is an imported global.
 */
import { Flags } from '../emit/flags.ts';
import { Meaning } from '../emit/meaning.ts';
import type { Helpers } from '../emit/site.ts';
import type { Interpreter } from '../interpreter.ts';
import { R, S, STATUS } from '../layout.ts';
import type { Instruction } from '../table/instruction.ts';
import { type Expr, type FunctionRef, i32, load, ModuleBuilder } from '../wasm/index.ts';
import { enumerateHandlers, type Handler } from './handlers.ts';
import { defineHelpers, importFunctions } from './helpers.ts';
import { FIRST_INLINE, fusedKey } from './ids.ts';
import { FUSED_PAIRS, fusedConditions, isInline } from './inline-set.ts';
import { type Pair, RunFunction } from './run-function.ts';

/** Any memory that a guest can have will do: 1 to 65,536 pages of 64 KiB. */
const ANY_MEMORY = { initial: 1, maximum: 65536 } as const;

/** Generates the modules; the table's encodings get to know the ids of their handlers. */
export function generateInterpreter(table: readonly Instruction[]): Interpreter {
  const handlers = enumerateHandlers(table);
  const inline = handlers.flatMap((handler, i) => (isInline(handler) ? [i] : []));
  const ids = new Int32Array(handlers.length);
  inline.forEach((index, i) => {
    ids[index] = FIRST_INLINE + i;
  });
  const fused = new Map<number, number>();
  const pairs: Pair[] = [];
  const fuse = (first: number, second: number) => {
    fused.set(fusedKey(ids[first], ids[second]), FIRST_INLINE + inline.length + pairs.length);
    pairs.push({ first: handlers[first], second: handlers[second], secondId: ids[second] });
  };
  for (const index of inline) {
    for (const name of fusedConditions(handlers[index])) {
      fuse(index, inline.find((i) => handlers[i].instruction.name === `j${name}`)!);
    }
  }
  const byKey = (key: string) => {
    const index = handlers.findIndex((handler) => handler.key.trim() === key);
    if (ids[index] === 0 || index < 0) throw new RangeError(`"${key}" is no inline handler`);
    return index;
  };
  for (const [first, second] of FUSED_PAIRS) fuse(byKey(first), byKey(second));
  const firstOutOfLine = FIRST_INLINE + inline.length + pairs.length;
  const inlineSet = new Set(inline);
  const others = handlers.filter((_, i) => !inlineSet.has(i));
  let next = firstOutOfLine;
  handlers.forEach((_, i) => {
    if (!inlineSet.has(i)) ids[i] = next++;
  });
  assignIds(table, ids);
  return {
    run: generateRun(
      inline.map((i) => handlers[i]),
      pairs,
    ),
    outOfLine: generateOutOfLine(others),
    instructions: table,
    fused,
  };
}

/** Replaces indices into the enumerated handlers by ids. */
function assignIds(table: readonly Instruction[], ids: Int32Array): void {
  for (const { encodings } of table) {
    for (const { handlers } of encodings) {
      handlers.forEach((index, slot) => {
        if (index >= 0) handlers[slot] = ids[index];
      });
    }
  }
}

function generateRun(inline: readonly Handler[], pairs: readonly Pair[]): Uint8Array<ArrayBuffer> {
  const module = new ModuleBuilder(ANY_MEMORY);
  const base = module.importGlobal('base');
  const imports = importFunctions(module);
  module.importTable('handlers');
  const helpers = defineHelpers(module, base, imports);
  module.define(
    { params: ['i32'], results: ['i32'] },
    (f) => new RunFunction(f, module, f.let(base), imports, helpers, inline, pairs).build(),
    'run',
  );
  return module.encode();
}

function generateOutOfLine(handlers: readonly Handler[]): Uint8Array<ArrayBuffer> {
  const module = new ModuleBuilder(ANY_MEMORY);
  const base = module.importGlobal('base');
  const helpers = defineHelpers(module, base, importFunctions(module));
  module.exportTable(
    'handlers',
    handlers.map((handler) => defineHandler(module, base, helpers, handler)),
  );
  defineServices(module, base, helpers);
  return module.encode();
}

/** What TypeScript calls: addresses of memory operands, and the arithmetic flags. */
function defineServices(m: ModuleBuilder, base: Expr, helpers: Helpers): void {
  const { address, effectiveAddress } = helpers;
  m.define(address, (f) => f.return_(f.call(address, ...f.args)), 'address');
  m.define(effectiveAddress, (f) => f.return_(f.call(effectiveAddress, ...f.args)), 'offset');
  m.define({ params: [], results: ['i64'] }, (f) => f.return_(new Flags(f, base).image()), 'getFlags');
  m.define({ params: ['i64'], results: [] }, (f) => new Flags(f, base).load(f.args[0]), 'setFlags');
}

/** A handler as a function: (pc) → STATUS. */
function defineHandler(m: ModuleBuilder, global: Expr, helpers: Helpers, handler: Handler): FunctionRef {
  return m.define({ params: ['i32'], results: ['i32'] }, (f) => {
    const pc = f.args[0];
    const base = f.let(global);
    const jump = (rip: Expr) => {
      f.store('i64.store', base, rip, S.RIP);
      f.return_(i32(STATUS.JUMP));
    };
    const { size } = handler.form;
    const c: Meaning = new Meaning(
      {
        f,
        base,
        pc,
        helpers,
        leave: () => f.return_(i32(STATUS.LEAVE)),
        jump,
        next: () => f.return_(i32(STATUS.NEXT)),
        status: (value) => f.return_(value),
        branch: (taken) => {
          const target = taken
            ? load('i64.load', base, S.BLOCK_RIP).add(load('i64.load', pc, R.IMMEDIATE))
            : c.nextRip();
          jump(size === 8 ? target : target.low(size));
        },
      },
      handler.form,
    );
    handler.instruction.meaning(c);
    f.return_(i32(STATUS.NEXT));
  });
}
