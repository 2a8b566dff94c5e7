/** A VM and a vCPU on the test's own thread, below the machine: for tests of the kvm engine itself. */

import * as abi from '../../src/kvm/abi/index.ts';
import { loadNative, nativeMemory } from '../../src/kvm/native.ts';
import { KvmVcpu } from '../../src/kvm/vcpu.ts';
import { KvmVm } from '../../src/kvm/vm.ts';
import { allocateRam } from '../../src/memory/allocate.ts';
import type { GuestMemory } from '../../src/memory/guest-memory.ts';
import type { EngineVmConfig } from '../../src/vcpu/engine.ts';
import { realModeEntry } from '../../src/vcpu/entry.ts';
import { assemble, CODE16 } from './assemble.ts';

const CODE = 0x1000;

/** A VM with 2 MiB of RAM and one vCPU in real mode. Dispose of it. */
export class TestVm implements Disposable {
  readonly memory: GuestMemory;
  readonly vm: KvmVm;
  readonly vcpu: KvmVcpu;
  readonly run: DataView;

  constructor(config: Partial<EngineVmConfig> = {}) {
    this.memory = allocateRam({ size: 2 << 20, native: nativeMemory(loadNative()) });
    this.vm = KvmVm.create({ memory: this.memory, irqchip: 'none', pit: false, ...config });
    this.vcpu = new KvmVcpu(this.vm.vcpuPort(0));
    this.vcpu.set('cpuid', this.vm.supportedCpuid());
    this.run = new DataView(this.vcpu.run.buffer, this.vcpu.run.byteOffset, this.vcpu.run.byteLength);
  }

  /** Puts real-mode code into memory and the vCPU at its start. */
  load(source: string): this {
    this.memory.write(CODE, assemble(CODE16 + source, CODE));
    const { regs, sregs } = realModeEntry({ cs: 0, ip: CODE, sp: 0x8000 });
    this.vcpu.set('sregs', sregs);
    this.vcpu.set('regs', regs);
    return this;
  }

  /** Enters the guest once. @returns the exit reason, or -errno */
  enter(): number {
    const result = this.vcpu.enter();
    return result < 0 ? result : this.run.getUint32(abi.KVM_RUN_EXIT_REASON, true);
  }

  [Symbol.dispose](): void {
    this.vcpu.close();
    void this.vm[Symbol.asyncDispose]();
  }
}

const LAPIC_SVR = 0xf0;
const LAPIC_IRR = 0x200;

/** Enables the local APIC, as firmware does: spurious-interrupt vector register, bit 8 (SDM vol. 3, 11.4.3). */
export function enableLapic({ vcpu }: TestVm): void {
  const lapic = vcpu.get('lapic');
  new DataView(lapic.buffer).setUint32(LAPIC_SVR, 0x1ff, true);
  vcpu.set('lapic', lapic);
}

/** Whether the local APIC has a vector in its interrupt request register. */
export function lapicPending({ vcpu }: TestVm, vector: number): boolean {
  const lapic = vcpu.get('lapic');
  const word = new DataView(lapic.buffer).getUint32(LAPIC_IRR + (vector >> 5) * 16, true);
  return ((word >>> (vector & 31)) & 1) === 1;
}
