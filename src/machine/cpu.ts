/** What each vCPU starts with: CPUID, MSRs and the registers of the boot protocol's entry state. */
import type { GuestMemory } from '../memory/guest-memory.ts';
import { realModeSegment, unusableSegment } from '../memory/segments.ts';
import type { EngineVm } from '../vcpu/engine.ts';
import type { VcpuState } from '../vcpu/state.ts';
import type { LoadedBoot } from './boot.ts';
import type { ResolvedConfig } from './config.ts';

export function cpuSetup(
  config: ResolvedConfig,
  engine: EngineVm,
  _memory: GuestMemory,
  boot: LoadedBoot,
): Partial<VcpuState>[] {
  const seg = realModeSegment(0);
  return Array.from({ length: config.cpus }, () => ({
    cpuid: engine.supportedCpuid(),
    regs: {
      rax: 0n,
      rbx: 0n,
      rcx: 0n,
      rdx: 0n,
      rsi: 0n,
      rdi: 0n,
      rsp: 0n,
      rbp: 0n,
      r8: 0n,
      r9: 0n,
      r10: 0n,
      r11: 0n,
      r12: 0n,
      r13: 0n,
      r14: 0n,
      r15: 0n,
      rip: BigInt(boot.realMode!.ip),
      rflags: 2n,
    },
    sregs: {
      cs: realModeSegment(boot.realMode!.cs, 0xb),
      ds: seg,
      es: seg,
      fs: seg,
      gs: seg,
      ss: seg,
      tr: { ...seg, type: 0xb, s: 0 },
      ldt: unusableSegment(),
      gdt: { base: 0n, limit: 0xffff },
      idt: { base: 0n, limit: 0xffff },
      cr0: 0x10n,
      cr2: 0n,
      cr3: 0n,
      cr4: 0n,
      cr8: 0n,
      efer: 0n,
      apic_base: 0xfee00900n,
      interrupt_bitmap: [0n, 0n, 0n, 0n],
    },
  }));
}
