/** Which handlers are inline in run(): the frequent ones of 64-bit code. To be chosen again from the profile of a boot. */
import { CONDITIONS } from '../table/instruction.ts';
import type { Handler } from './handlers.ts';

const ALU = new Set(['add', 'sub', 'and', 'or', 'xor', 'cmp', 'test', 'inc', 'dec']);
const STACK = new Set(['push', 'pop', 'call', 'ret', 'jmp', 'calli', 'jmpi']);
const EXTEND = new Set(['movzx', 'movsx', 'movsxd', 'lea']);
const SHIFT = new Set(['shl', 'shr', 'sar']);
const BRANCH = new Set(CONDITIONS.map((name) => `j${name}`));

/** Whether a handler belongs into run(). */
export function isInline({ instruction, form }: Handler): boolean {
  const { name } = instruction;
  const { size, slots, address, lock } = form;
  if (lock) return false;
  if (BRANCH.has(name)) return size === 8;
  const memory = slots.find(({ place }) => place === 'memory');
  if (memory !== undefined && address === 'any') return false;
  if (STACK.has(name)) return size === 8;
  if (size !== 4 && size !== 8) return size === 1 && ['mov', 'cmp', 'test'].includes(name);
  if (SHIFT.has(name)) return memory === undefined && slots[1].place === 'B';
  if (name === 'mov' || name === 'cmp') return true;
  if (EXTEND.has(name)) return true;
  // Arithmetic: registers and simple sources; read-modify-write of memory is rarer.
  return ALU.has(name) && (memory === undefined || address === 'base');
}
