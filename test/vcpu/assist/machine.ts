/** A vCPU of plain objects with paged memory, and records of its state that the oracle program understands. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import { PageTableBuilder } from '../../../src/memory/page-tables.ts';
import { FLAT_CODE_64, FLAT_DATA, SYSTEM_TYPE, segment } from '../../../src/memory/segments.ts';
import type { AssistCpu } from '../../../src/vcpu/assist/index.ts';
import { CR0, CR4, longModeEntry } from '../../../src/vcpu/entry.ts';
import type { CpuidEntry, Regs, VcpuState } from '../../../src/vcpu/state.ts';

/** Linear addresses of code and of the record, the same as in oracle.c. */
export const CODE = 0x20000000;
export const STATE = 0x30000000;
export const RECORD_SIZE = 2304;
/** Offsets within a record. */
export const AT = { length: 32, signal: 36, rflags: 40, gpr: 64, memory: 256, xsave: 1280 } as const;
/** Linear address and size of the memory that instructions operate on. */
export const MEMORY = STATE + AT.memory;
export const MEMORY_SIZE = 1024;

export const GPR: readonly (keyof Regs)[] = [
  'rax',
  'rcx',
  'rdx',
  'rbx',
  'rsp',
  'rbp',
  'rsi',
  'rdi',
  'r8',
  'r9',
  'r10',
  'r11',
  'r12',
  'r13',
  'r14',
  'r15',
];

const CPUID: CpuidEntry[] = [
  { function: 0xd, index: 0, flags: 1, eax: 7, ebx: 832, ecx: 832, edx: 0 },
  { function: 0xd, index: 1, flags: 1, eax: 0xf, ebx: 832, ecx: 0, edx: 0 },
  { function: 0xd, index: 2, flags: 1, eax: 256, ebx: 576, ecx: 0, edx: 0 },
  { function: 0x80000001, index: 0, flags: 0, eax: 0, ebx: 0, ecx: 0, edx: 1 << 27 },
];

/** Guest-physical address of a linear address below the code and above the record. */
export function physical(linear: number): number {
  return linear - CODE + (linear >= STATE ? 0x40000 + CODE - STATE : 0x20000);
}

/** A vCPU in 64-bit mode whose state is held in `state`. */
export class TestCpu implements AssistCpu {
  readonly memory: GuestMemory;
  state: VcpuState;
  /** What was set, in order. */
  readonly sets: string[] = [];
  readonly msrs = new Map<number, bigint>();

  constructor() {
    this.memory = new GuestMemory({
      memories: [new WebAssembly.Memory({ initial: 16, maximum: 16, shared: true })],
      regions: [{ gpa: 0, size: 0x100000, memory: 0, offset: 0 }],
    });
    const tables = new PageTableBuilder(this.memory, { start: 0x1000, end: 0x10000 });
    tables.map(BigInt(CODE), physical(CODE), 0x2000);
    tables.map(BigInt(STATE), physical(STATE), 0x4000);
    const segments = {
      gdt: { base: 0n, limit: 0 },
      code: segment(FLAT_CODE_64, 0x10),
      data: segment(FLAT_DATA, 0x18),
      tss: segment({ ...FLAT_DATA, limit: 0x67, type: SYSTEM_TYPE.TSS_BUSY, s: 0, g: 0, db: 0 }, 0x20),
    };
    const { regs, sregs } = longModeEntry({ entry: BigInt(CODE), cr3: tables.cr3, segments });
    sregs.cr0 |= CR0.WP;
    sregs.cr4 |= CR4.OSXSAVE | CR4.FSGSBASE;
    this.state = {
      regs,
      sregs,
      fpu: {
        fpr: new Uint8Array(128),
        fcw: 0,
        fsw: 0,
        ftwx: 0,
        last_opcode: 0,
        last_ip: 0n,
        last_dp: 0n,
        xmm: new Uint8Array(256),
        mxcsr: 0,
      },
      xsave: new Uint8Array(4096),
      xcrs: [{ xcr: 0, value: 7n }],
      debugregs: { db: [0n, 0n, 0n, 0n], dr6: 0n, dr7: 0n, flags: 0n },
      msrs: [],
      cpuid: CPUID,
      lapic: new Uint8Array(1024),
      mp_state: 0,
      events: {
        exception: { injected: 0, nr: 0, has_error_code: 0, pending: 0, error_code: 0 },
        interrupt: { injected: 0, nr: 0, soft: 0, shadow: 0 },
        nmi: { injected: 0, pending: 0, masked: 0 },
        sipi_vector: 0,
        flags: 0,
        smi: { smm: 0, pending: 0, smm_inside_nmi: 0, latched_init: 0 },
        triple_fault: { pending: 0 },
        exception_has_payload: 0,
        exception_payload: 0n,
      },
      tsc_khz: 1000000,
    };
  }

  get<K extends keyof VcpuState>(key: K): VcpuState[K] {
    return structuredClone(this.state[key]);
  }
  set<K extends keyof VcpuState>(key: K, value: VcpuState[K]): void {
    this.sets.push(key);
    if (key === 'msrs') for (const { index, data } of value as VcpuState['msrs']) this.msrs.set(index, data);
    else this.state[key] = structuredClone(value);
  }
  getMsrs(indices: readonly number[]) {
    return indices.map((index) => ({ index, data: this.msrs.get(index) ?? 0n }));
  }

  /** Puts code at RIP. */
  load(bytes: Iterable<number>): void {
    const code = new Uint8Array(15).fill(0xcc);
    code.set([...bytes]);
    this.state.regs.rip = BigInt(CODE);
    this.memory.write(physical(CODE), code);
  }

  /** Takes registers, memory and code from a record. */
  loadRecord(record: Uint8Array): void {
    const view = new DataView(record.buffer, record.byteOffset, record.length);
    this.load(record.subarray(0, view.getUint32(AT.length, true)));
    for (const [i, name] of GPR.entries()) this.state.regs[name] = view.getBigUint64(AT.gpr + 8 * i, true);
    this.state.regs.rflags = view.getBigUint64(AT.rflags, true);
    this.memory.write(physical(STATE), record);
    this.state.xsave = new Uint8Array(4096);
    this.state.xsave.set(record.subarray(AT.xsave, AT.xsave + 1024));
  }
}

/** Runs records on the processor. Needs a C compiler and fails saying so where there is none. */
export class Oracle {
  readonly #directory = mkdtempSync(join(tmpdir(), 'tsvisor-oracle-'));
  readonly #binary = join(this.#directory, 'oracle');

  constructor() {
    const compiler = process.env.CC ?? 'cc';
    const source = join(dirname(fileURLToPath(import.meta.url)), 'oracle.c');
    const built = spawnSync(compiler, ['-O1', '-Wall', '-o', this.#binary, source], { encoding: 'utf8' });
    if (built.status !== 0) {
      throw new Error(
        `This test needs a C compiler; '${compiler}' did not work: ${built.error ?? built.stderr}`,
      );
    }
  }

  run(records: readonly Uint8Array[]): Uint8Array[] {
    const { status, signal, stdout } = spawnSync(this.#binary, {
      input: Buffer.concat(records),
      maxBuffer: 2 ** 30,
    });
    if (status !== 0) throw new Error(`The oracle ended with status ${status}, signal ${signal}.`);
    return records.map((_, i) => stdout.subarray(i * RECORD_SIZE, (i + 1) * RECORD_SIZE));
  }

  close(): void {
    rmSync(this.#directory, { recursive: true });
  }
}
