/** Instructions that change nothing an emulated processor shows: waits, fences, prefetches, cache hints. */
import { CR0 } from '../entry.ts';
import type { AssistContext } from './context.ts';
import type { Instruction } from './decode.ts';
import { GuestFault, Unsupported, undefinedOpcode, VECTOR } from './fault.ts';
import type { Operation, Outcome } from './operation.ts';
import { XSAVE } from './vector-state.ts';

const nothing = (): Outcome => undefined;

/** CLFLUSH and the like check their operand as a byte read does. */
function touchByte(context: AssistContext, instruction: Instruction): Outcome {
  if (instruction.memory === undefined) throw undefinedOpcode();
  context.read(context.linear(instruction, instruction.memory, 1, false), 1);
  return undefined;
}

/** MONITOR and MWAIT are for the kernel; waiting returns at once, which they may. */
function kernelOnly(context: AssistContext): Outcome {
  if (context.cpl !== 0) throw undefinedOpcode();
  return undefined;
}

/** x87 status word: an unmasked exception is pending. */
const FSW_ES = 0x80;

export const HINTS: readonly Operation[] = [
  {
    mnemonic: 'fwait',
    map: 0,
    opcode: 0x9b,
    run(context) {
      const { cr0 } = context.sregs;
      if ((cr0 & CR0.TS) !== 0n && (cr0 & CR0.MP) !== 0n) throw new GuestFault(VECTOR.NM);
      const pending = (context.vectors.area[XSAVE.FSW] & FSW_ES) !== 0;
      if (pending && (cr0 & CR0.NE) !== 0n) throw new GuestFault(VECTOR.MF);
      return undefined;
    },
  },
  {
    mnemonic: 'pause',
    map: 0,
    opcode: 0x90,
    prefix: 2,
    run(_context, instruction) {
      if (instruction.rm !== 0) throw new Unsupported('it is an exchange with R8');
      return undefined;
    },
  },
  { mnemonic: 'prefetchw', map: 1, opcode: 0x0d, form: 'memory', run: nothing },
  { mnemonic: 'prefetch', map: 1, opcode: 0x18, run: nothing },
  ...[0x19, 0x1a, 0x1b, 0x1c, 0x1d].map((opcode) => ({
    mnemonic: 'nop',
    map: 1 as const,
    opcode,
    run: nothing,
  })),
  { mnemonic: 'endbr64', map: 1, opcode: 0x1e, prefix: 2, form: 'register', group: 7, rm: 2, run: nothing },
  { mnemonic: 'endbr32', map: 1, opcode: 0x1e, prefix: 2, form: 'register', group: 7, rm: 3, run: nothing },
  { mnemonic: 'nop', map: 1, opcode: 0x1e, prefix: 0, run: nothing },
  { mnemonic: 'nop', map: 1, opcode: 0x1e, prefix: 1, run: nothing },
  { mnemonic: 'nop', map: 1, opcode: 0x1f, run: nothing },
  { mnemonic: 'lfence', map: 1, opcode: 0xae, prefix: 0, group: 5, form: 'register', run: nothing },
  { mnemonic: 'mfence', map: 1, opcode: 0xae, prefix: 0, group: 6, form: 'register', run: nothing },
  { mnemonic: 'sfence', map: 1, opcode: 0xae, prefix: 0, group: 7, form: 'register', run: nothing },
  { mnemonic: 'clflush', map: 1, opcode: 0xae, prefix: 0, group: 7, form: 'memory', run: touchByte },
  { mnemonic: 'clflushopt', map: 1, opcode: 0xae, prefix: 1, group: 7, form: 'memory', run: touchByte },
  { mnemonic: 'clwb', map: 1, opcode: 0xae, prefix: 1, group: 6, form: 'memory', run: touchByte },
  { mnemonic: 'monitor', map: 1, opcode: 0x01, group: 1, form: 'register', rm: 0, run: kernelOnly },
  { mnemonic: 'mwait', map: 1, opcode: 0x01, group: 1, form: 'register', rm: 1, run: kernelOnly },
  { mnemonic: 'serialize', map: 1, opcode: 0x01, prefix: 0, group: 5, form: 'register', rm: 0, run: nothing },
  { mnemonic: 'monitorx', map: 1, opcode: 0x01, group: 7, form: 'register', rm: 2, run: nothing },
  { mnemonic: 'mwaitx', map: 1, opcode: 0x01, group: 7, form: 'register', rm: 3, run: nothing },
];
