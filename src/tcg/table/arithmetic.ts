/** Integer arithmetic and logic (SDM vol. 2). */

import { ACCESS } from '../emit/access.ts';
import type { Meaning } from '../emit/meaning.ts';
import { FLAG } from '../emit/rflags.ts';
import { S } from '../layout.ts';
import { type Expr, i32, i64, type Local, load, select } from '../wasm/index.ts';
import { Table } from './instruction.ts';
import { SYSTEM } from './system-operations.ts';

export const arithmetic = new Table();

const { AF, CF, OF, PF, SF, ZF } = FLAG;

/** The six encodings that ADD and its siblings share, and those of group 1. */
function aluForms(first: number): string[] {
  const op = (offset: number) => (first + offset).toString(16).padStart(2, '0');
  const extension = first >> 3;
  return [
    `${op(0)} Eb,Gb`,
    `${op(1)} Ev,Gv`,
    `${op(2)} Gb,Eb`,
    `${op(3)} Gv,Ev`,
    `${op(4)} Ab,Ib`,
    `${op(5)} Av,Iz`,
    `80/${extension} Eb,Ib`,
    `81/${extension} Ev,Iz`,
    `82/${extension} Eb,Ib i64`,
    `83/${extension} Ev,Is`,
  ];
}

const HOT = { lock: true, hot: true };

arithmetic.add('add', aluForms(0x00), HOT, (c) => {
  const a = c.modify();
  const b = c.let(c.read(1));
  const r = c.let(a.add(b));
  c.write(0, r);
  c.flags.add(a, b, r, c.size);
});

arithmetic.add('or', aluForms(0x08), HOT, (c) => logic(c, (a, b) => a.or(b)));
arithmetic.add('and', aluForms(0x20), HOT, (c) => logic(c, (a, b) => a.and(b)));
arithmetic.add('xor', aluForms(0x30), HOT, (c) => logic(c, (a, b) => a.xor(b)));

function logic(c: Meaning, operation: (a: Expr, b: Expr) => Expr): void {
  const a = c.modify();
  const r = c.let(operation(a, c.read(1)));
  c.write(0, r);
  c.flags.logic(r, c.size);
}

arithmetic.add('adc', aluForms(0x10), { lock: true }, (c) => {
  const a = c.modify();
  const b = c.let(c.read(1));
  const r = c.let(a.add(b).add(c.flags.cf));
  c.write(0, r);
  c.flags.add(a, b, r, c.size);
});

arithmetic.add('sbb', aluForms(0x18), { lock: true }, (c) => {
  const a = c.modify();
  const b = c.let(c.read(1));
  const r = c.let(a.sub(b).sub(c.flags.cf));
  c.write(0, r);
  c.flags.sub(a, b, r, c.size);
});

arithmetic.add('sub', aluForms(0x28), HOT, (c) => {
  const a = c.modify();
  const b = c.let(c.read(1));
  const r = c.let(a.sub(b));
  c.write(0, r);
  c.flags.sub(a, b, r, c.size);
});

arithmetic.add('cmp', aluForms(0x38), { hot: true }, (c) => {
  const a = c.let(c.read(0));
  const b = c.let(c.read(1));
  c.flags.sub(a, b, c.let(a.sub(b)), c.size);
});

arithmetic.add(
  'test',
  ['84 Eb,Gb', '85 Ev,Gv', 'a8 Ab,Ib', 'a9 Av,Iz', 'f6/0 Eb,Ib', 'f6/1 Eb,Ib', 'f7/0 Ev,Iz', 'f7/1 Ev,Iz'],
  { hot: true, undefined: AF },
  (c) => {
    const a = c.let(c.read(0));
    c.flags.logic(c.let(a.and(c.read(1))), c.size);
  },
);

function step(name: string, encodings: string[], delta: 1 | -1): void {
  arithmetic.add(name, encodings, HOT, (c) => {
    const a = c.modify();
    const r = c.let(a.add(delta));
    c.write(0, r);
    c.flags.step(a, r, c.size, delta);
  });
}
step('inc', ['fe/0 Eb', 'ff/0 Ev', '40+r Zv i64'], 1);
step('dec', ['fe/1 Eb', 'ff/1 Ev', '48+r Zv i64'], -1);

arithmetic.add('not', ['f6/2 Eb', 'f7/2 Ev'], { lock: true }, (c) => c.write(0, c.modify().not()));

arithmetic.add('neg', ['f6/3 Eb', 'f7/3 Ev'], { lock: true }, (c) => {
  const a = c.modify();
  const r = c.let(i64(0).sub(a));
  c.write(0, r);
  c.flags.sub(c.let(i64(0)), a, r, c.size);
});

arithmetic.add('xadd', ['0f.c0 Eb,Gb', '0f.c1 Ev,Gv'], { lock: true }, (c) => {
  const a = c.modify();
  const b = c.let(c.read(1));
  const r = c.let(a.add(b));
  if (c.isMemory(0)) {
    c.write(0, r);
    c.write(1, a);
  } else {
    // The same register twice: the sum stays.
    c.write(1, a);
    c.write(0, r);
  }
  c.flags.add(a, b, r, c.size);
});

arithmetic.add('cmpxchg', ['0f.b0 Eb,Gb', '0f.b1 Ev,Gv'], { lock: true }, (c) => {
  const a = c.modify();
  const expected = c.let(c.gpr(0, c.size));
  const equal = c.let(a.eq(expected));
  const source = c.let(c.read(1));
  if (c.isMemory(0)) {
    c.write(0, select(equal, source, a));
    c.f.if_(equal.eqz(), () => c.setGpr(0, a, c.size));
  } else {
    // Processors differ in whether a 32-bit destination loses its upper half when nothing is exchanged; AMD's keep it.
    c.f.if_(
      equal,
      () => c.write(0, source),
      () => c.setGpr(0, a, c.size),
    );
  }
  c.flags.sub(expected, a, c.let(expected.sub(a)), c.size);
});

arithmetic.add('cmpxchg8b', '0f.c7/1m Mq w0', { lock: true, feature: 'cx8' }, (c) => {
  const a = c.modify();
  const expected = c.let(c.gpr(0, 4).or(c.gpr(2, 4).shl(32)));
  const equal = c.let(a.eq(expected));
  c.write(0, select(equal, c.gpr(3, 4).or(c.gpr(1, 4).shl(32)), a));
  c.f.if_(equal.eqz(), () => {
    c.setGpr(0, a, 4);
    c.setGpr(2, a.shr_u(32), 4);
  });
  setZero(c, equal);
});

/** Replaces ZF only. */
function setZero(c: Meaning, zero: Expr): void {
  const image = c.let(c.flags.image().and(~FLAG.ZF).or(zero.wide().shl(6)));
  c.flags.load(image);
}

arithmetic.add('cmpxchg16b', '0f.c7/1m Mx w1', { lock: true, feature: 'cx16' }, (c) => {
  if (c.form.lock) {
    c.system(SYSTEM.CMPXCHG16B);
    return;
  }
  const host = c.host(0, ACCESS.modify);
  const low = c.let(load('i64.load', host));
  const high = c.let(load('i64.load', host, 8));
  const equal = c.let(low.eq(c.gpr(0)).and(high.eq(c.gpr(2))));
  c.f.store('i64.store', host, select(equal, c.gpr(3), low));
  c.f.store('i64.store', host, select(equal, c.gpr(1), high), 8);
  c.afterStore(host, i32(16));
  c.f.if_(equal.eqz(), () => {
    c.setGpr(0, low);
    c.setGpr(2, high);
  });
  setZero(c, equal);
});

// Multiplication and division.

const MUL_UNDEFINED = SF | ZF | AF | PF;

function widening(name: string, encodings: [string, string], signed: boolean): void {
  arithmetic.add(name, encodings, { undefined: MUL_UNDEFINED }, (c) => {
    const read = (value: Expr) => (signed ? value.signed(c.size) : value);
    const a = c.let(read(c.gpr(0, c.size)));
    const b = c.let(signed ? c.readSigned(0) : c.read(0));
    const low = c.let(a.mul(b));
    let carry: Expr;
    if (c.size === 8) {
      const { mulHighSigned, mulHighUnsigned } = c.site.helpers;
      const high = c.let(c.f.call(signed ? mulHighSigned : mulHighUnsigned, a, b));
      carry = signed ? high.ne(low.shr_s(63)) : high.ne(0);
      c.setGpr(0, low);
      c.setGpr(2, high);
    } else {
      carry = signed ? low.ne(low.signed(c.size)) : low.shr_u(c.bits).ne(0);
      if (c.size === 1) c.setGpr(0, low, 2);
      else {
        c.setGpr(0, low, c.size);
        c.setGpr(2, low.shr_u(c.bits), c.size);
      }
    }
    const bit = c.let(carry.wide());
    c.flags.set(low, c.size, { cf: bit, of: bit });
  });
}
widening('mul', ['f6/4 Eb', 'f7/4 Ev'], false);
widening('imul', ['f6/5 Eb', 'f7/5 Ev'], true);

function truncating(c: Meaning, a: Local, b: Local): void {
  const low = c.let(a.mul(b));
  const lost =
    c.size === 8
      ? c.f.call(c.site.helpers.mulHighSigned, a, b).ne(low.shr_s(63))
      : low.ne(low.signed(c.size));
  const bit = c.let(lost.wide());
  c.write(0, low);
  c.flags.set(low, c.size, { cf: bit, of: bit });
}

arithmetic.add('imul2', '0f.af Gv,Ev', { undefined: MUL_UNDEFINED, hot: true }, (c) => {
  truncating(c, c.let(c.readSigned(0)), c.let(c.readSigned(1)));
});
arithmetic.add('imul3', ['69 Gv,Ev,Iz', '6b Gv,Ev,Is'], { undefined: MUL_UNDEFINED, hot: true }, (c) => {
  truncating(c, c.let(c.readSigned(1)), c.let(c.readSigned(2)));
});

const ALL = CF | OF | SF | ZF | AF | PF;
/** Exception vectors used by meanings. */
const DE = 0;

arithmetic.add('div', ['f6/6 Eb', 'f7/6 Ev'], { undefined: ALL }, (c) => {
  const d = c.let(c.read(0));
  const { f } = c;
  f.if_(d.eqz(), () => c.raise(DE));
  if (c.size === 1) {
    const n = c.let(c.gpr(0, 2));
    const q = c.let(n.div_u(d));
    f.if_(q.gt_u(0xff), () => c.raise(DE));
    c.setGpr(0, q.or(n.rem_u(d).shl(8)), 2);
    return;
  }
  const high = c.let(c.gpr(2, c.size));
  f.if_(high.ge_u(d), () => c.raise(DE));
  if (c.size === 8) {
    f.if_(
      high.eqz(),
      () => {
        const n = c.let(c.gpr(0));
        c.setGpr(0, n.div_u(d));
        c.setGpr(2, n.rem_u(d));
      },
      () => {
        c.setState('i64.store', S.TEMP, d);
        c.system(SYSTEM.DIV128);
      },
    );
    return;
  }
  const n = c.let(c.gpr(0, c.size).or(high.shl(c.bits)));
  c.setGpr(0, n.div_u(d), c.size);
  c.setGpr(2, n.rem_u(d), c.size);
});

arithmetic.add('idiv', ['f6/7 Eb', 'f7/7 Ev'], { undefined: ALL }, (c) => {
  const d = c.let(c.readSigned(0));
  const { f } = c;
  f.if_(d.eqz(), () => c.raise(DE));
  const narrow = (n: Local) => {
    // The most negative number divided by -1 overflows in WebAssembly as it does here.
    f.if_(d.eq(-1).and(n.eq(i64(-(2n ** 63n)))), () => c.raise(DE));
    const q = c.let(n.div_s(d));
    if (c.size !== 8) f.if_(q.ne(q.signed(c.size)), () => c.raise(DE));
    return q;
  };
  if (c.size === 1) {
    const n = c.let(c.gpr(0, 2).signed(2));
    const q = narrow(n);
    c.setGpr(0, q.and(0xff).or(n.rem_s(d).shl(8)), 2);
    return;
  }
  if (c.size === 8) {
    const n = c.let(c.gpr(0));
    f.if_(
      c.gpr(2).eq(n.shr_s(63)),
      () => {
        const q = narrow(n);
        c.setGpr(0, q);
        c.setGpr(2, n.rem_s(d));
      },
      () => {
        c.setState('i64.store', S.TEMP, d);
        c.system(SYSTEM.IDIV128);
      },
    );
    return;
  }
  const n = c.let(
    c
      .gpr(0, c.size)
      .or(c.gpr(2, c.size).shl(c.bits))
      .signed(c.size * 2),
  );
  const q = narrow(n);
  c.setGpr(0, q, c.size);
  c.setGpr(2, n.rem_s(d), c.size);
});

// Decimal arithmetic, of the legacy modes, is rare enough for TypeScript.
for (const [name, encoding, operation] of [
  ['daa', '27', SYSTEM.DAA],
  ['das', '2f', SYSTEM.DAS],
  ['aaa', '37', SYSTEM.AAA],
  ['aas', '3f', SYSTEM.AAS],
  ['aam', 'd4 Ib', SYSTEM.AAM],
  ['aad', 'd5 Ib', SYSTEM.AAD],
] as const) {
  arithmetic.add(name, `${encoding} i64`, { undefined: ALL }, (c) => c.system(operation));
}

// ADX.
arithmetic.add('adcx', '66.0f38.f6 Gy,Ey', { feature: 'adx' }, (c) => {
  const a = c.modify();
  const b = c.let(c.read(1));
  const carry = c.let(c.flags.cf);
  const r = c.let(a.add(b).add(carry));
  c.write(0, r);
  c.flags.setCarry(carryOut(c, a, b, r));
});
arithmetic.add('adox', 'f3.0f38.f6 Gy,Ey', { feature: 'adx' }, (c) => {
  const a = c.modify();
  const b = c.let(c.read(1));
  const carry = c.let(c.flags.of);
  const r = c.let(a.add(b).add(carry));
  c.write(0, r);
  c.flags.setCarryOverflow(c.let(c.flags.cf), carryOut(c, a, b, r));
});

function carryOut(c: Meaning, a: Expr, b: Expr, r: Expr): Local {
  return c.let(
    a
      .and(b)
      .or(a.or(b).and(r.not()))
      .shr_u(c.bits - 1)
      .and(1),
  );
}
