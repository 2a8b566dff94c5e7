/** Names of x87 instructions, opcodes 0xD8 to 0xDF (SDM vol. 2D, B.17; vol. 2 appendix A.5). */
import type { Instruction } from './decode.ts';

const ARITHMETIC = ['fadd', 'fmul', 'fcom', 'fcomp', 'fsub', 'fsubr', 'fdiv', 'fdivr'];
const INTEGER_ARITHMETIC = ['fiadd', 'fimul', 'ficom', 'ficomp', 'fisub', 'fisubr', 'fidiv', 'fidivr'];
const POPPING = ['faddp', 'fmulp', 'fcomp', 'fcompp', 'fsubrp', 'fsubp', 'fdivrp', 'fdivp'];
const REVERSED = ['fadd', 'fmul', 'fcom', 'fcomp', 'fsubr', 'fsub', 'fdivr', 'fdiv'];

/** Forms with a memory operand, by opcode and ModRM.reg. */
const MEMORY: Readonly<Record<number, readonly string[]>> = {
  216: ARITHMETIC,
  217: ['fld', '(bad)', 'fst', 'fstp', 'fldenv', 'fldcw', 'fnstenv', 'fnstcw'],
  218: INTEGER_ARITHMETIC,
  219: ['fild', 'fisttp', 'fist', 'fistp', '(bad)', 'fld', '(bad)', 'fstp'],
  220: ARITHMETIC,
  221: ['fld', 'fisttp', 'fst', 'fstp', 'frstor', '(bad)', 'fnsave', 'fnstsw'],
  222: INTEGER_ARITHMETIC,
  223: ['fild', 'fisttp', 'fist', 'fistp', 'fbld', 'fild', 'fbstp', 'fistp'],
};

/** Forms with registers, by opcode and ModRM.reg; where ModRM.rm decides, see {@link SINGLE}. */
const REGISTER: Readonly<Record<number, readonly string[]>> = {
  216: ARITHMETIC,
  217: ['fld', 'fxch', 'fnop', '(bad)', '(bad)', '(bad)', '(bad)', '(bad)'],
  218: ['fcmovb', 'fcmove', 'fcmovbe', 'fcmovu', '(bad)', 'fucompp', '(bad)', '(bad)'],
  219: ['fcmovnb', 'fcmovne', 'fcmovnbe', 'fcmovnu', '(bad)', 'fucomi', 'fcomi', '(bad)'],
  220: REVERSED,
  221: ['ffree', '(bad)', 'fst', 'fstp', 'fucom', 'fucomp', '(bad)', '(bad)'],
  222: POPPING,
  223: ['ffreep', '(bad)', '(bad)', '(bad)', 'fnstsw', 'fucomip', 'fcomip', '(bad)'],
};

/** Instructions that are one ModRM byte, by opcode and that byte from 0xE0 on. */
const SINGLE: Readonly<Record<number, readonly string[]>> = {
  217: [
    ...['fchs', 'fabs', '(bad)', '(bad)', 'ftst', 'fxam', '(bad)', '(bad)'],
    ...['fld1', 'fldl2t', 'fldl2e', 'fldpi', 'fldlg2', 'fldln2', 'fldz', '(bad)'],
    ...['f2xm1', 'fyl2x', 'fptan', 'fpatan', 'fxtract', 'fprem1', 'fdecstp', 'fincstp'],
    ...['fprem', 'fyl2xp1', 'fsqrt', 'fsincos', 'frndint', 'fscale', 'fsin', 'fcos'],
  ],
  219: ['(bad)', '(bad)', 'fnclex', 'fninit'],
};

/** The mnemonic of an x87 instruction. @param opcode 0xD8 to 0xDF */
export function x87Name({ opcode, mod, reg, rm }: Instruction): string {
  const group = reg & 7;
  if (mod !== 3) return MEMORY[opcode][group];
  const single = group < 4 ? undefined : SINGLE[opcode]?.[(group - 4) * 8 + (rm & 7)];
  return single ?? REGISTER[opcode][group];
}
