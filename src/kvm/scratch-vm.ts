/**
 * A tiny VM on the calling thread, to find out what this host's KVM can do: one vCPU in 64-bit mode, an identity map,
 * one piece of code at a time.
 */
import { allocateRam } from '../memory/allocate.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import { PageTableBuilder } from '../memory/page-tables.ts';
import { FLAT_CODE_64, FLAT_DATA, GdtBuilder, SYSTEM_TYPE } from '../memory/segments.ts';
import { featureNamed, hasFeature } from '../vcpu/cpuid/index.ts';
import {
  type BootSegments,
  CR4,
  EFER,
  type EntryState,
  longModeEntry,
  type UserModeTables,
  userModeEntry,
} from '../vcpu/entry.ts';
import { MSR } from '../vcpu/msrs.ts';
import type { CpuidEntry } from '../vcpu/state.ts';
import * as abi from './abi/index.ts';
import { loadNative, nativeMemory } from './native.ts';
import { KvmVcpu } from './vcpu.ts';
import { KvmVm } from './vm.ts';

const MIB = 1 << 20;
const RAM = 4 * MIB;
const GDT = 0x1000;
const PAGE_TABLES = 0x10000;
const CODE = 0x2000;
const DATA = 0x4000;
const STACK = 0x8000;
/** An address without RAM, mapped: touching it is an MMIO exit, from any privilege level. */
const DOORBELL = 0x300000 + RAM;

/** What enables the instructions of a feature. */
const CR4_BIT = { xsave: CR4.OSXSAVE, fsgsbase: CR4.FSGSBASE } as const;

/** `mov [DOORBELL], al`: ends a piece of code at any privilege level. */
export const ENDING = Uint8Array.from([
  0x88,
  0x04,
  0x25,
  DOORBELL & 0xff,
  (DOORBELL >> 8) & 0xff,
  (DOORBELL >> 16) & 0xff,
  0,
]);

/** A VM for experiments. Dispose of it. */
export class ScratchVm implements Disposable {
  readonly memory: GuestMemory;
  readonly vm: KvmVm;
  readonly vcpu: KvmVcpu;
  readonly #cr3: bigint;
  readonly #kernel: BootSegments;
  readonly #tables: UserModeTables;
  readonly #cr4: bigint;

  /** @throws the errors of KvmVm.create */
  constructor(cpuid?: CpuidEntry[]) {
    this.memory = allocateRam({ size: RAM, native: nativeMemory(loadNative()) });
    this.vm = KvmVm.create({ memory: this.memory, irqchip: 'none', pit: false });
    this.vcpu = new KvmVcpu(this.vm.vcpuPort(0));
    const table = cpuid ?? this.vm.supportedCpuid();
    this.vcpu.set('cpuid', table);
    const enabled = (['xsave', 'fsgsbase'] as const).filter((name) => hasFeature(table, featureNamed(name)));
    this.#cr4 = enabled.reduce((bits, name) => bits | CR4_BIT[name], 0n);
    this.#cr3 = new PageTableBuilder(this.memory, {
      start: PAGE_TABLES,
      end: PAGE_TABLES + 0x10000,
    }).identityMap(0, 16 * MIB, { user: true }).cr3;
    const gdt = new GdtBuilder();
    const code = gdt.add(FLAT_CODE_64, { selector: 0x10 });
    const data = gdt.add(FLAT_DATA, { selector: 0x18 });
    const userCode = gdt.add({ ...FLAT_CODE_64, dpl: 3 });
    const userData = gdt.add({ ...FLAT_DATA, dpl: 3 });
    const tss = gdt.add(
      { ...FLAT_DATA, limit: 0x67, type: SYSTEM_TYPE.TSS_BUSY, db: 0, s: 0, g: 0 },
      { long: true },
    );
    const gdtr = gdt.write(this.memory, GDT);
    this.#tables = { gdt: gdtr, idt: { base: 0n, limit: 0 }, code: userCode, data: userData, tss };
    this.#kernel = { gdt: gdtr, code, data, tss };
  }
  /**
   * Runs code from its first byte to its first exit. RSI points at a page of zeroes, RCX holds `count`.
   * @param cpl privilege level 0 or 3
   * @param syscall enables SYSCALL, to an offset within the code
   * @returns KVM_EXIT_*: that of MMIO when the code came to its {@link ENDING}, of SHUTDOWN when it faulted
   */
  run(code: Uint8Array, cpl: 0 | 3 = 0, count = 0n, syscall?: { lstar: number }): number {
    this.memory.fill(DATA, 4096);
    this.memory.write(CODE, code);
    const { sregs, regs } = this.#entry(cpl);
    regs.rsi = BigInt(DATA);
    regs.rcx = count;
    sregs.cr4 |= this.#cr4;
    if (syscall !== undefined) {
      sregs.efer |= EFER.SCE;
      this.vcpu.set('msrs', [
        { index: MSR.IA32_STAR, data: BigInt(this.#kernel.code.selector) << 32n },
        { index: MSR.IA32_LSTAR, data: BigInt(CODE + syscall.lstar) },
      ]);
    }
    this.vcpu.set('sregs', sregs);
    this.vcpu.set('regs', regs);
    this.vcpu.enter();
    const run = new DataView(this.vcpu.run.buffer, this.vcpu.run.byteOffset);
    return run.getUint32(abi.KVM_RUN_EXIT_REASON, true);
  }

  /** The first four 32-bit words that the code has written at RSI. */
  result(): number[] {
    return [0, 4, 8, 12].map((offset) => this.memory.readU32(DATA + offset));
  }

  #entry(cpl: 0 | 3): EntryState {
    const options = { entry: BigInt(CODE), stack: BigInt(STACK), cr3: this.#cr3 };
    return cpl === 0
      ? longModeEntry({ ...options, segments: this.#kernel })
      : userModeEntry({ ...options, tables: this.#tables });
  }

  [Symbol.dispose](): void {
    this.vcpu.close();
    void this.vm[Symbol.asyncDispose]();
  }
}
