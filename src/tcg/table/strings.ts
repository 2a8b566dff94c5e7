/** String instructions, with whole pages at a time where that shows no difference (SDM vol. 2, REP). */
import { ACCESS, type Access } from '../emit/access.ts';
import type { Meaning } from '../emit/meaning.ts';
import { FLAG } from '../emit/rflags.ts';
import { GPR, PAGE, R, S, SCRATCH, SEG } from '../layout.ts';
import { type Expr, i32, i64, type Local, load, select } from '../wasm/index.ts';
import { Table } from './instruction.ts';

export const strings = new Table();

const { RAX, RCX, RSI, RDI } = GPR;

/**
 * How long an instruction goes on before run() comes back to look at the time: elements one by one, or 32 of many at once.
 * Some 200 us.
 */
const LONGEST = 0x1_0000;
const AT_ONCE_SHIFT = 5;

const LOAD = { 1: 'i64.load8_u', 2: 'i64.load16_u', 4: 'i64.load32_u', 8: 'i64.load' } as const;

/**
 * Registers of a string instruction: the decoder puts the mask of the address size into the immediate and the repeat
 * prefix into the displacement (0, 0xF2, 0xF3).
 */
class StringState {
  readonly c: Meaning;
  readonly mask: Local;
  readonly keep: Local;
  /** +size or -size. */
  readonly step: Local;

  constructor(c: Meaning) {
    this.c = c;
    this.mask = c.let(c.record('i64.load', R.IMMEDIATE));
    this.keep = c.let(select(this.mask.eq(0xffff), i64(-65536), i64(0)));
    const down = c.state('i32.load', S.EFLAGS).and(FLAG.DF);
    this.step = c.let(select(down, i64(-c.size), i64(c.size)));
  }

  get repeats(): Expr {
    return this.c.record('i64.load32_s', R.DISPLACEMENT).wrap();
  }

  register(number: number): Expr {
    return this.c.gpr(number).and(this.mask);
  }

  set(number: number, value: Expr): void {
    this.c.setGpr(number, this.c.gpr(number).and(this.keep).or(value.and(this.mask)));
  }

  advance(number: number, count: Expr = i64(1)): void {
    this.set(number, this.c.gpr(number).add(this.step.mul(count)));
  }

  /** Host address of [RSI] in its segment. */
  source(): Local {
    return this.#host(RSI, this.c.record('i32.load8_u', R.EXTRA), ACCESS.read);
  }

  /** Host address of ES:[RDI]. */
  destination(access: Access): Local {
    return this.#host(RDI, i32(SEG.ES), access);
  }

  #host(register: number, segment: Expr, access: Access): Local {
    const { c } = this;
    const { helpers, pc } = c.site;
    const linear = c.let(
      c.f.call(helpers.segmentAddress, c.size | (access << 8), segment, this.register(register), pc),
    );
    return c.translate(linear, c.size, access);
  }

  /** How many elements fit from a host address to its page's end, when going up. */
  room(host: Expr): Expr {
    return i64(PAGE)
      .sub(host.and(PAGE - 1).wide())
      .shr_u(Math.log2(this.c.size));
  }
}

/**
 * Runs `once` as often as RCX says, or once without a prefix. `once` gives the number of elements it did; between
 * iterations the instruction can be left, at its own RIP, for interrupts.
 */
function repeat(c: Meaning, s: StringState, once: (count: Local) => void, until?: () => Expr): void {
  const { f } = c;
  f.if_(
    s.repeats.eqz(),
    () => once(c.let(i64(1))),
    () => {
      const restart = f.local('i32');
      const spent = f.local('i32');
      f.set(restart, 0);
      f.set(spent, 0);
      f.block((done) => {
        f.loop((again) => {
          const count = c.let(s.register(RCX));
          f.brIf(done, count.eqz());
          // An iteration is complete before the next begins: from here on a fault leaves it that way.
          once(count);
          const left = c.let(s.register(RCX).sub(count));
          s.set(RCX, left);
          if (until !== undefined) f.brIf(done, until());
          f.brIf(done, left.and(s.mask).eqz());
          f.set(spent, spent.add(count.shr_u(AT_ONCE_SHIFT).wrap().add(1)));
          const attention = load('i32.atomic.load', c.site.base, S.ATTENTION);
          f.brIf(again, attention.eqz().and(spent.lt_u(LONGEST)));
          // Left as it is where others have set it.
          f.let(f.cmpxchg(4, c.site.base.add(S.ATTENTION), i64(0), i64(1)));
          f.set(restart, 1);
        });
      });
      f.if_(restart, () => c.site.jump(c.rip()));
    },
  );
}

/**
 * Whether several elements may be done at once: going up, in guest memory, not staged, and nothing waits for the end of
 * an iteration (a single-step trap comes after each).
 */
function bulk(s: StringState, count: Expr, ...hosts: Local[]): Expr {
  const { c } = s;
  const scratchPage = c.site.base.add(SCRATCH).shr_u(12);
  return hosts.reduce(
    (all, host) => all.and(host.shr_u(12).ne(scratchPage)),
    count
      .gt_u(1)
      .and(s.step.gt_s(0))
      .and(s.mask.ne(0xffff))
      .and(load('i32.atomic.load', c.site.base, S.ATTENTION).eqz()),
  );
}

const forms = (opcode: number) => [`${(opcode).toString(16)} Xb`, `${(opcode + 1).toString(16)} Xv`];

strings.add('movs', forms(0xa4), {}, (c) => {
  const s = new StringState(c);
  const { f } = c;
  repeat(c, s, (count) => {
    const from = s.source();
    const to = s.destination(ACCESS.write);
    const n = c.let(i64(1));
    f.if_(bulk(s, count, from, to), () => {
      const room = c.let(s.room(from));
      const roomTo = c.let(s.room(to));
      f.set(room, select(room.lt_u(roomTo), room, roomTo));
      f.set(room, select(room.lt_u(count), room, count));
      // A destination shortly after the source repeats a pattern: element by element then.
      const distance = to.sub(from);
      f.if_(distance.ge_u(room.wrap().shl(Math.log2(c.size))).and(room.ne(0)), () => f.set(n, room));
    });
    f.if_(
      n.eq(1),
      () => c.storeHost(to, load(LOAD[c.size as 1], from), c.size),
      () => {
        const bytes = c.let(n.wrap().shl(Math.log2(c.size)));
        f.copy(to, from, bytes);
        c.afterStore(to, bytes);
      },
    );
    s.advance(RSI, n);
    s.advance(RDI, n);
    f.set(count, n);
  });
});

strings.add('stos', forms(0xaa), {}, (c) => {
  const s = new StringState(c);
  const { f } = c;
  const value = c.let(c.gpr(RAX, c.size));
  const byte = value.and(0xff);
  // memory.fill needs all bytes of the value to be the same.
  const uniform = c.let(value.eq(byte.mul(0x0101_0101_0101_0101n).low(c.size)));
  repeat(c, s, (count) => {
    const to = s.destination(ACCESS.write);
    const n = c.let(i64(1));
    f.if_(bulk(s, count, to).and(uniform), () => {
      const room = c.let(s.room(to));
      f.set(room, select(room.lt_u(count), room, count));
      f.if_(room.ne(0), () => f.set(n, room));
    });
    f.if_(
      n.eq(1),
      () => c.storeHost(to, value, c.size),
      () => {
        const bytes = c.let(n.wrap().shl(Math.log2(c.size)));
        f.fill(to, byte.wrap(), bytes);
        c.afterStore(to, bytes);
      },
    );
    s.advance(RDI, n);
    f.set(count, n);
  });
});

strings.add('lods', forms(0xac), {}, (c) => {
  const s = new StringState(c);
  repeat(c, s, (count) => {
    const from = s.source();
    c.setGpr(RAX, load(LOAD[c.size as 1], from), c.size);
    s.advance(RSI);
    c.f.set(count, 1);
  });
});

/** REPE goes on while ZF is set, REPNE while it is not. */
function whileZero(s: StringState): () => Expr {
  return () => s.repeats.eq(0xf3).ne(s.c.flags.condition(4));
}

strings.add('cmps', forms(0xa6), {}, (c) => {
  const s = new StringState(c);
  repeat(
    c,
    s,
    (count) => {
      const from = s.source();
      const to = s.destination(ACCESS.read);
      const a = c.let(load(LOAD[c.size as 1], from));
      const b = c.let(load(LOAD[c.size as 1], to));
      c.flags.sub(a, b, c.let(a.sub(b)), c.size);
      s.advance(RSI);
      s.advance(RDI);
      c.f.set(count, 1);
    },
    whileZero(s),
  );
});

strings.add('scas', forms(0xae), {}, (c) => {
  const s = new StringState(c);
  repeat(
    c,
    s,
    (count) => {
      const to = s.destination(ACCESS.read);
      const a = c.let(c.gpr(RAX, c.size));
      const b = c.let(load(LOAD[c.size as 1], to));
      c.flags.sub(a, b, c.let(a.sub(b)), c.size);
      s.advance(RDI);
      c.f.set(count, 1);
    },
    whileZero(s),
  );
});
