/** Names for instructions in error messages, best effort. */
import { type CodeWidth, decode, type Instruction } from './decode.ts';
import { x87Name } from './describe-x87.ts';
import { mnemonicOf } from './operation.ts';
import { findOperation } from './table.ts';

const ARITHMETIC = ['add', 'or', 'adc', 'sbb', 'and', 'sub', 'xor', 'cmp'];
const SHIFTS = ['rol', 'ror', 'rcl', 'rcr', 'shl', 'shr', 'shl', 'sar'];
const CONDITIONS = ['o', 'no', 'b', 'ae', 'e', 'ne', 'be', 'a', 's', 'ns', 'p', 'np', 'l', 'ge', 'le', 'g'];
const UNARY = ['test', 'test', 'not', 'neg', 'mul', 'imul', 'div', 'idiv'];
const GROUP_FF = ['inc', 'dec', 'call', 'callf', 'jmp', 'jmpf', 'push', '(bad)'];
const GROUP_0F00 = ['sldt', 'str', 'lldt', 'ltr', 'verr', 'verw', '(bad)', '(bad)'];
const GROUP_0F01 = ['sgdt', 'sidt', 'lgdt', 'lidt', 'smsw', '(bad)', 'lmsw', 'invlpg'];
const GROUP_0F01_REGISTER: Readonly<Record<number, string>> = {
  193: 'vmcall',
  194: 'vmlaunch',
  195: 'vmresume',
  196: 'vmxoff',
  207: 'encls',
  212: 'vmfunc',
  216: 'vmrun',
  217: 'vmmcall',
  218: 'vmload',
  219: 'vmsave',
  220: 'stgi',
  221: 'clgi',
  238: 'rdpkru',
  239: 'wrpkru',
  252: 'clzero',
  253: 'rdpru',
  254: 'invlpgb',
  255: 'tlbsync',
};
const GROUP_0FAE = ['fxsave', 'fxrstor', 'ldmxcsr', 'stmxcsr', 'xsave', 'xrstor', 'xsaveopt', 'clflush'];
const GROUP_0FBA = ['(bad)', '(bad)', '(bad)', '(bad)', 'bt', 'bts', 'btr', 'btc'];

const ONE_BYTE: Readonly<Record<number, string>> = {
  99: 'movsxd',
  105: 'imul',
  107: 'imul',
  141: 'lea',
  143: 'pop',
  144: 'nop',
  152: 'cwde',
  153: 'cdq',
  156: 'pushf',
  157: 'popf',
  158: 'sahf',
  159: 'lahf',
  194: 'ret',
  195: 'ret',
  196: 'les',
  197: 'lds',
  200: 'enter',
  201: 'leave',
  202: 'retf',
  203: 'retf',
  206: 'into',
  207: 'iret',
  215: 'xlat',
  224: 'loopne',
  225: 'loope',
  226: 'loop',
  227: 'jrcxz',
  232: 'call',
  233: 'jmp',
  234: 'jmpf',
  235: 'jmp',
  244: 'hlt',
  245: 'cmc',
  248: 'clc',
  249: 'stc',
  250: 'cli',
  251: 'sti',
  252: 'cld',
  253: 'std',
};
/** First and last opcode of one-byte ranges with one name. */
const ONE_BYTE_RANGES: readonly (readonly [number, number, string])[] = [
  [0x50, 0x57, 'push'],
  [0x58, 0x5f, 'pop'],
  [0x68, 0x6a, 'push'],
  [0x6c, 0x6d, 'ins'],
  [0x6e, 0x6f, 'outs'],
  [0x84, 0x85, 'test'],
  [0x86, 0x87, 'xchg'],
  [0x88, 0x8e, 'mov'],
  [0x91, 0x97, 'xchg'],
  [0xa0, 0xa3, 'mov'],
  [0xa4, 0xa5, 'movs'],
  [0xa6, 0xa7, 'cmps'],
  [0xa8, 0xa9, 'test'],
  [0xaa, 0xab, 'stos'],
  [0xac, 0xad, 'lods'],
  [0xae, 0xaf, 'scas'],
  [0xb0, 0xbf, 'mov'],
  [0xc6, 0xc7, 'mov'],
  [0xe4, 0xe5, 'in'],
  [0xe6, 0xe7, 'out'],
  [0xec, 0xed, 'in'],
  [0xee, 0xef, 'out'],
];

const TWO_BYTE: Readonly<Record<number, string>> = {
  2: 'lar',
  3: 'lsl',
  5: 'syscall',
  6: 'clts',
  7: 'sysret',
  8: 'invd',
  9: 'wbinvd',
  11: 'ud2',
  14: 'femms',
  15: '3DNow! instruction',
  32: 'mov from cr',
  33: 'mov from dr',
  34: 'mov to cr',
  35: 'mov to dr',
  42: 'cvtsi2ss',
  44: 'cvttss2si',
  45: 'cvtss2si',
  46: 'ucomiss',
  47: 'comiss',
  48: 'wrmsr',
  49: 'rdtsc',
  50: 'rdmsr',
  51: 'rdpmc',
  52: 'sysenter',
  53: 'sysexit',
  55: 'getsec',
  81: 'sqrtps',
  82: 'rsqrtps',
  83: 'rcpps',
  88: 'addps',
  89: 'mulps',
  90: 'cvtps2pd',
  91: 'cvtdq2ps',
  92: 'subps',
  93: 'minps',
  94: 'divps',
  95: 'maxps',
  120: 'vmread',
  121: 'vmwrite',
  160: 'push fs',
  161: 'pop fs',
  162: 'cpuid',
  163: 'bt',
  164: 'shld',
  165: 'shld',
  168: 'push gs',
  169: 'pop gs',
  170: 'rsm',
  171: 'bts',
  172: 'shrd',
  173: 'shrd',
  175: 'imul',
  176: 'cmpxchg',
  177: 'cmpxchg',
  178: 'lss',
  179: 'btr',
  180: 'lfs',
  181: 'lgs',
  182: 'movzx',
  183: 'movzx',
  185: 'ud1',
  187: 'btc',
  188: 'bsf',
  189: 'bsr',
  190: 'movsx',
  191: 'movsx',
  192: 'xadd',
  193: 'xadd',
  194: 'cmpps',
  255: 'ud0',
};

/** Opcodes of 0F 38 and 0F 3A that the assist does not have. */
const THREE_BYTE: Readonly<Record<number, string>> = {
  640: 'invept',
  641: 'invvpid',
  712: 'sha1nexte',
  713: 'sha1msg1',
  714: 'sha1msg2',
  715: 'sha256rnds2',
  716: 'sha256msg1',
  717: 'sha256msg2',
  719: 'gf2p8mulb',
  864: 'pcmpestrm',
  865: 'pcmpestri',
  866: 'pcmpistrm',
  867: 'pcmpistri',
  972: 'sha1rnds4',
};

function oneByte(instruction: Instruction): string | undefined {
  const { opcode } = instruction;
  const group = instruction.reg & 7;
  if (opcode < 0x40 && (opcode & 7) < 6) return ARITHMETIC[opcode >> 3];
  if (opcode >= 0x40 && opcode < 0x50) return opcode < 0x48 ? 'inc' : 'dec';
  if (opcode >= 0x70 && opcode < 0x80) return `j${CONDITIONS[opcode & 15]}`;
  if (opcode >= 0x80 && opcode < 0x84) return ARITHMETIC[group];
  if (opcode === 0xc0 || opcode === 0xc1 || (opcode >= 0xd0 && opcode <= 0xd3)) return SHIFTS[group];
  if (opcode === 0xf6 || opcode === 0xf7) return UNARY[group];
  if (opcode === 0xfe || opcode === 0xff) return GROUP_FF[group];
  if (opcode >= 0xd8 && opcode <= 0xdf) return x87Name(instruction);
  return ONE_BYTE[opcode] ?? ONE_BYTE_RANGES.find(([first, last]) => opcode >= first && opcode <= last)?.[2];
}

function twoByte(instruction: Instruction): string | undefined {
  const { opcode, mod } = instruction;
  const group = instruction.reg & 7;
  if (opcode >= 0x40 && opcode < 0x50) return `cmov${CONDITIONS[opcode & 15]}`;
  if (opcode >= 0x80 && opcode < 0x90) return `j${CONDITIONS[opcode & 15]}`;
  if (opcode >= 0x90 && opcode < 0xa0) return `set${CONDITIONS[opcode & 15]}`;
  if (opcode >= 0xc8 && opcode < 0xd0) return 'bswap';
  if (opcode === 0x00) return GROUP_0F00[group];
  if (opcode === 0x01) {
    if (mod !== 3) return GROUP_0F01[group];
    return GROUP_0F01_REGISTER[0xc0 | (group << 3) | (instruction.rm & 7)] ?? GROUP_0F01[group];
  }
  if (opcode === 0xae) return GROUP_0FAE[group];
  if (opcode === 0xba) return GROUP_0FBA[group];
  return TWO_BYTE[opcode];
}

/**
 * The mnemonic of the instruction that `bytes` start with, with its LOCK or REP prefix; for the reader of an error
 * message, not for a disassembly.
 */
export function describeInstruction(bytes: Uint8Array, width: CodeWidth): string {
  const instruction = decode(bytes, width);
  if (instruction === undefined) return 'unknown instruction';
  const lock = instruction.lock ? 'lock ' : '';
  return lock + nameOf(instruction);
}

function nameOf(instruction: Instruction): string {
  const known = findOperation(instruction);
  if (known !== undefined) return mnemonicOf(known, instruction);
  const { map, opcode, encoding } = instruction;
  const hex = opcode.toString(16).padStart(2, '0');
  const opcodeMap = ['', '0f ', '0f 38 ', '0f 3a '][map];
  if (encoding !== 'legacy') {
    return `${encoding === 'evex' ? 'AVX-512' : 'AVX'} instruction ${opcodeMap}${hex}`;
  }
  const name =
    map === 0 ? oneByte(instruction) : map === 1 ? twoByte(instruction) : THREE_BYTE[(map << 8) | opcode];
  return name ?? `unknown instruction ${opcodeMap}${hex}`;
}
