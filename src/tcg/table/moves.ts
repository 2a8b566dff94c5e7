/** Moves, conversions, stack, flags (SDM vol. 2). */

import { ACCESS } from '../emit/access.ts';
import { FLAG } from '../emit/rflags.ts';
import { R, S } from '../layout.ts';
import { i64, load, select } from '../wasm/index.ts';
import { CONDITIONS, Table } from './instruction.ts';
import { SYSTEM } from './system-operations.ts';

export const moves = new Table();

moves.add(
  'mov',
  [
    '88 Eb,Gb',
    '89 Ev,Gv',
    '8a Gb,Eb',
    '8b Gv,Ev',
    'a0 Ab,Ob',
    'a1 Av,Ov',
    'a2 Ob,Ab',
    'a3 Ov,Av',
    'b0+r Zb,Ib',
    'b8+r Zv,Iv',
    'c6/0 Eb,Ib',
    'c7/0 Ev,Iz',
  ],
  { hot: true },
  (c) => c.write(0, c.read(1)),
);

moves.add('movzx', ['0f.b6 Gv,Eb', '0f.b7 Gv,Ew'], { hot: true }, (c) => c.write(0, c.read(1)));
moves.add('movsx', ['0f.be Gv,Eb', '0f.bf Gv,Ew'], { hot: true }, (c) => c.write(0, c.readSigned(1)));
moves.add('movsxd', '63 Gv,Ed o64', { hot: true }, (c) => c.write(0, c.readSigned(1)));
moves.add('lea', '8dm Gv,Mv', { hot: true }, (c) => c.write(0, c.effectiveAddress()));

moves.add('xchg', ['86 Eb,Gb', '87 Ev,Gv', '90+r Zv,Av'], { lock: true }, (c) => {
  const a = c.modify();
  const b = c.let(c.read(1));
  c.write(0, b);
  c.write(1, a);
});

for (let cc = 0; cc < 16; cc++) {
  const hex = cc.toString(16);
  const name = CONDITIONS[cc];
  moves.add(`cmov${name}`, `0f.4${hex} Gv,Ev`, { hot: true, feature: 'cmov' }, (c) => {
    const source = c.let(c.read(1));
    c.write(0, select(c.flags.condition(cc), source, c.read(0)));
  });
  moves.add(`set${name}`, `0f.9${hex} Eb modrm`, { hot: true }, (c) =>
    c.write(0, c.flags.condition(cc).wide()),
  );
}

// CBW, CWDE, CDQE; CWD, CDQ, CQO.
moves.add('cbw', '98 Av', {}, (c) => c.write(0, c.gpr(0, c.size / 2).signed(c.size / 2)));
moves.add('cwd', '99 Av', {}, (c) => c.setGpr(2, c.gpr(0, c.size).signed(c.size).shr_s(63), c.size));

// Stack.
moves.add('push', ['50+r Zv d64', 'ff/6 Ev d64', '68 Iz d64', '6a Is d64'], { hot: true }, (c) => {
  c.push(c.let(c.read(0)));
});
moves.add('pop', ['58+r Zv d64', '8f/0r Ev d64'], { hot: true }, (c) => {
  const value = c.top();
  // POP RSP: the value popped stays.
  c.dropStack();
  c.write(0, value);
});
moves.add('popm', '8f/0m Ev d64', {}, (c) => {
  const value = c.top();
  // The address is computed with the stack pointer after the pop (SDM, POP); a fault puts it back.
  const before = c.let(c.gpr(4));
  const after = c.let(c.stackOffset(c.size));
  c.setStack(after);
  const moved = c.let(c.gpr(4));
  const at = c.address(c.size, ACCESS.write);
  c.setGpr(4, before);
  const host = c.translate(at, c.size, ACCESS.write);
  c.storeHost(host, value, c.size);
  c.setGpr(4, moved);
});
moves.add('leave', 'c9 d64', {}, (c) => {
  const bytes = c.size;
  const frame = c.size === 8 ? c.gpr(5) : c.gpr(5).and(c.state('i64.load', S.STACK_MASK));
  const offset = c.let(frame);
  const value = c.loadLinear(c.stackAddress(offset, bytes, ACCESS.read), bytes);
  c.setStack(c.let(offset.add(bytes)));
  c.setGpr(5, value, bytes);
});
moves.add('enter', 'c8 Iw,Ib d64', {}, (c) => c.system(SYSTEM.ENTER));
moves.add('pusha', '60 Av i64', {}, (c) => c.system(SYSTEM.PUSHA));
moves.add('popa', '61 Av i64', {}, (c) => c.system(SYSTEM.POPA));

// Flags.
const { AF, CF, OF, PF, SF, ZF } = FLAG;
/** In 64-bit mode a feature of its own. */
for (const [suffix, validIn, feature] of [
  ['', 'i64', undefined],
  ['64', 'o64', 'lahf_lm'],
] as const) {
  moves.add(`lahf${suffix}`, `9f ${validIn}`, { feature }, (c) => {
    const image = c.let(
      c.flags
        .image()
        .and(CF | PF | AF | ZF | SF)
        .or(FLAG.FIXED),
    );
    c.f.store('i64.store8', c.site.base, image, S.GPR + 1);
  });
  moves.add(`sahf${suffix}`, `9e ${validIn}`, { feature }, (c) => {
    const ah = c
      .gpr(0)
      .shr_u(8)
      .and(CF | PF | AF | ZF | SF);
    const image = c.let(ah.or(c.flags.image().and(OF)));
    c.flags.load(image);
  });
}
moves.add('clc', 'f8', {}, (c) => c.flags.setCarry(i64(0)));
moves.add('stc', 'f9', {}, (c) => c.flags.setCarry(i64(1)));
moves.add('cmc', 'f5', {}, (c) => c.flags.setCarry(c.let(c.flags.cf.xor(1))));
moves.add('cld', 'fc', {}, (c) =>
  c.setState('i32.store', S.EFLAGS, c.state('i32.load', S.EFLAGS).and(~FLAG.DF)),
);
moves.add('std', 'fd', {}, (c) =>
  c.setState('i32.store', S.EFLAGS, c.state('i32.load', S.EFLAGS).or(FLAG.DF)),
);
moves.add('salc', 'd6 i64', {}, (c) => c.setGpr(0, i64(0).sub(c.flags.cf), 1));

moves.add(
  'nop',
  [
    '0f.1f Ev',
    '0f.18 Ev modrm',
    '0f.19 Ev',
    '0f.1a Ev',
    '0f.1b Ev',
    '0f.1c Ev',
    '0f.1d Ev',
    '0f.1e Ev',
    '0f.0d Ev',
  ],
  {},
  () => {},
);
moves.add('fwait', '9b', {}, (c) => c.system(SYSTEM.FWAIT));
// One processor's stores are seen in order; a fence orders them with loads, for the other processors.
moves.add('lfence', 'np.0f.ae/5r', {}, () => {});
moves.add('mfence', 'np.0f.ae/6r', {}, (c) => c.f.fence());
moves.add('sfence', 'np.0f.ae/7r', {}, () => {});
// Caches are not there, but the address must be readable.
for (const [name, encoding] of [
  ['clflush', 'np.0f.ae/7m'],
  ['clflushopt', '66.0f.ae/7m'],
  ['clwb', '66.0f.ae/6m'],
] as const) {
  moves.add(name, `${encoding} Mb`, { feature: name }, (c) => c.f.drop(c.read(0)));
}
moves.add('movnti', 'np.0f.c3m My,Gy', { feature: 'sse2' }, (c) => c.write(0, c.read(1)));

moves.add('xlat', 'd7', {}, (c) => {
  // The address is that of [RBX + AL]: the decoder makes RBX the base; AL is added here.
  const at = c.let(c.gpr(0, 1));
  const mask = c.record('i64.load', R.IMMEDIATE);
  const offset = c.let(c.gpr(3).add(at).and(mask));
  const linear = c.let(
    c.f.call(c.site.helpers.segmentAddress, 1, c.record('i32.load8_u', R.EXTRA), offset, c.site.pc),
  );
  const host = c.translate(linear, 1, ACCESS.read);
  c.setGpr(0, load('i64.load8_u', host), 1);
});
