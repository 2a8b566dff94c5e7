/**
 * The real processor as an oracle: unprivileged 64-bit code runs natively under the kvm engine at CPL 3. Many cases run
 * in one VM; each is an instruction sequence with a full register, flag, vector and memory state before and after.
 */
import * as abi from '../../src/kvm/abi/index.ts';
import { loadNative, nativeMemory } from '../../src/kvm/native.ts';
import { KvmVcpu } from '../../src/kvm/vcpu.ts';
import { KvmVm } from '../../src/kvm/vm.ts';
import { allocateRam } from '../../src/memory/allocate.ts';
import type { GuestMemory } from '../../src/memory/guest-memory.ts';
import { PageTableBuilder } from '../../src/memory/page-tables.ts';
import { FLAT_CODE_64, FLAT_DATA, GdtBuilder, SYSTEM_TYPE } from '../../src/memory/segments.ts';
import { S } from '../../src/tcg/layout.ts';
import { userModeEntry } from '../../src/vcpu/entry.ts';
import { TestCpu } from './machine.ts';

const RAM = 4 << 20;
const PAGE_TABLES = 0x10000;
const GDT = 0x1000;
export const CODE = 0x2000;
const DRIVER = 0x3000;
/** Memory that cases may use: two pages around it are mapped too. */
export const DATA = 0x8000;
export const DATA_SIZE = 4096;
const STATE = 0x40000;
/** An address without RAM: a store to it ends a case. */
const DOORBELL = 0x300000 + RAM;

/** General registers, flags, vectors and the data page. */
export interface CaseState {
  /** Sixteen registers in encoding order. */
  gpr: bigint[];
  flags: number;
  xmm: Uint8Array;
  data: Uint8Array;
}

/** Code that is run from a state. RSP must point into the data page. */
export interface Case {
  code: Uint8Array;
  before: CaseState;
}

/** What came of a case: a state, or the vector of the exception it raised. */
export type Result = { state: CaseState } | { fault: number };

/** Flags a case compares: arithmetic ones and DF. */
export const COMPARED_FLAGS = 0x8d5 | 0x400;

// Layout of the state block in guest memory.
const AT = { gpr: 0, flags: 128, xmm: 256, target: 136 } as const;

/** movs of the whole state from and to the block; the case runs in between. */
function driver(): Uint8Array {
  const bytes: number[] = [];
  const emit = (...more: number[]) => bytes.push(...more);
  const address = (value: number) => [value & 0xff, (value >> 8) & 0xff, (value >> 16) & 0xff, value >>> 24];
  // movups xmmN, [abs32]
  for (let i = 0; i < 16; i++) {
    if (i >= 8) emit(0x44);
    emit(0x0f, 0x10, ((i & 7) << 3) | 4, 0x25, ...address(STATE + AT.xmm + i * 16));
  }
  // push qword [flags]; popf, on a stack of the driver's own
  emit(0x48, 0xc7, 0xc4, ...address(STATE + 0x800));
  emit(0xff, 0x34, 0x25, ...address(STATE + AT.flags));
  emit(0x9d);
  // mov rN, [abs32]
  for (let i = 0; i < 16; i++)
    emit(0x48 | (i >= 8 ? 4 : 0), 0x8b, ((i & 7) << 3) | 4, 0x25, ...address(STATE + AT.gpr + i * 8));
  // jmp [target]
  emit(0xff, 0x24, 0x25, ...address(STATE + AT.target));
  return Uint8Array.from(bytes);
}

/** Stores the state after the case and rings the doorbell. */
function epilogue(): Uint8Array {
  const bytes: number[] = [];
  const emit = (...more: number[]) => bytes.push(...more);
  const address = (value: number) => [value & 0xff, (value >> 8) & 0xff, (value >> 16) & 0xff, value >>> 24];
  for (let i = 0; i < 16; i++)
    emit(0x48 | (i >= 8 ? 4 : 0), 0x89, ((i & 7) << 3) | 4, 0x25, ...address(STATE + AT.gpr + i * 8));
  emit(0x48, 0xc7, 0xc4, ...address(STATE + 0x800));
  emit(0x9c, 0x8f, 0x04, 0x25, ...address(STATE + AT.flags));
  for (let i = 0; i < 16; i++) {
    if (i >= 8) emit(0x44);
    emit(0x0f, 0x11, ((i & 7) << 3) | 4, 0x25, ...address(STATE + AT.xmm + i * 16));
  }
  // mov [DOORBELL], al
  emit(0x88, 0x04, 0x25, ...address(DOORBELL));
  return Uint8Array.from(bytes);
}

const DRIVER_CODE = driver();
/** `mov [DOORBELL], al` */
const DOORBELL_CODE = Uint8Array.of(0x88, 0x04, 0x25, 0, 0, DOORBELL >> 16, 0);
const EPILOGUE = epilogue();

function prepare(memory: GuestMemory, { code, before }: Case): void {
  memory.write(CODE, code);
  memory.write(CODE + code.length, EPILOGUE);
  before.gpr.forEach((value, i) => {
    memory.writeU64(STATE + AT.gpr + i * 8, value);
  });
  memory.writeU64(STATE + AT.flags, BigInt(before.flags | 2));
  memory.writeU64(STATE + AT.target, BigInt(CODE));
  memory.write(STATE + AT.xmm, before.xmm);
  memory.write(DATA, before.data);
}

function collect(memory: GuestMemory): CaseState {
  return {
    gpr: Array.from({ length: 16 }, (_, i) => memory.readU64(STATE + AT.gpr + i * 8)),
    flags: Number(memory.readU64(STATE + AT.flags)) & COMPARED_FLAGS,
    xmm: memory.read(STATE + AT.xmm, 256),
    data: memory.read(DATA, DATA_SIZE),
  };
}

/** Runs cases on the real processor. Dispose of it. */
export class Oracle implements Disposable {
  readonly #memory: GuestMemory;
  readonly #vm: KvmVm;
  readonly #vcpu: KvmVcpu;
  readonly #run: DataView;
  readonly #sregs;
  readonly #regs;

  constructor() {
    this.#memory = allocateRam({ size: RAM, native: nativeMemory(loadNative()) });
    this.#vm = KvmVm.create({ memory: this.#memory, irqchip: 'none', pit: false });
    this.#vcpu = new KvmVcpu(this.#vm.vcpuPort(0));
    this.#vcpu.set('cpuid', this.#vm.supportedCpuid());
    this.#run = new DataView(this.#vcpu.run.buffer, this.#vcpu.run.byteOffset);
    const tables = new PageTableBuilder(this.#memory, { start: PAGE_TABLES, end: PAGE_TABLES + 0x10000 });
    const { cr3 } = tables.identityMap(0, 16 << 20, { user: true });
    const gdt = new GdtBuilder();
    gdt.add(FLAT_CODE_64, { selector: 0x10 });
    gdt.add(FLAT_DATA, { selector: 0x18 });
    const code = gdt.add({ ...FLAT_CODE_64, dpl: 3 });
    const data = gdt.add({ ...FLAT_DATA, dpl: 3 });
    const tss = gdt.add(
      { ...FLAT_DATA, limit: 0x67, type: SYSTEM_TYPE.TSS_BUSY, db: 0, s: 0, g: 0 },
      { long: true },
    );
    const gdtr = gdt.write(this.#memory, GDT);
    const entry = userModeEntry({
      entry: BigInt(DRIVER),
      stack: 0n,
      cr3,
      tables: { gdt: gdtr, idt: { base: 0n, limit: 0 }, code, data, tss },
    });
    this.#sregs = entry.sregs;
    this.#regs = entry.regs;
    this.#memory.write(DRIVER, DRIVER_CODE);
  }

  run(c: Case): Result {
    prepare(this.#memory, c);
    this.#vcpu.set('sregs', this.#sregs);
    this.#vcpu.set('regs', this.#regs);
    for (;;) {
      this.#vcpu.enter();
      const reason = this.#run.getUint32(abi.KVM_RUN_EXIT_REASON, true);
      if (reason === abi.KVM_EXIT_MMIO) return { state: collect(this.#memory) };
      // Without an IDT any exception is a triple fault.
      if (reason === abi.KVM_EXIT_SHUTDOWN) return { fault: -1 };
      if (reason !== abi.KVM_EXIT_INTR) return { fault: -100 - reason };
    }
  }

  [Symbol.dispose](): void {
    this.#vcpu.close();
    void this.#vm[Symbol.asyncDispose]();
  }
}

/** Runs the same cases on the tcg engine. */
export class Subject {
  readonly test: TestCpu;
  readonly #cr3: number;

  constructor(hasFeature?: (feature: string) => boolean) {
    this.test = new TestCpu({ ram: RAM, hasFeature });
    const tables = new PageTableBuilder(this.test.memory, { start: PAGE_TABLES, end: PAGE_TABLES + 0x10000 });
    this.#cr3 = Number(tables.identityMap(0, 16 << 20, { user: true }).cr3);
  }

  run({ code, before }: Case): Result {
    const { cpu, memory } = this.test;
    const { state } = cpu;
    memory.write(CODE, code);
    memory.write(CODE + code.length, DOORBELL_CODE);
    memory.write(DATA, before.data);
    cpu.mmu.touched(cpu.map.host(CODE), code.length + DOORBELL_CODE.length);
    this.test.longMode({ cr3: this.#cr3, rip: BigInt(CODE), rsp: 0n, cpl: 3 });
    before.gpr.forEach((value, i) => {
      state.setGpr(i, value);
    });
    cpu.rflags = BigInt(before.flags | 2);
    state.bytes.set(before.xmm, state.base + S.XMM);
    for (let i = 0; i < 1000; i++) {
      const outcome = cpu.run(10_000);
      if (outcome === 'device') {
        cpu.log.clear();
        return { state: this.#collect() };
      }
      if (outcome === 'shutdown') return { fault: -1 };
    }
    return { fault: -2 };
  }

  #collect(): CaseState {
    const { cpu, memory } = this.test;
    const at = cpu.state.base + S.XMM;
    return {
      gpr: Array.from({ length: 16 }, (_, i) => cpu.state.gpr(i)),
      flags: Number(cpu.rflags) & COMPARED_FLAGS,
      xmm: cpu.state.bytes.slice(at, at + 256),
      data: memory.read(DATA, DATA_SIZE),
    };
  }
}
