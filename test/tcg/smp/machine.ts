/** Several CPUs of the tcg engine over one memory, each in its own worker thread. */
import { Worker } from 'node:worker_threads';
import { GuestMemory, type RamRegion } from '../../../src/memory/guest-memory.ts';
import { PageTableBuilder } from '../../../src/memory/page-tables.ts';
import { engineSize } from '../../../src/tcg/layout.ts';
import { assemble } from '../../support/assemble.ts';

const WASM_PAGE = 65536;
const TABLES = { start: 0x10000, end: 0x40000 };
/** Where the program of vCPU i begins, and its stack ends. */
const CODE = 0x100000;
const CODE_SIZE = 0x10000;
/** Guest RAM, all of it mapped where it is. */
export const RAM = 4 << 20;
/** Where all of RAM is mapped a second time. */
export const ALIAS = 0x4000_0000;
/** Free for the tests' data. */
export const DATA = 0x80000;
/** A byte that is not zero from when all vCPUs are on their way: programs may wait for it. */
export const GO = 0x7fff8;

/** The worker: sets a CPU to 64-bit mode and runs it until it halts. */
const WORKER = `
import { workerData, parentPort } from 'node:worker_threads';
const load = (name) => import(new URL(name, workerData.dist).href);
const [{ Cpu }, { S, SEG }, { RIGHTS }] = await Promise.all(
  ['cpu.js', 'layout.js', 'system/segments.js'].map(load));
const { memory, regions, index, vcpus, cr3, rip, rsp, budget } = workerData;
const cpu = new Cpu({ memory, regions, index, vcpus, hasFeature: () => true });
const { state, system, mmu } = cpu;
state.setU64(S.CR0, 0x80050033n);
state.setU64(S.CR3, cr3);
state.setU64(S.CR4, 0x6a0n);
state.setU64(S.EFER, 0xd01n);
const all = RIGHTS.P | RIGHTS.S | RIGHTS.RW | RIGHTS.ACCESSED | RIGHTS.G;
system.segments.set(SEG.CS, 0x10, 0n, 0xffffffff, all | RIGHTS.CODE | RIGHTS.L);
for (const segment of [SEG.ES, SEG.SS, SEG.DS, SEG.FS, SEG.GS]) {
  system.segments.set(segment, 0x18, 0n, 0xffffffff, all | RIGHTS.DB);
}
cpu.rflags = 2n;
state.setGpr(4, rsp);
state.rip = rip;
mmu.flush();
mmu.selectTlb();
parentPort.postMessage('ready');
let outcome;
do {
  outcome = cpu.run(budget);
} while (outcome === 'pause' || outcome === 'continue');
parentPort.postMessage({ outcome, registers: Array.from({ length: 16 }, (_, i) => state.gpr(i)), ...cpu.blocks.statistics });
`;

/** How a vCPU ended. */
export interface Ended {
  outcome: string;
  registers: bigint[];
  decoded: number;
  invalidated: number;
  flushes: number;
}

/** The machine. */
export class SmpMachine {
  readonly shared: WebAssembly.Memory;
  readonly regions: readonly RamRegion[];
  readonly memory: GuestMemory;
  readonly vcpus: number;
  readonly #cr3: bigint;
  readonly #workers: Worker[] = [];

  constructor(vcpus: number) {
    this.vcpus = vcpus;
    const offset = Math.ceil(engineSize(vcpus) / WASM_PAGE) * WASM_PAGE;
    const pages = (offset + RAM) / WASM_PAGE;
    this.shared = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
    this.regions = [{ gpa: 0, size: RAM, memory: 0, offset }];
    this.memory = new GuestMemory({ memories: [this.shared], regions: this.regions });
    const tables = new PageTableBuilder(this.memory, TABLES);
    const { cr3 } = tables.identityMap(0, RAM);
    tables.map(BigInt(ALIAS), 0, RAM);
    this.#cr3 = cr3;
  }

  /** Where the program of a vCPU begins. */
  static codeOf(index: number): number {
    return CODE + index * CODE_SIZE;
  }

  /** Runs a program on each vCPU until all have halted. @param budget of one run(), instructions */
  async run(programs: readonly string[], budget = 20_000): Promise<Ended[]> {
    const ends = programs.map((source, index) => this.#start(source, index, budget));
    await Promise.all(ends.map(({ ready }) => ready));
    Atomics.store(this.memory.bytes(GO, 1), 0, 1);
    return await Promise.all(ends.map(({ end }) => end));
  }

  /** Ends the threads. */
  async close(): Promise<void> {
    await Promise.all(this.#workers.map((worker) => worker.terminate()));
  }

  #start(source: string, index: number, budget: number): { ready: Promise<void>; end: Promise<Ended> } {
    const at = SmpMachine.codeOf(index);
    this.memory.write(at, assemble(`1: cmp byte ptr [${GO}], 0\nje 1b\n${source}`, at));
    const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(WORKER)}`), {
      workerData: {
        dist: new URL('../../../dist/tcg/', import.meta.url).href,
        memory: this.shared,
        regions: this.regions,
        index,
        vcpus: this.vcpus,
        cr3: this.#cr3,
        rip: BigInt(at),
        rsp: BigInt(at + CODE_SIZE),
        budget,
      },
    });
    this.#workers.push(worker);
    const messages = new Promise<Ended>((resolve, reject) => {
      worker.on('message', (message) => {
        if (message !== 'ready') resolve(message);
      });
      worker.once('error', reject);
    });
    const ready = new Promise<void>((resolve, reject) => {
      worker.once('message', () => resolve());
      worker.once('error', reject);
    });
    return { ready, end: messages };
  }
}
