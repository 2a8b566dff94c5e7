/** Every encoding of the opcodes D8 to DF (SDM vol. 2, tables ): what an engine does around the execution. */

/** What an instruction does with its memory operand. */
export type X87Access = 'none' | 'read' | 'write';

/** One instruction, as the engine needs to know it. */
export interface X87Encoding {
  /** Lower-case mnemonic of the SDM. */
  readonly mnemonic: string;
  readonly access: X87Access;
  /**
   * Bytes of the memory operand, 0 without one. Environment and state images have the size for 32-bit operands here; with
   * 16-bit operands it is half of the environment's 28 bytes: 14 for `environment`, 94 for `save`.
   */
  readonly bytes: number;
  readonly image: 'environment' | 'save' | undefined;
  /** Whether a pending unmasked exception (FSW.ES) raises #MF before anything else of it happens. */
  readonly waits: boolean;
  /** Whether it leaves FOP, FIP and FDP alone: the control instructions (SDM vol. 1, 8.1.8). */
  readonly control: boolean;
  /** Whether it reads (FCMOVcc) or writes (FCOMI and kin) CF, PF and ZF. */
  readonly eflags: 'none' | 'read' | 'write';
}

type Options = Partial<Pick<X87Encoding, 'image' | 'waits' | 'control' | 'eflags'>>;

function encoding(mnemonic: string, access: X87Access, bytes: number, options: Options = {}): X87Encoding {
  return {
    mnemonic,
    access,
    bytes,
    image: undefined,
    waits: true,
    control: false,
    eflags: 'none',
    ...options,
  };
}

const NO_WAIT = { waits: false, control: true } as const;
const CONTROL = { control: true } as const;
const ENVIRONMENT = { image: 'environment', control: true } as const;
const STATE = { image: 'save', control: true } as const;

const ARITHMETIC = ['fadd', 'fmul', 'fcom', 'fcomp', 'fsub', 'fsubr', 'fdiv', 'fdivr'];
const INTEGER = ARITHMETIC.map((name) => `fi${name.slice(1)}`);

function reads(names: readonly string[], bytes: number): X87Encoding[] {
  return names.map((name) => encoding(name, 'read', bytes));
}

/** Memory forms by opcode - D8 and ModRM.reg. */
const MEMORY: readonly (readonly (X87Encoding | undefined)[])[] = [
  reads(ARITHMETIC, 4),
  [
    encoding('fld', 'read', 4),
    undefined,
    encoding('fst', 'write', 4),
    encoding('fstp', 'write', 4),
    encoding('fldenv', 'read', 28, ENVIRONMENT),
    encoding('fldcw', 'read', 2, CONTROL),
    encoding('fnstenv', 'write', 28, { ...ENVIRONMENT, waits: false }),
    encoding('fnstcw', 'write', 2, NO_WAIT),
  ],
  reads(INTEGER, 4),
  [
    encoding('fild', 'read', 4),
    encoding('fisttp', 'write', 4),
    encoding('fist', 'write', 4),
    encoding('fistp', 'write', 4),
    undefined,
    encoding('fld', 'read', 10),
    undefined,
    encoding('fstp', 'write', 10),
  ],
  reads(ARITHMETIC, 8),
  [
    encoding('fld', 'read', 8),
    encoding('fisttp', 'write', 8),
    encoding('fst', 'write', 8),
    encoding('fstp', 'write', 8),
    encoding('frstor', 'read', 108, STATE),
    undefined,
    encoding('fnsave', 'write', 108, { ...STATE, waits: false }),
    encoding('fnstsw', 'write', 2, NO_WAIT),
  ],
  reads(INTEGER, 2),
  [
    encoding('fild', 'read', 2),
    encoding('fisttp', 'write', 2),
    encoding('fist', 'write', 2),
    encoding('fistp', 'write', 2),
    encoding('fbld', 'read', 10),
    encoding('fild', 'read', 8),
    encoding('fbstp', 'write', 10),
    encoding('fistp', 'write', 8),
  ],
];

function register(mnemonic: string, options?: Options): X87Encoding {
  return encoding(mnemonic, 'none', 0, options);
}

const D9_REGISTER: Readonly<Record<number, X87Encoding>> = {
  16: register('fnop'),
  32: register('fchs'),
  33: register('fabs'),
  36: register('ftst'),
  37: register('fxam'),
  40: register('fld1'),
  41: register('fldl2t'),
  42: register('fldl2e'),
  43: register('fldpi'),
  44: register('fldlg2'),
  45: register('fldln2'),
  46: register('fldz'),
  48: register('f2xm1'),
  49: register('fyl2x'),
  50: register('fptan'),
  51: register('fpatan'),
  52: register('fxtract'),
  53: register('fprem1'),
  54: register('fdecstp'),
  55: register('fincstp'),
  56: register('fprem'),
  57: register('fyl2xp1'),
  58: register('fsqrt'),
  59: register('fsincos'),
  60: register('frndint'),
  61: register('fscale'),
  62: register('fsin'),
  63: register('fcos'),
};

/** Register forms that eight encodings in a row share, by opcode - D8 and ModRM.reg; single ones are above and below. */
const GROUPS: readonly (readonly (string | undefined)[])[] = [
  ARITHMETIC,
  ['fld', 'fxch', undefined, 'fstp'],
  ['fcmovb', 'fcmove', 'fcmovbe', 'fcmovu'],
  ['fcmovnb', 'fcmovne', 'fcmovnbe', 'fcmovnu', undefined, 'fucomi', 'fcomi'],
  ['fadd', 'fmul', 'fcom', 'fcomp', 'fsubr', 'fsub', 'fdivr', 'fdiv'],
  ['ffree', 'fxch', 'fst', 'fstp', 'fucom', 'fucomp'],
  ['faddp', 'fmulp', 'fcomp', undefined, 'fsubrp', 'fsubp', 'fdivrp', 'fdivp'],
  ['ffreep', 'fxch', 'fstp', 'fstp', undefined, 'fucomip', 'fcomip'],
];

function registerForm(group: number, rest: number): X87Encoding | undefined {
  const single = singleForm(group, rest);
  if (single !== undefined) return single;
  const name = GROUPS[group][rest >> 3];
  if (name === undefined) return undefined;
  if (name.startsWith('fcmov')) return register(name, { eflags: 'read' });
  if (name.includes('comi')) return register(name, { eflags: 'write' });
  return register(name);
}

function singleForm(group: number, rest: number): X87Encoding | undefined {
  if (group === 1) return D9_REGISTER[rest];
  if (group === 2) return rest === 41 ? register('fucompp') : undefined;
  if (group === 3) {
    if (rest === 34) return register('fnclex', NO_WAIT);
    if (rest === 35) return register('fninit', NO_WAIT);
    // FENI, FDISI and FSETPM of the 8087 and 80287.
    if (rest === 32 || rest === 33 || rest === 36) return register('fnop', NO_WAIT);
  }
  if (group === 6 && rest === 25) return register('fcompp');
  if (group === 7 && rest === 32) return register('fnstsw', NO_WAIT);
  return undefined;
}

const REGISTER: readonly (X87Encoding | undefined)[] = Array.from({ length: 512 }, (_, i) =>
  registerForm(i >> 6, i & 63),
);

/**
 * Looks an encoding up.
 * @param opcode D8 to DF
 * @param modrm the whole ModRM byte
 * @returns undefined for what raises #UD
 */
export function x87Encoding(opcode: number, modrm: number): X87Encoding | undefined {
  if (modrm >= 0xc0) return REGISTER[((opcode & 7) << 6) | (modrm & 63)];
  return MEMORY[opcode & 7][(modrm >> 3) & 7];
}

/** Bytes of the memory operand with 16-bit or larger operand size; FLDENV and kin always have 28 or 108 in 64-bit mode
 * without a prefix. */
export function operandBytes(of: X87Encoding, size16: boolean): number {
  if (of.image === undefined || !size16) return of.bytes;
  return of.image === 'environment' ? 14 : 94;
}
