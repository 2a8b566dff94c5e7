/** What a machine's vCPUs have counted. */
import { exitReasonName } from '../kvm/abi/index.ts';
import { COUNTER, type VcpuControl } from '../vcpu/control.ts';

/** What `Vm.stats` tells. */
export interface VmStats {
  /** Exits by reason, over all vCPUs. */
  exits: Record<string, number>;
  /** Entries into the guest. */
  entries: number;
  /** Instructions completed by the emulation assist. */
  assisted: number;
  /** Port and MMIO accesses that no device claimed. */
  unclaimed: number;
  /** kvm: notifications of devices that came by an ioeventfd, without an exit; some in quick succession count as one. */
  ioeventfd?: number;
  /** kvm: interrupts that went by an irqfd. */
  irqfd?: number;
  /** Guest instructions executed, when the engine executes them itself. */
  instructions?: number;
}

/** Adds up the counters of vCPUs, which may be running. */
export function collectStats(controls: readonly VcpuControl[]): VmStats {
  const stats: VmStats = { exits: {}, entries: 0, assisted: 0, unclaimed: 0 };
  for (const { counters } of controls) {
    counters.forEach((count, reason) => {
      if (count === 0 || reason >= COUNTER.entries) return;
      const name = exitReasonName(reason);
      stats.exits[name] = (stats.exits[name] ?? 0) + count;
    });
    stats.entries += counters[COUNTER.entries];
    stats.assisted += counters[COUNTER.assisted];
    stats.unclaimed += counters[COUNTER.unclaimed];
  }
  return stats;
}
