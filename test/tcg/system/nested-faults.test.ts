/** Faults that are met while a fault is delivered (SDM vol. 3A 6.15, interrupt 8). */
import { expect, it } from 'vitest';
import { S, SEG } from '../../../src/tcg/layout.ts';
import { RIGHTS } from '../../../src/tcg/system/segments.ts';
import { assemble } from '../../support/assemble.ts';
import { TestCpu } from '../machine.ts';

const GDT = 0x1000;
const IDT = 0x2000;
const CODE = 0x3000;
const USER_CODE = 0x0b;
const USER_DATA = 0x13;
const INTERRUPT_GATE_DPL3 = 0xee00;
const CR0_PE_AM = 0x4_0011n;
const FLAG_AC = 0x4_0002n;
const VECTORS = 32;

/** A CPU at level 3 of 32-bit protected mode, whose handlers are of that level too. */
function userWithHandlers(source: string): TestCpu {
  const t = new TestCpu({ ram: 1 << 20 });
  const { cpu, memory } = t;
  memory.writeU64(GDT + 8, 0x00cf_fb00_0000_ffffn);
  memory.writeU64(GDT + 16, 0x00cf_f300_0000_ffffn);
  for (let vector = 0; vector < VECTORS; vector++) {
    memory.writeU32(IDT + vector * 8, (USER_CODE << 16) | CODE);
    memory.writeU32(IDT + vector * 8 + 4, INTERRUPT_GATE_DPL3);
  }
  memory.write(CODE, assemble(`.code32\n${source}`, CODE));
  const { state, system } = cpu;
  state.setU64(S.CR0, CR0_PE_AM);
  state.setU64(S.GDT_BASE, BigInt(GDT));
  state.setI32(S.GDT_LIMIT, 23);
  state.setU64(S.IDT_BASE, BigInt(IDT));
  state.setI32(S.IDT_LIMIT, VECTORS * 8 - 1);
  state.setI32(S.CPL, 3);
  const flat = RIGHTS.P | RIGHTS.S | RIGHTS.RW | RIGHTS.ACCESSED | RIGHTS.G | RIGHTS.DB | RIGHTS.DPL;
  system.segments.set(SEG.CS, USER_CODE, 0n, 0xffff_ffff, flat | RIGHTS.CODE);
  for (const segment of [SEG.ES, SEG.SS, SEG.DS, SEG.FS, SEG.GS])
    system.segments.set(segment, USER_DATA, 0n, 0xffff_ffff, flat);
  cpu.rflags = FLAG_AC;
  cpu.mmu.selectTlb();
  state.rip = BigInt(CODE);
  return t;
}

it('lets the vCPU be stopped where an alignment check cannot be delivered for an alignment check', () => {
  const t = userWithHandlers('mov esp, 0x8001; mov eax, [0x5001]');

  const outcomes = Array.from({ length: 5 }, () => t.cpu.run(1000));

  expect(outcomes.at(-1)).toBe('continue');
});
