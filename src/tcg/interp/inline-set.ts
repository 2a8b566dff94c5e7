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

/** Conditions that follow a comparison, and those that follow TEST. */
const AFTER_COMPARE = ['e', 'ne', 'b', 'ae', 'be', 'a', 'l', 'ge', 'le', 'g'];
const AFTER_TEST = ['e', 'ne', 's', 'ns', 'le', 'g'];
const ZERO = ['e', 'ne'];

/** The conditional branches that are worth a handler together with this instruction before them, by condition name. */
export function fusedConditions(handler: Handler): readonly string[] {
  if (!isInline(handler)) return [];
  const { name } = handler.instruction;
  const { size, slots } = handler.form;
  const inMemory = slots.some(({ place }) => place === 'memory');
  if (name === 'cmp') return inMemory || size === 1 ? ZERO : AFTER_COMPARE;
  if (name === 'test') return inMemory || size === 1 ? ZERO : AFTER_TEST;
  return name === 'dec' && !inMemory ? ['ne'] : [];
}
