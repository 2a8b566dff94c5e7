/** Guest code in 64-bit mode on a bare CPU, without tables for exceptions: what it raises is taken down. */
import { PageTableBuilder } from '../../../src/memory/page-tables.ts';
import { S } from '../../../src/tcg/layout.ts';
import { assemble } from '../../support/assemble.ts';
import { TestCpu } from '../machine.ts';

export const CODE = 0x2000;
/** A page for the guest's data, aligned. */
export const DATA = 0x8000;
const STACK = 0xa000;

/** How a guest ended: with HLT, or with the vector of an exception. */
export type End = 'halt' | number;

export interface BareGuestOptions {
  readonly cpl?: 0 | 3;
  readonly hasFeature?: (feature: string) => boolean;
}

/** A guest that stops at HLT and at its first exception. */
export class BareGuest extends TestCpu {
  readonly #cr3: number;
  readonly #cpl: 0 | 3;
  #raised: number | undefined;

  /** @param source assembler text */
  constructor(source: string, options: BareGuestOptions = {}) {
    super({ hasFeature: options.hasFeature });
    const tables = new PageTableBuilder(this.memory, { start: 0x10000, end: 0x40000 });
    const { cr3 } = tables.identityMap(0, 8 << 20, { user: true });
    this.memory.write(CODE, assemble(source, CODE));
    this.#cr3 = Number(cr3);
    this.#cpl = options.cpl ?? 0;
    this.restart();
    this.cpu.system.raise = (vector) => {
      this.#raised = vector;
      return false;
    };
  }

  /** Goes back to the start of the code, with CR0 and CR4 as at first but for some bits. */
  restart({ cr0 = 0n, cr4 = 0n }: { cr0?: bigint; cr4?: bigint } = {}): this {
    const { state, blocks } = this.cpu;
    this.longMode({ cr3: this.#cr3, rip: BigInt(CODE), rsp: BigInt(STACK), cpl: this.#cpl });
    state.setU64(S.CR0, state.u64(S.CR0) ^ cr0);
    state.setU64(S.CR4, state.u64(S.CR4) ^ cr4);
    blocks.selectKey();
    return this;
  }

  /** Runs on until it ends. */
  run(): End {
    this.#raised = undefined;
    for (let i = 0; i < 1000; i++) {
      const outcome = this.cpu.run(1000);
      if (this.#raised !== undefined) return this.#raised;
      if (outcome === 'halt') return outcome;
    }
    throw new Error('the guest does not stop');
  }
}
