/** Connects the run loop to the emulation assist. */
import { TsvError } from '../errors.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import type { EngineVcpu } from './engine.ts';
import type { Tracer } from './tracer.ts';

/** The run loop's `assist` hook for one vCPU. */
export function createAssist(_vcpu: EngineVcpu, _memory: GuestMemory, _tracer: Tracer): () => boolean {
  return () => {
    throw new TsvError('TSV_E_GUEST_INSTRUCTION', 'KVM cannot emulate an instruction.');
  };
}
