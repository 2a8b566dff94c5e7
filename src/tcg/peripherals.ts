/** What belongs to a processor but lies outside its core: time stamp counter, local APIC and kvm-clock. */
import { isApicMsr, readApicMsr, writeApicMsr } from '../devices/irqchip/apic-access.ts';
import { KvmClock } from '../devices/irqchip/kvm-clock.ts';
import type { LocalApic } from '../devices/irqchip/local-apic.ts';
import type { SharedTime } from '../devices/shared-time.ts';
import { PAGE_SIZE } from '../memory/layout.ts';
import type { Cpu } from './cpu.ts';
import { TSC_KHZ } from './cpuid.ts';
import type { Peripherals } from './system/registers.ts';

/** A time stamp counter that counts guest time's nanoseconds. */
export class GuestTsc {
  readonly #time: SharedTime;
  /** The TSC at guest time 0. */
  #offset = 0n;

  constructor(time: SharedTime) {
    this.#time = time;
  }

  read(): bigint {
    return BigInt.asUintN(64, BigInt(this.#time.now()) + this.#offset);
  }

  write(value: bigint): void {
    this.#offset = BigInt.asIntN(64, value - BigInt(this.#time.now()));
  }

  /** Guest time in nanoseconds at which it reaches a value. */
  nsAt(tsc: bigint): number {
    return Number(tsc - this.#offset);
  }
}

/** The peripherals of a vCPU with a local APIC. */
export class VcpuPeripherals implements Peripherals {
  readonly clock: KvmClock;
  /** 64 random bits; the host's own when absent. */
  random?: () => bigint;
  readonly #cpu: Cpu;
  readonly #apic: LocalApic;
  readonly #tsc: GuestTsc;

  constructor(cpu: Cpu, apic: LocalApic, tsc: GuestTsc, time: SharedTime) {
    this.#cpu = cpu;
    this.#apic = apic;
    this.#tsc = tsc;
    this.clock = new KvmClock({
      memory: {
        read: (gpa, size) => this.#read(gpa, size),
        write: (gpa, bytes) => this.#write(gpa, bytes),
      },
      readTsc: () => tsc.read(),
      tsc,
      tscKhz: TSC_KHZ,
      wallBase: () => time.wallBase,
    });
  }

  tsc(): bigint {
    return this.#tsc.read();
  }

  setTsc(value: bigint): void {
    this.#tsc.write(value);
    // Its deadline may have come.
    this.#apic.timer.retime();
    this.#attend();
    this.clock.update();
  }

  readMsr(index: number): bigint | undefined {
    if (isApicMsr(index)) return readApicMsr(this.#apic, index);
    return KvmClock.isMsr(index) ? this.clock.readMsr(index) : undefined;
  }

  writeMsr(index: number, value: bigint): boolean {
    if (KvmClock.isMsr(index)) {
      this.clock.writeMsr(index, value);
      return true;
    }
    if (!isApicMsr(index)) return false;
    this.#attend();
    return writeApicMsr(this.#apic, index, value);
  }

  get cr8(): bigint {
    return BigInt(this.#apic.cr8);
  }
  set cr8(priority: bigint) {
    this.#attend();
    this.#apic.cr8 = Number(priority);
  }

  /** What was written may let an interrupt through. */
  #attend(): void {
    this.#cpu.state.attend();
  }

  #read(gpa: number, size: number): Uint8Array | undefined {
    const { map, state } = this.#cpu;
    const host = map.host(gpa);
    const inPage = (gpa % PAGE_SIZE) + size <= PAGE_SIZE;
    return host < 0 || !inPage ? undefined : state.bytes.slice(host, host + size);
  }

  #write(gpa: number, bytes: Uint8Array): void {
    const { map, mmu, state } = this.#cpu;
    const host = map.host(gpa, true);
    if (host < 0) return;
    state.bytes.set(bytes, host);
    mmu.touched(host, bytes.length);
  }
}
