/**
 * Emulation assist: completes an instruction that the engine's own emulator lacks (KVM_EXIT_INTERNAL_ERROR,
 * KVM_INTERNAL_ERROR_EMULATION) on the vCPU's registers and guest memory.
 *
 * ```
 * const result = assistInstruction(vcpu, memory, { lock });
 * if (result.kind === 'exception') injectException(vcpu, result);
 * if (result.kind === 'unsupported') throw ...
 * ```
 */
import type { GuestMemory } from '../../memory/guest-memory.ts';
import { AssistContext } from './context.ts';
import type { AssistCpu, AssistException, AssistOptions, AssistResult } from './cpu.ts';
import { type CodeWidth, decode, MAX_INSTRUCTION_LENGTH } from './decode.ts';
import { describeInstruction } from './describe.ts';
import { GuestFault, Unsupported, undefinedOpcode, VECTOR } from './fault.ts';
import { mnemonicOf } from './operation.ts';
import { bytesInPage } from './paging.ts';
import { findOperation } from './table.ts';

export type { AssistCpu, AssistException, AssistOptions, AssistResult } from './cpu.ts';
export { type CodeWidth, decode, type Instruction } from './decode.ts';
export { describeInstruction } from './describe.ts';

/**
 * Completes the instruction at the vCPU's RIP.
 * @param cpu the vCPU; it must not be running
 * @param bytes the instruction's bytes where the engine reported them; otherwise they are read from guest memory
 * @returns what became of it; nothing has changed unless it is `completed` or an exception that traps after it
 */
export function assistInstruction(
  cpu: AssistCpu,
  memory: GuestMemory,
  options: AssistOptions = {},
  bytes?: Uint8Array,
): AssistResult {
  const context = new AssistContext(cpu, memory, options);
  const code = fetch(context) ?? bytes ?? new Uint8Array(0);
  const instruction = decode(code, context.width);
  if (instruction === undefined) {
    return unsupported(code, context.width, 'its bytes are no known instruction, or cannot be read');
  }
  const operation = findOperation(instruction);
  if (operation === undefined) {
    return unsupported(instruction.bytes, context.width, 'the assist does not know it');
  }
  const mnemonic = mnemonicOf(operation, instruction);
  try {
    if (instruction.lock && !(operation.lockable && instruction.memory !== undefined))
      throw undefinedOpcode();
    const outcome = operation.run(context, instruction);
    context.commit(outcome === 'jumped' ? undefined : instruction);
    if (outcome === undefined || outcome === 'jumped') return { kind: 'completed', mnemonic };
    return { ...outcome, mnemonic };
  } catch (error) {
    if (error instanceof GuestFault) {
      const { vector, errorCode, cr2 } = error;
      return { kind: 'exception', mnemonic, vector, errorCode, cr2 };
    }
    if (error instanceof Unsupported) return unsupported(instruction.bytes, context.width, error.message);
    throw error;
  }
}

/** Queues an exception that {@link assistInstruction} reports, to be delivered at the next entry. */
export function injectException(cpu: AssistCpu, exception: AssistException): void {
  const { vector, errorCode, cr2 } = exception;
  if (vector === VECTOR.PF && cr2 !== undefined) cpu.set('sregs', { ...cpu.get('sregs'), cr2 });
  const events = cpu.get('events');
  cpu.set('events', {
    ...events,
    exception: {
      injected: 1,
      nr: vector,
      has_error_code: errorCode === undefined ? 0 : 1,
      pending: 0,
      error_code: errorCode ?? 0,
    },
    exception_has_payload: 0,
    exception_payload: 0n,
  });
}

function unsupported(bytes: Uint8Array, width: CodeWidth, reason: string): AssistResult {
  return { kind: 'unsupported', mnemonic: describeInstruction(bytes, width), bytes, reason };
}

/** Up to 15 bytes at RIP, fewer where the next page cannot be read. */
function fetch(context: AssistContext): Uint8Array | undefined {
  const { regs, sregs, width } = context;
  const linear =
    width === 64 ? regs.rip : BigInt.asUintN(32, sregs.cs.base + BigInt.asUintN(width, regs.rip));
  const readable = (length: number) => {
    try {
      return context.read(linear, length);
    } catch (error) {
      if (error instanceof GuestFault || error instanceof Unsupported) return undefined;
      throw error;
    }
  };
  return readable(MAX_INSTRUCTION_LENGTH) ?? readable(Math.min(bytesInPage(linear), MAX_INSTRUCTION_LENGTH));
}
