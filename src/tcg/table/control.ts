/** Branches, calls and returns within a segment (SDM vol. 2). Far transfers are system operations. */
import { R } from '../layout.ts';
import { i64, select } from '../wasm/index.ts';
import { CONDITIONS, Table } from './instruction.ts';

export const control = new Table();

const ENDS = { ends: true };
const HOT = { ends: true, hot: true };

for (let cc = 0; cc < 16; cc++) {
  const hex = cc.toString(16);
  control.add(`j${CONDITIONS[cc]}`, [`7${hex} Jb f64`, `0f.8${hex} Jz f64`], HOT, (c) => {
    c.f.if_(
      c.flags.condition(cc),
      () => c.site.branch(true),
      () => c.site.branch(false),
    );
  });
}

control.add('jmp', ['eb Jb f64', 'e9 Jz f64'], HOT, (c) => c.site.branch(true));

control.add('call', 'e8 Jz f64', HOT, (c) => {
  c.push(c.let(c.nextRip()));
  c.site.branch(true);
});

control.add('calli', 'ff/2 Ev f64', HOT, (c) => {
  const target = c.let(c.read(0));
  c.push(c.let(c.nextRip()));
  c.jump(target);
});

control.add('jmpi', 'ff/4 Ev f64', HOT, (c) => c.jump(c.let(c.read(0))));

control.add('ret', 'c3 f64', HOT, (c) => {
  const target = c.top();
  c.dropStack();
  c.jump(target);
});

control.add('retn', 'c2 Iw f64', ENDS, (c) => {
  const target = c.top();
  const after = c.let(c.stackOffset(c.size).add(c.record('i64.load', R.IMMEDIATE).and(0xffff)));
  c.setStack(after);
  c.jump(target);
});

/** LOOP and JCXZ count in the register of the address size, whose mask is the immediate's stand-in (R.DISPLACEMENT). */
for (const [name, opcode] of [
  ['loopne', 'e0'],
  ['loope', 'e1'],
  ['loop', 'e2'],
] as const) {
  control.add(name, `${opcode} Jb f64`, ENDS, (c) => {
    const wide = c.let(c.record('i64.load32_s', R.DISPLACEMENT).and(0xffff_ffff));
    // 0: 64 bits.
    const mask = c.let(select(wide.eqz(), i64(-1), wide));
    const rcx = c.gpr(1);
    const count = c.let(rcx.sub(1).and(mask));
    const keep = select(mask.eq(0xffff), i64(-65536), i64(0));
    c.setGpr(1, c.gpr(1).and(keep).or(count));
    let taken = count.ne(0);
    if (name === 'loope') taken = taken.and(c.flags.condition(4));
    if (name === 'loopne') taken = taken.and(c.flags.condition(5));
    c.f.if_(
      taken,
      () => c.site.branch(true),
      () => c.site.branch(false),
    );
  });
}
control.add('jcxz', 'e3 Jb f64', ENDS, (c) => {
  const wide = c.let(c.record('i64.load32_s', R.DISPLACEMENT).and(0xffff_ffff));
  const mask = select(wide.eqz(), i64(-1), wide);
  c.f.if_(
    c.gpr(1).and(mask).eqz(),
    () => c.site.branch(true),
    () => c.site.branch(false),
  );
});
