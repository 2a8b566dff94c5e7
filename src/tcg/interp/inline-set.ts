/**
 * Which handlers are inline in run(), and which pairs of instructions have a handler for both: the frequent ones of 64-bit
 * code, from the profile of a Linux boot with and without the kernel's crypto self-tests, and of Debian's to its login.
 */
import { CONDITIONS } from '../table/instruction.ts';
import type { Handler } from './handlers.ts';

const ALU = new Set(['add', 'sub', 'and', 'or', 'xor', 'cmp', 'test', 'inc', 'dec']);
const STACK = new Set(['push', 'pop', 'call', 'ret', 'jmp', 'calli', 'jmpi']);
const EXTEND = new Set(['movzx', 'movsx', 'movsxd', 'lea']);
const SHIFT = new Set(['shl', 'shr', 'sar', 'rol', 'ror']);
const ONE = new Set(['not', 'neg', 'bswap', 'imul2', 'cmove', 'cmovne', 'cmovb', 'cmovae', 'adc', 'sbb']);
const RARE_CONDITIONS = new Set(['o', 'no', 'p', 'np']);
const BRANCH = new Set(CONDITIONS.filter((name) => !RARE_CONDITIONS.has(name)).map((name) => `j${name}`));
const SET = new Set(['sete', 'setne', 'setb', 'setae']);
/** Inline with indexed addresses and segments too: what each CPU has its own of is behind GS. */
const PER_CPU = new Set(['inc 4', 'dec 4', 'add 8', 'sub 8']);
/** Forms that compilers hardly ever choose. */
const RARE = new Set(['movzx 8', 'movsxd 4']);

/** What the C library compares and copies strings with, 16 bytes at once. */
const STRINGS = new Set([
  'pcmpeqb 16 A16v,B16v',
  'pmovmskb 4 A4,B16v',
  'pxor 16 A16v,B16v',
  'movx 16 A16v,memory16v base',
  'movx 16 memory16v,B16v base',
  'movux 16 A16v,memory16v base  u',
  'movux 16 memory16v,B16v base  u',
]);

/** Whether a handler belongs into run(). */
export function isInline({ instruction, form, key }: Handler): boolean {
  const { name } = instruction;
  if (STRINGS.has(key.trim())) return true;
  const { size, slots, address, lock } = form;
  if (lock) return false;
  const memory = slots.find(({ place }) => place === 'memory');
  if (name === 'nop') return memory !== undefined;
  if (BRANCH.has(name)) return size === 8;
  if (RARE.has(`${name} ${size}`)) return false;
  if (memory !== undefined && address === 'any') return false;
  if (STACK.has(name)) return size === 8 && (address !== 'flat' || name === 'jmpi');
  if (SET.has(name)) return memory === undefined;
  if (PER_CPU.has(`${name} ${size}`)) return true;
  if (size !== 4 && size !== 8) return size === 1 && ['mov', 'cmp', 'test'].includes(name);
  if (SHIFT.has(name)) return memory === undefined && slots[1].place === 'B';
  if (ONE.has(name)) return memory === undefined;
  if (name === 'mov' || name === 'cmp') return true;
  if (EXTEND.has(name)) return true;
  // Arithmetic: registers and simple sources; read-modify-write of memory is rarer.
  return ALU.has(name) && (memory === undefined || address === 'base');
}

/** Conditions that follow a comparison, and those that follow TEST. */
const AFTER_COMPARE = ['e', 'ne', 'b', 'ae', 'be', 'a', 'l', 'ge', 'le', 'g'];
const AFTER_TEST = ['e', 'ne', 's', 'ns', 'le', 'g'];
const ZERO = ['e', 'ne'];

/** The conditional branches that are worth a handler together with this instruction before them, by condition name. */
export function fusedConditions(handler: Handler): readonly string[] {
  if (!isInline(handler)) return [];
  const { name } = handler.instruction;
  const { size, slots, address } = handler.form;
  const inMemory = slots.some(({ place }) => place === 'memory');
  // Comparisons of strings are those with indexed addresses.
  if (inMemory && address === 'flat' && (size !== 1 || slots[0].place === 'memory')) return [];
  if (name === 'cmp') return inMemory || size === 1 ? ZERO : AFTER_COMPARE;
  if (name === 'test') return inMemory ? ZERO : size === 1 ? ['e', 'ne', 's', 'ns'] : AFTER_TEST;
  if (name === 'dec' || (name === 'sub' && !inMemory)) return inMemory ? [] : ['ne'];
  return [];
}

const MOVE = 'mov 8 A8,B8';
const LOAD = 'mov 8 A8,memory8 base';
const STORE = 'mov 8 memory8,B8 base';
const BYTE = 'movzx 4 A4,memory1 base';
const PUSH = 'push 8 A8';
const POP = 'pop 8 A8';
const ADD4 = 'add 4 A4,B4';
const ADD8 = 'add 8 A8,B8';

/** Pairs beyond comparisons with branches, by the keys of their handlers. */
export const FUSED_PAIRS: readonly (readonly [first: string, second: string])[] = [
  [STORE, STORE],
  [LOAD, LOAD],
  [LOAD, MOVE],
  [MOVE, MOVE],
  [MOVE, PUSH],
  [MOVE, 'sub 8 A8,B8'],
  [MOVE, 'call 8 relative'],
  ['mov 4 A4,B4', MOVE],
  [MOVE, 'mov 4 A4,B4'],
  [PUSH, PUSH],
  [PUSH, MOVE],
  [POP, POP],
  [POP, 'ret 8'],
  [POP, 'jmp 8 relative'],
  [ADD4, ADD4],
  [ADD4, 'movsxd 8 A8,B4'],
  [ADD4, 'xor 4 A4,B4'],
  ['xor 4 A4,B4', 'rol 4 A4,B1'],
  ['xor 4 A4,B4', 'ror 4 A4,B1'],
  ['movsxd 8 A8,B4', ADD8],
  [BYTE, 'test 1 A1,B1'],
  [BYTE, ADD8],
  ['nop 4 memory4 any', PUSH],
];
