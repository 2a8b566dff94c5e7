/** Where each engine's vCPU half is; loaded by the worker that needs it. */
import type { EngineName, EngineVcpu, VcpuContext, VcpuPort } from './engine.ts';

type VcpuModule = { openVcpu(port: VcpuPort, context: VcpuContext): EngineVcpu | Promise<EngineVcpu> };

const MODULES: Record<EngineName, () => Promise<VcpuModule>> = {
  kvm: () => import('../kvm/vcpu.ts'),
  tcg: () => import('../tcg/vcpu.ts'),
};

/** Opens a vCPU of whichever engine the port names, in the calling thread. */
export async function openVcpu(port: VcpuPort, context: VcpuContext): Promise<EngineVcpu> {
  const load = MODULES[port.engine] as (() => Promise<VcpuModule>) | undefined;
  if (load === undefined) throw new Error(`no vCPU implementation for engine ${port.engine}`);
  return (await load()).openVcpu(port, context);
}
