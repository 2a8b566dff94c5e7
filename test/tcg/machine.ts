/** A CPU of the tcg engine with its own memory, for tests and measurements. */

import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { Cpu } from '../../src/tcg/cpu.ts';
import { engineSize, PAGE, S, SEG } from '../../src/tcg/layout.ts';
import { RIGHTS } from '../../src/tcg/system/segments.ts';

const WASM_PAGE = 65536;

/** One vCPU and RAM from guest-physical address 0. */
export class TestCpu {
  readonly cpu: Cpu;
  readonly memory: GuestMemory;

  /** @param options `behind`: bytes of the memory behind RAM that are nobody's */
  constructor(options: { ram?: number; behind?: number; hasFeature?: (feature: string) => boolean } = {}) {
    const { ram = 4 << 20, behind = 0, hasFeature = () => true } = options;
    const offset = engineSize(1);
    const pages = Math.ceil((offset + ram + behind) / WASM_PAGE);
    const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
    const regions = [{ gpa: 0, size: ram, memory: 0, offset: Math.ceil(offset / PAGE) * PAGE }];
    this.memory = new GuestMemory({ memories: [memory], regions });
    this.cpu = new Cpu({ memory, regions, index: 0, hasFeature });
  }

  /** 64-bit mode at a privilege level with flat segments; page tables are the caller's. */
  longMode(options: { cr3: number; rip: bigint; rsp: bigint; cpl?: 0 | 3 }): this {
    const { state, system, mmu } = this.cpu;
    const { cr3, rip, rsp, cpl = 0 } = options;
    state.setU64(S.CR0, 0x8005_0033n);
    state.setU64(S.CR3, BigInt(cr3));
    state.setU64(S.CR4, 0x6a0n);
    state.setU64(S.EFER, 0xd01n);
    state.setI32(S.CPL, cpl);
    const code =
      RIGHTS.P | RIGHTS.S | RIGHTS.CODE | RIGHTS.RW | RIGHTS.ACCESSED | RIGHTS.G | RIGHTS.L | (cpl << 5);
    const data = RIGHTS.P | RIGHTS.S | RIGHTS.RW | RIGHTS.ACCESSED | RIGHTS.G | RIGHTS.DB | (cpl << 5);
    system.segments.set(SEG.CS, 0x10 | cpl, 0n, 0xffff_ffff, code);
    for (const segment of [SEG.ES, SEG.SS, SEG.DS, SEG.FS, SEG.GS]) {
      system.segments.set(segment, 0x18 | cpl, 0n, 0xffff_ffff, data);
    }
    this.cpu.rflags = 2n;
    state.setGpr(4, rsp);
    state.rip = rip;
    mmu.flush();
    mmu.selectTlb();
    return this;
  }
}
