/** Builds run(): the dispatch loop with its inline handlers, and how blocks end. */
import { TABLE_MODE } from '../decode/code-tables.ts';
import { Meaning } from '../emit/meaning.ts';
import type { Helpers } from '../emit/site.ts';
import {
  BLOCK_ENTRIES,
  BLOCK_TABLE,
  CODE_TLB,
  CODE_TLB_ENTRIES,
  JUMP_CACHE,
  JUMP_ENTRIES,
  R,
  RECORD,
  S,
  STATUS,
} from '../layout.ts';
import { CONDITIONS } from '../table/instruction.ts';
import {
  type Expr,
  type FunctionBuilder,
  i32,
  type Label,
  type Local,
  load,
  type ModuleBuilder,
} from '../wasm/index.ts';
import type { Handler } from './handlers.ts';
import type { Imports } from './helpers.ts';
import { FIRST_INLINE, SPECIAL } from './ids.ts';

/** The mode's bits in a key of the jump cache (Blocks.selectKey), and a key that is never current. */
const KEY_MODE = 0x7e;
const NO_KEY = -1;

/** Two instructions in one handler. */
export interface Pair {
  readonly first: Handler;
  readonly second: Handler;
  /** Id of the second's own handler. */
  readonly secondId: number;
}

/** Builds run(budget) → STATUS. */
export class RunFunction {
  readonly #f: FunctionBuilder;
  readonly #module: ModuleBuilder;
  readonly #base: Expr;
  readonly #imports: Imports;
  readonly #helpers: Helpers;
  readonly #inline: readonly Handler[];
  readonly #pairs: readonly Pair[];
  #dispatch!: Label;
  #leave!: Label;
  #jump!: Label;
  #taken!: Label;
  #notTaken!: Label;

  constructor(
    f: FunctionBuilder,
    module: ModuleBuilder,
    base: Expr,
    imports: Imports,
    helpers: Helpers,
    inline: readonly Handler[],
    pairs: readonly Pair[],
  ) {
    this.#pairs = pairs;
    this.#f = f;
    this.#module = module;
    this.#base = base;
    this.#imports = imports;
    this.#helpers = helpers;
    this.#inline = inline;
  }

  get #total(): number {
    return FIRST_INLINE + this.#inline.length + this.#pairs.length;
  }

  build(): void {
    const f = this.#f;
    const budget = f.args[0];
    const pc = f.local('i32');
    const id = f.local('i32');
    /** RIP of the running block; at #jump where to go. */
    const rip = f.local('i64');
    const base = this.#base;
    const toNext = () => {
      f.set(id, load('i32.load16_u', pc, RECORD));
      f.set(pc, pc.add(RECORD));
      f.br(this.#dispatch);
    };
    const attention = () => budget.lt_s(0).or(load('i32.atomic.load', base, S.ATTENTION));
    const count = load('i32.load8_u', pc, R.INDEX).add(1);
    const enter = () => {
      f.store('i64.store', base, rip, S.BLOCK_RIP);
      f.set(id, load('i32.load16_u', pc));
      f.br(this.#dispatch);
    };

    f.set(rip, load('i64.load', base, S.RIP));
    const first = f.let(i32(1));
    f.loop((dispatch) => {
      this.#dispatch = dispatch;
      f.block((leave) => {
        this.#leave = leave;
        f.block((jump) => {
          this.#jump = jump;
          f.brIf(jump, first);
          f.block((notTaken) => {
            this.#notTaken = notTaken;
            f.block((taken) => {
              this.#taken = taken;
              f.block((outOfLine) => {
                this.#handlers(id, outOfLine, pc, rip, budget, toNext);
              });
              const status = f.local('i32');
              const index = id.sub(this.#total);
              const type = this.#module.type({ params: ['i32'], results: ['i32'] });
              f.set(status, f.callIndirect(type, 'i32', index, pc));
              f.if_(status.eqz(), toNext);
              f.brIf(leave, status.eq(STATUS.LEAVE));
              f.set(rip, load('i64.load', base, S.RIP));
              f.set(budget, budget.sub(count));
              f.br(jump);
            });
            this.#link(
              true,
              R.A,
              pc,
              rip,
              budget,
              count,
              attention,
              enter,
              load('i64.load', pc, R.IMMEDIATE),
            );
          });
          const after = load('i32.load16_u', pc, R.OFFSET)
            .add(load('i32.load8_u', pc, R.LENGTH))
            .wide();
          this.#link(false, R.B, pc, rip, budget, count, attention, enter, after);
        });
        // Jump to rip: through the cache, or by looking up and decoding.
        f.store('i64.store', base, rip, S.RIP);
        // On entry the first block runs in any case.
        const stop = f.let(attention().ne(0).and(first.eqz()));
        f.set(first, 0);
        f.if_(stop, () => {
          f.store('i32.store', base, budget, S.BUDGET);
          f.return_(i32(STATUS.PAUSE));
        });
        const entry = f.let(this.#jumpEntry(rip));
        const key = f.let(load('i32.load', base, S.CODE_KEY));
        f.if_(
          load('i64.load', entry, JUMP_CACHE)
            .eq(rip)
            .and(load('i32.load', entry, JUMP_CACHE + 8).eq(key)),
          () => f.set(pc, load('i32.load', entry, JUMP_CACHE + 12)),
          () => {
            f.set(pc, 0);
            this.#findBlock(pc, rip, key);
            f.if_(
              pc,
              () => {
                f.store('i64.store', entry, rip, JUMP_CACHE);
                f.store('i32.store', entry, key, JUMP_CACHE + 8);
                f.store('i32.store', entry, pc, JUMP_CACHE + 12);
              },
              () => {
                f.set(pc, f.call(this.#imports.lookup));
                f.if_(pc.eqz(), () => {
                  f.store('i32.store', base, 0, S.PC);
                  f.store('i32.store', base, budget, S.BUDGET);
                  f.return_(i32(STATUS.LEAVE));
                });
              },
            );
          },
        );
        enter();
      });
      f.store('i32.store', base, pc, S.PC);
      f.store('i32.store', base, budget.sub(load('i32.load8_u', pc, R.INDEX)), S.BUDGET);
      f.return_(i32(STATUS.LEAVE));
    });
    f.unreachable();
  }

  /** Address of the jump cache's entry for a RIP, less JUMP_CACHE. */
  #jumpEntry(rip: Expr): Expr {
    return rip
      .xor(rip.shr_u(14))
      .wrap()
      .and(JUMP_ENTRIES - 1)
      .shl(4)
      .add(this.#base);
  }

  /** Sets `pc` if the tables have the block at rip (decode/code-tables.ts). */
  #findBlock(pc: Local, rip: Expr, key: Expr): void {
    const f = this.#f;
    const translation = f.let(
      rip
        .shr_u(12)
        .wrap()
        .and(CODE_TLB_ENTRIES - 1)
        .shl(4)
        .add(this.#base),
    );
    const isKnown = load('i64.load', translation, CODE_TLB)
      .eq(rip.and(-4096n))
      .and(load('i32.load', translation, CODE_TLB + 8).eq(key))
      .and(key.and(KEY_MODE).eq(TABLE_MODE << 1));
    f.if_(isKnown, () => {
      const host = f.let(load('i32.load', translation, CODE_TLB + 12).add(rip.wrap().and(0xfff)));
      const block = f.let(
        host
          .xor(host.shr_u(16))
          .and(BLOCK_ENTRIES - 1)
          .shl(3)
          .add(this.#base),
      );
      f.if_(load('i32.load', block, BLOCK_TABLE).eq(host), () =>
        f.set(pc, load('i32.load', block, BLOCK_TABLE + 4)),
      );
    });
  }

  /** The end of a block at a direct branch: along a link within the page, or by a jump. */
  #link(
    taken: boolean,
    field: number,
    pc: Expr,
    rip: Local,
    budget: Local,
    count: Expr,
    attention: () => Expr,
    enter: () => void,
    distance: Expr,
  ): void {
    const f = this.#f;
    f.set(budget, budget.sub(count));
    f.set(rip, rip.add(distance));
    const link = f.let(load('i32.load', pc, field));
    f.brIf(this.#jump, attention());
    f.if_(link.gt_u(1), () => {
      f.set(pc as Local, link);
      enter();
    });
    f.if_(link, () => f.run(this.#imports.resolve, pc, taken ? 1 : 0));
    f.br(this.#jump);
  }

  /** Nested blocks around the br_table, and behind each its handler. */
  #handlers(id: Local, outOfLine: Label, pc: Local, rip: Local, budget: Local, toNext: () => void): void {
    const f = this.#f;
    const total = this.#total;
    const labels: Label[] = [];
    const nest = (n: number): void => {
      if (n < 0) {
        f.brTable(id, labels, outOfLine);
        return;
      }
      f.block((label) => {
        labels[n] = label;
        nest(n - 1);
      });
      f.scoped(() => this.#body(n, id, pc, rip, budget, toNext));
    };
    nest(total - 1);
  }

  #body(n: number, id: Local, pc: Local, rip: Local, budget: Local, toNext: () => void): void {
    const f = this.#f;
    if (n === SPECIAL.STALE) {
      f.set(rip, rip.add(load('i32.load16_u', pc, R.OFFSET).wide()));
      f.set(budget, budget.sub(load('i32.load8_u', pc, R.INDEX)));
      // The jump cache may have led here.
      f.store('i32.store', this.#jumpEntry(rip), NO_KEY, JUMP_CACHE + 8);
      f.br(this.#jump);
      return;
    }
    if (n === SPECIAL.GOTO) {
      f.br(this.#notTaken);
      return;
    }
    const pair = this.#pairs[n - FIRST_INLINE - this.#inline.length];
    if (pair === undefined) {
      this.#meaning(this.#inline[n - FIRST_INLINE], pc, rip, budget, toNext);
      toNext();
      return;
    }
    const { first, second, secondId } = pair;
    const isMuted = replacesFlags(second) && !usesMemory(first) && !usesMemory(second);
    const c = this.#meaning(first, pc, rip, budget, toNext, isMuted);
    if (stores(first)) {
      // It may have written to the second, which must then be decoded again.
      f.set(id, load('i32.load16_u', pc, RECORD));
      f.set(pc, pc.add(RECORD));
      f.brIf(this.#dispatch, id.ne(secondId));
    } else f.set(pc, pc.add(RECORD));
    const condition = CONDITIONS.findIndex((name) => second.instruction.name === `j${name}`);
    if (condition >= 0) {
      f.brIf(this.#taken, c.flags.conditionBehind(condition));
      f.br(this.#notTaken);
      return;
    }
    this.#meaning(second, pc, rip, budget, toNext);
    toNext();
  }

  #meaning(
    handler: Handler,
    pc: Expr,
    rip: Local,
    budget: Local,
    toNext: () => void,
    muted = false,
  ): Meaning {
    const f = this.#f;
    const c: Meaning = new Meaning(
      {
        f,
        base: this.#base,
        pc,
        helpers: this.#helpers,
        leave: () => f.br(this.#leave),
        jump: (target) => {
          f.set(rip, target);
          f.set(budget, budget.sub(load('i32.load8_u', pc, R.INDEX).add(1)));
          f.br(this.#jump);
        },
        next: toNext,
        status: () => {
          throw new Error(`${handler.key} is a system operation and cannot be inline`);
        },
        branch: (taken) => f.br(taken ? this.#taken : this.#notTaken),
      },
      handler.form,
      muted,
    );
    handler.instruction.meaning(c);
    return c;
  }
}

/** Instructions that set all six flags, whatever their operands. */
const REPLACE_FLAGS = new Set(['add', 'sub', 'and', 'or', 'xor', 'cmp', 'test', 'neg']);

function replacesFlags({ instruction }: Handler): boolean {
  return REPLACE_FLAGS.has(instruction.name);
}

/** Whether a handler has to do with memory: a fault, or code that was overwritten, would show the flags before it. */
function usesMemory({ form }: Handler): boolean {
  return form.slots.some(({ place }) => place === 'memory');
}

/** Whether a handler may write to memory. */
function stores({ instruction, form }: Handler): boolean {
  const { name } = instruction;
  return name === 'push' || (form.slots[0]?.place === 'memory' && name !== 'cmp' && name !== 'test');
}
