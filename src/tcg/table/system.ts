/** Instructions whose meaning is written in TypeScript: system state, far transfers, x87, ports (SDM vol. 2, 3). */
import { type InstructionOptions, Table } from './instruction.ts';
import { SYSTEM, type SystemOperation } from './system-operations.ts';

export const system = new Table();

function operation(
  name: SystemOperation,
  encodings: string | string[],
  options: InstructionOptions = {},
): void {
  system.add(name.toLowerCase(), encodings, options, (c) => c.system(SYSTEM[name]));
}

const ENDS = { ends: true };

operation('UNDEFINED', ['0f.0b', '0f.b9 Ev', '0f.ff Ev'], ENDS);
operation('HLT', 'f4', ENDS);
operation('CPUID', '0f.a2');
operation('RDTSC', '0f.31', { feature: 'tsc' });
operation('RDTSCP', '0f.01=f9', { feature: 'rdtscp' });
operation('VMCALL', ['0f.01=c1', '0f.01=d9']);
operation('XGETBV', '0f.01=d0', { feature: 'xsave' });
operation('XSETBV', '0f.01=d1', { feature: 'xsave' });
operation('CLAC', '0f.01=ca', { feature: 'smap' });
operation('STAC', '0f.01=cb', { feature: 'smap' });
operation('RDPMC', '0f.33');
operation('RDMSR', '0f.32', { feature: 'msr' });
operation('WRMSR', '0f.30', { ends: true, feature: 'msr' });
operation('INT3', 'cc', ENDS);
operation('INT', 'cd Ib', ENDS);
operation('INTO', 'ce i64', ENDS);
operation('INT1', 'f1', ENDS);
operation('SYSENTER', '0f.34', { ends: true, feature: 'sep' });
operation('SYSEXIT', '0f.35 Av', { ends: true, feature: 'sep' });
operation('MOV_FROM_CR', '0f.20 Rq,Kq');
operation('MOV_TO_CR', '0f.22 Rq,Kq', ENDS);
operation('MOV_FROM_DR', '0f.21 Rq,Kq');
operation('MOV_TO_DR', '0f.23 Rq,Kq', ENDS);
operation('CLTS', '0f.06', ENDS);
operation('LMSW', '0f.01/6 Ew', ENDS);
operation('SMSW', '0f.01/4 Ev');
operation('SGDT', '0f.01/0m Mw');
operation('SIDT', '0f.01/1m Mw');
operation('LGDT', '0f.01/2m Mv f64', ENDS);
operation('LIDT', '0f.01/3m Mv f64', ENDS);
operation('SLDT', '0f.00/0 Ev');
operation('STR', '0f.00/1 Ev');
operation('LLDT', '0f.00/2 Ew');
operation('LTR', '0f.00/3 Ew');
operation('VERR', '0f.00/4 Ew');
operation('VERW', '0f.00/5 Ew');
operation('LAR', '0f.02 Gv,Ev');
operation('LSL', '0f.03 Gv,Ev');
operation('INVLPG', '0f.01/7m Mb', ENDS);
operation('INVPCID', '66.0f38.82m Gy,Mx', { ends: true, feature: 'invpcid' });
operation('INVD', '0f.08');
operation('WBINVD', ['np.0f.09', 'f3.0f.09']);
operation('MOV_TO_SEG', '8e Sw,Ew', ENDS);
// The whole register is written, memory gets 16 bits.
system.add('mov_from_seg', ['8cr Rv,Sw', '8cm Mw,Sw'], {}, (c) => c.write(0, c.selector()));
for (const [number, push, pop] of [
  [0, '06 Av i64', '07 Av i64'],
  [1, '0e Av i64', ''],
  [2, '16 Av i64', '17 Av i64'],
  [3, '1e Av i64', '1f Av i64'],
  [4, '0f.a0 Av d64', '0f.a1 Av d64'],
  [5, '0f.a8 Av d64', '0f.a9 Av d64'],
] as const) {
  system.add(`push_seg${number}`, push, {}, (c) => c.push(c.let(c.selector(number))));
  if (pop !== '') system.add(`pop_seg${number}`, pop, ENDS, (c) => c.system(SYSTEM.POP_SEG, number));
}
/** LES, LDS, LSS, LFS, LGS; the detail is the segment register. */
for (const [number, encoding] of [
  [0, 'c4m Gv,Mv i64'],
  [3, 'c5m Gv,Mv i64'],
  [2, '0f.b2m Gv,Mv'],
  [4, '0f.b4m Gv,Mv'],
  [5, '0f.b5m Gv,Mv'],
] as const) {
  system.add(`load_far_pointer${number}`, encoding, ENDS, (c) => c.system(SYSTEM.LOAD_FAR_POINTER, number));
}
operation('CALL_FAR', '9a Fv i64', ENDS);
operation('JMP_FAR', 'ea Fv i64', ENDS);
operation('CALL_FAR_MEMORY', 'ff/3m Mv', ENDS);
operation('JMP_FAR_MEMORY', 'ff/5m Mv', ENDS);
operation('RET_FAR', ['cb Av', 'ca Av,Iw'], ENDS);
operation('IN', ['e4 Ab,Ib', 'e5 Az,Ib', 'ec Ab', 'ed Az']);
operation('OUT', ['e6 Ab,Ib', 'e7 Az,Ib', 'ee Ab', 'ef Az']);
operation('INS', ['6c Xb', '6d Xz']);
operation('OUTS', ['6e Xb', '6f Xz']);
operation('ARPL', '63 Ew,Gw i64');
operation('BOUND', '62m Gv,Mv i64');
operation('RDRAND', ['np.0f.c7/6r Rv', '66.0f.c7/6r Rv'], { feature: 'rdrand' });
operation('RDSEED', ['np.0f.c7/7r Rv', '66.0f.c7/7r Rv'], { feature: 'rdseed' });
operation('RDPID', 'f3.0f.c7/7r Rq', { feature: 'rdpid' });
operation('RDFSBASE', 'f3.0f.ae/0r Ry o64', { feature: 'fsgsbase' });
operation('RDGSBASE', 'f3.0f.ae/1r Ry o64', { feature: 'fsgsbase' });
operation('WRFSBASE', 'f3.0f.ae/2r Ry o64', { feature: 'fsgsbase' });
operation('WRGSBASE', 'f3.0f.ae/3r Ry o64', { feature: 'fsgsbase' });
/** The detail is REX.W: whether FIP and FDP have 64 bits. */
for (const w of [0, 1] as const) {
  for (const [name, encoding, feature] of [
    ['FXSAVE', 'np.0f.ae/0m', 'fxsr'],
    ['FXRSTOR', 'np.0f.ae/1m', 'fxsr'],
    ['XSAVE', 'np.0f.ae/4m', 'xsave'],
    ['XRSTOR', 'np.0f.ae/5m', 'xsave'],
    ['XSAVEOPT', 'np.0f.ae/6m', 'xsaveopt'],
  ] as const) {
    system.add(`${name.toLowerCase()}${w}`, `${encoding} Mb w${w}`, { feature }, (c) =>
      c.system(SYSTEM[name], w),
    );
  }
}

for (let opcode = 0xd8; opcode <= 0xdf; opcode++) {
  const hex = opcode.toString(16);
  // The operand size is that of FLDENV and its kin; the memory operand's size is the instruction's own affair.
  system.add(`x87_${hex}`, [`${hex}m Mv,T`, `${hex}r T`], { feature: 'fpu' }, (c) =>
    c.system(SYSTEM.X87, opcode),
  );
}
