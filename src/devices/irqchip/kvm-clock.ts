/**
 * kvm-clock: a vCPU's paravirtual clock (Linux Documentation/virt/kvm/x86/msr.rst). The guest names a structure in its
 * memory; what is written there lets it work guest time out from its TSC, without an exit.
 *
 * The structure is written when the guest names it, and anew with {@link KvmClock.update} whenever the relation of TSC and
 * guest time has changed: after a pause, a restored state, or a guest's write of its TSC.
 */
import type { TscClock } from './apic-timer.ts';

/** MSR numbers, the first pair being the old one; both work alike. */
const MSR_KVM_WALL_CLOCK = 0x11;
const MSR_KVM_SYSTEM_TIME = 0x12;
const MSR_KVM_WALL_CLOCK_NEW = 0x4b56_4d00;
const MSR_KVM_SYSTEM_TIME_NEW = 0x4b56_4d01;

/** MSR_KVM_SYSTEM_TIME: the clock is in use. */
const ENABLE = 1n;

/** struct pvclock_vcpu_time_info. */
const TIME_INFO = {
  VERSION: 0,
  TSC_TIMESTAMP: 8,
  SYSTEM_TIME: 16,
  TSC_TO_SYSTEM_MUL: 24,
  TSC_SHIFT: 28,
  FLAGS: 29,
  SIZE: 32,
} as const;
/** Readings of different vCPUs may be compared. */
const PVCLOCK_TSC_STABLE_BIT = 1;
/** The guest was paused; it clears this when it has taken notice. */
const PVCLOCK_GUEST_STOPPED = 2;

/** struct pvclock_wall_clock. */
const WALL_CLOCK = { VERSION: 0, SEC: 4, NSEC: 8, SIZE: 12 } as const;

const PAGE = 4096n;
const NS_PER_SECOND = 1_000_000_000n;
const NS_PER_MS = 1_000_000n;
const U32_MAX = 0xffff_ffffn;

/** Guest memory as the clock writes it: as stores of the guest, that is with whatever they cause. */
export interface ClockMemory {
  /** A copy; undefined where no RAM is. */
  read(gpa: number, size: number): Uint8Array | undefined;
  /** Does nothing where no RAM is. */
  write(gpa: number, bytes: Uint8Array): void;
}

/** What {@link KvmClock} is built from. */
export interface KvmClockOptions {
  memory: ClockMemory;
  /** Guest TSC now. */
  readTsc(): bigint;
  tsc: TscClock;
  /** TSC frequency the guest is told, kHz. */
  tscKhz: number;
  /** Wall-clock time at guest time 0, ms since 1970-01-01 UTC. */
  wallBase(): number;
}

/** How TSC ticks become nanoseconds: shifted left by `shift` (right if negative), times `mul`, shifted right by 32. */
export interface TscScale {
  mul: number;
  shift: number;
}

/** The most exact scale of a TSC frequency. @param khz 1 to 2^32-1 */
export function tscScale(khz: number): TscScale {
  let hz = BigInt(khz) * 1000n;
  let nanoseconds = NS_PER_SECOND;
  let shift = 0;
  // The multiplier is nanoseconds / hz as a 32-bit fraction: it has the most bits when the quotient is just below 1.
  while (hz > nanoseconds * 2n || hz > U32_MAX) {
    hz >>= 1n;
    shift--;
  }
  while (hz <= nanoseconds) {
    if (hz * 2n > U32_MAX) nanoseconds >>= 1n;
    else hz <<= 1n;
    shift++;
  }
  return { mul: Number((nanoseconds << 32n) / hz), shift };
}

/** The paravirtual clock of one vCPU. */
export class KvmClock {
  readonly #memory: ClockMemory;
  readonly #readTsc: () => bigint;
  readonly #tsc: TscClock;
  readonly #scale: TscScale;
  readonly #wallBase: () => number;
  #systemTime = 0n;
  #wallClock = 0n;

  constructor(options: KvmClockOptions) {
    this.#memory = options.memory;
    this.#readTsc = () => options.readTsc();
    this.#tsc = options.tsc;
    this.#scale = tscScale(options.tscKhz);
    this.#wallBase = () => options.wallBase();
  }

  /** Whether an MSR is the clock's. */
  static isMsr(index: number): boolean {
    return (
      index === MSR_KVM_SYSTEM_TIME_NEW ||
      index === MSR_KVM_WALL_CLOCK_NEW ||
      index === MSR_KVM_SYSTEM_TIME ||
      index === MSR_KVM_WALL_CLOCK
    );
  }

  /** RDMSR: what was last written. */
  readMsr(index: number): bigint {
    const isTime = index === MSR_KVM_SYSTEM_TIME || index === MSR_KVM_SYSTEM_TIME_NEW;
    return isTime ? this.#systemTime : this.#wallClock;
  }

  /** WRMSR. Addresses without RAM, or at which the structure would cross a page, are remembered and not written to. */
  writeMsr(index: number, value: bigint): void {
    if (index === MSR_KVM_SYSTEM_TIME || index === MSR_KVM_SYSTEM_TIME_NEW) {
      this.#systemTime = value;
      this.update();
    } else {
      this.#wallClock = value;
      this.#writeWallClock();
    }
  }

  /** Writes the structure anew. @param stopped tells the guest that it was paused, for its watchdogs */
  update(stopped = false): void {
    if ((this.#systemTime & ENABLE) === 0n) return;
    const found = this.#find(this.#systemTime & ~ENABLE, TIME_INFO.SIZE);
    if (found === undefined) return;
    const { gpa, old } = found;
    const notice = stopped ? PVCLOCK_GUEST_STOPPED : old.getUint8(TIME_INFO.FLAGS) & PVCLOCK_GUEST_STOPPED;
    const tsc = this.#readTsc();
    const view = new DataView(new ArrayBuffer(TIME_INFO.SIZE));
    view.setBigUint64(TIME_INFO.TSC_TIMESTAMP, tsc, true);
    view.setBigUint64(TIME_INFO.SYSTEM_TIME, BigInt(Math.max(0, Math.floor(this.#tsc.nsAt(tsc)))), true);
    view.setUint32(TIME_INFO.TSC_TO_SYSTEM_MUL, this.#scale.mul, true);
    view.setInt8(TIME_INFO.TSC_SHIFT, this.#scale.shift);
    view.setUint8(TIME_INFO.FLAGS, PVCLOCK_TSC_STABLE_BIT | notice);
    this.#publish(gpa, old, view);
  }

  /** Wall-clock time at guest time 0; the guest adds its system time. */
  #writeWallClock(): void {
    const found = this.#find(this.#wallClock, WALL_CLOCK.SIZE);
    if (found === undefined) return;
    const ns = BigInt(Math.max(0, Math.floor(this.#wallBase()))) * NS_PER_MS;
    const view = new DataView(new ArrayBuffer(WALL_CLOCK.SIZE));
    view.setUint32(WALL_CLOCK.SEC, Number((ns / NS_PER_SECOND) & U32_MAX), true);
    view.setUint32(WALL_CLOCK.NSEC, Number(ns % NS_PER_SECOND), true);
    this.#publish(found.gpa, found.old, view);
  }

  #find(address: bigint, size: number): { gpa: number; old: DataView } | undefined {
    if ((address % PAGE) + BigInt(size) > PAGE || address > BigInt(Number.MAX_SAFE_INTEGER)) return undefined;
    const gpa = Number(address);
    const old = this.#memory.read(gpa, size);
    return old === undefined ? undefined : { gpa, old: new DataView(old.buffer, old.byteOffset, size) };
  }

  /** Writes all but the version, between an odd version, which tells readers to wait, and the next even one. */
  #publish(gpa: number, old: DataView, view: DataView): void {
    const odd = ((old.getUint32(0, true) + 1) | 1) >>> 0;
    const bytes = new Uint8Array(view.buffer);
    view.setUint32(0, odd, true);
    this.#memory.write(gpa, bytes.slice(0, 4));
    this.#memory.write(gpa + 4, bytes.subarray(4));
    view.setUint32(0, (odd + 1) >>> 0, true);
    this.#memory.write(gpa, bytes.slice(0, 4));
  }
}
