/** Shifts, rotates, bit operations, BMI1, BMI2 (SDM vol. 2). */

import { ACCESS } from '../emit/access.ts';
import type { Meaning } from '../emit/meaning.ts';
import { FLAG } from '../emit/rflags.ts';
import { type Expr, i64, type Local, select, v128, vector } from '../wasm/index.ts';
import { Table } from './instruction.ts';

export const bits = new Table();

const { AF, CF, OF, PF, SF } = FLAG;

/** Group 2: by an immediate, by one, by CL. */
function shiftForms(extension: number): string[] {
  return [
    `c0/${extension} Eb,Ib`,
    `c1/${extension} Ev,Ib`,
    `d0/${extension} Eb,1b`,
    `d1/${extension} Ev,1b`,
    `d2/${extension} Eb,Cb`,
    `d3/${extension} Ev,Cb`,
  ];
}

/** The masked count, and the destination; flags and destination change only when the count is not zero. */
function shift(c: Meaning, operation: (a: Local, count: Local) => { r: Local; flags: () => void }): void {
  const count = c.let(c.read(1).and(c.size === 8 ? 63 : 31));
  const a = c.modify();
  const { r, flags } = operation(a, count);
  c.write(0, r);
  c.f.if_(count.ne(0), flags);
}

for (const extension of [4, 6]) {
  bits.add(extension === 4 ? 'shl' : 'sal', shiftForms(extension), { undefined: AF | OF }, (c) =>
    shift(c, (a, count) => {
      const r = c.let(a.shl(count));
      return {
        r,
        flags: () => {
          // The last bit shifted out; beyond the operand it is 0.
          const cf = c.let(
            a
              .shl(count.sub(1))
              .shr_u(c.bits - 1)
              .and(1),
          );
          c.flags.set(r, c.size, {
            cf,
            of: r
              .shr_u(c.bits - 1)
              .and(1)
              .xor(cf),
          });
        },
      };
    }),
  );
}

bits.add('shr', shiftForms(5), { undefined: AF | OF }, (c) =>
  shift(c, (a, count) => {
    const r = c.let(a.shr_u(count));
    return {
      r,
      flags: () =>
        c.flags.set(r, c.size, { cf: a.shr_u(count.sub(1)).and(1), of: a.shr_u(c.bits - 1).and(1) }),
    };
  }),
);

bits.add('sar', shiftForms(7), { undefined: AF | OF }, (c) =>
  shift(c, (a, count) => {
    const s = c.let(a.signed(c.size));
    const r = c.let(s.shr_s(count));
    return { r, flags: () => c.flags.set(r, c.size, { cf: s.shr_s(count.sub(1)).and(1), of: i64(0) }) };
  }),
);

/** Rotates leave SF, ZF, AF and PF. */
function rotate(name: string, extension: number, left: boolean): void {
  bits.add(name, shiftForms(extension), { undefined: OF }, (c) => {
    const count = c.let(c.read(1).and(c.size === 8 ? 63 : 31));
    const a = c.modify();
    const { bits: width } = c;
    let value: Expr;
    if (width === 64) value = left ? a.rotl(count) : a.rotr(count);
    else {
      const n = c.let(count.and(width - 1));
      const other = i64(width).sub(n);
      value = left ? a.shl(n).or(a.shr_u(other)) : a.shr_u(n).or(a.shl(other));
    }
    const r = c.let(value);
    c.write(0, r);
    c.f.if_(count.ne(0), () => {
      const top = c.let(r.shr_u(width - 1).and(1));
      if (left) {
        const cf = c.let(r.and(1));
        c.flags.setCarryOverflow(cf, top.xor(cf));
      } else c.flags.setCarryOverflow(top, top.xor(r.shr_u(width - 2)).and(1));
    });
  });
}
rotate('rol', 0, true);
rotate('ror', 1, false);

function rotateCarry(name: string, extension: number, left: boolean): void {
  bits.add(name, shiftForms(extension), { undefined: OF }, (c) => {
    const masked = c.read(1).and(c.size === 8 ? 63 : 31);
    const count = c.let(c.size < 4 ? masked.rem_u(c.bits + 1) : masked);
    const a = c.modify();
    const { bits: width } = c;
    const carry = c.let(c.flags.cf);
    // Bit by bit: up to 63 steps, but the counts in use are 1 and few.
    const r = c.let(a);
    const n = c.let(count);
    c.f.block((done) => {
      c.f.loop((again) => {
        c.f.brIf(done, n.eqz());
        if (left) {
          const out = c.let(r.shr_u(width - 1).and(1));
          c.f.set(r, r.shl(1).or(carry).low(c.size));
          c.f.set(carry, out);
        } else {
          const out = c.let(r.and(1));
          c.f.set(r, r.shr_u(1).or(carry.shl(width - 1)));
          c.f.set(carry, out);
        }
        c.f.set(n, n.sub(1));
        c.f.br(again);
      });
    });
    c.write(0, r);
    c.f.if_(count.ne(0), () => {
      const top = c.let(r.shr_u(width - 1).and(1));
      c.flags.setCarryOverflow(carry, left ? top.xor(carry) : top.xor(r.shr_u(width - 2)).and(1));
    });
  });
}
rotateCarry('rcl', 2, true);
rotateCarry('rcr', 3, false);

/** SHLD, SHRD: for 16-bit operands and counts above 16 results are undefined. */
function doubleShift(name: string, opcode: number, left: boolean): void {
  const op = (n: number) => n.toString(16);
  bits.add(
    name,
    [`0f.${op(opcode)} Ev,Gv,Ib`, `0f.${op(opcode + 1)} Ev,Gv,Cb`],
    { undefined: AF | OF },
    (c) => {
      const { bits: width } = c;
      const count = c.let(c.read(2).and(c.size === 8 ? 63 : 31));
      const a = c.modify();
      const b = c.let(c.read(1));
      const r = c.local64();
      c.f.if_(
        count.eqz(),
        () => c.f.set(r, a),
        () => {
          if (width === 64) {
            c.f.set(
              r,
              left
                ? a.shl(count).or(b.shr_u(i64(64).sub(count)))
                : a.shr_u(count).or(b.shl(i64(64).sub(count))),
            );
          } else if (width === 32) {
            c.f.set(r, left ? a.shl(32).or(b).shl(count).shr_u(32) : b.shl(32).or(a).shr_u(count));
          } else {
            // Counts above 16 are undefined; AMD's processors go on with the source again.
            c.f.set(
              r,
              left
                ? a.shl(32).or(b.shl(16)).or(b).shl(count).shr_u(32)
                : b.shl(32).or(b.shl(16)).or(a).shr_u(count),
            );
          }
        },
      );
      c.write(0, r.low(c.size));
      c.f.if_(count.ne(0), () => {
        const cf = c.let((left ? a.shl(count.sub(1)).shr_u(width - 1) : a.shr_u(count.sub(1))).and(1));
        c.flags.set(r, c.size, {
          cf,
          of: a
            .xor(r)
            .shr_u(width - 1)
            .and(1),
        });
      });
    },
  );
}
doubleShift('shld', 0xa4, true);
doubleShift('shrd', 0xac, false);

/** BT and its siblings: CF is the bit; a memory operand extends to bits far from it when the offset is a register. */
function bitTest(
  name: string,
  opcode: number,
  extension: number,
  change?: (a: Expr, mask: Expr) => Expr,
): void {
  bits.add(
    name,
    [`0f.${opcode.toString(16)} Ev,Gv`, `0f.ba/${extension} Ev,Ib`],
    { undefined: OF | SF | AF | PF, lock: change !== undefined },
    (c) => {
      const isRegister = c.form.slots[1].bytes === c.size;
      const offset = c.let(isRegister ? c.readSigned(1) : c.read(1));
      if (c.isMemory(0) && isRegister) {
        const access = change === undefined ? ACCESS.read : ACCESS.modify;
        c.moveAddress(c.size, access, offset.shr_s(Math.log2(c.bits)).shl(Math.log2(c.size)));
      }
      const n = c.let(offset.and(c.bits - 1));
      const a = change === undefined ? c.let(c.read(0)) : c.modify();
      const bit = c.let(a.shr_u(n).and(1));
      if (change !== undefined) c.write(0, change(a, i64(1).shl(n)));
      c.flags.setCarry(bit);
    },
  );
}
bitTest('bt', 0xa3, 4);
bitTest('bts', 0xab, 5, (a, mask) => a.or(mask));
bitTest('btr', 0xb3, 6, (a, mask) => a.and(mask.not()));
bitTest('btc', 0xbb, 7, (a, mask) => a.xor(mask));

/** Scans leave the destination alone when the source is zero, as processors do (the SDM calls it undefined). */
function scan(name: string, encoding: string, index: (c: Meaning, a: Local) => Expr): void {
  bits.add(name, encoding, { undefined: CF | OF | SF | AF | PF }, (c) => {
    const a = c.let(c.read(1));
    c.f.if_(a.ne(0), () => c.write(0, index(c, a)));
    c.flags.onlyZero(a);
  });
}
scan('bsf', '0f.bc Gv,Ev', (_c, a) => a.ctz());
scan('bsr', '0f.bd Gv,Ev', (_c, a) => i64(63).sub(a.clz()));

/** TZCNT, LZCNT, POPCNT. */
function count(
  name: string,
  encoding: string,
  feature: string,
  undefined_: number,
  value: (c: Meaning, a: Local) => Expr,
): void {
  bits.add(name, encoding, { feature, undefined: undefined_ }, (c) => {
    const a = c.let(c.read(1));
    const r = c.let(value(c, a));
    c.write(0, r);
    if (name === 'popcnt') c.flags.onlyZero(a);
    else c.flags.set(r, c.size, { cf: a.eqz().wide(), of: i64(0) });
  });
}
const COUNT_UNDEFINED = OF | SF | PF | AF;
count('tzcnt', 'f3.0f.bc Gv,Ev', 'bmi1', COUNT_UNDEFINED, (c, a) =>
  c.size === 8 ? a.ctz() : a.or(1n << BigInt(c.bits)).ctz(),
);
count('lzcnt', 'f3.0f.bd Gv,Ev', 'abm', COUNT_UNDEFINED, (c, a) => a.clz().sub(64 - c.bits));
count('popcnt', 'f3.0f.b8 Gv,Ev', 'popcnt', 0, (_c, a) => a.popcnt());

bits.add('bswap', '0f.c8+r Zv', {}, (c) => {
  const a = c.modify();
  if (c.size === 2) {
    // Undefined by the SDM; processors clear the register's low half.
    c.write(0, i64(0));
    return;
  }
  c.write(0, byteSwap(c, a));
});

/** Reverses the bytes of a value of the operand size. */
function byteSwap(c: Meaning, value: Expr): Expr {
  const a = c.let(value);
  if (c.size === 2) return a.shl(8).or(a.shr_u(8)).and(0xffff);
  const bytes = c.let(a.shr_u(8).and(0x00ff_00ff_00ff_00ffn).or(a.and(0x00ff_00ff_00ff_00ffn).shl(8)));
  const words = c.let(
    bytes.shr_u(16).and(0x0000_ffff_0000_ffffn).or(bytes.and(0x0000_ffff_0000_ffffn).shl(16)),
  );
  return c.size === 8 ? words.rotl(32) : words;
}

bits.add(
  'movbe',
  ['np.0f38.f0m Gv,Mv', '66.0f38.f0m Gv,Mv', 'np.0f38.f1m Mv,Gv', '66.0f38.f1m Mv,Gv'],
  { feature: 'movbe' },
  (c) => c.write(0, byteSwap(c, c.read(1))),
);

// BMI1 and BMI2.
const BMI1 = { feature: 'bmi1', undefined: AF | PF };

bits.add('andn', 'vex.np.0f38.f2 Gy,By,Ey', BMI1, (c) => {
  const r = c.let(c.read(1).not().and(c.read(2)));
  c.write(0, r);
  c.flags.logic(r, c.size);
});

function lowest(name: string, extension: number, value: (a: Local) => Expr, carry: (a: Local) => Expr): void {
  bits.add(name, `vex.np.0f38.f3/${extension} By,Ey`, BMI1, (c) => {
    const a = c.let(c.read(1));
    const r = c.let(value(a));
    c.write(0, r);
    c.flags.set(r.low(c.size), c.size, { cf: carry(a).wide(), of: i64(0) });
  });
}
lowest(
  'blsr',
  1,
  (a) => a.and(a.sub(1)),
  (a) => a.eqz(),
);
lowest(
  'blsmsk',
  2,
  (a) => a.xor(a.sub(1)),
  (a) => a.eqz(),
);
lowest(
  'blsi',
  3,
  (a) => a.and(i64(0).sub(a)),
  (a) => a.ne(0),
);

bits.add('bextr', 'vex.np.0f38.f7 Gy,Ey,By', { feature: 'bmi1', undefined: AF | SF | PF }, (c) => {
  const a = c.let(c.read(1));
  const control = c.let(c.read(2));
  const start = c.let(control.and(0xff));
  const length = c.let(control.shr_u(8).and(0xff));
  const shifted = c.let(select(start.ge_u(c.bits), i64(0), a.shr_u(start)));
  const r = c.let(select(length.ge_u(c.bits), shifted, shifted.and(i64(1).shl(length).sub(1))));
  c.write(0, r);
  c.flags.set(r, c.size, { cf: i64(0), of: i64(0) });
});

bits.add('bzhi', 'vex.np.0f38.f5 Gy,Ey,By', { feature: 'bmi2', undefined: AF | PF }, (c) => {
  const a = c.let(c.read(1));
  const n = c.let(c.read(2).and(0xff));
  const beyond = c.let(n.ge_u(c.bits));
  const r = c.let(select(beyond, a, a.and(i64(1).shl(n).sub(1))));
  c.write(0, r);
  c.flags.set(r, c.size, { cf: beyond.wide(), of: i64(0) });
});

const BMI2 = { feature: 'bmi2' };
bits.add('shlx', 'vex.66.0f38.f7 Gy,Ey,By', BMI2, (c) =>
  c.write(0, c.read(1).shl(c.read(2).and(c.bits - 1))),
);
bits.add('shrx', 'vex.f2.0f38.f7 Gy,Ey,By', BMI2, (c) =>
  c.write(0, c.read(1).shr_u(c.read(2).and(c.bits - 1))),
);
bits.add('sarx', 'vex.f3.0f38.f7 Gy,Ey,By', BMI2, (c) =>
  c.write(0, c.readSigned(1).shr_s(c.read(2).and(c.bits - 1))),
);
bits.add('rorx', 'vex.f2.0f3a.f0 Gy,Ey,Ib', BMI2, (c) => {
  const a = c.let(c.read(1));
  const n = c.let(c.read(2).and(c.bits - 1));
  c.write(0, c.size === 8 ? a.rotr(n) : a.or(a.shl(32)).shr_u(n));
});
bits.add('mulx', 'vex.f2.0f38.f6 Gy,By,Ey', BMI2, (c) => {
  const a = c.let(c.gpr(2, c.size));
  const b = c.let(c.read(2));
  const low = c.let(a.mul(b));
  const high = c.let(c.size === 8 ? c.f.call(c.site.helpers.mulHighUnsigned, a, b) : low.shr_u(32));
  // The same register twice gets the high half.
  c.write(1, low);
  c.write(0, high);
});

/** PDEP and PEXT, a bit of the mask at a time. */
function depositExtract(name: string, encoding: string, deposit: boolean): void {
  bits.add(name, encoding, BMI2, (c) => {
    const source = c.let(c.read(1));
    const mask = c.let(c.read(2));
    const r = c.let(i64(0));
    const k = c.let(i64(0));
    c.f.block((done) => {
      c.f.loop((again) => {
        c.f.brIf(done, mask.eqz());
        const at = c.let(mask.ctz());
        const bit = deposit ? source.shr_u(k).and(1).shl(at) : source.shr_u(at).and(1).shl(k);
        c.f.set(r, r.or(bit));
        c.f.set(k, k.add(1));
        c.f.set(mask, mask.and(mask.sub(1)));
        c.f.br(again);
      });
    });
    c.write(0, r);
  });
}
depositExtract('pdep', 'vex.f2.0f38.f5 Gy,By,Ey', true);
depositExtract('pext', 'vex.f3.0f38.f5 Gy,By,Ey', false);

/** CRC32 with the Castagnoli polynomial, reflected. */
const CRC32C = 0x82f6_3b78n;

/** What a bit of the sum of the CRC and the source adds to the result after `steps` steps of division. */
function remainderOf(bit: number, steps: number): bigint {
  let x = 1n << BigInt(bit);
  for (let i = 0; i < steps; i++) x = (x >> 1n) ^ (x & 1n ? CRC32C : 0n);
  return x;
}

/** Four words of 32 bits as a vector. */
const words = (value: (lane: number) => bigint) =>
  v128([0, 1, 2, 3].reduce((all, lane) => all | (value(lane) << BigInt(lane * 32)), 0n));

bits.add('crc32', ['f2.0f38.f0 Gy,Eb', 'f2.0f38.f1 Gy,Ev'], { feature: 'sse4_2' }, (c) => {
  const steps = c.form.slots[1].bytes * 8;
  const sum = c.let(c.read(0).low(4).xor(c.read(1)));
  // Division is linear: remainders of single bits are added up, four at a time, without waiting for one another.
  const remainders = c.let(v128(0n));
  for (let start = 0; start < steps; start += 32) {
    const word = c.let(vector('i32x4.splat', sum.shr_u(start).wrap()));
    for (let bit = start; bit < Math.min(start + 32, steps); bit += 4) {
      const mask = words((lane) => 1n << BigInt(bit - start + lane));
      const isSet = vector('i32x4.eq', vector('v128.and', word, mask), mask);
      const added = vector(
        'v128.and',
        isSet,
        words((lane) => remainderOf(bit + lane, steps)),
      );
      c.f.set(remainders, vector('v128.xor', remainders, added));
    }
  }
  const [a, b, d, e] = [0, 1, 2, 3].map((lane) => remainders.lane('i32x4', lane));
  const remainder = a.xor(b).xor(d.xor(e)).wide();
  // What a shorter source does not reach only moves down.
  c.write(0, steps < 32 ? remainder.xor(sum.shr_u(steps)) : remainder);
});
