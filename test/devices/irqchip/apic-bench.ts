/** Local APICs of a few vCPUs on one thread, with guest time and a TSC that move when told to. */
import {
  readApicMsr,
  readApicPage,
  writeApicMsr,
  writeApicPage,
} from '../../../src/devices/irqchip/apic-access.ts';
import { ApicBus } from '../../../src/devices/irqchip/apic-bus.ts';
import { apicMailboxes } from '../../../src/devices/irqchip/apic-mailbox.ts';
import { APIC, APIC_BASE_MSR, MSR_IA32_APICBASE } from '../../../src/devices/irqchip/apic-registers.ts';
import { LocalApic, type LocalApicOptions } from '../../../src/devices/irqchip/local-apic.ts';

/** A spurious-interrupt vector register that enables the APIC. */
export const SPIV_ENABLED = 0x1ff;

/** One local APIC and the guest's accesses to it. */
export class ApicBench {
  readonly apic: LocalApic;
  /** Vectors whose EOI was broadcast. */
  readonly eois: number[] = [];

  constructor(machine: ApicMachine, index: number, options: Partial<LocalApicOptions>) {
    this.apic = new LocalApic({
      index,
      bus: machine.bus,
      now: () => machine.now,
      tsc: { nsAt: (tsc) => Number(tsc) / machine.tscPerNs },
      onEoi: (vector) => this.eois.push(vector),
      physicalBits: 40,
      ...options,
    });
  }

  read(register: number, size = 4): number {
    return readApicPage(this.apic, register, size);
  }
  write(register: number, value: number, size = 4): void {
    writeApicPage(this.apic, register, size, value >>> 0);
  }
  rdmsr(index: number): bigint | undefined {
    return readApicMsr(this.apic, index);
  }
  wrmsr(index: number, value: bigint): boolean {
    return writeApicMsr(this.apic, index, value);
  }
  /** Reads or writes the x2APIC MSR of a register. */
  x2read(register: number): bigint | undefined {
    return this.rdmsr(APIC_BASE_MSR + register / 16);
  }
  x2write(register: number, value: bigint): boolean {
    return this.wrmsr(APIC_BASE_MSR + register / 16, value);
  }
  /** Enables the APIC in the spurious-interrupt vector register. */
  enable(): this {
    this.write(APIC.SPIV, SPIV_ENABLED);
    return this;
  }
  enterX2apic(): this {
    this.wrmsr(MSR_IA32_APICBASE, this.apic.apicBase | (1n << 10n));
    this.x2write(APIC.SPIV, BigInt(SPIV_ENABLED));
    return this;
  }
  /** Takes everything that is pending, each with its EOI. @returns the vectors */
  takeAll(): number[] {
    const vectors: number[] = [];
    this.apic.poll();
    while (this.apic.pendingVector() >= 0) {
      vectors.push(this.apic.acknowledge());
      this.apic.endOfInterrupt();
    }
    return vectors;
  }
}

/** Several local APICs. */
export class ApicMachine {
  /** Guest time, ns. */
  now = 0;
  /** TSC ticks a nanosecond. */
  tscPerNs = 2;
  readonly bus: ApicBus;
  readonly cpus: ApicBench[];

  constructor(count = 1, options: Partial<LocalApicOptions> = {}) {
    this.bus = new ApicBus(apicMailboxes(count));
    this.cpus = Array.from({ length: count }, (_, index) => new ApicBench(this, index, options));
  }
}
