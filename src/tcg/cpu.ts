/** One vCPU: state, generated interpreter, block cache, MMU and system operations wired together. */
import type { RamRegion } from '../memory/guest-memory.ts';
import { CpuState } from './cpu-state.ts';
import { Blocks } from './decode/blocks.ts';
import { CodeWatch } from './decode/code-watch.ts';
import { Decoder } from './decode/decoder.ts';
import { SERIALIZES } from './decode/serializing.ts';
import { ExitLog } from './exits.ts';
import {
  type CompiledModules,
  type InterpreterExports,
  instantiate,
  loadInterpreter,
} from './interpreter.ts';
import { ATTENTION_ENGINE, areaBase, codeBit, R, S, STATUS } from './layout.ts';
import type { MemorySlots } from './memory-slots.ts';
import { Mmu } from './mmu/mmu.ts';
import { PhysicalMap } from './physical.ts';
import { Rendezvous } from './rendezvous.ts';
import { SystemOperations } from './system/operations.ts';
import { singleAccesses } from './system/single-access.ts';
import { stackAccesses } from './system/stack-access.ts';

/** What a {@link Cpu} is made with. */
export interface CpuConfig {
  /** The memory that holds the engine's areas and guest RAM. */
  readonly memory: WebAssembly.Memory;
  readonly regions: readonly RamRegion[];
  /** Index of the vCPU. */
  readonly index: number;
  /** How many vCPUs share the memory, by default 1. */
  readonly vcpus?: number;
  /** The interpreter as another thread has compiled it. */
  readonly modules?: CompiledModules;
  /** Memory besides RAM. */
  readonly slots?: MemorySlots;
  /** Which CPUID features it has, by the names of src/vcpu/cpuid. */
  readonly hasFeature: (feature: string) => boolean;
}

/** Why {@link Cpu.run} came back. */
export type Outcome =
  /** The budget is used up or attention was wanted; state.rip is where to go on. */
  | 'pause'
  /** A device access waits in `log.pending`. */
  | 'device'
  /** HLT was executed. */
  | 'halt'
  | 'shutdown'
  /** Nothing more to say; go on. */
  | 'continue';

/** A CPU that runs guest code. */
export class Cpu {
  readonly state: CpuState;
  readonly mmu: Mmu;
  readonly blocks: Blocks;
  readonly log = new ExitLog();
  readonly map: PhysicalMap;
  readonly system: SystemOperations;
  readonly exports: InterpreterExports;
  /** Told of bytes at RIP that are no instruction of this CPU, once for each opcode. UD2 is none of them. */
  onUnimplemented: ((bytes: Uint8Array, rip: bigint) => void) | undefined;
  readonly rendezvous: Rendezvous;
  /** Which CPUID features it has. */
  hasFeature: (feature: string) => boolean;
  readonly #decoder: Decoder;
  #replay = false;

  constructor(config: CpuConfig) {
    const { memory, regions, index, vcpus = 1 } = config;
    const base = areaBase(index);
    this.state = new CpuState(memory, base);
    this.state.setI32(S.FAULT_VECTOR, -1);
    this.state.setU64(S.SHADOW_RIP, (1n << 64n) - 1n);
    this.state.setI32(S.MXCSR, 0x1f80);
    this.state.setI32(S.FCW, 0x37f);
    // x87 cannot be disabled (SDM vol. 1, 13.3).
    this.state.setU64(S.XCR0, 1n);
    this.map = new PhysicalMap(regions, config.slots);
    this.rendezvous = new Rendezvous(this.state.words, index, vcpus);
    this.mmu = new Mmu(this.state, this.map, this.log, {
      codeBit: codeBit(index),
      watch: new CodeWatch(memory, regions, vcpus, index),
      rendezvous: this.rendezvous,
    });
    const interpreter = loadInterpreter(config.modules);
    this.hasFeature = config.hasFeature;
    this.#decoder = new Decoder(interpreter.instructions, config.hasFeature);
    this.blocks = new Blocks(this.state, this.mmu, this.map, this.#decoder, interpreter, { index, vcpus });
    this.system = new SystemOperations(this);
    this.mmu.isStackAccess = stackAccesses(this.state, interpreter);
    this.mmu.isSingleAccess = singleAccesses(this.state, interpreter);
    const { mmu, blocks, system } = this;
    this.exports = instantiate(interpreter, {
      memory,
      base,
      slow: (low: number, high: number, what: number, pc: number) => mmu.slow(low, high, what, pc),
      afterStore: (pc: number, host: number, size: number) => mmu.afterStore(pc, host, size),
      system: (code: number, pc: number) => {
        const status = system.execute(code, pc);
        if (SERIALIZES[code & 0xff]) blocks.synchronize(pc);
        return status;
      },
      lookup: () => blocks.lookup(),
      resolve: (pc: number, taken: number) => blocks.resolve(pc, taken),
      segmentFault: (segment: number, pc: number) => mmu.segmentFault(segment, pc),
    });
  }

  /** Gives it other CPUID features. */
  setFeatures(hasFeature: (feature: string) => boolean): void {
    this.hasFeature = hasFeature;
    this.#decoder.configure(hasFeature);
    this.blocks.flushAll();
  }

  /** RFLAGS with the arithmetic flags. */
  get rflags(): bigint {
    return this.exports.getFlags() | BigInt(this.state.eflags >>> 0) | 2n;
  }
  set rflags(value: bigint) {
    this.exports.setFlags(value);
    // Everything but the arithmetic flags.
    this.state.eflags = Number(value & 0x3f_7700n);
  }

  /**
   * Runs at most about `budget` instructions from S.RIP. Exceptions are delivered to the guest.
   */
  run(budget: number): Outcome {
    const { state, blocks, rendezvous } = this;
    // Before what it announces is looked at: what comes later is announced again.
    Atomics.and(state.words, (state.base + S.ATTENTION) >> 2, ~ATTENTION_ENGINE);
    rendezvous.enter();
    try {
      if (this.map.update()) {
        this.mmu.flush();
        blocks.flushAll();
      }
      blocks.synchronize();
      return this.#run(budget);
    } finally {
      rendezvous.leave();
    }
  }

  #run(budget: number): Outcome {
    const { state } = this;
    if (this.log.pending !== undefined) {
      this.log.complete();
      this.#replay = true;
    }
    this.log.rewind();
    if (!this.#replay) {
      state.setI32(S.BUDGET, budget);
      const ended = this.system.begin();
      if (ended !== undefined) return ended;
    }
    this.blocks.single = this.#replay || this.system.singleStep;
    // String instructions come back after each element.
    if (this.blocks.single) state.attend();
    const status = this.exports.run(this.blocks.single ? 0 : budget);
    this.#count(this.blocks.single ? 0 : budget);
    if (status === STATUS.PAUSE) {
      if (state.i32(S.BUDGET) < 0) this.blocks.sample();
      this.#completed();
      return this.system.afterStep() ? 'continue' : 'pause';
    }
    this.#setRip();
    if (this.log.pending !== undefined) return 'device';
    this.#completed();
    if (state.i32(S.FAULT_VECTOR) >= 0) return this.system.deliverFault() ? 'continue' : 'shutdown';
    return this.system.takeOutcome();
  }

  #completed(): void {
    this.#replay = false;
    this.log.clear();
  }

  #count(budget: number): void {
    const { state } = this;
    state.setU64(S.RETIRED, state.u64(S.RETIRED) + BigInt(budget - state.i32(S.BUDGET)));
  }

  /** After a leave: RIP of the instruction that did not complete. */
  #setRip(): void {
    const { state } = this;
    const pc = state.i32(S.PC);
    if (pc === 0) return;
    state.rip = state.u64(S.BLOCK_RIP) + BigInt(state.view.getUint16(pc + R.OFFSET, true));
  }
}
