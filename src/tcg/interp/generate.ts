/**
 * Generates the interpreter: one function run() with the frequent handlers inline in a br_table, the others in a
 * table, reached by call_indirect. Measured before it was built: larger inline sets and one call for each handler are
 * both slower.
 */
import { Meaning } from '../emit/meaning.ts';
import type { Helpers, Site } from '../emit/site.ts';
import { ADDRESS_16, ADDRESS_32, ADDRESS_ABSOLUTE, ADDRESS_LEGACY, R, S, STATUS } from '../layout.ts';
import { CONDITIONS, type Instruction } from '../table/instruction.ts';
import {
  type Expr,
  type FunctionBuilder,
  type FunctionRef,
  i32,
  i64,
  load,
  ModuleBuilder,
  select,
} from '../wasm/index.ts';
import { enumerateHandlers, type Handler } from './handlers.ts';
import { fusedConditions, isInline } from './inline-set.ts';
import { FIRST_INLINE, type Imports, type Pair, RunFunction } from './run-function.ts';

/** High half of the address that never translates: the fault was raised already. */
export const SENTINEL_HIGH = 0x8000_dead;

/** The generated module and what the predecoder must know. */
export interface Interpreter {
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** Handler id by index into `handlers`. */
  readonly ids: Int32Array;
  readonly handlers: readonly Handler[];
  /** How many handlers are inline in run(). */
  readonly inlineCount: number;
  /** Id of the handler that does two instructions, by {@link fusedKey} of their ids. */
  readonly fused: ReadonlyMap<number, number>;
}

/** Key of a pair of handler ids. */
export function fusedKey(first: number, second: number): number {
  return first * 65536 + second;
}

/** Records of the handlers are numbered by the encodings, so the table is enumerated once. */
let enumerated: { table: readonly Instruction[]; handlers: Handler[] } | undefined;

/**
 * Generates the module of one vCPU.
 * @param base address of its area
 * @param pages size of the shared memory, 64 KiB pages
 */
export function generateInterpreter(table: readonly Instruction[], base: number, pages: number): Interpreter {
  if (enumerated?.table !== table) enumerated = { table, handlers: enumerateHandlers(table) };
  const { handlers } = enumerated;
  const module = new ModuleBuilder({ initial: pages, maximum: pages });
  const imports = importFunctions(module);
  const helpers = defineHelpers(module, base, imports);
  const inline = handlers.flatMap((handler, i) => (isInline(handler) ? [i] : []));
  const ids = new Int32Array(handlers.length);
  inline.forEach((index, i) => {
    ids[index] = FIRST_INLINE + i;
  });
  const inlineSet = new Set(inline);
  const outOfLine: FunctionRef[] = [];
  const fused = new Map<number, number>();
  const pairs: Pair[] = [];
  for (const index of inline) {
    for (const name of fusedConditions(handlers[index])) {
      const branch = inline.find((i) => handlers[i].instruction.name === `j${name}`)!;
      fused.set(fusedKey(ids[index], ids[branch]), FIRST_INLINE + inline.length + pairs.length);
      pairs.push({ handler: handlers[index], condition: CONDITIONS.indexOf(name) });
    }
  }
  const firstOutOfLine = FIRST_INLINE + inline.length + pairs.length;
  handlers.forEach((handler, i) => {
    if (inlineSet.has(i)) return;
    ids[i] = firstOutOfLine + outOfLine.length;
    outOfLine.push(defineHandler(module, base, helpers, handler));
  });
  module.setTable(outOfLine);
  module.define(
    { params: ['i32'], results: ['i32'] },
    (f) => {
      const inlined = inline.map((i) => handlers[i]);
      new RunFunction(f, module, base, imports, helpers, inlined, pairs).build();
    },
    'run',
  );
  return { bytes: module.encode(), ids, handlers, inlineCount: inline.length + pairs.length, fused };
}

function importFunctions(m: ModuleBuilder): Imports {
  return {
    slow: m.import('slow', ['i32', 'i32', 'i32', 'i32'], ['i32']),
    afterStore: m.import('afterStore', ['i32', 'i32', 'i32'], ['i32']),
    system: m.import('system', ['i32', 'i32'], ['i32']),
    lookup: m.import('lookup', [], ['i32']),
    resolve: m.import('resolve', ['i32', 'i32']),
    segmentFault: m.import('segmentFault', ['i32', 'i32']),
  };
}

function defineHelpers(m: ModuleBuilder, base: number, imports: Imports): Helpers {
  const translateSlow = m.define({ params: ['i64', 'i32', 'i32'], results: ['i32'] }, (f) => {
    const [linear, what, pc] = f.args;
    f.return_(f.call(imports.slow, linear.wrap(), linear.shr_u(32).wrap(), what, pc));
  });
  const segmentAddress = m.define({ params: ['i32', 'i32', 'i64', 'i32'], results: ['i64'] }, (f) => {
    const [what, segment, offset, pc] = f.args;
    const origin = load('i64.load', segment.shl(3), base + S.SEGMENT_BASE);
    f.if_(load('i32.load8_u', pc, R.ADDRESS).and(ADDRESS_LEGACY).eqz(), () => f.return_(offset.add(origin)));
    const field = (at: number) => load('i64.load32_u', segment.shl(2), base + at);
    const last = f.let(select(what.shr_u(8), field(S.SEGMENT_LAST_WRITE), field(S.SEGMENT_LAST_READ)));
    const first = f.let(select(what.shr_u(8), field(S.SEGMENT_FIRST_WRITE), field(S.SEGMENT_FIRST)));
    const end = offset.add(what.and(0xff).sub(1).wide());
    f.if_(offset.lt_u(first).or(end.gt_u(last)), () => {
      f.run(imports.segmentFault, segment, pc);
      f.return_(i64(BigInt(SENTINEL_HIGH) << 32n));
    });
    f.return_(offset.add(origin).low(4));
  });
  const effectiveAddress = m.define({ params: ['i32'], results: ['i64'] }, (f) => {
    const [pc] = f.args;
    const flags = f.let(load('i32.load8_u', pc, R.ADDRESS));
    f.if_(flags.and(ADDRESS_ABSOLUTE), () => f.return_(load('i64.load', pc, R.IMMEDIATE)));
    const area = (field: number) => load('i64.load', load('i32.load8_u', pc, field), base);
    const sum = f.let(
      area(R.BASE)
        .add(load('i64.load32_s', pc, R.DISPLACEMENT))
        .add(area(R.INDEX_REGISTER).shl(load('i32.load8_u', pc, R.SCALE).wide())),
    );
    f.if_(flags.and(ADDRESS_16), () => f.return_(sum.low(2)));
    f.if_(flags.and(ADDRESS_32), () => f.return_(sum.low(4)));
    f.return_(sum);
  });
  const address = m.define(
    { params: ['i32', 'i32'], results: ['i64'] },
    (f) => {
      const [pc, what] = f.args;
      const offset = f.call(effectiveAddress, pc);
      f.if_(load('i32.load8_u', pc, R.ADDRESS).and(ADDRESS_LEGACY).eqz(), () =>
        f.return_(offset.add(load('i64.load', load('i32.load8_u', pc, R.SEGMENT), base))),
      );
      f.return_(f.call(segmentAddress, what, load('i32.load8_u', pc, R.EXTRA), offset, pc));
    },
    'address',
  );
  m.define(
    { params: ['i32'], results: ['i64'] },
    (f) => f.return_(f.call(effectiveAddress, f.args[0])),
    'offset',
  );
  const product = { params: ['i64', 'i64'], results: ['i64'] } as const;
  const mulHighUnsigned = m.define(product, (f) => {
    const [a, b] = f.args;
    const [al, ah] = [a.low(4), a.shr_u(32)];
    const [bl, bh] = [b.low(4), b.shr_u(32)];
    const middle = f.let(ah.mul(bl).add(al.mul(bl).shr_u(32)));
    const cross = f.let(al.mul(bh).add(middle.low(4)));
    f.return_(ah.mul(bh).add(middle.shr_u(32)).add(cross.shr_u(32)));
  });
  const mulHighSigned = m.define(product, (f) => {
    const [a, b] = f.args;
    const high = f.call(mulHighUnsigned, a, b);
    f.return_(high.sub(a.shr_s(63).and(b)).sub(b.shr_s(63).and(a)));
  });
  m.define(
    { params: [], results: ['i64'] },
    (f) => f.return_(new Meaning(bareSite(f, base), BARE).flags.image()),
    'getFlags',
  );
  m.define(
    { params: ['i64'], results: [] },
    (f) => new Meaning(bareSite(f, base), BARE).flags.load(f.args[0]),
    'setFlags',
  );
  return {
    translateSlow,
    afterStore: imports.afterStore,
    address,
    effectiveAddress,
    system: imports.system,
    segmentAddress,
    mulHighUnsigned,
    mulHighSigned,
  };
}

const BARE = { slots: [], size: 8, address: 'any', lock: false, aligned: false } as const;

function bareSite(f: FunctionBuilder, base: number): Site {
  return { f, base } as Site;
}

/** A handler as a function: (pc) → STATUS. */
function defineHandler(m: ModuleBuilder, base: number, helpers: Helpers, handler: Handler): FunctionRef {
  return m.define({ params: ['i32'], results: ['i32'] }, (f) => {
    const pc = f.args[0];
    const jump = (rip: Expr) => {
      f.store('i64.store', base + S.RIP, rip);
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
            ? load('i64.load', base + S.BLOCK_RIP).add(load('i64.load', pc, R.IMMEDIATE))
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
