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
import { encodeTss64, type Gate, writeIdt } from '../../src/memory/interrupt-tables.ts';
import { PageTableBuilder } from '../../src/memory/page-tables.ts';
import { FLAT_CODE_32, FLAT_CODE_64, FLAT_DATA, GdtBuilder, SYSTEM_TYPE } from '../../src/memory/segments.ts';
import { S } from '../../src/tcg/layout.ts';
import { setSregs } from '../../src/tcg/state-transfer.ts';
import { VECTOR } from '../../src/tcg/system/fault.ts';
import { fxStateOf } from '../../src/tcg/system/fpu-operations.ts';
import { type EntryState, userModeEntry } from '../../src/vcpu/entry.ts';
import { TestCpu } from './machine.ts';

const RAM = 4 << 20;
const PAGE_TABLES = 0x10000;
const GDT = 0x1000;
export const CODE = 0x2000;
const DRIVER = 0x3000;
const DRIVER_32 = 0x3800;
/** Handler of #XM; other exceptions have none. */
const HANDLER = 0x4000;
const IDT = 0x5000;
const TSS = 0x6000;
/** Memory that cases may use: two pages around it are mapped too. */
export const DATA = 0x8000;
export const DATA_SIZE = 4096;
const STATE = 0x40000;
/** An address without RAM: a store to it ends a case. */
const DOORBELL = 0x300000 + RAM;

/** General registers, flags, vectors with their control word, x87 registers, and the data page. */
export interface CaseState {
  /** Sixteen registers in encoding order. */
  gpr: bigint[];
  flags: number;
  mxcsr: number;
  xmm: Uint8Array;
  /** Eight registers of ten bytes in slots of sixteen, by physical number: the MMX registers. */
  fpr: Uint8Array;
  fcw: number;
  fsw: number;
  /** Abridged tags. */
  ftw: number;
  data: Uint8Array;
}

/** Code that is run from a state. RSP must point into the data page. */
export interface Case {
  code: Uint8Array;
  /** The instructions of the code, where there are several. */
  parts?: readonly Uint8Array[];
  before: CaseState;
  /** Offsets in the data page of what is not compared. */
  varies?: readonly number[];
  /** Width of the code segment, by default 64. */
  width?: CaseWidth;
}

/** 64-bit mode, or compatibility mode with code of 32 bits. */
export type CaseWidth = 32 | 64;

/** What came of a case: a state, possibly that which the handler of #XM found, or an exception without a handler. */
export type Result = { state: CaseState; vector: number } | { fault: number };

/** Faults from here down are none: KVM would have had to emulate the code, as of accesses where there is no RAM, and could not. */
export const NOT_RUN = -100;

/** Flags a case compares: arithmetic ones and DF. */
export const COMPARED_FLAGS = 0x8d5 | 0x400;

// Layout of the state block in guest memory.
const AT = { gpr: 0, flags: 128, target: 136, vector: 148, fx: 0x400 } as const;
/** Offsets in the FXSAVE image (SDM vol. 1, table 10-2). */
const FX = { fcw: 0, fsw: 2, ftw: 4, mxcsr: 24, st: 32, xmm: 160, size: 512 } as const;

/** Collects code; in compatibility mode without REX.W. */
function emitter(width: CaseWidth) {
  const bytes: number[] = [];
  return {
    bytes,
    registers: width === 64 ? 16 : 8,
    emit: (...more: number[]) => bytes.push(...more),
    emitWide: (extended: boolean, ...more: number[]) =>
      bytes.push(...(width === 64 ? [extended ? 0x4c : 0x48] : []), ...more),
  };
}

/** movs of the whole state from and to the block; the case runs in between. */
function driver(width: CaseWidth): Uint8Array {
  const { bytes, registers, emit, emitWide } = emitter(width);
  const address = (value: number) => [value & 0xff, (value >> 8) & 0xff, (value >> 16) & 0xff, value >>> 24];
  // fxrstor64 [abs32]
  emitWide(false, 0x0f, 0xae, 0x0c, 0x25, ...address(STATE + AT.fx));
  // push qword [flags]; popf, on a stack of the driver's own
  emitWide(false, 0xc7, 0xc4, ...address(STATE + 0x800));
  emit(0xff, 0x34, 0x25, ...address(STATE + AT.flags));
  emit(0x9d);
  // mov rN, [abs32]
  for (let i = 0; i < registers; i++)
    emitWide(i >= 8, 0x8b, ((i & 7) << 3) | 4, 0x25, ...address(STATE + AT.gpr + i * 8));
  // jmp [target]
  emit(0xff, 0x24, 0x25, ...address(STATE + AT.target));
  return Uint8Array.from(bytes);
}

/** Stores the state after the case and rings the doorbell. */
function epilogue(width: CaseWidth): Uint8Array {
  const { bytes, registers, emit, emitWide } = emitter(width);
  const address = (value: number) => [value & 0xff, (value >> 8) & 0xff, (value >> 16) & 0xff, value >>> 24];
  for (let i = 0; i < registers; i++)
    emitWide(i >= 8, 0x89, ((i & 7) << 3) | 4, 0x25, ...address(STATE + AT.gpr + i * 8));
  emitWide(false, 0xc7, 0xc4, ...address(STATE + 0x800));
  emit(0x9c, 0x8f, 0x04, 0x25, ...address(STATE + AT.flags));
  // fxsave64 [abs32]
  emitWide(false, 0x0f, 0xae, 0x04, 0x25, ...address(STATE + AT.fx));
  // mov [DOORBELL], al
  emit(0x88, 0x04, 0x25, ...address(DOORBELL));
  return Uint8Array.from(bytes);
}

/** `mov [DOORBELL], al` */
const DOORBELL_CODE = Uint8Array.of(0x88, 0x04, 0x25, 0, 0, DOORBELL >> 16, 0);
const EPILOGUE = { 32: epilogue(32), 64: epilogue(64) } as const;
/** `mov byte [vector], 19` */
const HANDLER_CODE = Uint8Array.of(
  0xc6,
  0x04,
  0x25,
  (STATE + AT.vector) & 0xff,
  (STATE >> 8) & 0xff,
  STATE >> 16,
  0,
  VECTOR.XM,
);

/** The registers that make a CPU run code of either width. */
interface Tables {
  readonly regs: EntryState['regs'];
  readonly sregs: Readonly<Record<CaseWidth, EntryState['sregs']>>;
}

/** Page tables, descriptor tables and a stack for #XM; the registers that make a CPU use them. */
function prepareTables(memory: GuestMemory, afterwards: Uint8Array): Tables {
  const tables = new PageTableBuilder(memory, { start: PAGE_TABLES, end: PAGE_TABLES + 0x10000 });
  const { cr3 } = tables.identityMap(0, 16 << 20, { user: true });
  const gdt = new GdtBuilder();
  const { selector } = gdt.add(FLAT_CODE_64, { selector: 0x10 });
  gdt.add(FLAT_DATA, { selector: 0x18 });
  const code = gdt.add({ ...FLAT_CODE_64, dpl: 3 });
  const data = gdt.add({ ...FLAT_DATA, dpl: 3 });
  const tss = gdt.add(
    { ...FLAT_DATA, base: BigInt(TSS), limit: 0x67, type: SYSTEM_TYPE.TSS_BUSY, db: 0, s: 0, g: 0 },
    { long: true },
  );
  const code32 = gdt.add({ ...FLAT_CODE_32, dpl: 3 });
  const gdtr = gdt.write(memory, GDT);
  const gate = { selector, offset: BigInt(HANDLER) };
  const idt = writeIdt(memory, IDT, new Map<number, Gate>([[VECTOR.XM, gate]]));
  memory.write(TSS, encodeTss64({ rsp: [BigInt(STATE + 0x800)] }));
  memory.write(HANDLER, HANDLER_CODE);
  memory.write(HANDLER + HANDLER_CODE.length, afterwards);
  const { regs, sregs } = userModeEntry({
    entry: BigInt(DRIVER),
    stack: 0n,
    cr3,
    tables: { gdt: gdtr, idt, code, data, tss },
  });
  return { regs, sregs: { 64: sregs, 32: { ...sregs, cs: code32 } } };
}

function prepare(memory: GuestMemory, { code, before, width = 64 }: Case): void {
  memory.write(CODE, code);
  memory.write(CODE + code.length, EPILOGUE[width]);
  before.gpr.forEach((value, i) => {
    memory.writeU64(STATE + AT.gpr + i * 8, value);
  });
  memory.writeU64(STATE + AT.flags, BigInt(before.flags | 2));
  memory.writeU64(STATE + AT.target, BigInt(CODE));
  memory.writeU32(STATE + AT.vector, 0);
  memory.write(STATE + AT.fx, fxImage(before));
  memory.write(DATA, before.data);
}

/** The FXSAVE image of a state: registers follow from ST(0) on. */
function fxImage({ fpr, fcw, fsw, ftw, mxcsr, xmm }: CaseState): Uint8Array {
  const image = new Uint8Array(FX.size);
  const view = new DataView(image.buffer);
  view.setUint16(FX.fcw, fcw, true);
  view.setUint16(FX.fsw, fsw, true);
  view.setUint8(FX.ftw, ftw);
  view.setUint32(FX.mxcsr, mxcsr, true);
  const top = (fsw >> 11) & 7;
  for (let i = 0; i < 8; i++) {
    const at = ((top + i) & 7) * 16;
    image.set(fpr.subarray(at, at + 10), FX.st + i * 16);
  }
  image.set(xmm, FX.xmm);
  return image;
}

function fromFxImage(image: Uint8Array): Pick<CaseState, 'fpr' | 'fcw' | 'fsw' | 'ftw' | 'mxcsr' | 'xmm'> {
  const view = new DataView(image.buffer, image.byteOffset);
  const fsw = view.getUint16(FX.fsw, true);
  const fpr = new Uint8Array(128);
  for (let i = 0; i < 8; i++) {
    const at = FX.st + i * 16;
    fpr.set(image.subarray(at, at + 10), (((fsw >> 11) + i) & 7) * 16);
  }
  return {
    fpr,
    fcw: view.getUint16(FX.fcw, true),
    fsw,
    ftw: view.getUint8(FX.ftw),
    mxcsr: view.getUint32(FX.mxcsr, true),
    xmm: image.slice(FX.xmm, FX.xmm + 256),
  };
}

function collect(memory: GuestMemory): CaseState {
  return {
    gpr: Array.from({ length: 16 }, (_, i) => memory.readU64(STATE + AT.gpr + i * 8)),
    flags: Number(memory.readU64(STATE + AT.flags)) & COMPARED_FLAGS,
    ...fromFxImage(memory.read(STATE + AT.fx, FX.size)),
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
    const { sregs, regs } = prepareTables(this.#memory, EPILOGUE[64]);
    this.#sregs = sregs;
    this.#regs = { 64: regs, 32: { ...regs, rip: BigInt(DRIVER_32) } };
    this.#memory.write(DRIVER, driver(64));
    this.#memory.write(DRIVER_32, driver(32));
  }

  run(c: Case): Result {
    prepare(this.#memory, c);
    const { width = 64 } = c;
    this.#vcpu.set('sregs', this.#sregs[width]);
    this.#vcpu.set('regs', this.#regs[width]);
    for (;;) {
      this.#vcpu.enter();
      const reason = this.#run.getUint32(abi.KVM_RUN_EXIT_REASON, true);
      if (reason === abi.KVM_EXIT_MMIO) {
        return { state: collect(this.#memory), vector: this.#memory.readU32(STATE + AT.vector) };
      }
      // Without a gate any other exception is a triple fault.
      if (reason === abi.KVM_EXIT_SHUTDOWN) return { fault: -1 };
      if (reason !== abi.KVM_EXIT_INTR) return { fault: NOT_RUN - reason };
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
  readonly #sregs;

  constructor(hasFeature?: (feature: string) => boolean) {
    this.test = new TestCpu({ ram: RAM, hasFeature });
    this.#sregs = prepareTables(this.test.memory, DOORBELL_CODE).sregs;
  }

  run({ code, before, width = 64 }: Case): Result {
    const { cpu, memory } = this.test;
    const { state } = cpu;
    memory.write(CODE, code);
    memory.write(CODE + code.length, DOORBELL_CODE);
    memory.write(DATA, before.data);
    cpu.mmu.touched(cpu.map.host(CODE), code.length + DOORBELL_CODE.length);
    memory.writeU32(STATE + AT.vector, 0);
    setSregs(cpu, this.#sregs[width]);
    state.rip = BigInt(CODE);
    fxStateOf(cpu).mxcsr = before.mxcsr;
    before.gpr.forEach((value, i) => {
      state.setGpr(i, value);
    });
    cpu.rflags = BigInt(before.flags | 2);
    state.bytes.set(before.xmm, state.base + S.XMM);
    state.bytes.set(before.fpr, state.base + S.FPR);
    state.setI32(S.FCW, before.fcw);
    state.setI32(S.FSW, before.fsw);
    state.setI32(S.FTW, before.ftw);
    state.setI32(S.FOP, 0);
    state.setU64(S.FIP, 0n);
    state.setU64(S.FDP, 0n);
    for (let i = 0; i < 1000; i++) {
      const outcome = cpu.run(10_000);
      if (outcome === 'device') {
        cpu.log.clear();
        return { state: this.#collect(), vector: memory.readU32(STATE + AT.vector) };
      }
      if (outcome === 'shutdown') return { fault: -1 };
    }
    return { fault: -2 };
  }

  #collect(): CaseState {
    const { cpu, memory } = this.test;
    const { state } = cpu;
    const bytes = (field: number, length: number) =>
      state.bytes.slice(state.base + field, state.base + field + length);
    return {
      gpr: Array.from({ length: 16 }, (_, i) => state.gpr(i)),
      flags: Number(cpu.rflags) & COMPARED_FLAGS,
      mxcsr: fxStateOf(cpu).mxcsr,
      xmm: bytes(S.XMM, 256),
      fpr: bytes(S.FPR, 128),
      fcw: state.i32(S.FCW),
      fsw: state.i32(S.FSW),
      ftw: state.i32(S.FTW),
      data: memory.read(DATA, DATA_SIZE),
    };
  }
}
