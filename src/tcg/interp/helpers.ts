/** What both generated modules have: the imports from TypeScript, and functions that several handlers share. */
import type { Helpers } from '../emit/site.ts';
import { ADDRESS_16, ADDRESS_32, ADDRESS_ABSOLUTE, ADDRESS_LEGACY, R, S, SENTINEL_HIGH } from '../layout.ts';
import { type Expr, type FunctionRef, i64, load, type ModuleBuilder, select } from '../wasm/index.ts';

/** Functions written in TypeScript that the modules import. */
export interface Imports {
  readonly slow: FunctionRef;
  readonly afterStore: FunctionRef;
  readonly system: FunctionRef;
  readonly lookup: FunctionRef;
  readonly resolve: FunctionRef;
  readonly segmentFault: FunctionRef;
}

/** Imports them into a module. */
export function importFunctions(m: ModuleBuilder): Imports {
  return {
    slow: m.import('slow', ['i32', 'i32', 'i32', 'i32'], ['i32']),
    afterStore: m.import('afterStore', ['i32', 'i32', 'i32'], ['i32']),
    system: m.import('system', ['i32', 'i32'], ['i32']),
    lookup: m.import('lookup', [], ['i32']),
    resolve: m.import('resolve', ['i32', 'i32']),
    segmentFault: m.import('segmentFault', ['i32', 'i32']),
  };
}

/**
 * Defines the helpers in a module.
 * @param base address of the vCPU's area
 */
export function defineHelpers(m: ModuleBuilder, base: Expr, imports: Imports): Helpers {
  const translateSlow = m.define({ params: ['i64', 'i32', 'i32'], results: ['i32'] }, (f) => {
    const [linear, what, pc] = f.args;
    f.return_(f.call(imports.slow, linear.wrap(), linear.shr_u(32).wrap(), what, pc));
  });
  const segmentAddress = m.define({ params: ['i32', 'i32', 'i64', 'i32'], results: ['i64'] }, (f) => {
    const [what, segment, offset, pc] = f.args;
    const origin = load('i64.load', segment.shl(3).add(base), S.SEGMENT_BASE);
    f.if_(load('i32.load8_u', pc, R.ADDRESS).and(ADDRESS_LEGACY).eqz(), () => f.return_(offset.add(origin)));
    const field = (at: number) => load('i64.load32_u', segment.shl(2).add(base), at);
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
    f.if_(flags.and(ADDRESS_ABSOLUTE), () => {
      const offset = load('i64.load', pc, R.IMMEDIATE);
      f.if_(flags.and(ADDRESS_16), () => f.return_(offset.low(2)));
      f.if_(flags.and(ADDRESS_32), () => f.return_(offset.low(4)));
      f.return_(offset);
    });
    const area = (field: number) => load('i64.load', load('i32.load8_u', pc, field).add(base));
    const sum = f.let(
      area(R.BASE)
        .add(load('i64.load32_s', pc, R.DISPLACEMENT))
        .add(area(R.INDEX_REGISTER).shl(load('i32.load8_u', pc, R.SCALE).wide())),
    );
    f.if_(flags.and(ADDRESS_16), () => f.return_(sum.low(2)));
    f.if_(flags.and(ADDRESS_32), () => f.return_(sum.low(4)));
    f.return_(sum);
  });
  const address = m.define({ params: ['i32', 'i32'], results: ['i64'] }, (f) => {
    const [pc, what] = f.args;
    const offset = f.call(effectiveAddress, pc);
    f.if_(load('i32.load8_u', pc, R.ADDRESS).and(ADDRESS_LEGACY).eqz(), () =>
      f.return_(offset.add(load('i64.load', load('i32.load8_u', pc, R.SEGMENT).add(base)))),
    );
    f.return_(f.call(segmentAddress, what, load('i32.load8_u', pc, R.EXTRA), offset, pc));
  });
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
