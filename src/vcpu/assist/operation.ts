/** An instruction the assist can complete: its encoding and what it does. */

import type { AssistContext } from './context.ts';
import type { AssistException } from './cpu.ts';
import type { Instruction, MandatoryPrefix, OpcodeMap } from './decode.ts';

/**
 * What an operation leaves to do: nothing means that RIP moves behind the instruction; `jumped` that it set RIP
 * itself; an exception that it completed and then traps.
 */
export type Outcome = undefined | 'jumped' | AssistException;

/** Encoding and meaning of an instruction. What is absent matches anything. */
export interface Operation {
  readonly mnemonic: string;
  /** The name with REX.W, where it is another. */
  readonly mnemonicW?: string;
  readonly map: OpcodeMap;
  readonly opcode: number;
  /** Default `legacy`. */
  readonly encoding?: 'legacy' | 'vex';
  readonly prefix?: MandatoryPrefix;
  /** ModRM.reg of an opcode group. */
  readonly group?: number;
  /** Whether ModRM must name a register or memory. */
  readonly form?: 'register' | 'memory';
  /** Low three bits of ModRM.rm, for opcodes that use them as an extension. */
  readonly rm?: number;
  /** REX.W or VEX.W. */
  readonly w?: boolean;
  /** Whether LOCK is allowed; it raises #UD otherwise. */
  readonly lockable?: boolean;
  run(context: AssistContext, instruction: Instruction): Outcome | undefined;
}

/** True when the instruction is encoded as the operation says. */
export function matches(operation: Operation, instruction: Instruction): boolean {
  const { encoding = 'legacy', prefix, group, form, rm, w } = operation;
  return (
    encoding === instruction.encoding &&
    (prefix === undefined || prefix === instruction.prefix) &&
    (group === undefined || group === (instruction.reg & 7)) &&
    (form === undefined || (form === 'memory') === (instruction.memory !== undefined)) &&
    (rm === undefined || (instruction.mod === 3 && rm === (instruction.rm & 7))) &&
    (w === undefined || w === instruction.w)
  );
}

/** What the instruction is called. */
export function mnemonicOf({ mnemonic, mnemonicW }: Operation, { w }: Instruction): string {
  return w ? (mnemonicW ?? mnemonic) : mnemonic;
}
