/** What the run loop does for a KVM that emulates the guest's kernel mode: completes and repairs what that one cannot. */
import type { GuestMemory } from '../memory/guest-memory.ts';
import { createAssist } from './assist-hook.ts';
import type { EngineVcpu } from './engine.ts';
import type { RunLoopHooks } from './run-loop.ts';
import { REPAIR_MSR, SyscallRepair } from './syscall-repair.ts';
import type { Tracer } from './tracer.ts';

/** @param lock one word of shared memory for all vCPUs of a machine, see AssistOptions */
export function kvmHooks(
  vcpu: EngineVcpu,
  memory: GuestMemory,
  lock: Int32Array,
  tracer: Tracer,
): Pick<RunLoopHooks, 'assist' | 'debug' | 'writeMsr'> {
  const repair = new SyscallRepair(vcpu, memory);
  return {
    assist: createAssist(vcpu, memory, lock, tracer),
    debug: (pc, dr6) => repair.onDebug(pc, dr6),
    writeMsr: (index, value) => index === REPAIR_MSR && repair.setLstar(value),
  };
}
