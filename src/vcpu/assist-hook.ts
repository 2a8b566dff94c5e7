/** Connects the run loop to the emulation assist: what a KVM cannot emulate is completed here or named in an error. */
import { TsvError } from '../errors.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import { assistInstruction, injectException } from './assist/index.ts';
import type { EngineVcpu } from './engine.ts';
import type { Tracer } from './tracer.ts';

/**
 * The run loop's `assist` hook for one vCPU.
 * @param lock one word of shared memory for all vCPUs of a machine, see AssistOptions
 */
export function createAssist(
  vcpu: EngineVcpu,
  memory: GuestMemory,
  lock: Int32Array,
  tracer: Tracer,
): () => boolean {
  return () => {
    const rip = tracer.has('assist') ? vcpu.get('regs').rip : 0n;
    const result = assistInstruction(vcpu, memory, { lock });
    if (tracer.has('assist')) tracer.add(`assist 0x${rip.toString(16)} ${result.mnemonic} ${result.kind}`);
    if (result.kind === 'unsupported') throw unsupported(vcpu, result);
    if (result.kind === 'exception') injectException(vcpu, result);
    return true;
  };
}

function unsupported(
  vcpu: EngineVcpu,
  result: { mnemonic: string; bytes: Uint8Array; reason: string },
): TsvError {
  const bytes = [...result.bytes].map((byte) => byte.toString(16).padStart(2, '0')).join(' ');
  const rip = vcpu.get('regs').rip.toString(16);
  return new TsvError(
    'TSV_E_GUEST_INSTRUCTION',
    `KVM cannot emulate "${result.mnemonic}" (${bytes}) at 0x${rip}, and ${result.reason}.`,
    {
      hint: 'This host has no VT-x/AMD-V: choose a CPU model without the feature the instruction belongs to (--cpu).',
    },
  );
}
